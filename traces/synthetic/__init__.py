"""Routing drawn from stated statistics."""
