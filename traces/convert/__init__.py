"""Convert recordings of other tools to traces, one module per format."""
