"""Machines and what things cost on them."""
