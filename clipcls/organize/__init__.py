"""Results -> folders and keywords."""
