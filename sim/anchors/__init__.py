"""Simulated beside published measurements that are not ours, and that nothing was fitted to."""
