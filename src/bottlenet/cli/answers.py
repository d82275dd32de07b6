"""Answers of other tasks than one label, for people and for programs; and the maps of segmentations, as files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bottlenet.cli.options import Kind, check_target, write_whole
from bottlenet.cli.show import clean, number_columns, plain_table, text_columns
from bottlenet.errors import InputError
from bottlenet.task import Classification, Segmentation, Task

if TYPE_CHECKING:
    from rich.table import Table

    from bottlenet.edge import Prediction
    from bottlenet.edge.prediction import Findings, Object, Segments


SHOWN = 10  # lines a photo
SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG = Kind("a PNG", len(SIGNATURE), lambda data: data == SIGNATURE)
PHOTO_COLUMNS = ("left", "top", "right", "bottom")


def prediction_document(prediction: Prediction) -> dict[str, object]:
    """All but a map's places; what another task would have is left out."""
    values = asdict(replace(prediction, segments=None))
    segments = values.pop("segments")
    if prediction.segments is not None:
        segments = segments_document(prediction.segments)
    values |= {} if segments is None else {"segments": segments}
    if not prediction.objects:
        del values["objects"]
    return values


def segments_document(segments: Segments) -> dict[str, object]:
    """Shares of all classes, and what the map is of."""
    shares = [asdict(each) for each in segments.shares]
    square = None if segments.square is None else asdict(segments.square)
    return {"shares": shares, "rows": segments.map.rows, "columns": segments.map.columns, "square": square}


def findings_document(found: Findings) -> dict[str, object]:
    """The same of an answer without its photo."""
    values: dict[str, object] = {"top": [asdict(each) for each in found.top]}
    if found.objects:
        values["objects"] = [asdict(each) for each in found.objects]
    if found.segments is not None:
        values["segments"] = segments_document(found.segments)
    return values


def found_table(task: Task, done: Sequence[tuple[str, Prediction | Findings]]) -> Table:
    """What is in the photos, at most ten lines each; of a detection with edges."""
    boxes = task.name == "detection"
    table = plain_table()
    text_columns(table, "photo", "what")
    number_columns(table, "share" if isinstance(task, Segmentation) else "sure", *(PHOTO_COLUMNS if boxes else ()))
    for photo, found in done:
        rows = found.objects if boxes else found.segments.shares if found.segments else found.top
        if not rows:
            table.add_row(clean(Path(photo).name), "nothing")
        for row in rows[:SHOWN]:
            edges = edges_of(row) if boxes else ()  # type: ignore[arg-type]
            table.add_row(clean(Path(photo).name), clean(row.label, "bold"), f"{row.score:.1%}", *edges)
        if len(rows) > SHOWN:
            table.add_row(clean(Path(photo).name), f"and {len(rows) - SHOWN} more")
    return table


def edges_of(one: Object) -> list[str]:
    """In pixels, or in shares of the square where that is all there is."""
    edges = (one.left, one.top, one.right, one.bottom)
    return [f"{edge:.3f}" if max(edges) <= 1 else f"{edge:,.0f}" for edge in edges]


def map_targets(folder: str | None, photos: Sequence[str], task: Task, force: bool) -> dict[str, Path]:
    """Where each photo's map goes, asked before the work. InputError: no segmentation, or no place for a file."""
    if folder is None:
        return {}
    needs_map(task)
    names = [f"{Path(photo).name}.png" for photo in photos]
    if len(set(names)) < len(set(photos)):
        raise InputError("two of the photos have the same name, and so would their maps; give them one by one")
    return {
        photo: check_target(Path(folder) / name, PNG, force=force) for photo, name in zip(photos, names, strict=True)
    }


def needs_map(task: Task) -> None:
    """InputError: the network gives no maps."""
    if not isinstance(task, Segmentation):
        raise InputError(f"this bundle's task is {task.name}, which gives no map; give one of a segmentation")


def write_map(target: Path, found: Prediction | Findings) -> None:
    """InputError: it can't be written."""
    assert found.segments is not None, "a segmentation without a map"
    write_whole(target, found.segments.png())


def is_plain(task: Task) -> bool:
    """Whether one label says all."""
    return isinstance(task, Classification)
