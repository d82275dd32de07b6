"""The benchmark of the paper's own experiment, on photos and a network that learn in seconds."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

pytest.importorskip("torch")

import small

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
OPTIONS = (
    "--model", "small:classifier", "--finetune-from", "first", "--cuts", "first", "second", "--sizes", "24",
    "--budgets", "4", "20", "--epochs", "1", "--batch", "8",
)  # fmt: skip


def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("paper_benchmark", BENCHMARKS / "paper.py")  # tests/ has a paper.py
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """15 photos of each class, which differ by colour."""
    folder = tmp_path_factory.mktemp("photos")
    for colour, name in enumerate(("ant", "bee", "cat")):
        for number in range(1, 16):
            pixels = small.photo(number).copy()
            pixels[..., colour] = 255 - number
            Image.fromarray(pixels).save(folder / f"{name}_image_{number:04}.png")
    return folder


def launch(photos: Path, work: Path, *more: str) -> subprocess.CompletedProcess[str]:
    words = ["--data", str(photos), "--work", str(work), "--out", str(work), *OPTIONS, *more]
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / "paper.py"), *words],
        capture_output=True,
        text=True,
        env=environment,
        timeout=900,
        check=False,
    )


@pytest.mark.slow
def test_some_rows_and_a_record_that_names_the_others(photos: Path, tmp_path: Path) -> None:
    rows = ("table first 4", "fig7 naive", "parts labels", "beside entropy", "input codecs", "smaller photo")
    done = launch(photos, tmp_path, "--rows", *rows)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "paper.json").read_text(encoding="utf-8")
    assert str(tmp_path) not in text
    results = json.loads(text)["results"]
    found = {row["name"]: row for row in results["rows"]}
    assert set(found) == set(rows)
    assert not results["complete"]
    assert "table second 1" in results["missing"]
    first = found["table first 4"]
    assert first["latent"] == [4, 8, 8]
    assert first["complete_file_bytes"] == pytest.approx(first["payload_bytes"]["mean"] + 330)
    assert [len(found[name]["qualities"]) for name in ("table first 4", "fig7 naive")] == [8, 8]
    assert [each["budget"] for each in found["beside entropy"]["budgets"]] == [4, 20]
    assert [each["size"] for each in found["smaller photo"]["sizes"]] == [32, 24]
    assert results["table_4"][0]["cut"] == "first"
    assert set(results["aware_above_naive"]) == {"components"}

    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.name == "row.json"}
    again = launch(photos, tmp_path, "--rows")
    assert again.returncode == 0, again.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before  # nothing was done twice


def test_a_row_that_is_none(photos: Path, tmp_path: Path) -> None:
    done = launch(photos, tmp_path, "--row", "table 9")
    assert done.returncode == 2
    assert "there is no row 'table 9'; the rows are: table first 1" in done.stderr
    assert "Traceback" not in done.stderr


def test_table_4_takes_the_fewest_channels_within_two_points(monkeypatch: pytest.MonkeyPatch) -> None:
    paper = benchmark(monkeypatch)
    rest = {"payload_bytes": {"mean": 100.0}, "complete_file_bytes": 430.0, "top1": 90.0, "head_flops_share": 0.2}
    drops = {1: 9.0, 2: 1.5, 4: 1.0}
    rows = {f"table a {c}": {"latent": [c, 8, 8], "top1_drop": drop, **rest} for c, drop in drops.items()}
    (row,) = paper.table_4(rows, ("a", "b"))
    assert (row["latent"], row["within"], row["tried"]) == ([2, 8, 8], True, [1, 2, 4])
    (row,) = paper.table_4({"table a 1": rows["table a 1"]}, ("a", "b"))
    assert (row["latent"], row["within"]) == ([1, 8, 8], False)
