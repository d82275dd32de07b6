"""The files of `bottlenet profile`, `bottlenet plan` and `bottlenet bench`: profiles, reports and plots."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from bottlenet.cli.files import Kind
from bottlenet.errors import InputError
from bottlenet.files import read_at_most
from bottlenet.plan.profile import MAX_PROFILE_BYTES, Profile, parse_profile
from bottlenet.plan.trained import MAX_TRAINED_BYTES, Trained, parse_trained

PLOT_MARK = b"<!-- bottlenet plan -->"
BENCH_PLOT_MARK = b"<!-- bottlenet bench -->"
BENCH_MARK = "bottlenet bench"
MARK_WITHIN_BYTES = 512

D = TypeVar("D", Profile, Trained)


def read_profile(path: Path) -> Profile:
    """The profile in a file. InputError: can't be read, too large, or no profile."""
    return read_document(path, parse_profile, MAX_PROFILE_BYTES, "what bottlenet profile wrote")


def read_trained(path: Path) -> Trained:
    """What a sweep knows of its candidates. InputError: the file can't be read, is too large, or of something else."""
    return read_document(path, parse_trained, MAX_TRAINED_BYTES, "a sweep's candidates.json")


def read_document(path: Path, parse: Callable[[bytes], D], limit: int, wanted: str) -> D:
    """What `parse`, which refuses more than `limit` bytes, makes of a file. InputError: can't be read, or refused."""
    try:
        with open(path, "rb") as file:
            return parse(read_at_most(file, limit + 1))
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror}; give {wanted}") from error
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def is_profile(data: bytes) -> bool:
    """Whether `data` is a whole profile, of this version."""
    try:
        parse_profile(data)
    except InputError:
        return False
    return True


PROFILE = Kind("a profile", MAX_PROFILE_BYTES + 1, is_profile)
PLOT = Kind("a plot of bottlenet plan", MARK_WITHIN_BYTES, lambda data: PLOT_MARK in data)
BENCH_PLOT = Kind("a plot of bottlenet bench", MARK_WITHIN_BYTES, lambda data: BENCH_PLOT_MARK in data)
BENCH = Kind("a report of bottlenet bench", MARK_WITHIN_BYTES, lambda data: BENCH_MARK.encode() in data)
