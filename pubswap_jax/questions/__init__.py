"""Questions: where they come from, who holds which, and how they become token ids."""
