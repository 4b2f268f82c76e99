"""Workloads: arrival times and lengths of requests."""
