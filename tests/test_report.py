"""`bottlenet report`: what is in it, that it loads nothing, that hostile words stay words, and how bad input ends."""

from __future__ import annotations

import dataclasses
import json
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import paper
from bottlenet.bundle import Bundle, write_bundle
from bottlenet.errors import InputError
from bottlenet.measure.bench import BenchReport, BenchRow, Conditions
from bottlenet.measure.evaluate import Evaluation
from bottlenet.plan.link import PRESETS
from bottlenet.plan.profile import Energy, Profile
from bottlenet.records import Sizes, command_line, convert, without_root
from bottlenet.report import page as page_module
from bottlenet.report.accuracy import curves_in
from bottlenet.report.page import MAX_PAGE_BYTES, report
from bottlenet.report.photos import PhotoWish, photo_sections
from bottlenet.report.sections import Request
from bottlenet.report.sources import parse_json, read_sources
from bottlenet.train.sweep import Figures, Result, Search, SweepConfig, Trial
from bottlenet.train.sweep import sweep as sweepreport
from cameras import picture, write_video
from conftest import CLASSES, LATENT, SCORES, SYMBOLS, graph_bytes, tail_nodes, tiny_files, tiny_manifest
from processes import BOTTLENET, LIMIT_S
from test_cli import Run, run
from test_demo import NASTY, Reader

__all__ = ["run"]  # a fixture

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"
MADE = Request("bottlenet report all", "2030-01-01", "0")
EVALUATION = Evaluation(
    70.0, 90.0, 80.0, 75.0, 5.0, Sizes(300.0, 310, 320), Sizes(312.0, 322, 332), 0.4, 100, 100, 0
)  # fmt: skip
CONFIG = {"model": "small", "data": ["/secret/photos"], "out": "runs/x", "cut": "first", "codec": "jpeg", "lr": 1e-3}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def write(path: Path, document: object) -> Path:
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def write_run(folder: Path, epochs: int = 2, **changes: object) -> Path:
    folder.mkdir(parents=True)
    write(folder / "run.json", {**CONFIG, "naive": False, **changes})
    lines: list[dict[str, Any]] = []
    for epoch in range(1, epochs + 1):
        for step in range(3):
            steps = 20 * (3 * epoch + step)
            lines.append({"steps": steps, "epoch": epoch, "loss": 9 / steps, "distillation": 1.0, "payload_bytes": 500})
        held_out = [{"photos": 9, "distillation": 0.5, "agreement": 0.6 + epoch / 20, "payload_bytes": 400.0}]
        lines.append({"epoch": epoch, "steps": steps, "held_out": held_out})
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"steps": 12', "utf-8")
    return folder


def bench_document(model: str = "small", bundle: str = "ab" * 32, name: str = "split at first") -> dict[str, Any]:
    rows = []
    for link in (PRESETS["3g"], PRESETS["lorawan"]):
        rows.append(BenchRow(link.name, "edge-only", "edge-only", None, 3, 20.0, 21.0, 20.0, 20.0, 0.0, 0.0, 0.0))
        skipped = {"skipped": "up to 9 bytes don't fit"} if link.name == "LoRaWAN" else {}
        times = (120.0, 140.0, 115.0, 10.0, 5.0, 350.0, 40.0) if not skipped else ()
        rows.append(BenchRow(link.name, name, "split", "first", 3, *times, **skipped))
    conditions = (Conditions(PRESETS["3g"]), Conditions(PRESETS["lorawan"]))
    made = BenchReport((bundle,), model, "a device", "a server", 3, None, None, conditions, tuple(rows))
    return {"kind": "bottlenet bench", "format_version": 1, "command": "bottlenet bench x", **dataclasses.asdict(made)}


def profile_of(model: str = "small", **changes: Any) -> Profile:
    return dataclasses.replace(paper.profile(), model=model, **changes)


def evaluation_document(**changes: object) -> dict[str, Any]:
    origin = {"kind": "bottlenet evaluate", "format_version": 1, "command": "bottlenet evaluate x", "bundle": "cd" * 32}
    rest = {"name": "mine", "model": "small", "cut": "first", "budget_bytes": None}
    return {**origin, **rest, **dataclasses.asdict(EVALUATION), **changes}


def camera_line(**changes: object) -> dict[str, Any]:
    line = {"photo": "porch@2026-12-01T04:00:00.000Z", "status": "answered", "at": "2026-12-01T04:00:00.000Z"}
    line |= {"by": "server", "frame_bytes": 600, "tries": 1, "again": False, "label": "cat"}
    return line | {"frames": 1, "dropped": 0, "unchanged": 0, "failed": 0} | changes


def write_cameras(path: Path) -> Path:
    """A day of two processes, the second of which was killed, and a video."""
    lines = [camera_line()]
    for at, counts, more in (
        ("2026-12-01T16:00:00.000Z", (1000, 900, 90, 8), {"by": "local", "tries": 0}),
        ("2026-12-01T17:00:00.000Z", (5, 2, 1, 0), {"again": True}),
        ("2026-12-01T16:59:59.000Z", (6, 2, 1, 0), {"by": "device", "frame_bytes": 20}),  # which had to wait
        ("2026-12-02T04:00:00.000Z", (2000, 1000, 900, 1), {"frame_bytes": 800}),
    ):
        named = dict(zip(("frames", "dropped", "unchanged", "failed"), counts, strict=True))
        lines.append(camera_line(photo=f"porch@{at}", at=at, **named, **more))
    lines.append({"photo": "porch@x", "status": "dropped", "reason": "full"})
    lines.append(camera_line(photo="<b>v.mp4@0:00:00.000", at="0:00:00.000"))
    half = json.dumps(camera_line())[:50]
    path.write_text("\n".join([*map(json.dumps, lines[:3]), half, *map(json.dumps, lines[3:]), half]), encoding="utf-8")
    return path


def sizes(mean: int) -> dict[str, float]:
    return {"mean": float(mean), "p95": mean, "max": mean}


def write_sweep(folder: Path, drop_of: str = "top1") -> Path:
    """As `bottlenet sweep` leaves it: two cuts, one trial kept of each, one skipped, one not reached."""

    def result(trial: Trial, size: int, drop: float) -> Result:
        top1 = (75.0 - drop, 75.0) if drop_of == "top1" else (None, None)
        figures = Figures(100, 100, Sizes(float(size), size, size), 90.0, *top1, drop, drop_of, 0.1)
        return Result(trial, figures, figures if size == 900 else None, 10, 1.0)

    sizes = {("first", 4): (300, 8.0), ("first", 8): (500, 1.5), ("second", 4): (200, 9.0), ("second", 8): (900, 0.5)}
    trials = [Trial(cut, channels, 1, 20) for cut in ("first", "second") for channels in (2, 4, 8)]
    results = {
        trial: result(trial, *sizes[trial.cut, trial.channels])
        for trial in trials
        if (trial.cut, trial.channels) in sizes
    }
    made = sweepreport.Report(
        SweepConfig("small", ("/secret/photos",)),
        Search(("first", "second")),
        tuple(trials),
        results,
        {trial.cut: trial for trial in trials if trial.channels == 8},
        {trials[0]: "first-c4-s1-q20 loses too much"},
        None,
    )
    folder.mkdir(parents=True)
    write(folder / "candidates.json", sweepreport.document_of(made))
    write_run(folder / "runs" / "first-c8-s1-q20")
    return folder


@pytest.fixture
def given_paths(tmp_path: Path) -> list[Path]:
    """One source of every kind, of one network."""
    profile = tmp_path / "paper.json"
    profile.write_bytes(profile_of().to_json())
    record = json.loads((RESULTS / "naive_aware.json").read_text(encoding="utf-8"))
    record["results"]["config"]["model"] = "small"
    rates = json.loads((RESULTS / "rate_accuracy.json").read_text(encoding="utf-8"))
    rates["results"]["config"]["model"] = "small"
    rows = {"reports": [{k: v for k, v in bench_document().items() if k in BenchReport.__dataclass_fields__}]}
    return [
        write_run(tmp_path / "aware"),
        write_run(tmp_path / "naive", naive=True),
        write(tmp_path / "e1.json", evaluation_document()),
        write(tmp_path / "e2.json", evaluation_document(payload_bytes=sizes(900), top1=72.0)),
        write(tmp_path / "bench.json", bench_document()),
        profile,
        write(tmp_path / "naive_aware.json", record),
        write(tmp_path / "rates.json", rates),
        write(tmp_path / "many.json", {**record, "results": rows}),
        RESULTS / "memory.json",
    ]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(3)
    for number in range(12):
        low = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        Image.fromarray(low).resize((60, 48), Image.Resampling.BICUBIC).save(folder / f"{number:02}.png")
    return folder


class TestContent:
    def test_every_kind_has_its_figures(self, given_paths: list[Path]) -> None:
        made = report(given_paths, MADE)
        assert [source.kind for source in made.sources] == [
            *("run", "run", "evaluation", "evaluation", "bench", "profile", "record", "record", "record", "record")
        ]
        titles = {section.key: [figure.title for figure in section.figures] for section in made.sections}
        assert titles["accuracy"][0] == "Top-1 against bytes: “rates”"
        assert titles["accuracy"][1:] == [
            "Top-1 against bytes: evaluated bundles",
            "Same answer as the uncut network, against bytes",
        ]
        assert len(titles["naive"]) == 3  # of the record over quality and bytes, and of the two runs
        assert "“naive” and “aware”" in titles["naive"][2]
        assert titles["front"] == ["What no other setting beats in bytes and top-1"]
        assert len(titles["latency"]) == 3  # measured, measured in a record, computed
        assert titles["plan"] == [
            "The plan on 3G: mobile-only",
            "The plan on 4G: mobile-only",
            "The plan on Wi-Fi: RB1",
        ]
        assert len(titles["training"]) == 4  # passes and steps of two runs
        others = [table.caption for section in made.sections if section.key == "others" for table in section.tables]
        assert {caption.split(";")[0].split(":")[0].split(",")[0] for caption in others} == {"memory"}

    def test_every_figure_has_a_command_numbers_and_words_for_who_cannot_see(self, given_paths: list[Path]) -> None:
        made = report(given_paths, MADE)
        read = Reader(made.html)
        figures = [figure for section in made.sections for figure in section.figures]
        assert len(read.all("figure")) == len(read.all("svg")) == len(figures)
        assert len(read.all("title")) == len(figures) + 1
        assert len(read.all("desc")) == len(figures)
        assert len([each for each in read.all("code") if each.get("class") == "command"]) == len(figures)
        for figure in figures:
            assert figure.command.startswith(("bottlenet ", "python benchmarks/"))
            assert figure.table.rows
            assert len(figure.drawing.description) > 20
        ids = [attributes["id"] for _, attributes in read.found if "id" in attributes]
        assert len(ids) == len(set(ids))
        for _, attributes in read.found:
            for name in ("aria-labelledby", "href"):
                for one in (attributes.get(name) or "").split():
                    assert one.startswith("data:") or one.removeprefix("#") in ids
        assert all(cell.get("scope") for name, cell in read.found if name == "th")

    def test_numbers_are_those_of_the_sources(self, given_paths: list[Path]) -> None:
        made = {section.key: section for section in report(given_paths, MADE).sections}
        (_, evaluated, agreement) = made["accuracy"].figures
        assert [row[1:4] for row in evaluated.table.rows] == [("300", "70.0", "5.0"), ("900", "72.0", "3.0")]
        assert ("run aware, held out: after pass 2", "400", "70.0", "-", "yes", "9") in agreement.table.rows
        assert made["latency"].figures[0].table.rows[1][:6] == (
            *("3G: split at first", "120.0", "140.0", "115.0", "10.0", "5.0"),
        )
        assert made["naive"].figures[0].table.rows[0] == ("5", "11.5", "221", "28.1", "243", "16.6")

    def test_the_front_is_of_everything(self, given_paths: list[Path], tmp_path: Path) -> None:
        best = evaluation_document(bundle="ee" * 32, name="best", top1=74.9, payload_bytes=sizes(10))
        made = report([*given_paths, write(tmp_path / "best.json", best)], MADE)
        (section,) = [each for each in made.sections if each.key == "front"]
        assert section.figures[0].table.rows[0][0].startswith("best")  # type: ignore[union-attr]
        rows = section.figures[0].table.rows
        bytes_and_drop = [(float(str(row[1]).replace(",", "")), float(str(row[2]))) for row in rows]
        assert bytes_and_drop == sorted(bytes_and_drop, key=lambda each: (each[0], -each[1]))
        assert "mobile-only, which sends nothing" in section.intro

    def test_flips_and_a_bound_that_nobody_meets(self, tmp_path: Path) -> None:
        file = tmp_path / "paper.json"
        file.write_bytes(profile_of().to_json())
        made = report([file], dataclasses.replace(MADE, links=(PRESETS["wifi"],)))
        (section,) = [each for each in made.sections if each.key == "plan"]
        flips = [row[2:] for row in section.tables[0].rows]
        assert flips[1][:1] == ("round trip",)
        assert str(flips[1][1]).startswith("above ")
        assert flips[1][2] == "mobile-only"
        assert section.figures[0].command == "bottlenet plan paper.json --link wifi"
        refused = report([file], dataclasses.replace(MADE, links=(PRESETS["wifi"],), max_drop=-50))
        (section,) = [each for each in refused.sections if each.key == "plan"]
        assert not section.figures
        assert "relax the drop" in str(section.tables[0].rows)

    def test_cameras(self, tmp_path: Path) -> None:
        made = report([write_cameras(tmp_path / "cameras.jsonl")], MADE)
        (section,) = made.sections
        assert [figure.title for figure in section.figures] == ["Bytes sent: “porch”"]
        assert section.figures[0].table.rows[-1] == ("24", "1.4")
        (table,) = section.tables
        day = "2026-12-01T04:00:00.000Z", "2026-12-02T04:00:00.000Z"
        assert table.rows == (
            # a frame a second: 86,401 of 700 bytes
            ("porch", day, "3,000", "1,900", "990", "9", "2", "2", "1,420", "1,420", "42,592.0"),
            ("<b>v.mp4", ("0:00:00.000", "0:00:00.000"), "1", "0", "0", "0", "1", "0", "600", "-", "-"),
        )
        assert "&lt;b&gt;v.mp4" in made.html
        check_self_contained(made.html)

    def test_what_watch_writes_is_read(self, bundle: Bundle, tmp_path: Path) -> None:
        video, lines = write_video(tmp_path / "v.mp4", [picture(i // 25) for i in range(100)]), tmp_path / "v.jsonl"
        command = [*BOTTLENET, "watch", video, "--to", "ws://127.0.0.1:1", "--bundle", bundle.path]
        for _ in range(2):
            with lines.open("a") as file:
                options = ["--fallback", "local", "--when", "1", "--json"]
                subprocess.run([*map(str, command), *options], stdout=file, timeout=LIMIT_S, check=True)
        (section,) = report([lines], MADE).sections
        assert section.tables[0].rows[0][1] == ("0:00:00.000", "0:00:03.000")
        assert section.tables[0].rows[0][4:9] == ("0", "0", "0", "8", "0")

    def test_a_sweep_cut_by_cut(self, tmp_path: Path) -> None:
        made = report([write_sweep(tmp_path / "mine")], MADE)
        (source,) = made.sources
        assert (source.kind, source.name, source.model) == ("sweep", "mine", "small")
        assert source.command == (
            "bottlenet sweep small --data photos --cuts first,second --channels 1/8,1/4,1/2 --strides 1,2 "
            "--qualities 20 --max-drop 2 --out mine"
        )
        (section,) = [each for each in made.sections if each.key == "sweep"]
        (figure,) = section.figures
        rows = {str(row[0]): row[1:] for row in figure.table.rows}
        assert rows["first-c8-s1-q20"] == ("500", "1.5", "top1", "-", "-", "kept")
        assert rows["second-c8-s1-q20"] == ("900", "0.5", "top1", "900", "0.5", "kept")
        assert rows["first-c2-s1-q20"][-1] == "skipped: first-c4-s1-q20 loses too much"
        assert rows["second-c2-s1-q20"] == ("-", "-", "", "-", "-", "not reached: the time was up")
        assert "Kept: first-c8-s1-q20, 500 bytes, 1.5 points lost" in figure.drawing.description
        (front,) = [each for each in made.sections if each.key == "front"]
        assert [row[1] for row in front.figures[0].table.rows] == ["200", "300", "500", "900"]

    def test_the_command_of_a_sweep_has_every_option_that_was_given(self, tmp_path: Path) -> None:
        folder = write_sweep(tmp_path / "mine")
        document = json.loads((folder / "candidates.json").read_text(encoding="utf-8"))
        document["config"] |= {
            "data": ["/secret/a b", "c"],
            "unit": "residual",
            "epochs": 9,
            "evaluate": "/secret/eval",
        }
        document["search"] |= {"everything": True, "minutes": 30.0, "weights": "int8", "threads": 2}
        write(folder / "candidates.json", document)
        (source,) = report([folder], MADE).sources
        assert source.command == (
            "bottlenet sweep small --data 'a b' --data c --cuts first,second --channels 1/8,1/4,1/2 --strides 1,2 "
            "--qualities 20 --max-drop 2 --unit residual --epochs 9 --evaluate eval --minutes 30.0 --weights int8 "
            "--threads 2 --all --out mine"
        )

    def test_the_command_of_a_profile_has_what_the_profile_says_of_its_options(self, tmp_path: Path) -> None:
        energy = Energy("given", "--device-power-mw", power_mw=1306.0)
        first, *rest = paper.profile().candidates
        file = tmp_path / "p.json"
        candidates = (dataclasses.replace(first, energy=energy), *rest)
        file.write_bytes(profile_of(candidates=candidates, max_drop=5.0, photos=40).to_json())
        (source,) = report([file], MADE).sources
        assert source.command == (
            "bottlenet profile BUNDLE --data DIR --limit 40 --max-drop 5 --device-power-mw 1306 -o p.json"
        )

    def test_rates_say_how_many_photos_they_are_of(self, tmp_path: Path) -> None:
        few = evaluation_document(top1=None, top1_uncut=None, top1_drop=None, top5=None, agreement=100 / 3, photos=6)
        paths = [
            write(tmp_path / "few.json", few),
            write(tmp_path / "many.json", evaluation_document(labelled=1300)),
            write_run(tmp_path / "run"),
            write_sweep(tmp_path / "sweep"),
        ]
        made = {section.key: section for section in report(paths, MADE).sections}
        evaluated, agreement = made["accuracy"].figures
        assert "Rates are of 1,300 photos." in evaluated.note
        assert evaluated.table.rows[0][-1] == "1,300"
        assert {row[0]: row[-1] for row in agreement.table.rows} == {
            "mine: few": "6",
            "run run, held out: after pass 2": "9",
        }
        assert "Rates are of 6 to 9 photos" in agreement.note
        assert "Rates are of 9 photos." in made["training"].figures[0].note
        assert "Rates are of 100 photos." in made["sweep"].figures[0].note
        assert {row[-1] for row in made["front"].figures[0].table.rows} == {"100", "1,300"}

    def test_a_photo_that_an_exit_answers_counts_with_no_bytes(self, tmp_path: Path) -> None:
        some = evaluation_document(decision_bytes=sizes(75), sent_share=0.25, top1=71.0)
        none = evaluation_document(payload_bytes=sizes(0), decision_bytes=sizes(0), sent_share=0.0)
        unlabelled = {"top1": None, "top1_uncut": None, "top1_drop": None, "top5": None}
        documents = {"some": some, "none": none, "same": some | unlabelled, "nothing": none | unlabelled}
        paths = [write(tmp_path / f"{name}.json", document) for name, document in documents.items()]
        evaluated, agreement = {section.key: section for section in report(paths, MADE).sections}["accuracy"].figures
        assert [row[1] for row in evaluated.table.rows] == ["75"]
        assert [row[1] for row in agreement.table.rows] == ["75"]

    def test_a_run_of_an_exit_alone(self, tmp_path: Path) -> None:
        run = write_run(tmp_path / "run")
        log = (run / "log.jsonl").read_text(encoding="utf-8")
        alone = log.replace('"payload_bytes": 400.0', '"payload_bytes": 0.0, "budget": 0').replace(": 500", ": 0.0")
        (run / "log.jsonl").write_text(alone, encoding="utf-8")
        made = {section.key: section for section in report([run], MADE).sections}
        assert made["training"].figures[0].table.rows[0][1] == "the exit alone"

    def test_a_thing_looks_the_same_in_every_chart(self, given_paths: list[Path], tmp_path: Path) -> None:
        links = tuple(PRESETS[name] for name in ("3g", "wifi", "nb-iot", "iridium-sbd"))
        made = report([*given_paths, write_sweep(tmp_path / "sweep")], dataclasses.replace(MADE, links=links))
        looks: dict[str, set[str]] = {}
        for section in made.sections:
            for figure in section.figures:
                chart = "".join(figure.drawing.body)
                # A name at the right stands behind the sample of its line, or its marker.
                found = re.findall(r'class="(?:line|full|open)(\d)"[^>]*/>\n?<text [^>]*>([^<]*)</text>', chart)
                assert found or section.key != "plan"
                for number, name in found:
                    looks.setdefault(name, set()).add(number)
        assert {"naive", "aware", "mobile-only"} <= set(looks)
        assert {name: numbers for name, numbers in looks.items() if len(numbers) > 1} == {}

    def test_a_sweep_without_labels_is_on_no_front(self, tmp_path: Path) -> None:
        made = report([write_sweep(tmp_path / "mine", "agreement")], MADE)
        assert [section.key for section in made.sections] == ["sweep"]

    def test_records_of_another_network_are_no_harm(self, tmp_path: Path) -> None:
        record = json.loads((RESULTS / "rate_accuracy.json").read_text(encoding="utf-8"))
        record["results"]["config"]["model"] = "large"
        made = report([write(tmp_path / "e.json", evaluation_document()), write(tmp_path / "r.json", record)], MADE)
        keys = [section.key for section in made.sections]
        assert keys == ["accuracy"]  # a figure each, and no front of both: one point is none
        assert len(made.sections[0].figures) == 2

    def test_without_torch(self, given_paths: list[Path]) -> None:
        code = (
            "import sys; from pathlib import Path; from bottlenet.report.page import report\n"
            "from bottlenet.report.sections import Request\n"
            f"report([Path(p) for p in {[str(path) for path in given_paths]!r}], Request('c', 'd', 'v'))\n"
            "assert 'torch' not in sys.modules"
        )
        subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=120)

    def test_the_shipped_records(self) -> None:
        made = report([RESULTS], MADE)
        assert len(made.sources) == len(list(RESULTS.glob("*.json")))
        assert {"accuracy", "naive", "front", "training", "others"} <= {section.key for section in made.sections}
        shipped = json.loads((RESULTS / "rate_accuracy.json").read_text(encoding="utf-8"))["results"]["methods"][0]
        assert f"{shipped['rows'][0]['top1']:.1f}" in made.html


class TestHostile:
    def test_words_from_files_stay_words(self, bundle: Bundle, photos: Path, tmp_path: Path) -> None:
        evil = "<img src=x onerror=alert(1)>\"&'</title></svg></style><script>"
        run = write_run(tmp_path / f"run {evil.replace('/', '|')}", model=evil, cut=evil, codec=evil, lr=evil)
        first = dataclasses.replace(paper.profile().candidates[0], name=evil)
        profile = tmp_path / "p.json"
        profile.write_bytes(profile_of(evil, candidates=(first, *paper.profile().candidates[1:])).to_json())
        record = {"command": evil, "commit": evil, "date": evil, "machine": {evil: evil}, "results": {
            "model": evil, "top1_uncut": 9.0,
            "rows": [{"payload_bytes": 3, "top1": 5.0, "method": evil, "setting": evil}],
        }}  # fmt: skip
        other = {**record, "results": {"model": evil, evil: evil}}
        paths = [
            run,
            profile,
            write(tmp_path / "e.json", evaluation_document(model=evil, name=evil, command=evil)),
            write(tmp_path / "b.json", bench_document(evil, name=evil)),
            write(tmp_path / "r.json", record),
            write(tmp_path / "o.json", other),
        ]
        for made in (report(paths, MADE), report(paths, Request(evil, evil, evil))):
            read = Reader(made.html)
            assert {name for name, _ in read.found} <= ALLOWED
            assert not [attributes for _, attributes in read.found if any(name.startswith("on") for name in attributes)]
            assert evil in read.words

    def test_labels_and_file_names_stay_words(self, make_bundle: Callable[..., Bundle], photos: Path) -> None:
        bundle = make_bundle(name="<b>name</b>")
        nasty = dataclasses.replace(bundle, labels=tuple(f"{NASTY} {number}" for number in range(10)))
        (photos / "00.png").rename(photos / "a<script>&quot;'.png")
        made = report([], MADE, photos=PhotoWish(nasty, str(photos), 12, 12))
        read = Reader(made.html)
        assert {name for name, _ in read.found} <= ALLOWED
        assert "a<script>&quot;'.png" in read.words
        assert "<b>name</b>" in read.words
        assert "\x1b" not in made.html

    def test_nothing_is_loaded_from_elsewhere(self, given_paths: list[Path], bundle: Bundle, photos: Path) -> None:
        made = report([given_paths[0], *given_paths[6:]], MADE)
        check_self_contained(made.html)
        check_self_contained(report([], MADE, photos=PhotoWish(bundle, str(photos), 3, 12)).html)

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
    @given(data=st.data())
    def test_any_value_in_any_place_is_refused_or_shown(self, data: st.DataObject, tmp_path: Path) -> None:
        anything = st.one_of(
            st.none(),
            st.booleans(),
            st.integers(),
            st.floats(),
            st.text(max_size=9),
            st.lists(st.integers(), max_size=2),
        )
        document = data.draw(st.sampled_from([
            evaluation_document(), bench_document(), json.loads((RESULTS / "tile_padding.json").read_text("utf-8")),
            json.loads((write_sweep(tmp_path / secrets.token_hex(4)) / "candidates.json").read_text("utf-8")),
            json.loads((RESULTS / "training.json").read_text("utf-8")), camera_line(),
        ]))  # fmt: skip
        place: Any = document
        while True:
            key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
            if isinstance(place[key], dict | list) and place[key] and data.draw(st.booleans()):
                place = place[key]
                continue
            place[key] = data.draw(anything)
            break
        try:
            made = report([write(tmp_path / ("x.jsonl" if "photo" in document else "x.json"), document)], MADE)
        except InputError as error:
            assert "\n" not in str(error)
        else:
            assert {name for name, _ in Reader(made.html).found} <= ALLOWED


ALLOWED = {
    *(
        "html",
        "head",
        "meta",
        "link",
        "title",
        "style",
        "body",
        "header",
        "main",
        "section",
        "footer",
        "nav",
        "ul",
        "li",
    ),
    *("h1", "h2", "h3", "p", "a", "div", "code", "details", "summary", "figure", "figcaption", "img"),
    *("svg", "desc", "path", "polyline", "rect", "text", "g"),
    *("table", "caption", "thead", "tbody", "tr", "th", "td"),
}


def check_self_contained(html: str) -> None:
    addresses = re.findall(r"""\b(?:src|href|action|url)\s*[=(]\s*["']?([^"')\s>]+)""", html)
    assert addresses
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert not re.search(r"@import|<script|<iframe|https?://", html)
    assert len(html.encode()) < MAX_PAGE_BYTES
    assert "default-src 'none'" in html


class TestPhotos:
    def test_rows_are_what_the_bundle_does(self, bundle: Bundle, photos: Path) -> None:
        shown, failures = photo_sections(PhotoWish(bundle, str(photos), shown=4, limit=12))
        (table,) = shown.tables
        assert [row[1] for row in table.rows] == [("00.png",), ("03.png",), ("06.png",), ("09.png",)]
        for row in table.rows:
            assert row[0].url.startswith("data:image/jpeg;base64,")  # type: ignore[union-attr]
            assert row[2].url.startswith("data:image/png;base64,")  # type: ignore[union-attr]
            assert len(row[4]) == len(row[5]) == 3  # type: ignore[arg-type]
            assert row[6] == ("same" if row[4][0].split(",")[0] == row[5][0].split(",")[0] else "other")  # type: ignore[union-attr]
        assert not failures.tables or failures.tables[0].rows

    def test_the_worst_come_first(self, photos: Path, tmp_path: Path) -> None:
        matrix = np.random.default_rng(8).normal(0, 0.01, (int(np.prod(LATENT)), CLASSES)).astype(np.float32)
        another_tail = graph_bytes(tail_nodes()[0], [SYMBOLS], [SCORES], {"matrix": matrix})
        bundle = write_bundle(tmp_path / "worse", tiny_manifest(), {**tiny_files(), "tail.onnx": another_tail})
        _, failures = photo_sections(PhotoWish(bundle, str(photos), shown=5, limit=12))
        lost = [int(str(row[-1]).split()[0]) for row in failures.tables[0].rows]
        assert lost == sorted(lost, reverse=True)
        assert 2 <= len(lost) <= 5
        every = photo_sections(PhotoWish(bundle, str(photos), shown=12, limit=12))[1].tables[0].rows
        assert lost == [int(str(row[-1]).split()[0]) for row in every][: len(lost)]
        assert all(row[4][0] != row[5][0] for row in failures.tables[0].rows)  # type: ignore[index]

    def test_a_budget_holds(self, bundle: Bundle, photos: Path) -> None:
        shown, _ = photo_sections(PhotoWish(bundle, str(photos), shown=12, limit=12, budget_bytes=60))
        assert all(int(str(row[3])) <= 60 for row in shown.tables[0].rows)

    def test_a_full_page_leaves_photos_out_and_says_so(
        self, bundle: Bundle, photos: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = report([], MADE, photos=PhotoWish(bundle, str(photos), 12, 12)).html
        limit = len(whole.encode()) - 3000
        monkeypatch.setattr(page_module, "MAX_PAGE_BYTES", limit)
        made = report([], MADE, photos=PhotoWish(bundle, str(photos), 12, 12)).html
        assert len(made.encode()) <= limit
        assert made.count("the page is full, so some are left out") >= 1
        monkeypatch.setattr(page_module, "MAX_PAGE_BYTES", 2000)
        with pytest.raises(InputError, match="more than 2,000; give fewer sources"):
            report([], MADE, photos=PhotoWish(bundle, str(photos), 12, 12))


class TestCommand:
    def test_it_writes_a_file_and_says_what_is_in_it(self, run: Run, given_paths: list[Path], tmp_path: Path) -> None:
        file = tmp_path / "r.html"
        done = run("report", *given_paths, "-o", file)
        assert done.code == 0, done.err
        assert "Accuracy against bytes: 3 figures" in done.out
        assert f"{file}, " in done.out
        document = run("report", *given_paths, "-o", file, "--json").json
        assert document["bytes"] == file.stat().st_size < MAX_PAGE_BYTES
        assert [source["kind"] for source in document["sources"]][:3] == ["run", "run", "evaluation"]
        assert all(figure["command"] for section in document["sections"] for figure in section["figures"])
        text = file.read_text(encoding="utf-8")
        assert "bottlenet report aware naive e1.json" in text  # without where they are
        assert str(tmp_path) not in text
        assert "secret" not in text
        file.write_text("my page")
        assert "a file is there that is not a report" in run("report", *given_paths, "-o", file).error
        assert file.read_text() == "my page"

    def test_photos(self, run: Run, bundle: Bundle, photos: Path, tmp_path: Path) -> None:
        file = tmp_path / "r.html"
        done = run(
            "report", "-o", file, "--bundle", bundle.path, "--data", photos, "--photos", 2, "--limit", 5, "--json"
        )
        assert done.json["sections"][0]["title"].startswith("Photos, what is sent")
        assert len(Reader(file.read_text(encoding="utf-8")).all("img")) >= 4

    def test_evaluate_and_bench_say_how_they_were_made(
        self, run: Run, bundle: Bundle, photos: Path, tmp_path: Path
    ) -> None:
        document = run("evaluate", bundle.path, "--data", photos, "--json").json
        assert (document["bundle"], document["model"]) == (bundle.id.hex(), "means")
        assert document["command"] == f"bottlenet evaluate {bundle.path.name} --data photos --json"
        (source,) = read_sources([write(tmp_path / "e.json", document)])
        assert (source.kind, source.command, source.model) == ("evaluation", document["command"], "means")

    def test_help(self, run: Run) -> None:
        done = run("report", "--help")
        assert "bottlenet report my.profile.json" in done.out
        assert "--json" in done.out


class TestBadInput:
    @pytest.fixture
    def fail(self, run: Run, tmp_path: Path) -> Callable[..., str]:
        return lambda *arguments: run("report", *arguments, "-o", tmp_path / "out.html").error

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("no json", "it is not JSON"),
            ('{"a": NaN}', "NaN is no number"),
            ("[1, 2]", "it is JSON that no report is made of (it is no object); give the folder of a run or a sweep"),
            ('{"x": 1}', "its fields are 'x'"),
            ('{"kind": "bottlenet bench"}', "it lacks "),
            ('{"kind": "bottlenet evaluate"}', "it lacks "),
            ('{"kind": "bottlenet sweep", "model": "m", "search": {"max_drop": 1}, "trials": [3]}', "it is 3"),
            ('{"kind": "bottlenet sweep", "model": "m", "search": 1, "trials": []}', "its search is 1"),
            ('{"format_version": 99, "candidates": []}', "format version 99"),
            ('{"command": 1, "commit": 1, "date": 1, "machine": 1, "results": 1}', "commit is 1"),
            ("[" * 100_000, "it is not JSON"),
        ],
    )
    def test_files(self, fail: Callable[..., str], tmp_path: Path, content: str, message: str) -> None:
        file = tmp_path / "x.json"
        file.write_text(content)
        error = fail(file)
        assert str(file) in error
        assert message in error

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("", "there is no answer of a camera in it; give the lines of bottlenet watch --json"),
            ('{"photo": "a.jpg", "status": "answered"}', "there is no answer of a camera in it"),  # of send
            ('{"status": "answered", "frames": 1}', "line 1: it lacks photo, at, by, frame_bytes and more"),
            (json.dumps(camera_line(at="noon")), "line 1: at is 'noon'"),
            (json.dumps(camera_line(at="0:0:1e400")), "line 1: at is"),
            (json.dumps(camera_line(at="2026-13-01T00:00:00.000Z")), "line 1: at is"),
            (json.dumps(camera_line(frames=-1)), "line 1: frames is -1"),
        ],
    )
    def test_lines_of_cameras(self, fail: Callable[..., str], tmp_path: Path, content: str, message: str) -> None:
        (tmp_path / "x.jsonl").write_text(content, encoding="utf-8")
        assert message in fail(tmp_path / "x.jsonl")

    def test_places(self, fail: Callable[..., str], tmp_path: Path) -> None:
        assert "there is nothing to report; give the folder of a run" in fail()
        assert "can't be read: No such file" in fail(tmp_path / "none")
        (tmp_path / "empty").mkdir()
        assert "nothing in it that a report is made of" in fail(tmp_path / "empty")
        (tmp_path / "x.jpg").write_bytes(b"\xff\xd8\xff")
        assert "it is not JSON" in fail(tmp_path / "x.jpg")

    def test_networks_are_not_mixed(self, fail: Callable[..., str], tmp_path: Path) -> None:
        one = write(tmp_path / "a.json", bench_document("small"))
        other = write(tmp_path / "b.json", evaluation_document(model="large"))
        error = fail(one, other)
        assert f"{one} is of the network 'small' and {other} of 'large'" in error
        assert "make a report for each" in error

    def test_bundles_are_not_mixed(
        self, fail: Callable[..., str], bundle: Bundle, photos: Path, tmp_path: Path
    ) -> None:
        file = write(tmp_path / "a.json", bench_document("means"))
        error = fail(file, "--bundle", bundle.path, "--data", photos)
        assert f"{file} is of bundle abababababab, and nothing that is given is of {bundle.id.hex()[:12]}" in error
        file = write(tmp_path / "b.json", bench_document("other", bundle=bundle.id.hex()))
        assert "is of the network 'other', and bundle tiny of 'means'" in fail(
            file, "--bundle", bundle.path, "--data", photos
        )
        file = write(tmp_path / "c.json", bench_document("means", bundle=bundle.id.hex()))
        assert report([file], MADE, photos=PhotoWish(bundle, str(photos), 1, 2)).sections

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--bundle", "demo"], "--bundle is given without --data"),
            (["--data", "x"], "--data is given without --bundle"),
            (["--link", "6g"], 'link "6g" is unknown'),
            (["--max-drop", "nan"], "max_drop is nan; give points of top-1, -100 to 100"),
            (["--bundle", "BUNDLE", "--data", "x", "--photos", "0"], "photos is 0; give 1 to 60"),
            (["--bundle", "BUNDLE", "--data", "x", "--photos", "9", "--limit", "8"], "limit is 8; give at least the 9"),
            (["--bundle", "BUNDLE", "--data", "x"], "x: no such folder"),
        ],
    )
    def test_options(self, fail: Callable[..., str], bundle: Bundle, arguments: list[str], message: str) -> None:
        assert message in fail(*(str(bundle.path) if each == "BUNDLE" else each for each in arguments))

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("[]", "line 2: it is []"),
            ("{", "line 2: it is not JSON"),
            ('{"steps": 1}', "line 2: it lacks loss"),
            ('{"held_out": 3, "epoch": 1}', "line 2: held_out is 3"),
            ('{"held_out": [{}], "epoch": 1}', "line 2: it lacks distillation"),
            (
                '{"held_out": [{"distillation": 1, "agreement": 1, "payload_bytes": 1}], "epoch": "x"}',
                "line 2: epoch is 'x'",
            ),
        ],
    )
    def test_logs(self, fail: Callable[..., str], tmp_path: Path, line: str, message: str) -> None:
        run = write_run(tmp_path / "run", epochs=0)
        (run / "log.jsonl").write_text(f'{{"steps": 1, "loss": 1, "distillation": 1, "payload_bytes": 1}}\n{line}\n')
        assert message in fail(run)

    def test_runs_of_something_else(self, fail: Callable[..., str], tmp_path: Path) -> None:
        run = write_run(tmp_path / "run")
        write(run / "run.json", {"model": {"a": 1}, "cut": 1, "codec": 2})
        assert "which no run was told" in fail(run)

    def test_too_many(self, tmp_path: Path) -> None:
        for number in range(201):
            write_run(tmp_path / "sweep" / str(number), epochs=0)
        with pytest.raises(InputError, match="201 runs are in it; 200 fit a report"):
            read_sources([tmp_path / "sweep"])

    def test_a_folder_of_runs_and_files(self, tmp_path: Path) -> None:
        folder = tmp_path / "sweep"
        write_run(folder / "trials" / "a", model="means")
        write_run(folder / "b", model="means")
        write(folder / "e.json", evaluation_document(model="means"))
        write(folder / "settings.json", {"not": "a source"})
        assert [source.name for source in read_sources([folder])] == ["b", "a", "e"]

    @pytest.mark.parametrize("row", [{"photos": 0, "agreement": None}, {"photos": 3, "payload_bytes": 0}])
    def test_a_run_that_held_nothing_out(self, tmp_path: Path, row: dict[str, float | None]) -> None:
        run = write_run(tmp_path / "run", epochs=0)
        held_out = {"distillation": 0, "agreement": 0, "payload_bytes": 0, **row}
        (run / "log.jsonl").write_text(json.dumps({"epoch": 1, "held_out": [held_out]}) + "\n", encoding="utf-8")
        assert {section.key for section in report([run], MADE).sections} <= {"training"}

    def test_a_run_that_has_only_begun(self, tmp_path: Path) -> None:
        run = write_run(tmp_path / "run", epochs=0)
        (run / "log.jsonl").unlink()
        assert report([run], MADE).sections == ()


class TestTyped:
    @pytest.mark.parametrize("value", ["1", True, None, [], 10**400, {}])
    def test_no_number(self, value: object) -> None:
        with pytest.raises(InputError, match="mean is "):
            convert(Sizes, {"mean": value, "p95": 1, "max": 1}, "again")

    def test_there_and_back(self) -> None:
        assert convert(Evaluation, json.loads(json.dumps(dataclasses.asdict(EVALUATION))), "again") == EVALUATION

    @pytest.mark.parametrize("text", ["1e999", "-Infinity", "NaN"])
    def test_numbers_that_are_none(self, text: str) -> None:
        with pytest.raises(InputError):
            convert(Sizes, {"mean": parse_json(text), "p95": 1, "max": 1}, "again")


class TestCurves:
    def test_rows_are_found_and_named(self) -> None:
        found = {curve.name: curve for curve in curves_in({
            "top1_uncut": 80.0,
            "methods": [{"name": "m", "curve": "c", "rows": [{"setting": "a", "payload_bytes": 9.0, "top1": 50.0}]}],
            "input_codecs": [{"codec": "jpeg", "quality": 5, "bare_bytes": 90, "file_bytes": 100, "top1": 60.0}],
            "compared": [{"ours": "c", "bytes": 1, "top1": 1}],
            "rows": [{"align": 8, "payload_bytes": {"mean": 7}, "top1": 10}, {"payload_bytes": 0, "top1": 10}],
        })}  # fmt: skip
        assert set(found) == {"c", "jpeg", "align 8"}
        assert found["c"].points[0].name == "a"
        assert (found["jpeg"].points[0].bytes, found["jpeg"].points[0].name) == (90, "quality 5")
        assert found["c"].uncut == 80.0

    def test_commands_without_places(self) -> None:
        assert command_line(["/x/bottlenet", "evaluate", "/home/me/a b", "--out=/x/y", "~/z"]) == (
            "bottlenet evaluate 'a b' --out=y z"
        )
        assert without_root("rel/path") == "rel/path"
        assert without_root("mine=/home/me/x") == "mine=x"
        assert without_root("/home/me/a=b") == "a=b"


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
@pytest.mark.slow
def test_chromium_opens_it_from_disk_without_a_word(
    given_paths: list[Path], bundle: Bundle, photos: Path, tmp_path: Path
) -> None:
    file = tmp_path / "r.html"
    file.write_text(report(given_paths[4:5], MADE).html, encoding="utf-8")
    shown = tmp_path / "p.html"
    shown.write_text(report([], MADE, photos=PhotoWish(bundle, str(photos), 2, 4)).html, encoding="utf-8")
    assert CHROMIUM is not None
    for each, tag in ((file, "<svg"), (shown, "<img")):
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--enable-logging=stderr"]
        no_network = ["--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path / 'profile'}"]
        command = [CHROMIUM, *flags, *no_network, "--window-size=360,800", "--dump-dom", each.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        assert tag in done.stdout
        assert "CONSOLE" not in done.stderr
