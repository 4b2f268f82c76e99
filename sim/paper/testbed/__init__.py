"""Testbeds that are consistent with the paper's numbers."""
