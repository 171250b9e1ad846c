"""Questions: sources, the split over clients, the schedule of batches, and tokenization."""
