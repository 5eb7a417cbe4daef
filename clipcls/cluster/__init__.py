"""Classify on many machines with Ray Data: see `job`."""
