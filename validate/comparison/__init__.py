"""Simulated beside measured results."""
