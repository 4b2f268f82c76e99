"""Run a Transformers model with its experts really offloaded."""
