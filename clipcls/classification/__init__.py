"""Vectors and labels -> predictions."""
