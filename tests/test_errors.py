"""One except clause catches everything that is meant to be caught."""

from __future__ import annotations

import copy

import pytest

from bottlenet import errors
from bottlenet.errors import BottleNetError, MissingExtraError


def test_every_error_is_in_the_tree_and_in_its_drawing() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    assert len(kinds) == 11
    for kind in kinds:
        assert issubclass(kind, BottleNetError)
        assert kind.__name__ in (errors.__doc__ or "")


def test_a_missing_extra_says_what_to_install() -> None:
    error = MissingExtraError("training", "train")
    assert str(error) == 'training needs an optional part: pip install "bottlenet[train]"'


def test_a_missing_extra_can_be_copied() -> None:
    error = copy.copy(MissingExtraError("training", "train"))
    assert (error.needs, error.extra) == ("training", "train")
    with pytest.raises(MissingExtraError, match="training needs"):
        raise error
