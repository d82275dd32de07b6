"""README and docs say what the records say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TABLES = ROOT / "benchmarks" / "tables.py"


def test_tables_are_those_of_the_records():
    done = subprocess.run([sys.executable, str(TABLES), "--check"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "up to date"), done.stderr


def test_the_pictures_of_the_readme_are_those_that_the_script_draws(tmp_path):
    script = ROOT / "benchmarks" / "readme_figures.py"
    subprocess.run([sys.executable, str(script), "--out", str(tmp_path)], capture_output=True, text=True, check=True)
    chart, photo = "bytes-and-accuracy.svg", "photo-to-answer.svg"
    assert (tmp_path / chart).read_bytes() == (ROOT / "docs" / chart).read_bytes()
    drawn, committed = ((folder / photo).read_text(encoding="utf-8") for folder in (tmp_path, ROOT / "docs"))
    assert re.findall("<(?:title|text)[^>]*>([^<]*)<", drawn) == re.findall("<(?:title|text)[^>]*>([^<]*)<", committed)
    assert len(committed) < 60_000


@pytest.mark.parametrize("record", sorted((ROOT / "benchmarks" / "results").glob("*.json")), ids=lambda path: path.stem)
def test_records_name_no_machine_and_no_work_in_progress(record):
    text = record.read_text(encoding="utf-8")
    assert not re.search(r'"commit": "[^"]*-dirty"', text)
    assert not re.search(r'["\s=]/(home|root|tmp|work|Users)/', text)
