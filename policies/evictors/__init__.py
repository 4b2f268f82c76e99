"""Eviction rules, one file each."""
