"""Results -> files, and back."""
