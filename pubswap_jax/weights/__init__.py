"""Reads and writes model weights in Hugging Face's format and adapters in PEFT's format."""
