"""How well policies predict, without time or caches."""
