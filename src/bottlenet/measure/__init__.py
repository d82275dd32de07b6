"""Measure what is so."""
