"""The trace format: its files, and how they are written, read and checked."""
