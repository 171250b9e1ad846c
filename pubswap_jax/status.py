"""The verdict words, in the order of `types.STATUSES`, for processes that must not load JAX."""

STATUSES = ("wrong", "correct", "unparsed", "refused", "timeout")
