"""A command from its arguments to its exit code. What was typed wrongly is one line, as every other error is.

What people see: tables on stdout, progress and errors on stderr; and what programs see: one JSON document.

Names of files and labels come from outside, so they go through `clean` and never through rich's markup.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from bottlenet.errors import BottleNetError
from bottlenet.records import command_line
from bottlenet.wire.answer import Answer, one_line
from bottlenet.wire.codecs import CODES
from bottlenet.wire.frame import Frame

if TYPE_CHECKING:
    from bottlenet.bundle import Bundle
    from bottlenet.edge import Encoded, Prediction
    from bottlenet.edge.prediction import Findings
    from bottlenet.measure.evaluate import Evaluation
    from bottlenet.net.build import PaperCut
    from bottlenet.net.cut import Cut
    from bottlenet.records import Sizes


def stdout() -> Console:
    """For tables."""
    return Console(highlight=False)


def say(text: str) -> None:
    """Lines for people, as they are but for what the terminal can't spell: a file's name may be no text at all."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)


def print_json(document: Mapping[str, object]) -> None:
    """The one document of a command."""
    print(json.dumps(document, indent=2), flush=True)


def print_error(error: BottleNetError | str) -> None:
    """One line on stderr."""
    print(f"error: {one_line(str(error))}", file=sys.stderr, flush=True)


def clean(text: str, style: str = "") -> Text:
    """Text from outside: without control characters, and not as markup."""
    return Text(one_line(text), style=style)


@contextlib.contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, if that is a terminal, fed with (done, total)."""
    console = Console(stderr=True)
    with training_progress(console) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def training_progress(console: Console | None = None, *, shown: bool = True) -> Progress:
    """A bar with count and time left, gone when it is done."""
    console = console or Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not (shown and console.is_terminal))


def plain_table(title: str | None = None, caption: str | None = None) -> Table:
    """The look of all tables."""
    return Table(
        title=title,
        caption=caption,
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
        title_style="bold",
        caption_style="dim",
        header_style="bold",
        padding=(0, 1, 0, 0),
    )


def facts_table(rows: Sequence[tuple[str, Text | str]]) -> Table:
    """Names and values, one a line."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, value if isinstance(value, Text) else clean(value))
    return table


def classified_table(done: Sequence[tuple[str, Prediction]]) -> Table:
    """One line a photo."""
    table = plain_table()
    text_columns(table, "photo", "answer")
    number_columns(table, "sure", "payload\nbytes", "socket\nbytes", "device\nms", "server\nms")
    for photo, prediction in done:
        times = prediction.times
        table.add_row(
            clean(Path(photo).name),
            clean(prediction.label or "nothing", "bold"),
            f"{prediction.score:.0%}",
            f"{prediction.payload_bytes:,}",
            f"{prediction.socket_bytes:,}",
            f"{times.prepare_ms + times.head_ms + times.encode_ms:.1f}",
            f"{times.decode_ms + times.tail_ms:.1f}",
        )
    return table


def text_columns(table: Table, *names: str) -> None:
    """Columns that give way where the terminal is narrow."""
    for name in names:
        table.add_column(name, overflow="ellipsis", no_wrap=True)


def number_columns(table: Table, *names: str) -> None:
    """Columns that don't."""
    for name in names:
        table.add_column(name, justify="right", no_wrap=True, min_width=max(map(len, name.split("\n"))))


def frame_document(frame: Frame) -> dict[str, object]:
    """What is in the header."""
    return {
        "codec": CODES.get(frame.codec, str(frame.codec)),
        "setting": frame.setting,
        "bundle_tag": frame.bundle_tag.hex(),
        "sequence": frame.sequence,
        "payload_bytes": len(frame.payload),
        "frame_bytes": len(frame.to_bytes()),
    }


def frame_rows(frame: Frame) -> list[tuple[str, Text | str]]:
    """The same for people."""
    header = frame_document(frame)
    return [
        ("codec", f"{header['codec']}, setting {frame.setting}"),
        ("bundle", frame.bundle_tag.hex()),
        ("bytes", f"{header['frame_bytes']:,} with header, {len(frame.payload):,} of payload"),
    ]


def encoded_document(encoded: Encoded) -> dict[str, object]:
    """A frame and what it took."""
    times = {"prepare_ms": encoded.prepare_ms, "head_ms": encoded.head_ms, "encode_ms": encoded.encode_ms}
    return {**frame_document(encoded.frame), "times": times}


def encoded_table(photo: str, file: Path, encoded: Encoded) -> Table:
    """The same for people."""
    times = f"prepare {encoded.prepare_ms:.1f} ms, head {encoded.head_ms:.1f} ms, encode {encoded.encode_ms:.2f} ms"
    return facts_table([("photo", photo), ("frame", str(file)), *frame_rows(encoded.frame), ("took", times)])


def decoded_document(frame: Frame, answer: Answer, found: Mapping[str, object]) -> dict[str, object]:
    """A frame and its answer, with what that found."""
    times = {"decode_ms": answer.decode_us / 1e3, "tail_ms": answer.tail_us / 1e3}
    return {**frame_document(frame), **found, "times": times}


def decoded_table(file: str, frame: Frame, answer: Answer, found: Findings) -> Table:
    """The same for people."""
    choices = [(f"{each.score:.1%}", clean(each.label, "" if number else "bold"))
               for number, each in enumerate(found.top)]  # fmt: skip
    times = f"decode {answer.decode_us / 1e3:.2f} ms, tail {answer.tail_us / 1e3:.1f} ms"
    return facts_table([("frame", file), *frame_rows(frame), ("took", times), *choices])


def cuts_table(cuts: Sequence[Cut], *, everything: bool) -> Table:
    """One line a cut, from the photo to the scores; without `everything` none that is inside of another."""
    names = {cut.name for cut in cuts}
    shown = [cut for cut in cuts if everything or not inside(cut.name, names)]
    hidden = f" {len(cuts) - len(shown)} more are inside of these: --all." if len(shown) < len(cuts) else ""
    table = plain_table(caption=f"Share: of the network's FLOPs, run on the device.{hidden}")
    text_columns(table, "cut")
    number_columns(table, "shape", "elements", "head MFLOPs", "share")
    for cut in shown:
        shape = "x".join(map(str, cut.shape))
        if cut.layout is not None and cut.layout.kind != "planes":
            shape += " as " + "x".join(map(str, cut.layout.grid))
        share = f"{cut.head_flops_share:.1%}"
        table.add_row(clean(cut.name, "bold"), shape, f"{cut.elements:,}", f"{cut.head_flops / 1e6:,.0f}", share)
    return table


def paper_table(cuts: Sequence[PaperCut]) -> Table:
    """One line a cut of the paper, its payload beside ours without a codec."""
    table = plain_table(
        caption="FLOPs of head and unit, and their share of the uncut network's. Raw: a byte an element, before any "
        "codec. Paper: Table 4 of arXiv 1902.01000v1, with JPEG at quality 20."
    )
    text_columns(table, "after", "cut")
    number_columns(table, "features", "device\nMFLOPs", "share", "latent", "elements", "raw\nbytes", "paper's\nbytes")
    for cut in cuts:
        numbers = (cut.latent_elements, cut.raw_bytes, cut.paper_bytes)
        table.add_row(
            clean(cut.name, "bold"),
            clean(cut.cut),
            "x".join(map(str, cut.shape)),
            f"{cut.head_flops / 1e6:,.0f}",
            f"{cut.head_flops_share:.1%}",
            "-" if cut.latent is None else "x".join(map(str, cut.latent)),
            *("-" if number is None else f"{number:,}" for number in numbers),
        )
    return table


def inside(name: str, names: Set[str]) -> bool:
    """Whether a module around this one is among `names`."""
    parts = name.split(".")
    return any(".".join(parts[:end]) in names for end in range(1, len(parts)))


def evaluation_document(bundle: Bundle, result: Evaluation, budget_bytes: int | None) -> dict[str, object]:
    """What was measured, of what, and how."""
    manifest = bundle.manifest
    return {
        "kind": "bottlenet evaluate",
        "format_version": 1,
        "command": command_line(sys.argv),
        "bundle": bundle.id.hex(),
        "name": manifest.name,
        "model": manifest.model,
        "cut": manifest.cut,
        "budget_bytes": budget_bytes,
        **asdict(result),
    }


def evaluation_table(bundle: Bundle, result: Evaluation) -> Table:
    """Accuracy beside the uncut network, and bytes."""
    manifest = bundle.manifest

    def points(value: float | None, unit: str = "%") -> str:
        return "not known" if value is None else f"{value:.1f}{unit}"

    def bytes_row(sizes: Sizes) -> str:
        return f"mean {sizes.mean:,.0f}, 95 of 100 at most {sizes.p95:,}, largest {sizes.max:,}"

    skipped = f", {result.skipped:,} damaged ones skipped" if result.skipped else ""
    return facts_table(
        [
            ("bundle", f"{manifest.name} ({bundle.id.hex()[:12]}): {manifest.model} cut at {manifest.cut}"),
            ("photos", f"{result.photos:,}, {result.labelled:,} with a label{skipped}"),
            ("top-1", Text(points(result.top1), "bold")),
            ("top-1 uncut", points(result.top1_uncut)),
            ("drop", points(result.top1_drop, " points")),
            ("top-5", points(result.top5)),
            ("agreement", f"{points(result.agreement)} get the uncut network's answer"),
            ("payload bytes", bytes_row(result.payload_bytes)),
            ("frame bytes", bytes_row(result.frame_bytes)),
            ("head", f"{result.head_flops_share:.0%} of the FLOPs run on the device"),
        ]
    )


# UsageError: typer's versions have it from other packages, and under no name of their own.
WRONG_USAGE: Any = typer.BadParameter.__mro__[1]


def run_app(app: typer.Typer, *, name: str, arguments: Sequence[str] | None = None) -> NoReturn:
    """Ends with SystemExit. `arguments` are those of the process unless given."""
    command: Any = typer.main.get_command(app)
    try:
        code = command.main(args=arguments, prog_name=name, standalone_mode=False)
    except WRONG_USAGE as error:
        if what := error.format_message().strip().rstrip("."):  # nothing where help was shown
            command_name = error.ctx.info_name if error.ctx is not None and error.ctx.parent is not None else None
            whose = name if command_name is None else f"{name} {command_name}"
            print_error(f"{what[0].lower()}{what[1:]}; see {whose} --help")
        sys.exit(error.exit_code)
    except typer.Abort:
        sys.exit(130)  # Ctrl-C, as a shell counts it
    sys.exit(code or 0)
