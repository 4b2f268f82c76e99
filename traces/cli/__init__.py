"""The commands of `finemoe traces`, one file each."""
