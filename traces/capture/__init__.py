"""Run a Transformers model and record its routing."""
