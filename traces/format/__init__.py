"""What a trace is: its files, how they are written, read and checked."""
