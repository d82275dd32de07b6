"""Every program in examples/ runs as it is, in a process of its own and in an empty folder, and says what it should."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
SAYS = {  # a pattern for each line
    "own_transport": [
        r"anemone_fish\.jpg: anemone fish, \d+%, 612 bytes",
        r"cat\.jpg: .*",
        r"espresso\.jpg: espresso, .*",
    ],
    "satellite": [
        *(r"anemone_fish\.jpg", r"  whole payload: \d{4} bytes, anemone fish, \d+%", r"  Iridium SBD: 340 bytes, .*"),
        *(r"  LoRaWAN, DR5: 222 bytes, .*", r"  LoRaWAN, DR0: 51 bytes, .*", r"  too small: a budget of 12 bytes .*"),
        *(r"cat\.jpg", r"  whole .*", r"  Iridium .*", r"  LoRaWAN.*", r"  LoRaWAN.*", r"  too small: .*"),
    ],
    "never_lost": [
        "without a server: 3 wait in the spool",
        *(r"anemone_fish\.jpg: anemone fish, \d+ bytes", r"cat\.jpg: .*", r"espresso\.jpg: espresso, \d+ bytes"),
        "with a server: 3 answered, 0 wait",
    ],
    "own_app": [r"anemone_fish\.jpg: anemone fish, \d+%, \d+ bytes", r"cat\.jpg: .*", r"espresso\.jpg: espresso, .*"],
    "own_link": [
        "on the camera wins on our satellite with .* above 39.3 kbit/s split at layer 3 wins.*",
        "no partition meets the constraints on our satellite: relax .*",
        *[r"\d+ of 1000: .*"] * 3,
    ],
    "slow_link": [
        rf"{link}, .*\.jpg: .*, \d+ ms, of them the link \d+" for link in ("Wi-Fi", "3G", "100k,300ms") for _ in "ab"
    ],
    "own_network": [
        r"loss 0\.\d{4}, after 30 steps 0\.\d{4}; \d+ bytes a photo",
        r"bundle [0-9a-f]{12}: \d+\.\d% of the symbols as in torch",
        *[r".*\.jpg: class \d"] * 3,
    ],
}
NEEDS_TORCH = {"own_network"}


def test_all_are_here() -> None:
    assert {file.stem for file in EXAMPLES.glob("*.py")} == set(SAYS)
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert all(f"[{name}.py]({name}.py)" in listed for name in SAYS)


@pytest.mark.slow
@pytest.mark.parametrize("name", SAYS)
def test_it_runs(name: str, tmp_path: Path) -> None:
    if name in NEEDS_TORCH:
        pytest.importorskip("torch")
    path = [str(Path(part).resolve()) for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / f"{name}.py")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        timeout=180,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) == len(SAYS[name]), done.stdout
    for line, pattern in zip(lines, SAYS[name], strict=True):
        assert re.fullmatch(pattern, line), line
    assert not list(tmp_path.iterdir())
    if name == "own_network":
        first, last = map(float, re.findall(r"\b0\.\d{4}", lines[0]))
        assert last < first
