"""What `bottlenet demo` runs on: a bundle trained by this project, and photos free to pass on (photos/LICENSES.md)."""
