"""Trace-driven discrete-event simulation of expert offloading."""
