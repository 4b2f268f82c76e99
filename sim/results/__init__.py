"""Results of runs: summaries, tables, figures, bounds and files."""
