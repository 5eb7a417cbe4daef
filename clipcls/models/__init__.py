"""A model's name -> an encoder."""
