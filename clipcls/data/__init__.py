"""Files, folders and Python values -> images and datasets."""
