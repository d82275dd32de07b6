"""Which partition is best: pure functions, no I/O. A link, a profile and a wish make a plan.

link.py         bandwidth, round trip, loss, radio power: presets, each figure with its source
profile.py      what was measured, per candidate, and what a sweep knows better
predict.py      the model: what one photo costs on a link
planner.py      profile, link, load -> partition, why, and where the choice changes; the choice alone for many links
"""
