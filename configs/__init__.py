"""Configs that `--config=NAME` finds in an installed package too: math and medical."""
