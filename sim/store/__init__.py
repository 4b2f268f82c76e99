"""The result store: results on disk by content hash, shared by commands, processes and machines."""
