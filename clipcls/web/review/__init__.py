"""The local web application of `clipcls review`."""
