"""Model weights and adapters in Hugging Face's and PEFT's file formats, read and written."""
