"""The bundles of a benchmark, and one profile of all of them: measured, or read from what was measured before."""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bottlenet.bundle import Bundle
from bottlenet.bundle.ladder import in_order, load_rungs, write_ladder
from bottlenet.cli.planning import read_profile
from bottlenet.edge.auto import profile_of
from bottlenet.edge.encoder import cloud_only
from bottlenet.measure.bench import weights_of
from bottlenet.measure.profile import profile
from bottlenet.plan.profile import Profile
from bottlenet.wire.pictures import FIXED


def add_bundles(made: argparse.ArgumentParser) -> None:
    """Add options for cuts of one network, and for their profile."""
    made.add_argument("--data", required=True, type=Path, help="folder of photos")
    made.add_argument("--bundle", action="append", help="or a ladder; again for other cuts of the network; else demo")
    made.add_argument("--profile", action="append", type=Path, help="of bottlenet profile; measured here if none")
    made.add_argument("--profile-photos", type=int, default=30, help="photos that it is measured on here")


def bundles_of(arguments: argparse.Namespace) -> list[Bundle]:
    """Load the bundles, shallowest cut first. BundleError: one can't be used. InputError: not of one network."""
    return in_order([rung for one in arguments.bundle or ["demo"] for rung in load_rungs(one)])


def profile_all(bundles: Sequence[Bundle], arguments: argparse.Namespace) -> Profile:
    """Edge-only and cloud-only of the first bundle, and every split. InputError: a profile of other bundles."""
    if arguments.profile:
        made = profile_of(bundles, [read_profile(path) for path in arguments.profile])
    else:
        with tempfile.TemporaryDirectory() as folder:  # of a ladder all splits are measured in one go
            ladder = write_ladder(Path(folder) / "ladder", bundles)
            made = profile(ladder, arguments.data, limit=arguments.profile_photos)
    return made if weights_of(bundles[0]) == "trained" else without_chosen_qualities(made)


def without_chosen_qualities(made: Profile) -> Profile:
    """Keep the fixed qualities of cloud-only and whole photos: random weights don't say what trained ones bear."""
    fixed = {cloud_only(codec).name for codec in FIXED}
    chosen = (each for each in made.candidates if not each.needs_bound)
    kept = tuple(each for each in chosen if each.kind != "cloud-only" or each.name in fixed)
    return dataclasses.replace(made, candidates=kept)
