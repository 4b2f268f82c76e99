"""A Transformers model whose experts are really offloaded."""
