"""Compare simulated with measured results."""
