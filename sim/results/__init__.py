"""From runs to numbers: summaries, tables, bounds, files."""
