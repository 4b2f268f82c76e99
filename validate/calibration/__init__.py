"""Measure a machine, so that a simulation can stand for it."""
