"""The network that is cut and trained. Everything here needs torch: `pip install ".[train]"`.

models.py  names -> classifiers with their preprocessing and labels
named.py   what stands behind the name of a classifier from elsewhere, and what is asked for
from_torchvision.py, from_timm.py, from_transformers.py, own_weights.py   where those come from
trace.py   a classifier as a graph in which every place has a name (decide.py: what the photo's size decides in it)
measure.py what one run on shapes says about that graph
split.py   where a classifier can be cut; head and tail
layout.py  tokens and channels-last features <-> a grid of channels
paper.py   the paper's cuts, and its Table 4
unit.py    Reduction, Quantizer, Restoration (paper_start.py: near principal components)
nested.py  quantisation that a cut payload survives; prior.py what its bytes cost while training
model.py   BottleNet: head, unit, codec, unit, tail
build.py   the one place that knows numbers: classifier + cut -> BottleNet
rate.py    JPEG's bytes with a gradient
export.py  BottleNet -> bundle (attention.py: attention spelled out for it)
weights.py int8 weights for export

Nothing is imported here, so that `import bottlenet.net` costs nothing.
"""
