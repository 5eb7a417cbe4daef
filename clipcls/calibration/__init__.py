"""What a score means: temperatures, thresholds, sets with a promised coverage."""
