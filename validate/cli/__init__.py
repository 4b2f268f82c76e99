"""The commands of `python -m validate`, one file each."""
