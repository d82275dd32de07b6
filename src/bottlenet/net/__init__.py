"""The network that is cut and trained. Everything here needs torch: `pip install "bottlenet[train]"`.

models.py  names -> classifiers with their preprocessing and labels
trace.py   a classifier as a graph in which every place has a name
measure.py what one run on shapes says about that graph
split.py   where a classifier can be cut; head and tail
unit.py    Reduction, Quantizer, Restoration
model.py   BottleNet: head, unit, codec, unit, tail
build.py   the one place that knows numbers: classifier + cut -> BottleNet
rate.py    JPEG's bytes with a gradient
export.py  BottleNet -> bundle
weights.py int8 weights for export

Nothing is imported here, so that `import bottlenet.net` costs nothing.
"""
