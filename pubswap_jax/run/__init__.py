"""A config becomes a run: its parts, what crosses between clients, checkpoints, metrics and evaluation."""
