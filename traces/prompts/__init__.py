"""Sets of prompts: the built-in one, files, data sets of the hub."""
