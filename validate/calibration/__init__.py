"""Measure a machine with a model, so that it can be simulated."""
