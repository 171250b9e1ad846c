"""Turns a config into a run: builds its parts, carries records between clients, writes checkpoints, metrics and evaluations."""
