"""The recipes' own networks at their own cuts, on a handful of photos; weights are random, and photos small."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

RECIPES = Path(__file__).parent.parent / "recipes"
OWN = {
    "mini_imagenet_resnet50": "torchvision/resnet50",
    "imagenet_resnet50": "torchvision/resnet50",
    "imagenet_vgg19": "torchvision/vgg19",
}


@pytest.mark.parametrize("recipe", OWN)
def test_own_network_and_cut(recipe: str) -> None:
    told = {key: value for key, value in os.environ.items() if key != "CUT"}
    told |= {"MODEL": f"{OWN[recipe]}:random,size=64", "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    told["BOTTLENET"] = f"{sys.executable} -m bottlenet.cli"
    script = RECIPES / f"{recipe}.sh"
    assert f"${{MODEL:-{OWN[recipe]}}}" in script.read_text(encoding="utf-8")
    done = subprocess.run([script, "--smoke"], env=told, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "top-1" in done.stdout
