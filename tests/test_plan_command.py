"""`bottlenet profile` and `bottlenet plan`, in this process; and the planner's benchmark."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import paper
from bottlenet.bundle import Bundle
from bottlenet.cli.planning import PLOT_MARK
from bottlenet.errors import InputError
from bottlenet.plan.link import FRAME_BYTES, PRESETS
from bottlenet.plan.planner import choose
from bottlenet.plan.profile import Profile, parse_profile
from bottlenet.report.partitions import draw_flips
from test_benchmarks import record
from test_cli import Run, run
from test_profile import no_footprint

__all__ = ["no_footprint", "run"]  # fixtures

NAMESPACE = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three photos, of no class."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(5)
    for number in range(3):
        Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """The paper's profile in a file."""
    file = tmp_path / "paper.json"
    file.write_bytes(paper.profile().to_json())
    return file


class TestHelp:
    @pytest.mark.parametrize("command", ["profile", "plan"])
    def test_each_has_an_example_and_json(self, run: Run, command: str) -> None:
        done = run(command, "--help")
        assert done.code == 0
        assert f"bottlenet {command} " in done.out
        assert "--json" in done.out

    @pytest.mark.parametrize("name", PRESETS)
    def test_every_link_is_named(self, run: Run, name: str) -> None:
        assert name in run("plan", "--help").out

    @pytest.mark.parametrize(
        "arguments", [["plan"], ["plan", "x"], ["profile", "demo"], ["plan", "x", "--deadline", "a"]]
    )
    def test_wrong_usage_is_2(self, run: Run, arguments: list[str]) -> None:
        done = run(*arguments)
        assert done.code == 2
        assert done.out == ""
        assert done.error.endswith(" --help\n")


@pytest.mark.parametrize("profile", ["x.json", Path("x.json"), {"candidates": []}, None])
def test_choose_says_what_a_profile_is(profile: Any) -> None:
    with pytest.raises(InputError, match=r"profile is .*; give a Profile: parse_profile"):
        choose(profile, "3g")


@pytest.mark.usefixtures("no_footprint")
class TestProfile:
    def test_it_writes_what_plan_reads(self, run: Run, bundle: Bundle, photos: Path, tmp_path: Path) -> None:
        file = tmp_path / "tiny.json"
        done = run("profile", bundle.path, "--data", photos, "-o", file)
        assert done.code == 0
        assert "split at patches" in done.out
        assert "cloud-only, WebP 75" in done.out
        assert "no meter was given" in " ".join(done.out.split())
        assert "as the photos had no labels" in " ".join(done.out.split())
        made = parse_profile(file.read_bytes())
        assert made.bundle_id == bundle.id.hex()
        plan = run("plan", file, "--link", "3g", "--bundle", bundle.path)
        assert plan.code == 0
        assert "wins on 3G" in plan.out

    def test_json(self, run: Run, bundle: Bundle, photos: Path, tmp_path: Path) -> None:
        file = tmp_path / "tiny.json"
        done = run(
            "profile", bundle.path, "--data", photos, "-o", file, "--limit", "2", "--device-power-mw", "500", "--json"
        )
        document = done.json
        assert document.pop("profile") == str(file)
        assert document == json.loads(file.read_bytes())
        assert document["photos"] == 2
        assert document["candidates"][0]["energy"] == {
            "how": "given", "meter": "--device-power-mw", "power_mw": 500, "energy_mj": None
        }  # fmt: skip

    def test_a_budget_makes_a_plan_for_short_messages(
        self, run: Run, bundle: Bundle, photos: Path, tmp_path: Path
    ) -> None:
        file = tmp_path / "tiny.json"
        for budget, largest in ([], None), (["--budget", "100"], 100):
            assert run("profile", bundle.path, "--data", photos, "-o", file, *budget).code == 0
            made = parse_profile(file.read_bytes())
            split = made.candidates[-1]
            assert made.budget_bytes == largest
            assert (split.payload_bytes_max + FRAME_BYTES <= 100) == (largest is not None)
            plan = choose(made, replace(PRESETS["iridium-sbd"], max_message_bytes=100))
            assert (split.name in {each.name for each in plan.rejected}) == (largest is None)
        done = run("profile", bundle.path, "--data", photos, "-o", file, "--budget", "14")
        assert "no frame fits 14 bytes" in done.error

    def test_a_profile_is_replaced_but_nothing_else(
        self, run: Run, bundle: Bundle, photos: Path, tmp_path: Path
    ) -> None:
        file = tmp_path / "tiny.json"
        arguments = ["profile", bundle.path, "--data", photos, "--limit", "1", "-o", file]
        assert run(*arguments).code == 0
        assert run(*arguments).code == 0
        file.write_text("my diary")
        assert "a file is there that is not a profile" in run(*arguments).error
        assert file.read_text() == "my diary"
        assert run(*arguments, "--force").code == 0
        assert [each.name for each in tmp_path.iterdir()] == ["tiny.json"]

    def test_errors(self, run: Run, bundle: Bundle, photos: Path, tmp_path: Path) -> None:
        target = tmp_path / "p.json"
        assert "no such folder" in run("profile", bundle.path, "--data", tmp_path / "none", "-o", target).error
        assert "bundle" in run("profile", tmp_path / "none", "--data", photos, "-o", target).error
        power = ["--device-power-mw", "-1"]
        assert (
            "meter 'watt' is unknown"
            in run("profile", bundle.path, "--data", photos, "-o", target, "--meter", "watt").error
        )
        assert "device power is -1.0 mW" in run("profile", bundle.path, "--data", photos, "-o", target, *power).error
        assert not target.exists()


class TestPlan:
    def test_tables(self, run: Run, saved: Path) -> None:
        done = run("plan", saved, "--link", "5M,2ms", "--max-drop", "2")
        assert done.code == 0
        assert done.err == ""
        text = " ".join(done.out.split())
        assert text.startswith("RB1 wins on 5M,2ms with 4.1 ms a photo, RB2 would take 4.9 ms, ")
        assert "with a round trip above 13.6 ms mobile-only wins" in text
        assert "Pareto front" in text
        assert "computing modelled; radio modelled" in text
        assert "Rejected" not in text

    def test_rejected(self, run: Run, saved: Path) -> None:
        done = run("plan", saved, "--link", "5M,2ms", "--max-drop", "1")
        text = " ".join(done.out.split())
        assert "mobile-only wins" in text
        assert "RB1 loses 2.0 points" in text
        assert "6 more: --json." in text

    @pytest.mark.parametrize(
        ("arguments", "because"),
        [
            (["--deadline", "16", "--link", "3g"], "cloud-only takes 296.6 ms"),
            (["--budget", "200", "--link", "3g"], "RB1 sends 368 bytes"),
            (["--link", "lorawan"], "RB1 has up to 328 bytes, more than a message of this link"),
        ],
    )
    def test_why_rejected(self, run: Run, saved: Path, arguments: list[str], because: str) -> None:
        assert because in " ".join(run("plan", saved, *arguments).out.split())

    def test_json_is_the_plan(self, run: Run, saved: Path) -> None:
        arguments = ["--link", "wifi", "--objective", "energy", "--server-load", "2", "--cold", "--price-mb", "3"]
        document = run("plan", saved, *arguments, "--json").json
        from bottlenet.plan.predict import Prices

        plan = choose(paper.profile(), "wifi", objective="energy", server_load=2, connected=False, prices=Prices(3))
        assert document["bundle"] == "0" * 64
        assert document["choice"]["name"] == plan.choice.name
        assert document["choice"]["latency_s"] == plan.choice.latency_s
        assert document["choice"]["cost"] == plan.choice.cost
        assert document["reason"] == plan.reason
        assert [flip["value"] for flip in document["flips"]] == [flip.value for flip in plan.flips]
        assert len(document["front"]) == len(plan.front)
        assert document["plot"] is None

    def test_unknown_energy_is_null(self, run: Run, tmp_path: Path) -> None:
        import dataclasses

        known, *rest = paper.profile().candidates
        unknown = tuple(dataclasses.replace(each, energy=None) for each in rest)
        file = tmp_path / "p.json"
        file.write_bytes(dataclasses.replace(paper.profile(), candidates=(known, *unknown)).to_json())
        document = run("plan", file, "--link", "3g", "--objective", "energy", "--json").json
        assert document["rejected"][0] == {"name": "cloud-only", "constraint": "energy", "needs": None}
        shown = run("plan", file, "--link", "3g", "--objective", "energy").out
        assert "its device's energy is not known" in shown

    def test_cost(self, run: Run, saved: Path) -> None:
        done = run("plan", saved, "--link", "wifi", "--objective", "cost", "--price-hour", "5")
        assert "a cost of 0" in done.out

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--link", "6g"], 'link "6g" is unknown; give 3g, 4g, wifi, 5g, lte-m, nb-iot, lorawan, iridium-sbd'),
            (["--link", "0,0.1,0"], "uplink_bps is 0.0; give bits a second, above 0"),
            (["--link", "-5M,0.1"], "above 0"),
            (["--link", "3g", "--objective", "speed"], "choose one of latency, energy, bytes, cost"),
            (["--link", "3g", "--objective", "cost"], "objective cost needs the price"),
            (["--link", "5g", "--objective", "energy"], "radio power of link 5G"),
            (["--link", "3g", "--deadline", "5"], "relax the deadline from 5 ms to 15.7 ms, which the nearest, mobile"),
            (["--link", "3g", "--max-drop", "-1"], "relax the drop from -1 to 0 points"),
            (["--link", "3g", "--server-load", "-1"], "server load is -1.0"),
            (["--link", "3g", "--price-mb", "-1"], "per_megabyte is -1.0"),
        ],
    )
    def test_errors(self, run: Run, saved: Path, arguments: list[str], message: str) -> None:
        assert message in run("plan", saved, *arguments).error

    def test_files_that_are_no_profile(self, run: Run, saved: Path, bundle: Bundle, tmp_path: Path) -> None:
        assert "can't be read: No such file" in run("plan", tmp_path / "none", "--link", "3g").error
        assert "can't be read: Is a directory" in run("plan", tmp_path, "--link", "3g").error
        (tmp_path / "bad").write_text("{")
        assert f"{tmp_path / 'bad'}: it is not JSON" in run("plan", tmp_path / "bad", "--link", "3g").error
        another = run("plan", saved, "--link", "3g", "--bundle", bundle.path).error
        assert f"the profile is of bundle 000000000000, not of {bundle.id.hex()[:12]}" in another


class TestPlot:
    def test_it_is_drawn(self, run: Run, saved: Path, tmp_path: Path) -> None:
        file = tmp_path / "plot.svg"
        arguments = ["plan", saved, "--link", "5M,2ms", "--plot", file]
        done = run(*arguments, "--json")
        assert done.json["plot"] == str(file)
        root = ElementTree.fromstring(file.read_text(encoding="utf-8"))
        texts = [each.text for each in root.iter(f"{NAMESPACE}text")]
        assert {"RB1", "mobile-only", "latency, ms", "5M,2ms", "flip"} <= set(texts)
        assert len(list(root.iter(f"{NAMESPACE}polyline"))) == 8  # the fastest of each kind among them
        assert run(*arguments).code == 0
        file.write_text("my drawing")
        assert "not a plot of bottlenet plan" in run(*arguments).error
        assert file.read_text() == "my drawing"

    def test_names_are_text_and_not_markup(self) -> None:
        import dataclasses

        first = dataclasses.replace(paper.profile().candidates[0], name='<script x="&">')
        made = dataclasses.replace(paper.profile(), candidates=(first,))
        drawn = draw_flips(made, choose(made, "3g"), connected=True).document(PLOT_MARK)
        root = ElementTree.fromstring(drawn)
        assert '<script x="&">' in [each.text for each in root.iter(f"{NAMESPACE}text")]

    @pytest.mark.parametrize("link", PRESETS)
    def test_any_link_and_objective(self, link: str) -> None:
        profile: Profile = paper.profile()
        objectives = ["latency", "bytes", *(["energy"] if PRESETS[link].radio else [])]
        for objective in objectives:
            plan = choose(profile, link, objective=objective)
            ElementTree.fromstring(draw_flips(profile, plan, connected=False).document(PLOT_MARK))

    def test_nothing_to_draw_is_drawn(self) -> None:
        import dataclasses

        free = dataclasses.replace(paper.profile().candidates[0], device_s=0.0)
        made = dataclasses.replace(paper.profile(), candidates=(free,))
        ElementTree.fromstring(draw_flips(made, choose(made, "3g"), connected=True).document(PLOT_MARK))


def test_benchmark(tmp_path: Path) -> None:
    got = record("planner.py", "--repeats", "1", "--pairs", "1000", out=tmp_path / "out")
    assert {(row["candidates"], row["links"]) for row in got["runs"]} == {(1000, 1), (100, 10), (10, 100)}
    assert all(row["best_of_ms"] > 0 and row["choose_ms"] > 0 and row["flips_mean"] > 0 for row in got["runs"])
