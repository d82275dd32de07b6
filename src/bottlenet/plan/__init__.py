"""Which partition is best: pure functions, no I/O. A link, a profile and a wish make a plan.

link.py         bandwidth, round trip, loss, radio power: presets, each figure with its source
profile.py      what was measured, per candidate
detail.py       where the time of a candidate goes
trained.py      what a sweep knows of the candidates
predict.py      the model: what one photo costs on a link
constraints.py  what a candidate has to meet, and what to relax where none does
flips.py        where the choice changes
reason.py       numbers and reasons in words
planner.py      all of them: profile, link, load -> partition, and why
many.py         the choice alone, for many links at once
"""
