"""Photos on disk: which there are, and crops of them. No torch."""
