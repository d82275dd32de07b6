"""Write one HTML file about what was trained and measured, from the files that the other commands leave behind."""
