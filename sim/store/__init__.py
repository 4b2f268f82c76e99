"""Results on disk under their content hash, shared by commands, processes and machines."""
