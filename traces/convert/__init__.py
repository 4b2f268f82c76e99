"""Other people's recordings in our format, a module for each."""
