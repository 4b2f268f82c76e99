"""Rules for what to drop when a slot is needed, one file each."""
