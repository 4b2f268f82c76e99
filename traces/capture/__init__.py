"""Run a Transformers model and record what its routers say."""
