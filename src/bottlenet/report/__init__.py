"""One HTML file of what was trained and measured."""
