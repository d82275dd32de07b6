"""Draw training: naive against aware of the codec, and each run pass by pass."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bottlenet.files import reading
from bottlenet.report.charts import Axis, Series, line_chart, percents, spanning
from bottlenet.report.sections import MOST_ROWS, Figure, Request, Section, Table, number, of_photos
from bottlenet.report.sources import Pass, Record, Run, Source, is_number, parse_passes

TRAININGS = ("naive", "aware")
NOT_COMPARED = ("naive", "out", "cache")  # settings in which a naive and an aware run may differ


@dataclass(frozen=True)
class Rate:
    """One network at one quality of the codec, or after one pass."""

    training: str
    at: float  # quality, or pass
    payload_bytes: float
    percent: float  # top-1, or agreement


def naive_section(sources: Sequence[Source], request: Request) -> Section:
    """Compare in records of benchmarks/naive_aware.py, and runs that differ in nothing else."""
    figures = []
    for source in sources:
        content = source.content
        if isinstance(content, Record) and (rates := record_rows(content)):
            for axis, title in (("JPEG quality", "JPEG quality"), ("mean payload bytes", "bytes")):
                title, axes = f"Top-1 against {title}: “{source.name}”", (axis, "top-1, %")
                figures.append(naive_figure(title, rates, axes, source.command, content.photos, request))
    runs = [source for source in sources if isinstance(source.content, Run) and source.content.passes]
    for one, other in pairs(runs):
        rates = [*run_rates(one), *run_rates(other)]
        assert isinstance(one.content, Run)
        title = f"Same answer as the uncut network: “{one.name}” and “{other.name}”"
        axes, command = ("pass", "same answer, %"), f"{one.command}; {other.command}"
        figures.append(naive_figure(title, rates, axes, command, one.content.passes[-1].photos, request))
    intro = "The same network trained twice: naive, without the codec in the loop, and aware of it."
    return Section("naive", "Naive against aware", intro, tuple(figures))


def record_rows(record: Record) -> list[Rate]:
    """Read the rows of benchmarks/naive_aware.py; empty: the record is of something else."""
    rows = record.results.get("rows") if isinstance(record.results, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        return []
    names = ("quality", "payload_bytes", "top1")
    good = [row for row in rows if row.get("training") in TRAININGS and all(is_number(row.get(name)) for name in names)]
    return [Rate(row["training"], *(row[name] for name in names)) for row in good]


def pairs(runs: Sequence[Source]) -> list[tuple[Source, Source]]:
    """Find (naive, aware) among runs with otherwise the same options."""
    by_settings: dict[str, dict[bool, Source]] = {}
    for source in runs:
        assert isinstance(source.content, Run)
        config: dict[str, Any] = source.content.config
        key = repr(sorted((name, repr(value)) for name, value in config.items() if name not in NOT_COMPARED))
        by_settings.setdefault(key, {}).setdefault(bool(config.get("naive")), source)
    return [(found[True], found[False]) for found in by_settings.values() if len(found) == 2]


def run_rates(source: Source) -> list[Rate]:
    assert isinstance(source.content, Run)
    kind = TRAININGS[not source.content.config.get("naive")]
    return [Rate(kind, each.epoch, each.payload_bytes, 100 * each.agreement) for each in source.content.passes]


def naive_figure(
    title: str, rates: Sequence[Rate], axes: tuple[str, str], command: str, photos: int | None, request: Request
) -> Figure:
    """Draw one line for each training; `axes` are the names of both axes."""
    by_bytes, ordered = axes[0].endswith("bytes"), sorted(rates, key=lambda one: one.at)
    series = []
    for kind in TRAININGS:
        points = [(one.payload_bytes if by_bytes else one.at, one.percent) for one in ordered if one.training == kind]
        series.append(Series(kind, tuple(points), bold=kind == "aware"))
    values = [point[0] for each in series for point in each.points]
    x = Axis(axes[0], spanning(values, log=by_bytes, margin=0.04))
    y = Axis(axes[1], percents(each.percent for each in rates))
    at = {(one.training, one.at): one for one in rates}
    rows = []
    for value in dict.fromkeys(one.at for one in ordered):
        naive, aware = (at.get((kind, value)) for kind in TRAININGS)
        gap = None if naive is None or aware is None else aware.percent - naive.percent
        both = (
            ("-", "-") if one is None else (number(one.percent, 1), number(one.payload_bytes)) for one in (naive, aware)
        )
        rows.append((f"{value:g}", *(cell for cells in both for cell in cells), number(gap, 1)))
    first = "pass" if axes[0] == "pass" else "quality"
    columns = (first, "naive, %", "bytes", "aware, %", "bytes", "aware above naive, points")
    words = "; ".join(f"{row[0]}: naive {row[1]}, aware {row[3]}" for row in rows)
    drawing = line_chart(title, f"{axes[1]} by {first}. {words}.", series, x, y, looks=request.looks)
    return Figure(title, drawing, Table("The numbers", columns, tuple(rows)), command, of_photos([photos]).strip())


def training_section(sources: Sequence[Source], request: Request) -> Section:
    figures = []
    for source in sources:
        if isinstance(source.content, Run):
            if source.content.passes:
                figures.append(passes_figure(source, source.content.passes, source.command, request))
            if len(source.content.steps) > 1:
                figures.append(steps_figure(source, source.content, request))
        elif isinstance(source.content, Record) and (passes := recorded_passes(source)):
            command = str(source.content.results.get("train_command") or source.command)
            figures.append(passes_figure(source, passes, command, request))
    return Section("training", "Training", "Held-out photos are none that were trained on.", tuple(figures))


def recorded_passes(source: Source) -> list[Pass]:
    """Read the passes of benchmarks/training.py; none of several runs, by name. InputError: not as that writes them."""
    results = source.content.results if isinstance(source.content, Record) else None
    rows = results.get("passes") if isinstance(results, dict) else None
    with reading(source.path, "give another file"):
        return [] if not rows or isinstance(rows, dict) else parse_passes(rows)


def passes_figure(source: Source, passes: Sequence[Pass], command: str, request: Request) -> Figure:
    """Draw agreement with the uncut network, one line a budget."""
    series = []
    for budget in sorted({each.budget for each in passes}, key=lambda one: one or 0.0):
        rows = [each for each in passes if each.budget == budget]
        # Whole payloads change their size as they learn, so that stands beside the points.
        notes = tuple(f"{each.payload_bytes:,.0f} bytes" for each in rows) if budget is None else ()
        points = tuple((float(each.epoch), 100 * each.agreement) for each in rows)
        series.append(Series(budget_words(budget), points, notes))
    title = f"Same answer as the uncut network after each pass: “{source.name}”"
    cells = []
    for each in passes:
        numbers = number(each.payload_bytes), number(100 * each.agreement, 1), number(each.distillation, 3)
        cells.append((f"{each.epoch}", budget_words(each.budget), *numbers, number(each.photos)))
    columns = ("pass", "budget", "bytes", "same answer, %", "distillation loss", "photos")
    x = Axis("pass over the photos", spanning([float(each.epoch) for each in passes], margin=0.04), whole)
    y = Axis("same answer, %", percents([100 * each.agreement for each in passes]))
    words = "; ".join(f"{each.name}: {each.points[0][1]:.1f} % to {each.points[-1][1]:.1f} %" for each in series)
    drawing = line_chart(title, f"{words}.", series, x, y, looks=request.looks)
    note = "Of held-out photos." + of_photos([each.photos for each in passes])
    return Figure(title, drawing, Table("The numbers", columns, tuple(cells[-MOST_ROWS:])), command, note)


def budget_words(budget: float | None) -> str:
    if budget == 0:
        return "the exit alone"
    return "whole payloads" if budget is None else f"{budget:,.0f} bytes"


def whole(value: float) -> str:
    """Write a tick; there is no half a pass."""
    return f"{value:g}" if value == int(value) else ""


def steps_figure(source: Source, run: Run, request: Request) -> Figure:
    """Draw the loss, and the bytes, each over its first value: both fall by factors."""
    first, last = run.steps[0], run.steps[-1]
    title = f"Training loss and bytes, step by step: “{source.name}”"
    series = []
    for name, field in (("loss", "loss"), ("bytes", "payload_bytes")):
        start, points = getattr(first, field), [(each.steps, getattr(each, field)) for each in run.steps]
        if start > 0:
            series.append(Series(name, tuple((x, y / start) for x, y in points if y > 0), marked=False))
    values = [y for each in series for _, y in each.points]
    x = Axis("steps", spanning([each.steps for each in run.steps]))
    y = Axis("share of the start", spanning(values, log=True, margin=0.04))
    every = max(1, len(run.steps) // 20)
    rows = tuple(
        (f"{each.steps:,.0f}", number(each.loss, 4), number(each.distillation, 4), number(each.payload_bytes))
        for each in run.steps[::every]
    )
    words = f"Loss {first.loss:.3g} to {last.loss:.3g}, bytes {first.payload_bytes:,.0f} to {last.payload_bytes:,.0f}."
    table = Table("Some of the numbers", ("step", "loss", "distillation loss", "bytes"), rows)
    drawing = line_chart(title, words, series, x, y, looks=request.looks)
    note = f"At the start: loss {first.loss:.3g}, {first.payload_bytes:,.0f} bytes."
    return Figure(title, drawing, table, source.command, note)
