"""Show what cameras sent, and what became of their other frames."""

from collections.abc import Sequence
from itertools import accumulate

from bottlenet.edge.prediction import SERVER
from bottlenet.report.charts import Axis, Series, line_chart, spanning
from bottlenet.report.sections import Cell, Figure, Request, Section, Table, limited, number
from bottlenet.report.sources import MOST_STEPS, Camera, Source

DAY_S = 86_400
COLUMNS = (
    *("camera", "first and last answer", "frames", "passed over", "unchanged", "failed"),
    *("sent to the server", "answered by the device", "bytes sent", "bytes a day", "times fewer than a frame a second"),
)
INTRO = (
    "A frame is passed over if a newer one came first or it was not time for one, and unchanged if it differs less "
    "than the bound from the one sent last. The counts are those at the last answer."
)


def cameras_section(sources: Sequence[Source], request: Request) -> Section:
    found = [(source.content, source.command) for source in sources if isinstance(source.content, Camera)]
    figures = tuple(bytes_figure(camera, command, request) for camera, command in found if every_second(camera))
    table = limited("Frames and bytes of each camera", COLUMNS, [camera_row(camera) for camera, _ in found])
    return Section("cameras", "Cameras", INTRO, figures, (table,) if found else ())


def every_second(camera: Camera) -> float:
    """Estimate the bytes of a frame a second, at the mean size of those that went to the server; 0: it is not known."""
    sizes = [each.sent_bytes for each in camera.seen if each.by == SERVER and not each.again]
    seconds = camera.times_s[-1]
    return (seconds + 1) * sum(sizes) / len(sizes) if seconds and sizes else 0.0


def camera_row(camera: Camera) -> tuple[Cell, ...]:
    new = [each for each in camera.seen if not each.again]
    sent_bytes, seconds = sum(each.sent_bytes for each in new), camera.times_s[-1]
    by_server = sum(each.by == SERVER for each in new)
    numbers = map(number, (*camera.counts, by_server, len(new) - by_server, sent_bytes))
    daily = number(sent_bytes / seconds * DAY_S if seconds else None)
    fewer = number(every_second(camera) / sent_bytes if every_second(camera) else None, 1)
    return camera.name, (camera.seen[0].at, camera.seen[-1].at), *numbers, daily, fewer


def bytes_figure(camera: Camera, command: str, request: Request) -> Figure:
    """Draw the bytes sent over time, beside those of a frame a second."""
    totals = list(accumulate(each.sent_bytes for each in camera.seen))
    sent = [(at_s / 3600, total / 1000) for at_s, total in zip(camera.times_s, totals, strict=True)]
    sent = [*sent[:: -(-len(sent) // MOST_STEPS)], sent[-1]]
    (hours, total), every = sent[-1], every_second(camera) / 1000
    series = (
        Series("sent", tuple(sent), marked=False, bold=True),
        Series("a frame a second", ((0.0, 0.0), (hours, every)), marked=False),
    )
    title, words = f"Bytes sent: “{camera.name}”", f"{total:,.1f} kB sent; a frame a second: {every:,.1f} kB."
    x, y = Axis("hours", spanning([0, hours])), Axis("kB", spanning([0, total, every]))
    rows = tuple((f"{at:.4g}", number(size, 1)) for at, size in sent[:: -(-len(sent) // 20)])
    table = Table("Some of the numbers", ("hours", "kB sent"), rows)
    return Figure(title, line_chart(title, words, series, x, y, looks=request.looks), table, command)
