"""How well policies predict, apart from time and caches."""
