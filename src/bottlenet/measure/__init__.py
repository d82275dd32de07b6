"""Measure a bundle on this machine: accuracy and bytes, the time of each partition, photos end to end over a link."""
