"""The network that is cut and trained, which needs torch; nothing is imported here, so that this costs nothing."""
