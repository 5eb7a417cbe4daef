"""Labels and prompts."""
