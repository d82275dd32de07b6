"""`bottlenet spool`: list, export, send again or forget the photos of a spool."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from bottlenet.edge.spool import Record

ACTIONS = LIST, EXPORT, REQUEUE, FORGET = "list", "export", "requeue", "forget"
BATCH = 100


def spool(
    folder: Annotated[str, typer.Argument(help="Folder that [bold]bottlenet send[/] had as --spool.")],
    action: Annotated[str, typer.Argument(metavar="ACTION", help="list, export, requeue or forget.")] = LIST,
    photo: Annotated[list[str] | None, typer.Argument(help="Only these photos, and those in these folders.")] = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="DIR", help="Folder for export to write to.")
    ] = None,
    gone: Annotated[bool, typer.Option("--gone", help="Only photos whose file is gone.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON for each photo.")] = False,
) -> None:
    """List the photos of a spool, export their frames, send them again, or forget them.

    list     show each photo: waiting, answered, or why it failed
    export   write frames that wait or were refused, for a POST to a server
    requeue  let the next [bold]bottlenet send[/] send refused photos again
    forget   remove answers and failures; photos still there are sent again

    list and export can run while photos are sent, requeue and forget can't.

    Examples:
      bottlenet spool spool
      bottlenet spool spool list --json
      bottlenet spool spool export -o frames
      bottlenet spool spool requeue /photos/cat.jpg
      bottlenet spool spool forget --gone
    """
    from bottlenet.cli.show import say
    from bottlenet.edge.spool import Spool, is_old_spool
    from bottlenet.errors import InputError

    if action not in ACTIONS:
        raise InputError(f"there is no spool action {action}; give one of {', '.join(ACTIONS)}")
    if (action == EXPORT) != (output is not None):
        raise InputError("export, and nothing else, writes into a folder: give it with --output DIR")
    if action == FORGET and not photo and not gone:
        raise InputError("forget needs photos, folders of them, or --gone; give one of these")
    if is_old_spool(folder):
        Spool(folder).close()  # takes it over
    counts: Counter[str] = Counter()
    with contextlib.ExitStack() as stack:
        opened = stack.enter_context(Spool(folder)) if action in (REQUEUE, FORGET) else None
        found = chosen(folder, action, photo or [], gone)
        while batch := list(itertools.islice(found, BATCH)):
            if opened is not None:
                (opened.requeue if action == REQUEUE else opened.forget)([record.number for record in batch])
            for record in batch:
                file = None if output is None else export(record, Path(output))
                say(json_line(record, file) if as_json else line(record, file))
                counts[record.status] += 1
    if not as_json:
        say(f"{counts.total()} photos" + "".join(f", {count} {status}" for status, count in sorted(counts.items())))


def chosen(folder: str, action: str, photos: Sequence[str], gone: bool) -> Iterator[Record]:
    """Pick the photos that an action is for. InputError: there is no spool."""
    from bottlenet.edge.prediction import REFUSED
    from bottlenet.edge.spool import WAITING, records

    paths = [os.path.abspath(path) for path in photos]
    for record in records(folder):
        if action == EXPORT and record.frame is None:
            continue
        if action == REQUEUE and (record.status != REFUSED or record.frame is None):
            continue
        if action == FORGET and record.status == WAITING:
            continue
        if gone and os.path.lexists(record.photo):
            continue
        if not paths or any(record.photo == path or record.photo.startswith(os.path.join(path, "")) for path in paths):
            yield record


def export(record: Record, folder: Path) -> Path:
    """Write a frame, whole or not at all. InputError: it can't be written."""
    from bottlenet.errors import InputError
    from bottlenet.files import write_whole

    assert record.frame is not None
    path = folder / f"{record.key}.frame"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_whole(path, record.frame)
    except OSError as error:
        raise InputError(f"{path} can't be written: {error.strerror}; make room, or give another --output") from error
    return path


def json_line(record: Record, file: Path | None) -> str:
    document: dict[str, object] = {
        "photo": record.photo,
        "status": record.status,
        "key": record.key,
        "sha256": record.sha256,
        "bundle": record.bundle,
        "spooled_bytes": None if record.frame is None else len(record.frame),
    }
    if file is not None:
        document["file"] = str(file)
    return json.dumps({**document, **(record.outcome or {})})


def line(record: Record, file: Path | None) -> str:
    from bottlenet.cli.sending import shown
    from bottlenet.wire.answer import one_line

    outcome = record.outcome or {}
    if file is not None:
        what = str(file)
    elif "reason" in outcome:
        what = outcome["reason"]
    elif record.frame is not None:
        what = f"{len(record.frame):,} bytes"
    else:
        best = outcome["top"][0] if outcome.get("top") else {"label": "nothing", "score": 1.0}
        what = f"{best['label']}, {best['score']:.0%}"
    return f"{record.status:9} {shown(record.photo)}: {one_line(what)}"
