"""Which partition is best: pure functions, no I/O.

link.py   bandwidth and round trip of a link
"""
