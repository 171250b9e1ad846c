"""From a config to a run: assembly, records between clients, checkpoints, metrics and evaluation."""
