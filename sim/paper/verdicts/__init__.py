"""The rules that judge our value of each claim, and the two files with the verdicts."""
