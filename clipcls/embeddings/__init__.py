"""Vectors: made, kept, searched."""
