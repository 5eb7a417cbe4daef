"""A classifier on labelled images -> what is right, and how sure it may be."""
