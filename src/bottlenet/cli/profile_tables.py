"""What `bottlenet profile` prints."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from bottlenet.cli.plan_tables import DROP_NAMES, number
from bottlenet.cli.show import clean, number_columns, plain_table, text_columns
from bottlenet.plan.detail import Row, Spread
from bottlenet.plan.profile import Profile


def profile_table(profile: Profile) -> Table:
    """One line a candidate: what the planner computes with."""
    given = sorted({f"{each.energy.how}, {each.energy.meter}" for each in profile.candidates if each.energy})
    energy = f"Device mJ: computing alone ({'; '.join(given)})." if given else "Energy: not known, no meter was given."
    drop = "; ".join(DROP_NAMES[kind] for kind in sorted({each.drop_of for each in profile.candidates}))
    table = plain_table(
        "Partitions of bundle " + profile.bundle_id[:12],
        f"{profile.photos:,} photos, {profile.labelled:,} labelled. Device: {profile.device}. Server: "
        f"{profile.server}. Times: medians of processor time. Drop: {drop}. {energy}",
    )
    text_columns(table, "partition")
    number_columns(table, "device\nms", "server\nms", "payload\nbytes", "p95", "largest", "drop", "device\nmJ")
    for each in profile.candidates:
        table.add_row(
            clean(each.name, "bold"),
            f"{each.device_s * 1e3:.2f}",
            f"{each.server_s * 1e3:.2f}",
            f"{each.payload_bytes_mean:,.0f}",
            "-" if each.payload_bytes_p95 is None else f"{each.payload_bytes_p95:,}",
            f"{each.payload_bytes_max:,}",
            f"{each.top1_drop:.1f}",
            number(each.device_mj),
        )
    return table


def detail_table(profile: Profile) -> Table:
    """Where the time goes: one line a candidate."""
    load = "" if profile.device_load is None else f", and {profile.device_load:.2f} programs wanted each core"
    table = plain_table(
        "Step by step, ms",
        "By a clock; median / p95, or medians at each count: head by threads, tail by photos in a batch (all of them), "
        "server until ours is answered by photos ahead (of cloud-only measured once). RSS: peak of a process that does "
        f"this alone{load}.",
    )
    text_columns(table, "partition")
    number_columns(table, "prepare", "head", "encode", "decode", "tail", "server", "RSS\nMB")
    for each in profile.candidates:
        detail = each.detail
        if detail is not None:
            table.add_row(
                clean(each.name, "bold"),
                step(detail.prepare),
                rows(detail.compute),
                step(detail.encode),
                step(detail.decode),
                rows(detail.tail),
                rows(detail.server),
                f"{detail.peak_rss_bytes / 1e6:.0f}",
            )
    return table


def step(spread: Spread | None) -> str:
    """Median / p95."""
    return "-" if spread is None else f"{spread.median_s * 1e3:.1f} / {spread.p95_s * 1e3:.1f}"


def rows(found: Sequence[Row]) -> str:
    """One line a count."""
    return "\n".join(f"{each.count}: {each.median_s * 1e3:.1f}" for each in found) or "-"
