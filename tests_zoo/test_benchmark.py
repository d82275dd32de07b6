"""The script behind the tables of docs/networks.md, on one network."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "zoo.py"


def test_one_network_is_recorded(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--only", "torchvision/squeezenet1_1", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "zoo.json").read_text()
    assert str(tmp_path) not in text
    results = json.loads(text)["results"]
    assert [row["network"] for row in results["networks"]] == ["torchvision/squeezenet1_1"]
    row = results["networks"][0]
    assert row["cuts"] == sum(row["grids"].values()) > 20
    assert row["parameters"] == 1_235_496
    assert row["fidelity"]["photos"] == 4
    assert row["fidelity"]["symbols_equal"] >= 0.999
    assert row["split_s"] > 0
    assert results["large"] == []
