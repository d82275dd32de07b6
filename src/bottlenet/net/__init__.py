"""The network that is cut and trained. Everything here needs torch: `pip install ".[train]"`.

models.py             names -> classifiers, each with its preprocessing and labels
from_torchvision.py, from_timm.py, from_transformers.py    where those come from; detectors.py: detectors as modules
trace.py              a classifier as a graph in which every place has a name, and what its shapes say
cut.py                where a classifier can be cut; head and tail; the grid of channels in their features
unit.py               the bottleneck unit: reduction, quantizer, restoration, and what their symbols cost
model.py              BottleNet: head, unit, codec, unit, tail
build.py              the one place that knows numbers: classifier + cut -> BottleNet; the paper's cuts
export.py             BottleNet -> bundle

Nothing is imported here, so that `import bottlenet.net` costs nothing.
"""
