"""Scores that mean something: temperatures, thresholds, sets with a promised coverage."""
