"""Where something learns."""
