"""The language model with its adapters: attention, sampling and log-probs, as pure functions of arrays."""
