"""Many scenarios as one answer: what is run, where, and how it is read."""
