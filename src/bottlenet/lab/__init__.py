"""Experiments: photos in folders, training, and what a bundle is worth.

data.py        folders of photos, and crops of them      no torch
evaluate.py    accuracy and bytes of a bundle            no torch
features.py    the frozen head's work, kept on disk
train.py       the training loop
"""
