"""What a training run did, pass by pass: its own log and configuration, as a record.

The run itself takes hours and is made again with the command that the record names; folders are named by their last
part. `--trained-at` is the commit whose code ran.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, fields
from pathlib import Path

from bottlenet.errors import InputError
from bottlenet.records import without_root
from bottlenet.train.config import read_config
from bottlenet.train.runs import LOG
from bottlenet.train.train import TrainConfig
from record import Json, parser, run_script, show, write_record

FOLDERS = ("data", "out", "cache")


def train_command(config: TrainConfig) -> str:
    """Write `bottlenet train` with everything that is not the default."""
    words = ["bottlenet train"]
    for field in fields(config):
        value = getattr(config, field.name)
        flag = "--" + field.name.replace("_", "-")
        if field.name == "data":
            words += [f"{flag} {named(folder)}" for folder in value]
        elif value is True:
            words.append(flag)
        elif value != field.default:
            words.append(f"{flag} {named(value) if field.name in FOLDERS else value}")
    return " ".join(words)


def named(folder: str) -> str:
    """Return the last part of a path; of a folder inside the training photos the last two."""
    path = Path(folder)
    return f"{path.parent.name}/{path.name}" if path.parent.name == "train" else without_root(folder)


def run(arguments: argparse.Namespace) -> None:
    """Read, show, write."""
    config = read_config(arguments.run)
    try:
        lines = [json.loads(line) for line in (arguments.run / LOG).read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise InputError(f"{arguments.run}: it has no {LOG} that can be read") from error
    passes: list[dict[str, float]] = [
        {"epoch": line["epoch"], **row} for line in lines if "held_out" in line for row in line["held_out"]
    ]
    speeds = [line["images_per_s"] for line in lines if "images_per_s" in line]
    show(
        train_command(config),
        ["pass", "distillation", "agreement, %", "payload bytes"],
        [
            [str(p["epoch"]), f"{p['distillation']:.3f}", f"{100 * p['agreement']:.1f}", f"{p['payload_bytes']:.0f}"]
            for p in passes
        ],
    )
    settings = {name: value for name, value in asdict(config).items() if name not in FOLDERS}
    results: Json = {
        "train_command": train_command(config),
        "trained_at": arguments.trained_at,
        "config": settings,
        "images_per_s": speeds[-1] if speeds else None,
        "passes": passes,
    }
    write_record("training", results, arguments.out)


def main() -> None:
    made = parser(__doc__)
    made.add_argument("run", type=Path, help="the folder that `bottlenet train --out` filled")
    made.add_argument("--trained-at", required=True, help="commit whose code ran")
    run_script(made, run)


if __name__ == "__main__":
    main()
