"""What is computed from routing alone; figures are drawn from its tables."""
