"""How experts are predicted: the expert-map store and its search, selection, speculation and next use."""
