"""Reproduce the paper's figures, judge each of its claims, and infer the testbed behind its numbers."""
