"""Tables at 80 columns and through a pipe: whatever they hold is there, whole."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import paper
from bottlenet import cli
from bottlenet.bundle import Bundle
from bottlenet.cli import demo as demo_tables
from bottlenet.cli import device, network, planning, results
from bottlenet.cli.show import PIPE, Grid, clean, stdout
from bottlenet.demo.run import DemoResult
from bottlenet.edge import Choice, Prediction, Times
from bottlenet.edge.prediction import Object
from bottlenet.net.cut import Layout
from bottlenet.plan.link import LINKS
from bottlenet.plan.planner import choose
from bottlenet.records import Sizes
from bottlenet.task import Detection
from test_demo import result

__all__ = ["result"]  # a fixture

LONG = "a-name-without-a-space-that-is-longer-than-any-terminal-has-columns-and-then-some-more-of-it.jpg"
LABEL = "German short-haired pointer, or a dog much like it"


def printed(grid: Grid, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(grid)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def check_whole(grid: Grid, width: int) -> str:
    """Each number is on one line, and of texts no character is missing, at most folded."""
    out = printed(grid, width)
    lines = out.splitlines()
    assert max(map(len, lines)) <= width
    rows = [grid.columns, *grid.rows, *([grid.total] if grid.total else [])]
    for row in rows:
        for name, cell in zip(grid.columns, row, strict=True):
            if name.startswith(">"):
                for part in str(cell).removeprefix(">").split("\n"):
                    assert any(re.search(rf"(?<!\S){re.escape(part)}(?!\S)", line) for line in lines), (part, out)
    written = "".join(str(cell).removeprefix(">") for row in rows for cell in row)
    missing = Counter(char for char in written if char.isprintable() and char != " ") - Counter(out)
    assert not missing, (missing, out)
    return out


def front(**changes: object) -> SimpleNamespace:
    values = {"latency_ms": 123_456.7, "latency_p95_ms": 234_567.8, "bound_ms": 99_999.9, "device_ms": 1234.5,
              "server_ms": 1234.5, "socket_bytes": 1_234_567.0, "compute_mj": 12_345.6, "radio_mj": 12_345.6,
              "photos_per_s": 1234.5, "agreement": 100.0, "partition": "cloud-only, WebP 75", **changes}  # fmt: skip
    return SimpleNamespace(**values)


@pytest.fixture
def grids(result: DemoResult, bundle: Bundle) -> dict[str, Grid]:
    """The tables of all commands that print any, with long names and large numbers."""
    profile = paper.profile()
    plan = choose(profile, "3g", max_drop=2)
    times = Times(1e4, 2e4, 3e4, 0.0, 4e4, 5e4)
    prediction: Any = SimpleNamespace(
        label=LABEL, score=1.0, payload_bytes=1_234_567, socket_bytes=1_234_999, times=times, top=(), segments=None,
        objects=tuple(Object(LABEL, 1, 0.999, 1e4, 2e4, 3e4, 4e4) for _ in range(12)),
    )  # fmt: skip
    spread = SimpleNamespace(median_s=12.3456, p95_s=23.4567)
    rows = [SimpleNamespace(count=count, median_s=12.3) for count in (1, 2, 4)]
    detail = SimpleNamespace(
        prepare=spread, encode=spread, decode=spread, compute=rows, tail=rows, server=rows, peak_rss_bytes=1.2e9
    )
    candidate = SimpleNamespace(
        name="cloud-only, WebP 75", device_s=123.45, server_s=123.45, payload_bytes_mean=1e7,
        payload_bytes_p95=12_345_678, payload_bytes_max=123_456_789, top1_drop=100.0, drop_of="top1",
        device_mj=12_345.6, energy=None, detail=detail, exit=True, sent_share=1.0, mean_device_s=123.45,
    )  # fmt: skip
    measured: Any = SimpleNamespace(
        bundle_id="ab" * 32, photos=10, labelled=10, device="this", server="that", device_load=2.0,
        candidates=[candidate, candidate], budget_bytes=340,
    )  # fmt: skip
    conditions: Any = SimpleNamespace(link=LINKS["3g"], server_load=12, jitter_s=0.1)
    figures = SimpleNamespace(
        payload_bytes=Sizes(1e6, 1_234_567, 2_345_678), top1=12.3, top1_drop=-12.3, photos=1000, drop_of="top1"
    )
    trials = [SimpleNamespace(cut="features.denseblock4.denselayer16", channels=1024, stride=2, quality=100)] * 2
    trained: Any = SimpleNamespace(
        results=_All(SimpleNamespace(figures=figures, evaluated=figures)), trials=trials, kept={}, ladder=None,
        config=SimpleNamespace(codec="jpeg", evaluate="x", model="efficientnet_lite0", unit="paper"),
        search=SimpleNamespace(max_drop=2.0), status=lambda trial: "not needed: a smaller one is good enough",
    )  # fmt: skip
    quality = SimpleNamespace(
        psnr=12.3, ssim=0.12, same_answer=100.0, right_label=100.0, matched_by_scores=100.0, matched_by_pixels=100.0
    )
    attacked: Any = SimpleNamespace(
        rows=[SimpleNamespace(what=what, sent_bytes=1e6, missing=12, quality=quality) for what in results.NAMES],
        originals=SimpleNamespace(photos=1000, **vars(quality)), bundle="tiny", side=112,
    )  # fmt: skip
    planes = Layout("planes", (1024, 112, 112))
    layout = Layout("set", (3072, 112, 112), parts=(planes, planes, planes))
    cut: Any = SimpleNamespace(
        name=f"encoder.layers.{LONG}", cut="layer1.0", shape=(1024, 112, 112), elements=12_845_056, head_flops=4e12,
        head_flops_share=0.999, layout=layout, latent=(1024, 112, 112), latent_elements=1e7, raw_bytes=1e7,
        paper_bytes=1e6, tensors=(LONG, LONG, LONG),
    )  # fmt: skip
    rated: Any = SimpleNamespace(cut=cut, bytes_90=1_234_567, bytes_95=None)
    rung: Any = SimpleNamespace(id=bundle.id, size=12, manifest=bundle.manifest, path=Path("features.denseblock4"))
    ladder: Any = SimpleNamespace(id=bundle.id, model="net", size=9, rungs=[rung, rung], path=Path("my.ladder"))
    return {
        "demo, answers": demo_tables.answers_table(result),
        "demo, bytes": demo_tables.bytes_table(result),
        "demo, times": demo_tables.times_table(result),
        "classify": device.costs_table([(LONG, prediction), ("b.jpg", prediction)]),
        "classify, boxes": device.found_table(Detection(100, 0.1), [(LONG, prediction)]),
        "plan": planning.front_table(plan),
        "profile": planning.profile_table(measured),
        "profile, steps": planning.steps_table(measured),
        "bench": planning.link_table(conditions, [front(), front(latency_ms=None)]),
        "sweep": network.report_table(trained),
        "privacy": results.privacy_table(attacked),
        "cuts": network.cuts_table([cut], [rated], 12),
        "cuts --paper": network.paper_table([cut]),
        "ladder": network.ladder_table(ladder),
    }


class _All(dict[Any, Any]):
    """The same result for each trial."""

    def __init__(self, one: object) -> None:
        super().__init__(first=one)

    def get(self, key: object, default: object = None) -> object:
        return self["first"]


class TestCommands:
    def test_at_80_columns_and_through_a_pipe(self, grids: dict[str, Grid]) -> None:
        for grid in grids.values():
            check_whole(grid, 80)
            piped = check_whole(grid, PIPE)
            for row in grid.rows:  # each on a line of its own, as programs that read lines want it
                if not any("\n" in str(cell) for cell in row):
                    cells = [clean(str(cell)).plain for cell in row if str(cell)]
                    assert any(all(cell in line for cell in cells) for line in piped.splitlines()), cells

    def test_there_is_no_other_table(self) -> None:
        folder = Path(cli.__file__).parent
        for file in folder.glob("*.py"):
            made = re.findall(r"\bTable\(", file.read_text(encoding="utf-8"))
            assert not made or file.name == "show.py", file


TEXTS = st.text(st.characters(codec="ascii", categories=("L", "N", "P")), min_size=1, max_size=60)
NUMBERS = st.integers(0, 10**18).map(lambda value: f"{value:,}")


@st.composite
def any_grid(draw: st.DrawFn) -> Grid:
    kinds = [False, *draw(st.lists(st.booleans(), min_size=1, max_size=12))]
    columns = [f"{'>' if number else ''}c{place}" for place, number in enumerate(kinds)]
    row: Any = st.tuples(*(NUMBERS if number else TEXTS for number in kinds))
    rows: Sequence[Any] = draw(st.lists(row, max_size=3))
    return Grid(columns, rows, title=draw(TEXTS), caption=draw(TEXTS), total=draw(st.one_of(st.just(()), row)))


class TestGrid:
    @given(any_grid(), st.sampled_from([60, 80, 132]))
    def test_nothing_is_ever_cut(self, grid: Grid, width: int) -> None:
        check_whole(grid, width)

    def test_a_wide_one_is_split_and_its_first_column_repeated(self) -> None:
        grid = Grid(("name", *(f">number {n}" for n in range(9))), [["row", *(f"{10**n:,}" for n in range(9))]])
        out = check_whole(grid, 80)
        assert out.count("name") == out.count("row ") == 2

    def test_names_are_no_markup_and_have_no_control_characters(self) -> None:
        assert "[red]a b" in printed(Grid(("name", ">n"), [["[red]a\x1b\nb", "1"]]), 80)

    def test_the_width_of_a_pipe(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        monkeypatch.delenv("COLUMNS", raising=False)
        assert stdout().width == PIPE
        monkeypatch.setenv("COLUMNS", "90")
        assert stdout().width == 90


def test_a_prediction_of_the_library_has_what_the_table_shows() -> None:
    """The stand-ins above have the fields that they stand for."""
    assert {"label", "score", "payload_bytes", "socket_bytes", "times", "top"} <= set(Prediction.__dataclass_fields__)
    assert {"label", "score"} <= set(Choice.__dataclass_fields__)
