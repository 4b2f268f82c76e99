"""Generate routing with given statistics."""
