"""What-if analysis: which resources of a machine matter, and how much."""
