"""The SimPy driver: schedulers, links, GPUs, predictor."""
