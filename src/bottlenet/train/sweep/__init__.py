"""Train units at several cuts and keep the smallest that are good enough."""
