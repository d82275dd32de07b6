"""`bottlenet bench` in a terminal, or as one JSON document."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from rich.console import RenderableType
from rich.table import Table

from bottlenet.cli.plan_files import BENCH_MARK
from bottlenet.cli.show import clean, facts_table, number_columns, plain_table, text_columns
from bottlenet.lab.bench import Report, Row, by_condition
from bottlenet.lab.commands import command_line
from bottlenet.lab.rig import Conditions
from bottlenet.plan.reason import duration, rate

FORMAT_VERSION = 1


def bench_renderables(report: Report) -> Iterator[RenderableType]:
    """What `bottlenet bench` prints: a table and a sentence for each link."""
    how = {"measured": "measured", "modelled": "modelled, not measured"}
    compute = "not measured: no meter was asked for"
    if report.meter_how is not None:
        compute = f"{how[report.meter_how]}, by {report.meter}; of this machine, not scaled"
    yield facts_table(
        [
            ("network", f"{report.model}; weights: {report.weights}"),
            ("device", report.device),
            ("server", f"{report.server}; a process of its own"),
            ("link", "shaped, on loopback; its rate is of the bytes that sockets carry"),
            ("bound", "round trip + socket bytes / bandwidth + what device and server compute"),
            ("compute mJ", compute),
            ("radio mJ", "modelled: the paper's power while it sends"),
        ]
    )
    for each, rows in by_condition(report):
        yield link_table(each, rows)
        for row in rows:
            if row.skipped is not None:
                yield clean(f"{row.partition} was skipped: {row.skipped}.")
        yield clean(sentence(rows))


def link_table(conditions: Conditions, rows: Sequence[Row]) -> Table:
    """One line a partition."""
    link = conditions.link
    more = f", {conditions.server_load} photos of others at the server" if conditions.server_load else ""
    more += f", loss {link.loss:.2g}" if link.loss else ""
    more += f", jitter {duration(conditions.jitter_s)}" if conditions.jitter_s else ""
    table = plain_table(
        f"{link.name}: {rate(link.uplink_bps)} up, round trip {duration(link.round_trip_s)}{more}",
        "ms: median; bound: the median of the same photos' bounds. photos/s: frames made before, several in flight; "
        "edge-only: what the device computes. same: photos of 100 with the uncut network's answer.",
    )
    text_columns(table, "partition")
    number_columns(table, "ms", "p95", "bound", "device", "server", "socket\nbytes", "compute\nmJ", "radio\nmJ")
    number_columns(table, "photos/s", "same")
    for each in rows:
        values = (each.latency_ms, each.latency_p95_ms, each.bound_ms, each.device_ms, each.server_ms)
        table.add_row(
            clean(each.partition, "bold"),
            *(number(value) for value in values),
            number(each.socket_bytes, 0),
            *(number(value) for value in (each.compute_mj, each.radio_mj, each.photos_per_s)),
            number(each.agreement, 0),
        )
    return table


def number(value: float | None, digits: int = 1) -> str:
    """A dash where there is none."""
    return "-" if value is None else f"{value:,.{digits}f}"


def sentence(rows: Sequence[Row]) -> str:
    """Who is fastest, and what the split gains over the largest file."""
    done = [each for each in rows if each.latency_ms is not None]
    if not done:
        return "Nothing was measured here."
    best = min(done, key=lambda each: each.latency_ms or 0.0)
    text = f"{best.partition} is fastest with {number(best.latency_ms)} ms."
    splits = [each for each in done if each.kind == "split"]
    clouds = [each for each in done if each.kind == "cloud-only"]
    if not splits or not clouds:
        return text
    split = min(splits, key=lambda each: each.latency_ms or 0.0)
    largest = max(clouds, key=lambda each: each.socket_bytes or 0.0)
    text += f" {split.partition} takes {ratio(split.latency_ms, largest.latency_ms)} the time of {largest.partition}"
    if split.photos_per_s and largest.photos_per_s:
        text += f", and {ratio(split.photos_per_s, largest.photos_per_s)} the photos a second get through"
    return text + "."


def ratio(one: float | None, other: float | None) -> str:
    """One of the other: in percent, or how many times."""
    share = (one or 0.0) / (other or 1.0)
    return f"{share:.0%} of" if share < 2 else f"{share:.3g} times"


def bench_document(report: Report) -> dict[str, object]:
    """The same for programs; every quantity's unit is in its name."""
    return {"kind": BENCH_MARK, "format_version": FORMAT_VERSION, "command": command_line(sys.argv), **asdict(report)}
