"""The scripts behind the tables of docs/networks.md, each on one network."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def recorded(name: str, folder: Path, *arguments: str) -> dict[str, Any]:
    """What the script of that name finds."""
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), *arguments, "--out", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    text = (folder / f"{name}.json").read_text()
    assert str(folder) not in text
    results: dict[str, Any] = json.loads(text)["results"]
    return results


def test_one_network_is_recorded(tmp_path: Path) -> None:
    results = recorded("zoo", tmp_path, "--only", "torchvision/squeezenet1_1")
    assert [row["network"] for row in results["networks"]] == ["torchvision/squeezenet1_1"]
    row = results["networks"][0]
    assert row["cuts"] == sum(row["grids"].values()) > 20
    assert row["parameters"] == 1_235_496
    assert row["fidelity"]["photos"] == 4
    assert row["fidelity"]["symbols_equal"] >= 0.999
    assert row["split_s"] > 0
    assert results["large"] == []


def test_one_segmentation_is_recorded(tmp_path: Path) -> None:
    results = recorded("dense", tmp_path, "--only", "lraspp_mobilenet_v3_large", "--photos", "2")
    (row,) = results["networks"]
    assert (row["network"], row["task"]) == ("torchvision/lraspp_mobilenet_v3_large", "segmentation")
    assert row["compared"] == 2 * 64 * 64
    assert row["same"] >= 0.95 > 0.5 > row["another"]
    channels, rows, columns = row["latent"]
    assert row["payload_bytes"] == channels * rows * columns == row["frame_bytes"] - 4
    assert 14 < row["received_bytes"] < 64 * 64


def test_one_onnx_file_is_recorded(tmp_path: Path) -> None:
    results = recorded("onnx_files", tmp_path, "--only", "squeezenet1_1")
    (row,) = results["files"]
    assert (row["network"], row["exporter"], row["opset"]) == ("torchvision/squeezenet1_1", "TorchScript", 9)
    assert row["cuts"] > 20
    assert row["difference"] < 1e-4
