"""The commands of `finemoe validate`, one file each."""
