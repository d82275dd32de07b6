"""Charts as SVG text: written by hand, since a device has no plotting library. No torch.

scale.py     values -> shares of an axis, and its ticks
svg.py       `Drawing`: in a page, or a file of its own; its style, light and dark
lines.py     points and lines over two axes, each line with its name beside it
bars.py      bars of several parts, in groups
flips.py     a profile's candidates over the bandwidth, with the points at which the choice flips
latency.py   what `bottlenet bench` measured, and what a profile predicts, as bars for each link

Nothing is told by colour alone: lines have markers and dashes, parts of bars have shades, and all have their names in
words. Every drawing has a title and a description for those who can't see it.
"""
