"""The commands of `finemoe sim`, one file each."""
