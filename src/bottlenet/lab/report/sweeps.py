"""A sweep's candidates.json: every trial, what was kept, and what was skipped and why."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from bottlenet.check import check_number, check_text, shown
from bottlenet.errors import InputError
from bottlenet.lab.chart.lines import Axis, Rule, Series, line_chart
from bottlenet.lab.chart.scale import spanning
from bottlenet.lab.commands import without_root
from bottlenet.lab.curve import Point, front
from bottlenet.lab.grid import Figures, Trial
from bottlenet.lab.report.parts import Figure, Table, number, quoted
from bottlenet.lab.report.typed import AGAIN, MOST_ITEMS, is_number, typed
from bottlenet.lab.sweepfolder import parse_figures

KEPT = "kept"
LISTS = ("cuts", "channels", "strides", "qualities")
MOST_ROWS = 200


@dataclass(frozen=True)
class Tried:
    """One trial of a sweep."""

    trial: Trial
    status: str  # in words: kept, loses too much, skipped and why, ...
    figures: Figures | None  # None: it did not run
    evaluated: Figures | None  # on the folder that was given for that


@dataclass(frozen=True)
class Sweep:
    """All trials, and the bound."""

    model: str
    max_drop: float  # points
    trials: tuple[Tried, ...]
    command: str

    @property
    def cuts(self) -> list[str]:
        """In their order."""
        return list(dict.fromkeys(each.trial.cut for each in self.trials))

    def of_cut(self, cut: str) -> list[tuple[Point, Tried]]:
        """Those that ran, as points: bytes, and points of top-1 against the uncut network."""
        return [
            (Point(each.figures.payload_bytes.mean, -each.figures.top1_drop, each.trial.name), each)
            for each in self.trials
            if each.trial.cut == cut and each.figures is not None and each.figures.payload_bytes.mean > 0
        ]


def parse_sweep(document: dict[str, Any]) -> Sweep:
    """InputError: not as `bottlenet sweep` writes it."""
    model, search, rows = document.get("model"), document.get("search"), document.get("trials")
    check_text("model", model)
    if not isinstance(search, dict) or not isinstance(rows, list) or len(rows) > MOST_ITEMS:
        raise InputError(f"its search is {shown(search)} and its trials are {shown(rows)}; {AGAIN}")
    check_number("max_drop", search.get("max_drop"), -100, 100)
    trials = tuple(parse_tried(row) for row in rows)
    return Sweep(str(model), search["max_drop"], trials, command_of(document))


def parse_tried(row: object) -> Tried:
    """InputError: no trial."""
    if not isinstance(row, dict):
        raise InputError(f"a trial is {shown(row)}; {AGAIN}")
    names = [field.name for field in fields(Trial)]
    trial = typed(Trial, {name: row[name] for name in names if name in row}, "trial")
    status = row.get("status")
    check_text("status", status, 1000)
    found = [None if row.get(name) is None else finite_figures(row[name]) for name in ("figures", "evaluated")]
    return Tried(trial, str(status), *found)


def finite_figures(values: object) -> Figures:
    """InputError: as `parse_figures`, or a number that JSON can spell and nobody can draw."""
    figures = parse_figures(values)
    if not is_number(figures.payload_bytes.mean) or not is_number(figures.top1_drop):
        raise InputError(f"figures: {figures.payload_bytes.mean} bytes, drop {figures.top1_drop}; {AGAIN}")
    return figures


def command_of(document: dict[str, Any]) -> str:
    """`bottlenet sweep`, as far as the file says what it was told."""
    search, config = document["search"], document.get("config")
    parts = ["bottlenet", "sweep", shlex.quote(str(document["model"]))]
    folders = config.get("data") if isinstance(config, dict) else None
    for folder in folders if isinstance(folders, list) else ["DIR"]:
        parts += ["--data", shlex.quote(without_root(str(folder)))]
    for name in LISTS:
        if isinstance(search.get(name), list):
            parts += [f"--{name}", shlex.quote(",".join(map(str, search[name])))]
    return " ".join([*parts, "--max-drop", f"{search['max_drop']:g}"])


def sweep_figure(name: str, sweep: Sweep, command: str) -> Figure | None:
    """A line a cut; None: nothing ran."""
    found = {cut: sweep.of_cut(cut) for cut in sweep.cuts}
    points = [point for rows in found.values() for point, _ in rows]
    if not points:
        return None
    series = []
    for cut, rows in found.items():
        line = front([point for point, _ in rows])
        kept = {point for point, tried in rows if tried.status == KEPT}
        notes = tuple("kept" if point in kept else "" for point in line)
        series.append(Series(cut, tuple((point.bytes, point.top1) for point in line), notes))
    x = Axis("mean payload bytes a photo", spanning([point.bytes for point in points], log=True, margin=0.04))
    y = Axis("against uncut, points", spanning([*(point.top1 for point in points), 0.0, -sweep.max_drop], margin=0.06))
    bound = Rule(-sweep.max_drop, f"the bound, {sweep.max_drop:g} points", upright=False)
    title = f"A sweep, cut by cut: {quoted(name)}"
    kept_words = "; ".join(
        f"{tried.trial.name}, {point.bytes:,.0f} bytes, {-point.top1:.1f} points lost"
        for rows in found.values()
        for point, tried in rows
        if tried.status == KEPT
    )
    drawing = line_chart(title, f"Kept: {kept_words or 'nothing'}.", series, x, y, rules=[bound])
    note = "Each line is what no other trial of its cut beats; of each cut the smallest within the bound is kept."
    return Figure(title, drawing, sweep_table(sweep), command, note)


def sweep_table(sweep: Sweep) -> Table:
    """Every trial, those that were skipped too."""
    columns = ("trial", "bytes", "points lost", "of", "bytes, evaluated", "points lost", "what became of it")
    rows = tuple(
        (each.trial.name, *cells(each.figures), kind(each.figures), *cells(each.evaluated), each.status)
        for each in sweep.trials[:MOST_ROWS]
    )
    hidden = len(sweep.trials) - len(rows)
    more = f"; {hidden} more are left out" if hidden else ""
    return Table(f"All {len(sweep.trials)} trials{more}", columns, rows, numeric=False)


def cells(figures: Figures | None) -> Sequence[str]:
    """Bytes and drop."""
    return ("-", "-") if figures is None else (number(figures.payload_bytes.mean), number(figures.top1_drop, 1))


def kind(figures: Figures | None) -> str:
    """What the drop is of."""
    return "" if figures is None else figures.drop_of
