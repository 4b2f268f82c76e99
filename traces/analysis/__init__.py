"""Routing statistics of a trace: entropy, similarity, reuse, popularity, naturalness."""
