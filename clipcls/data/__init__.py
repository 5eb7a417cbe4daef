"""What the user named -> images and labelled data."""
