"""Ranks systems on many traces, caches and machines, and finds where their order changes."""
