"""Machines, and the costs of operations on them."""
