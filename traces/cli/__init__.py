"""The commands of `python -m traces`, one file each."""
