"""What to do with clients' adapters when a run has ended: merge them block by block, or send each question to one of them."""
