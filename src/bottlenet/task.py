"""Tasks: whether a network answers with one label, several, a map of classes or boxes, and how its output becomes that.

    task             tail.onnx gives, for each photo        the answer
    classification   scores (classes,) float32, logits      the five best
    multilabel       scores (classes,) float32, logits      Classes: each whose sigmoid reaches its threshold
    segmentation     map (rows, columns) uint8              ClassMap, as it is
    detection        boxes (boxes, 6) float32               Boxes: those with a score of `threshold` or more

A row of boxes is left, top, right, bottom, as shares of the network's input, score, class index; best first, and 0
where nothing is. A manifest names its task, unless that is classification.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Annotated, Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from bottlenet.errors import InputError
from bottlenet.records import Share, record, shown
from bottlenet.wire import answer

FLOAT, BYTE = "tensor(float)", "tensor(uint8)"  # as onnxruntime spells them
KINDS = {FLOAT: np.float32, BYTE: np.uint8}


@dataclass(frozen=True)
class Port:
    """The one input or output of a graph."""

    name: str
    dtype: str  # as onnxruntime spells it: "tensor(uint8)"
    shape: tuple[int, ...]  # of one photo, without the batch

    def blank(self, count: int) -> NDArray[Any]:
        """Make (count, *shape) for photos without any: NaN, or 0 where there is no such number."""
        return np.full((count, *self.shape), np.nan if self.dtype == FLOAT else 0, KINDS[self.dtype])


@record
class Classification:
    """One label."""

    name = "classification"
    gives = NoneType  # the kind of an answer's `result`

    def check(self, num_classes: int) -> None:
        """Accept any number of classes."""

    def output(self, num_classes: int) -> Port:
        return Port("scores", FLOAT, (num_classes,))

    def results(self, scores: NDArray[Any]) -> Sequence[answer.Top | None]:
        """Pick the best of each row of (B, classes); None: no numbers."""
        return answer.best_of_each(scores)


@record
class Multilabel:
    """Any number of labels, each with a probability and a threshold of its own."""

    thresholds: tuple[Share, ...]  # probability from which on a class is there; one each

    name = "multilabel"
    gives = answer.Classes

    def check(self, num_classes: int) -> None:
        """Raise InputError unless there is one threshold a class."""
        if len(self.thresholds) != num_classes:
            raise InputError(f"{len(self.thresholds)} thresholds for {num_classes} classes; give one each")

    def output(self, num_classes: int) -> Port:
        return Port("scores", FLOAT, (num_classes,))

    def results(self, scores: NDArray[Any]) -> Sequence[answer.Classes | None]:
        """Pick the classes of each row of (B, classes), at most 255 of them; None: no numbers."""
        return [self._there(row) if np.isfinite(row).all() else None for row in scores]

    def _there(self, scores: NDArray[Any]) -> answer.Classes:
        shares = 0.5 + 0.5 * np.tanh(scores.astype(np.float64) / 2)  # the sigmoid, which never overflows so
        there = np.flatnonzero(shares >= np.array(self.thresholds))
        best_first = there[np.argsort(-shares[there], kind="stable")][: answer.MAX_CLASSES]
        return answer.Classes(tuple((int(index), float(shares[index])) for index in best_first))


@record
class Segmentation:
    """A class for each place of a grid over the network's input. A network gives logits (B, classes, rows, columns)."""

    rows: Annotated[int, Field(ge=1, le=65535)]
    columns: Annotated[int, Field(ge=1, le=65535)]

    name = "segmentation"
    gives = answer.ClassMap

    def __post_init__(self) -> None:
        answer.check_grid(self.rows, self.columns)

    def check(self, num_classes: int) -> None:
        """Raise InputError for more classes than a place of a map can tell apart."""
        if num_classes > answer.MAX_MAP_INDEX + 1:
            raise InputError(f"a segmentation has {num_classes} classes; give {answer.MAX_MAP_INDEX + 1} or fewer")

    def output(self, num_classes: int) -> Port:
        """Describe the best class of each place."""
        return Port("map", BYTE, (self.rows, self.columns))

    def results(self, maps: NDArray[Any]) -> Sequence[answer.ClassMap]:
        """Make a map of each photo's (rows, columns)."""
        return [answer.ClassMap.of(each) for each in maps]


@record
class Detection:
    """Boxes around what is found."""

    boxes: Annotated[int, Field(ge=1, le=answer.MAX_BOXES)]  # that the network gives at most
    threshold: Share  # score below which a box is left out

    name = "detection"
    gives = answer.Boxes

    def check(self, num_classes: int) -> None:
        """Accept any number of classes."""

    def output(self, num_classes: int) -> Port:
        """Describe edges, score and class index of each box."""
        return Port("boxes", FLOAT, (self.boxes, 6))

    def results(self, boxes: NDArray[Any]) -> Sequence[answer.Boxes | None]:
        """Pick the boxes of each photo of (B, boxes, 6); None: no numbers that an answer holds."""
        known = (boxes[..., 5] >= 0) & (boxes[..., 5] <= answer.MAX_CLASS_INDEX)
        held = np.isfinite(boxes).all((1, 2)) & known.all(1)
        return [self._boxes(rows) if good else None for rows, good in zip(boxes, held, strict=True)]

    def above(self, rows: NDArray[Any]) -> NDArray[np.bool_]:
        """Return (boxes,) of (boxes, 6): those with a score of the threshold or more."""
        return (rows[:, 4] >= self.threshold) & (rows[:, 4] > 0)

    def _boxes(self, rows: NDArray[Any]) -> answer.Boxes:
        rows = rows[self.above(rows)].astype(np.float64)
        rows = rows[np.argsort(-rows[:, 4], kind="stable")]
        rows[:, :5] = rows[:, :5].clip(0, 1)
        rows[:, 2:4] = np.maximum(rows[:, 2:4], rows[:, :2])
        return answer.Boxes(tuple(answer.Box(round(index), score, *edges) for *edges, score, index in rows.tolist()))


Task: TypeAlias = Classification | Multilabel | Segmentation | Detection


def most_answer_bytes(task: Task) -> int:
    """Bound an answer's bytes: a map that zlib finds nothing to save in, or all boxes."""
    if isinstance(task, Segmentation):
        return task.rows * task.columns + answer.BESIDE_BYTES
    return answer.BESIDE_BYTES + (answer.BOX.size * task.boxes if isinstance(task, Detection) else 0)


def answer_of(sequence: int, decode_us: int, tail_us: int, found: answer.Top | answer.Result) -> answer.Answer:
    """Make an answer of what a task's `results` gave for a photo."""
    top, result = (found, None) if isinstance(found, tuple) else ((), found)
    return answer.Answer(sequence, decode_us, tail_us, top, result=result)


def parse_task(values: object) -> Task:
    """Read the task of a manifest. InputError: no task, or one with other fields or values out of range."""
    if isinstance(values, (Classification, *NAMED.values())):
        return values  # type: ignore[return-value]
    if not isinstance(values, dict) or "name" not in values:
        raise InputError(f"its task is {shown(values)}; give an object with a name")
    kind = NAMED.get(str(values["name"]))  # classification is left out there: a bundle has one id
    if kind is None:
        raise InputError(f"task.name is {shown(values['name'])}; choose one of {', '.join(NAMED)}")
    fields = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    del fields["name"]
    try:
        task: Task = kind(**fields)
    except InputError as error:
        raise InputError(f"task {values['name']}: {error}; export the bundle again") from error
    return task


def task_values(task: Task) -> dict[str, object]:
    """Return for a manifest what `parse_task` reads."""
    return {"name": task.name, **dataclasses.asdict(task)}


def is_dense(task: Task) -> bool:
    """Return whether an answer is about places in the photo."""
    return isinstance(task, Segmentation | Detection)


def needs_one_label(task: Task, what: str) -> None:
    """Raise InputError unless the network gives one label, which `what`, such as `bottlenet bench`, needs."""
    if not isinstance(task, Classification):
        raise InputError(f"{what} is for networks that give one label, and this one's task is {task.name}")


OVERLAP = 0.5  # from which on two boxes are of one thing: intersection over union
NEAR = 0.01  # of a score, and of the square's side: boxes that are nearer are one


def same_answers(task: Task, mine: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    """Count the photos with the same answer; of maps and boxes add up the shares that are the same."""
    if isinstance(task, Segmentation):
        return float((mine == theirs).mean(axis=(1, 2)).sum())
    if isinstance(task, Detection):
        return sum(share_found(a[task.above(a)], b) for a, b in zip(mine, theirs, strict=True))
    if isinstance(task, Multilabel):
        logits = np.log(np.clip(task.thresholds, 1e-9, 1 - 1e-9)) - np.log1p(-np.clip(task.thresholds, 1e-9, 1 - 1e-9))
        return float(((mine >= logits) == (theirs >= logits)).all(axis=1).sum())
    return float((mine.argmax(1) == theirs.argmax(1)).sum())


def share_found(wanted: NDArray[np.float32], rows: NDArray[np.float32], *, exact: bool = False) -> float:
    """Return the share of boxes `wanted` (K, 6) that `rows` overlap, or with `exact` nearly equal, of one class."""
    wanted, rows = (each[each[:, 4] > 0] for each in (wanted, rows))
    if not len(wanted):
        return 1.0
    if not len(rows):
        return 0.0
    matching = wanted[:, None, 5] == rows[None, :, 5]
    if exact:
        matching &= np.abs(wanted[:, None, :5] - rows[None, :, :5]).max(axis=2) <= NEAR
    else:
        matching &= overlaps(wanted[:, :4], rows[:, :4]) >= OVERLAP
    return float(matching.any(axis=1).mean())


def overlaps(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """Compute intersection over union of boxes (K, 4) and (L, 4): (K, L)."""
    sides = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    common = sides.clip(0).prod(axis=2)
    areas = [(each[:, 2:] - each[:, :2]).prod(axis=1) for each in (a, b)]
    return cast(NDArray[np.float32], common / np.maximum(areas[0][:, None] + areas[1][None, :] - common, 1e-12))


NAMED: dict[str, type[Any]] = {task.name: task for task in (Multilabel, Segmentation, Detection)}
