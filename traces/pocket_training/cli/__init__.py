"""The steps of `python -m traces.pocket_training`, one file each."""
