"""What `bottlenet sweep` prints."""

from __future__ import annotations

from rich.table import Table

from bottlenet.cli.plan_tables import DROP_NAMES
from bottlenet.cli.show import clean, number_columns, plain_table, text_columns
from bottlenet.lab.grid import Figures
from bottlenet.lab.sweepreport import Report


def report_table(report: Report) -> Table:
    """One line a trial."""
    figures = [result.figures for result in report.results.values()]
    photos = f"{max(each.photos for each in figures):,} photos held out" if figures else "nothing measured"
    drop = "; ".join(DROP_NAMES[kind] for kind in sorted({each.drop_of for each in figures}))
    entropy = " Bytes of the entropy codec are estimated." if report.config.codec == "entropy" else ""
    table = plain_table(
        f"{report.config.model}: {report.config.unit} units, {report.config.codec}; {report.search.max_drop:g} points "
        "may be lost",
        f"{photos}. Drop: {drop or 'not known'}.{entropy}",
    )
    text_columns(table, "cut")
    number_columns(table, "c'", "s", "quality", "bytes", "p95", "drop")
    if report.config.evaluate:
        number_columns(table, "top-1", "its\ndrop")
    text_columns(table, "what of it")
    for trial in report.trials:
        result = report.results.get(trial)
        style = "bold" if trial in report.kept.values() else ""
        table.add_row(
            clean(trial.cut),
            *(str(each) for each in (trial.channels, trial.stride, trial.quality)),
            *measured(None if result is None else result.figures),
            *(evaluated(None if result is None else result.evaluated) if report.config.evaluate else ()),
            clean(report.status(trial)),
            style=style,
        )
    return table


def measured(figures: Figures | None) -> tuple[str, str, str]:
    """Mean and p95 of the payload, and the drop."""
    if figures is None:
        return "-", "-", "-"
    return f"{figures.payload_bytes.mean:,.0f}", f"{figures.payload_bytes.p95:,}", f"{figures.top1_drop:.1f}"


def evaluated(figures: Figures | None) -> tuple[str, str]:
    """Top-1 and drop on the other folder."""
    if figures is None:
        return "-", "-"
    return "-" if figures.top1 is None else f"{figures.top1:.1f}", f"{figures.top1_drop:.1f}"
