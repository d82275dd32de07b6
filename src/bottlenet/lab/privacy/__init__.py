"""How much of a photo who listens can rebuild from what is sent: an attacker, trained, and what it gets.

config.py, photos.py   what an attack is told, and which photos it learns from and rebuilds
samples.py             payloads with their photos, on disk
linear.py, inverter.py, attack.py     the baseline, the attacker's network, its training
measure.py, beside.py  how good a rebuilt photo is, and a JPEG of as many bytes
run.py                 all of that on one bundle
pictures.py            originals, rebuilt ones and JPEGs side by side

What is measured is this attacker, with these photos and this much training. Another one may do better.
"""
