"""Our value beside each claim, the rules that judge it, and the two files that show both."""
