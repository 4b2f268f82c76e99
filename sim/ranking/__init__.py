"""Systems ranked on many traces, caches and machines, and where their order changes."""
