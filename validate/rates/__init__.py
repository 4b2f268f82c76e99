"""The rates of a machine, measured on it: a data sheet to simulate any model with."""
