"""Experiments: photos in folders, training, and what a bundle is worth.

data.py        folders of photos                         no torch
shards.py      photos in tar files                       no torch
crops.py       crops of them, and blends of crops        no torch
evaluate.py    accuracy and bytes of a bundle            no torch
profile.py     every partition of a bundle, measured     no torch
partitions.py  the server's side of a partition          no torch
detail.py      a profile, step by step                   no torch
footprint.py   peak memory of one partition              no torch
shaped.py      a link on loopback: rate, delay, loss     no torch
bench.py       end to end; rig.py, servers.py, exchange.py its parts   no torch
live.py        a day beside an oracle; busy_server.py    no torch
curve.py       bytes against accuracy                    no torch
chart/         charts as SVG text                        no torch
report/        all of it as one HTML file; markup.py, commands.py    no torch
features.py    the frozen head's work, kept on disk      no torch
frozen.py      the network that fills that cache
config.py      what a training run is told
trainset.py    what a run trains on, what it holds out
direct.py      the same without a cache
team.py        processes that train together; part.py, launch.py
losses.py      distillation, features, labels
start.py       where a run starts
objective.py   what a step minimises, by codec
checkpoint.py  everything that a run needs to go on
runs.py        a run's folder, and the bundle made of it
sweep.py       units for several cuts; trial.py one of them; grid.py, engines.py, sweepconfig.py, ... its parts
train.py       the training loop
"""
