"""Experiments: photos in folders, training, and what a bundle is worth.

data.py        folders of photos, and crops of them      no torch
evaluate.py    accuracy and bytes of a bundle            no torch
profile.py     every partition of a bundle, measured     no torch
features.py    the frozen head's work, kept on disk      no torch
frozen.py      the uncut network that fills that cache
config.py      what a training run is told
trainset.py    what a run trains on, what it holds out
losses.py      what training minimises
checkpoint.py  everything that a run needs to go on
runs.py        a run's folder, and the bundle made of it
train.py       the training loop
"""
