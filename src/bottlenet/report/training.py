"""Training: naive against aware of the codec, and each run pass by pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bottlenet.report.charts import Axis, Series, line_chart, percents, spanning
from bottlenet.report.sections import Figure, Section, Table, number, quoted
from bottlenet.report.sources import Pass, Record, Run, Source, is_number, parse_passes

TRAININGS = ("naive", "aware")
NOT_COMPARED = ("naive", "out", "cache")  # settings in which a naive and an aware run may differ


@dataclass(frozen=True)
class Row:
    """One network at one quality of the codec, or after one pass."""

    training: str
    at: float  # quality, or pass
    payload_bytes: float
    rate: float  # top-1, or agreement, percent


def naive_section(sources: Sequence[Source]) -> Section:
    """Records of benchmarks/naive_aware.py, and runs that differ in nothing else."""
    figures = []
    for source in sources:
        if isinstance(source.content, Record) and (rows := record_rows(source.content)):
            figures += both(rows, "JPEG quality", "top-1, %", source)
    runs = [source for source in sources if isinstance(source.content, Run) and source.content.passes]
    for one, other in pairs(runs):
        rows = [*run_rows(one), *run_rows(other)]
        title = f"Same answer as the uncut network: {quoted(one.name)} and {quoted(other.name)}"
        figures.append(naive_figure(title, rows, ("pass", "same answer, %"), f"{one.command}; {other.command}"))
    intro = "The same network trained twice: naive, without the codec in the loop, and aware of it."
    return Section("naive", "Naive against aware", intro, tuple(figures))


def is_naive_aware(record: Record) -> bool:
    """Whether `naive_section` shows it."""
    return bool(record_rows(record))


def record_rows(record: Record) -> list[Row]:
    """Empty: it is of something else."""
    rows = record.results.get("rows") if isinstance(record.results, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        return []
    names = ("quality", "payload_bytes", "top1")
    good = [row for row in rows if row.get("training") in TRAININGS and all(is_number(row.get(name)) for name in names)]
    return [Row(row["training"], *(row[name] for name in names)) for row in good]


def both(rows: Sequence[Row], at: str, what: str, source: Source) -> list[Figure]:
    """Over what was asked for, and over the bytes that came of it."""
    title = f"Top-1 against {at}: {quoted(source.name)}"
    return [
        naive_figure(title, rows, (at, what), source.command),
        naive_figure(f"Top-1 against bytes: {quoted(source.name)}", rows, ("mean payload bytes", what), source.command),
    ]


def naive_figure(title: str, rows: Sequence[Row], names: tuple[str, str], command: str) -> Figure:
    """One line each; `names` of both axes."""
    by_bytes = names[0].endswith("bytes")
    found = {kind: sorted((row for row in rows if row.training == kind), key=lambda row: row.at) for kind in TRAININGS}
    series = [
        Series(kind, tuple((row.payload_bytes if by_bytes else row.at, row.rate) for row in each), bold=kind == "aware")
        for kind, each in found.items()
    ]
    values = [point[0] for each in series for point in each.points]
    x = Axis(names[0], spanning(values, log=by_bytes, margin=0.04))
    y = Axis(names[1], percents(row.rate for row in rows))
    at = {kind: {row.at: row for row in each} for kind, each in found.items()}
    both_at = sorted({row.at for row in rows})
    table_rows = tuple(
        (
            f"{value:g}",
            *(cell for kind in TRAININGS for cell in pair_of(at[kind].get(value))),
            number(gap(at["naive"].get(value), at["aware"].get(value)), 1),
        )
        for value in both_at
    )
    first = "pass" if names[0] == "pass" else "quality"
    columns = (first, "naive, %", "bytes", "aware, %", "bytes", "aware above naive, points")
    words = "; ".join(f"{row[0]}: naive {row[1]}, aware {row[3]}" for row in table_rows)
    drawing = line_chart(title, f"{names[1]} by {first}. {words}.", series, x, y)
    return Figure(title, drawing, Table("The numbers", columns, table_rows), command)


def pair_of(row: Row | None) -> tuple[str, str]:
    """Rate and bytes."""
    return ("-", "-") if row is None else (number(row.rate, 1), number(row.payload_bytes))


def gap(naive: Row | None, aware: Row | None) -> float | None:
    """Points."""
    return None if naive is None or aware is None else aware.rate - naive.rate


def pairs(runs: Sequence[Source]) -> list[tuple[Source, Source]]:
    """(naive, aware) of runs that were told the same otherwise."""
    by_settings: dict[str, dict[bool, Source]] = {}
    for source in runs:
        assert isinstance(source.content, Run)
        config: dict[str, Any] = source.content.config
        key = repr(sorted((name, repr(value)) for name, value in config.items() if name not in NOT_COMPARED))
        by_settings.setdefault(key, {}).setdefault(bool(config.get("naive")), source)
    return [(found[True], found[False]) for found in by_settings.values() if len(found) == 2]


def run_rows(source: Source) -> list[Row]:
    """Pass by pass, of whole payloads."""
    assert isinstance(source.content, Run)
    kind = TRAININGS[not source.content.config.get("naive")]
    return [Row(kind, each.epoch, each.payload_bytes, 100 * each.agreement) for each in source.content.passes]


def training_section(sources: Sequence[Source]) -> Section:
    """Each run, and each record of a run."""
    figures = []
    for source in sources:
        if isinstance(source.content, Run):
            figures += run_figures(source, source.content)
        elif isinstance(source.content, Record) and (passes := recorded_passes(source)):
            command = str(source.content.results.get("train_command") or source.command)
            figures.append(passes_figure(source, passes, command))
    return Section("training", "Training", "Held-out photos are none that were trained on.", tuple(figures))


def recorded_passes(source: Source) -> list[Pass]:
    """Of benchmarks/training.py. InputError: not as that writes them. Of several runs, by name: none."""
    results = source.content.results if isinstance(source.content, Record) else None
    rows = results.get("passes") if isinstance(results, dict) else None
    return [] if not rows or isinstance(rows, dict) else parse_passes(rows, None, str(source.path))


def run_figures(source: Source, run: Run) -> list[Figure]:
    """Its passes and its steps, as far as it has come."""
    figures = [passes_figure(source, run.passes, source.command)] if run.passes else []
    return [*figures, steps_figure(source, run)] if len(run.steps) > 1 else figures


def passes_figure(source: Source, passes: Sequence[Pass], command: str) -> Figure:
    """Agreement with the uncut network, one line a budget."""
    series = [by_pass(passes, budget) for budget in sorted({each.budget for each in passes}, key=lambda b: b or 0.0)]
    rates = [100 * each.agreement for each in passes]
    title = f"Same answer as the uncut network after each pass: {quoted(source.name)}"
    rows = tuple(
        (
            f"{each.epoch}",
            within(each.budget),
            number(each.payload_bytes),
            number(100 * each.agreement, 1),
            number(each.distillation, 3),
        )
        for each in passes
    )
    table = Table("The numbers", ("pass", "budget", "bytes", "same answer, %", "distillation loss"), rows[-120:])
    x = Axis("pass over the photos", spanning([float(each.epoch) for each in passes], margin=0.04), whole)
    words = "; ".join(f"{each.name}: {each.points[0][1]:.1f} % to {each.points[-1][1]:.1f} %" for each in series)
    drawing = line_chart(title, f"{words}.", series, x, Axis("same answer, %", percents(rates)))
    return Figure(title, drawing, table, command, "Of held-out photos.")


def by_pass(passes: Sequence[Pass], budget: float | None) -> Series:
    """One line; whole payloads change their size as they learn, so that stands beside the points."""
    rows = [each for each in passes if each.budget == budget]
    notes = tuple(f"{each.payload_bytes:,.0f} bytes" for each in rows) if budget is None else ()
    return Series(within(budget), tuple((float(each.epoch), 100 * each.agreement) for each in rows), notes)


def within(budget: float | None) -> str:
    """In words."""
    return "whole payloads" if budget is None else f"{budget:,.0f} bytes"


def whole(value: float) -> str:
    """There is no half a pass."""
    return f"{value:g}" if value == int(value) else ""


def steps_figure(source: Source, run: Run) -> Figure:
    """The loss, and the bytes, each over its first value: both fall by factors."""
    first = run.steps[0]
    title = f"Training loss and bytes, step by step: {quoted(source.name)}"
    parts = {
        f"loss, of {first.loss:.3g}": [(each.steps, each.loss / first.loss) for each in run.steps if first.loss > 0],
        f"bytes, of {first.payload_bytes:,.0f}": [
            (each.steps, each.payload_bytes / first.payload_bytes) for each in run.steps if first.payload_bytes > 0
        ],
    }
    series = [
        Series(name, tuple(point for point in points if point[1] > 0), marked=False)
        for name, points in parts.items()
        if points
    ]
    values = [y for each in series for _, y in each.points]
    x = Axis("steps", spanning([each.steps for each in run.steps]))
    y = Axis("share of the start", spanning(values, log=True, margin=0.04))
    every = max(1, len(run.steps) // 20)
    rows = tuple(
        (f"{each.steps:,.0f}", number(each.loss, 4), number(each.distillation, 4), number(each.payload_bytes))
        for each in run.steps[::every]
    )
    last = run.steps[-1]
    words = f"Loss {first.loss:.3g} to {last.loss:.3g}, bytes {first.payload_bytes:,.0f} to {last.payload_bytes:,.0f}."
    table = Table("Some of the numbers", ("step", "loss", "distillation loss", "bytes"), rows)
    return Figure(title, line_chart(title, words, series, x, y), table, source.command)
