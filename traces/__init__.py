"""Routing traces of Mixture-of-Experts models: capture, format, conversion."""
