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


@pytest.mark.parametrize("record", sorted((ROOT / "benchmarks" / "results").glob("*.json")), ids=lambda path: path.stem)
def test_records_name_no_machine_and_no_work_in_progress(record):
    text = record.read_text(encoding="utf-8")
    assert not re.search(r'"commit": "[^"]*-dirty"', text)
    assert not re.search(r'["\s=]/(home|root|tmp|work|Users)/', text)
