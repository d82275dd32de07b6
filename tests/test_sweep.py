"""Sweeps: what is trained, what is skipped, what is kept, and that nothing that ends one loses what is finished."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from rich.progress import Progress

from bottlenet.bundle import Bundle
from bottlenet.bundle.ladder import Ladder
from bottlenet.errors import InputError, LinkError, MissingExtraError
from bottlenet.measure.evaluate import evaluate
from bottlenet.net.models import load_model
from bottlenet.photos.crops import is_held_out
from bottlenet.plan.profile import parse_profile, parse_trained, with_trained
from bottlenet.train.sweep import Result, Search, SweepConfig, SweepFolder, Trial, check_photos
from bottlenet.train.sweep.sweep import (
    Job,
    Local,
    Report,
    check_trial,
    figures_from,
    held_out_photos,
    open_engine,
    sweep,
)
from conftest import needs_ray, until
from small import LABELS, save_photos
from test_cli import Run, run
from test_profile import no_footprint

__all__ = ["no_footprint", "run"]  # fixtures

SEARCH = Search(
    cuts=("stem", "first"), channels=(Fraction(2), Fraction(1, 2)), strides=(1, 2), qualities=(50,), max_drop=20.0
)
OPTIONS = ["--channels", "2,1/2", "--strides", "1,2", "--qualities", "50"]
ALL_OF_IT = ["--cuts", "stem,first", *OPTIONS, "--max-drop", "20"]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> SweepConfig:
    folder = tmp_path_factory.mktemp("sweep")
    save_photos(folder / "photos", 140)
    for name in LABELS:
        save_photos(folder / "labelled" / name, 30)
    return SweepConfig(
        model="small:telling",
        data=(str(folder / "photos"),),
        unit="residual",
        photos=140,
        epochs=1,
        batch=8,
        lr=1e-3,
        held_out=4,
        measured=40,
        evaluate=str(folder / "labelled"),
    )


def options_of(config: SweepConfig, out: Path) -> list[str]:
    """The same as the command has it."""
    made = [config.model, "--out", str(out)]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name != "model":
            values = value if isinstance(value, tuple) else (value,)
            made += [part for each in values for part in (f"--{field.name.replace('_', '-')}", str(each))]
    return made


def swept(config: SweepConfig, out: Path, **changes: object) -> Report:
    with Progress(disable=True) as progress:
        return sweep(config, replace(SEARCH, **changes), out, Local(progress))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def done(config: SweepConfig, tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, Path]:
    """A finished sweep. Don't change its folder: copy it."""
    out = tmp_path_factory.mktemp("done") / "sweep"
    return swept(config, out), out


@pytest.fixture
def copy(done: tuple[Report, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(done[1], tmp_path / "sweep"))


class Idle:
    """An engine for a sweep that has nothing left to do."""

    slots = 1

    def submit(self, job: Job) -> None:
        raise AssertionError(f"{job.trial.name} was finished or ruled out")

    def wait(self) -> tuple[Job, Result | None]:
        raise AssertionError("nothing runs")

    def close(self) -> None: ...


class Stuck(Idle):
    """An engine that can't be reached any more."""

    job: Job | None = None

    def submit(self, job: Job) -> None:
        self.job = job

    def wait(self) -> tuple[Job, Result | None]:
        raise LinkError("gone")


def names(trials: Iterable[Trial]) -> set[str]:
    return {trial.name for trial in trials}


@pytest.mark.slow
class TestSearch:
    def test_the_smallest_within_the_bound_is_kept(self, done: tuple[Report, Path]) -> None:
        report, _ = done
        assert set(report.kept) == {"stem", "first"}
        for cut, trial in report.kept.items():
            within = [
                result.figures.payload_bytes.mean
                for other, result in report.results.items()
                if other.cut == cut and result.figures.top1_drop <= 20
            ]
            assert report.results[trial].figures.payload_bytes.mean == min(within)

    def test_what_was_skipped_says_why(self, done: tuple[Report, Path]) -> None:
        report, _ = done
        assert report.skipped
        assert report.results.keys() | report.skipped.keys() == set(report.trials)
        for trial, why in report.skipped.items():
            assert any(other.name in why and other.cut == trial.cut for other in report.results)
            assert report.status(trial) == f"skipped: {why}"

    def test_figures(self, done: tuple[Report, Path], config: SweepConfig) -> None:
        report, _ = done
        held_out = held_out_photos(config, load_model(config.model))
        assert 20 <= len(held_out) <= 40
        assert all(is_held_out(photo, 4) for photo in held_out)
        for result in report.results.values():
            assert result.figures.photos == len(held_out)
            assert (result.figures.drop_of, result.figures.labelled) == ("agreement", 0)
            assert result.figures.top1_drop == pytest.approx(100 - result.figures.agreement)
            assert result.evaluated is not None
            assert (result.evaluated.drop_of, result.evaluated.labelled) == ("top1", 120)
            assert result.evaluated.top1_drop == result.evaluated.top1_uncut - result.evaluated.top1  # type: ignore[operator]
            assert result.steps == sum(not is_held_out(each, 4) for each in photos_of(config)) // 8

    def test_the_ladder_holds_what_was_measured(self, done: tuple[Report, Path], config: SweepConfig) -> None:
        """The deployed path, device and server, gives what the trial gave."""
        report, out = done
        ladder = Ladder.load(out / "ladder")
        assert report.ladder is not None
        assert ladder.id == report.ladder.id
        assert [rung.manifest.cut for rung in ladder.rungs] == ["stem", "first"]
        for rung in ladder.rungs:
            trial = report.kept[rung.manifest.cut]
            assert rung.manifest.extra["trial"] == trial.name
            assert rung.manifest.latent[0] == trial.channels
            figures = report.results[trial].evaluated
            assert figures is not None
            deployed = evaluate(rung, config.evaluate)
            assert deployed.top1 == pytest.approx(figures.top1, abs=2)
            assert deployed.payload_bytes.mean == pytest.approx(figures.payload_bytes.mean, rel=0.02)
        assert not list((out / "bundles").iterdir())

    def test_only_what_may_be_kept_has_its_training(self, done: tuple[Report, Path]) -> None:
        """Whatever the bound: the rest would fill the disk."""
        report, out = done
        runs = {run.name for run in (out / "runs").iterdir()}
        assert names(report.kept.values()) <= runs
        assert runs <= names(report.results)


def photos_of(config: SweepConfig) -> list:
    from bottlenet.photos.folders import list_photos

    return [photo for folder in config.data for photo in list_photos(folder)]


@pytest.mark.slow
class TestGoingOn:
    def test_what_is_finished_stays(self, copy: Path, config: SweepConfig, done: tuple[Report, Path]) -> None:
        before = {path: path.stat().st_mtime_ns for path in (copy / "ladder").rglob("*")}
        report = sweep(config, SEARCH, copy, Idle())
        assert report.results == done[0].results
        assert report.kept == done[0].kept
        assert {path: path.stat().st_mtime_ns for path in (copy / "ladder").rglob("*")} == before

    def test_another_bound(self, copy: Path, config: SweepConfig, done: tuple[Report, Path]) -> None:
        """What is finished counts, and what is kept is another."""
        drops = {trial: result.figures.top1_drop for trial, result in done[0].results.items()}
        strict = drops[done[0].kept["stem"]] - 0.1
        report = swept(config, copy, cuts=("stem",), max_drop=strict)
        before = {trial: each for trial, each in done[0].results.items() if trial.cut == "stem"}
        assert before.items() <= report.results.items()
        assert report.results[report.kept["stem"]].figures.top1_drop <= strict
        assert report.kept["stem"] != done[0].kept["stem"]
        assert report.ladder is not None
        assert [rung.manifest.cut for rung in report.ladder.rungs] == ["stem"]

    @pytest.mark.slow
    def test_everything_and_more_channels(self, copy: Path, config: SweepConfig, done: tuple[Report, Path]) -> None:
        report = swept(config, copy, cuts=("stem",), channels=(Fraction(2), Fraction(3), Fraction(6)), everything=True)
        assert len(report.results) == len(report.trials) == 6
        assert not report.skipped
        assert {trial for trial in done[0].results if trial.cut == "stem"} <= report.results.keys()

    @pytest.mark.slow
    def test_killed_and_gone_on(self, config: SweepConfig, done: tuple[Report, Path], tmp_path: Path) -> None:
        """What was finished before it was killed is as it was; what was not comes to the same as without a kill."""
        out, trials = tmp_path / "sweep", tmp_path / "sweep" / "trials"
        command = [sys.executable, "-m", "bottlenet.cli", "sweep", *options_of(config, out), *OPTIONS]
        command += ["--cuts", "stem", "--max-drop", "-100", "--all"]  # so that nothing is kept, which takes long
        path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.DEVNULL) as popen:
            try:
                until(lambda: popen.poll() is not None or any(trials.glob("*.json")), "no trial is finished", 240)
            finally:
                popen.send_signal(signal.SIGKILL)
        finished = {file: file.stat().st_mtime_ns for file in trials.iterdir()}
        assert finished
        report = swept(config, out, cuts=("stem",), max_drop=-100.0, everything=True)
        assert {file: file.stat().st_mtime_ns for file in finished} == finished
        assert len(report.results) == 4
        for trial, result in report.results.items():
            if trial in done[0].results:
                assert result.figures == done[0].results[trial].figures

    def test_time_that_is_up(self, config: SweepConfig, tmp_path: Path) -> None:
        report = swept(config, tmp_path / "sweep", minutes=1e-9)
        assert (report.results, report.kept, report.ladder) == ({}, {}, None)
        assert report.status(report.trials[0]) == "not reached: the time was up"

    def test_a_cache_that_was_killed_leaves_nothing(self, copy: Path, config: SweepConfig) -> None:
        trial = Trial("stem", 2, 1, 50)
        with Progress(disable=True) as progress:
            part = next((copy / "features").iterdir()) / "random-000.part123"
            part.write_bytes(bytes(1000))
            for each in (trial, replace(trial, cut="first")):
                assert Job(config, each, str(copy), 1, features=True).run(progress) is None
        assert not part.exists()


@pytest.mark.slow
def test_the_entropy_codec_aims_at_bytes(config: SweepConfig, tmp_path: Path) -> None:
    """Its quality is the payload that is asked for."""
    learned = replace(config, codec="entropy", evaluate="", lr=1e-2, epochs=4)
    search = {"cuts": ("stem",), "channels": (Fraction(6),), "strides": (1,), "qualities": (20, 2000)}
    report = swept(learned, tmp_path / "sweep", **search, max_drop=-100.0, everything=True)
    by_quality = sorted(report.results, key=lambda trial: trial.quality)
    small, large = (report.results[trial].figures.payload_bytes.mean for trial in by_quality)
    assert small < 0.7 * large
    assert all(result.evaluated is None for result in report.results.values())


class TestFolders:
    def test_another_model(self, copy: Path, config: SweepConfig) -> None:
        with pytest.raises(InputError, match="a sweep with model 'small:telling', not 'small:classifier'") as error:
            swept(replace(config, model="small:classifier"), copy)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize(("name", "value"), [("epochs", 2), ("unit", "paper"), ("data", ("elsewhere",))])
    def test_other_settings(self, copy: Path, config: SweepConfig, name: str, value: object) -> None:
        with pytest.raises(InputError, match=f"a sweep with {name} .*; give a new folder"):
            swept(replace(config, **{name: value}), copy)  # type: ignore[arg-type]

    def test_other_weights(self, copy: Path, config: SweepConfig) -> None:
        values = json.loads((copy / "sweep.json").read_text())
        (copy / "sweep.json").write_text(json.dumps({**values, "network": "0" * 64}))
        with pytest.raises(InputError, match="a small:telling with other weights"):
            swept(config, copy)

    def test_a_folder_with_something_else(self, config: SweepConfig, tmp_path: Path) -> None:
        (tmp_path / "thesis.txt").write_text("years of work")
        with pytest.raises(InputError, match="holds no sweep"):
            swept(config, tmp_path)
        with pytest.raises(InputError, match="no sweep can be kept there"):
            swept(config, tmp_path / "thesis.txt")
        assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]

    @pytest.mark.parametrize("document", [{"sweep": "broom"}, {"format_version": 1, "network": "", "config": {}}])
    def test_another_program_s_sweep(self, config: SweepConfig, document: dict[str, object], tmp_path: Path) -> None:
        (tmp_path / "sweep.json").write_text(json.dumps(document))
        with pytest.raises(InputError, match="give a new folder"):
            swept(config, tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["sweep.json"]

    def test_two_at_a_time(self, copy: Path, config: SweepConfig) -> None:
        folder = SweepFolder(copy)
        fingerprint = json.loads((copy / "sweep.json").read_text())["network"]
        handle = folder.claim(config, fingerprint)
        try:
            with pytest.raises(InputError, match="another process is at this sweep"):
                swept(config, copy)
        finally:
            os.close(handle)

    @pytest.mark.parametrize("content", ["", "[]", '{"format_version": 2}', '{"format_version": 1}', " " * 70_000])
    def test_a_damaged_sweep(self, copy: Path, config: SweepConfig, content: str) -> None:
        (copy / "sweep.json").write_text(content)
        with pytest.raises(InputError, match=r"sweep\.json can't be used") as error:
            swept(config, copy)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize(
        "change",
        [
            {"trial": {"cut": "stem", "channels": 3, "stride": 1, "quality": 50}},
            {"steps": -1},
            {"seconds": "long"},
            {"figures": {}},
            {"surprise": 1},
        ],
    )
    def test_a_damaged_trial(self, copy: Path, config: SweepConfig, change: dict[str, object]) -> None:
        path = next((copy / "trials").glob("stem*.json"))
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
        with pytest.raises(InputError, match=r"json: .*; remove it, and that trial runs again") as error:
            swept(config, copy)
        assert str(path) in str(error.value)

    @pytest.mark.parametrize(
        ("name", "value"),
        [("drop_of", "luck"), ("agreement", None), ("photos", "many"), ("payload_bytes", {"mean": 1, "p95": 1})],
    )
    def test_damaged_figures(self, copy: Path, config: SweepConfig, name: str, value: object) -> None:
        path = next((copy / "trials").glob("stem*.json"))
        values = json.loads(path.read_text())
        values["figures"][name] = value
        path.write_text(json.dumps(values))
        with pytest.raises(InputError, match="remove it, and that trial runs again"):
            swept(config, copy)


class TestImpossible:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"cuts": ("nowhere",)}, "'nowhere' is no cut"),
            ({"cuts": ("mean",)}, r"'mean' has shape \(12,\): a unit needs channels, height and width"),
            ({"channels": (Fraction(49),)}, "49 channels at stride 1 are more than the features have, 12 x 16 x 16"),
            ({"strides": (17,)}, "stride 17 is larger than the features"),
            ({"strides": (0,)}, "both must be 1 or more"),
            ({"qualities": (101,)}, "quality"),
        ],
    )
    def test_trials(self, config: SweepConfig, tmp_path: Path, changes: dict[str, object], message: str) -> None:
        with pytest.raises(InputError, match=message):
            swept(config, tmp_path / "sweep", **changes)
        assert not (tmp_path / "sweep").exists()

    def test_patches_too_large_for_components(self, config: SweepConfig) -> None:
        with pytest.raises(InputError, match=r"trial first-c8-s4-q50: stride 4 on 1024 channels.*for 8,192 or fewer"):
            check_trial(config, Trial("first", 8, 4, 50), (1024, 8, 8))

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"model": "nowhere"}, "unknown model"),
            ({"codec": "pickle"}, "pickle"),
            ({"held_out": 1}, "held_out is 1; give 2 or more"),
            ({"lr": 0.0}, "nothing would be learned"),
        ],
    )
    def test_settings(self, config: SweepConfig, tmp_path: Path, changes: dict[str, object], message: str) -> None:
        with pytest.raises(InputError, match=message):
            swept(replace(config, **changes), tmp_path / "sweep")  # type: ignore[arg-type]
        assert not (tmp_path / "sweep").exists()

    def test_too_few_photos_to_measure_on(self, config: SweepConfig) -> None:
        with pytest.raises(InputError, match=r"of 140 photos are held out, too few.*about 1000, or a smaller held_out"):
            check_photos(replace(config, held_out=50))
        with pytest.raises(InputError, match=r"\d+ of 140 photos to train on, fewer than one batch of 139"):
            check_photos(replace(config, batch=139))


class TestFigures:
    def test_labels_count_where_there_are_enough(self) -> None:
        rng = np.random.default_rng(0)
        labels, uncut = rng.integers(0, 4, 200), rng.integers(0, 4, 200)
        answers = np.where(rng.random(200) < 0.5, uncut, labels)
        enough = figures_from(labels, answers, uncut, np.arange(1, 201), distilled=0.5)
        assert enough.drop_of == "top1"
        assert enough.top1_drop == pytest.approx(100 * ((uncut == labels).mean() - (answers == labels).mean()))
        assert enough.payload_bytes.max == 200
        few = figures_from(np.where(np.arange(200) < 99, labels, -1), answers, uncut, np.arange(200), distilled=0.5)
        assert (few.drop_of, few.labelled) == ("agreement", 99)
        assert few.top1_drop == pytest.approx(100 * (answers != uncut).mean())

    def test_an_answer_that_is_no_number(self) -> None:
        nothing = np.zeros(30, np.int64)
        assert figures_from(nothing - 1, nothing, nothing + 1, nothing, distilled=float("nan")).distillation is None


@pytest.mark.slow
def test_a_trial_that_goes_astray_is_measured_as_all_others(
    config: SweepConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """At its last checkpoint; here there is none, so that it is the untrained unit."""
    report = swept(replace(config, lr=1e30), tmp_path / "sweep", cuts=("first",), strides=(1,), max_drop=-100.0)
    assert "the loss is no number any more at step" in caplog.text
    assert len(report.results) == 2
    for result in report.results.values():
        assert (result.steps, result.figures.labelled) == (0, 0)


class TestEngines:
    def test_workers_get_whole_paths(
        self, config: SweepConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        engine = Stuck()
        with pytest.raises(LinkError, match="gone"):
            sweep(replace(config, data=("photos",), evaluate="other"), SEARCH, "sweep", engine)
        assert engine.job is not None
        assert engine.job.config.data == (str(tmp_path / "photos"),)
        assert (engine.job.config.evaluate, engine.job.folder) == (str(tmp_path / "other"), str(tmp_path / "sweep"))
        assert engine.job.features

    def test_unknown(self) -> None:
        with Progress(disable=True) as progress:
            with pytest.raises(InputError, match="--engine is 'slurm'; choose one of local, ray"):
                open_engine("slurm", progress)
            with pytest.raises(InputError, match="--address 'x:1' is for --engine ray"):
                open_engine("local", progress, address="x:1")

    def test_without_ray(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "ray", None)
        with Progress(disable=True) as progress, pytest.raises(MissingExtraError, match=r"\.\[ray\]"):
            open_engine("ray", progress)

    @needs_ray
    def test_no_cluster(self) -> None:
        with Progress(disable=True) as progress, pytest.raises(LinkError, match="no Ray cluster at 127.0.0.1:1"):
            open_engine("ray", progress, address="127.0.0.1:1")

    @needs_ray
    @pytest.mark.slow
    def test_ray(self, copy: Path, config: SweepConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """As in one process; and errors come through as they are."""
        paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
        more = replace(SEARCH, cuts=("stem",), channels=(Fraction(3),), everything=True, max_drop=-100.0)
        with Progress(disable=True) as progress:
            expected = sweep(config, more, shutil.copytree(copy, tmp_path / "local"), Local(progress))
            engine = open_engine("ray", progress)
            try:
                assert engine.slots >= 1
                report = sweep(config, more, copy, engine)
                lost = replace(config, data=(str(tmp_path / "gone"),))
                with pytest.raises(InputError, match="no such folder"):
                    sweep(lost, more, tmp_path / "lost", engine)
            finally:
                engine.close()
        assert {trial.channels for trial in report.results} == {3}
        assert {trial: result.figures for trial, result in report.results.items()} == {
            trial: result.figures for trial, result in expected.results.items()
        }


class TestCommand:
    def test_table_and_json(self, run: Run, copy: Path, config: SweepConfig, done: tuple[Report, Path]) -> None:
        table = run("sweep", *options_of(config, copy), *ALL_OF_IT)
        assert table.code == 0
        for word in ("stem", "first", "kept", "skipped", "bottlenet profile"):
            assert word in table.out
        told = run("sweep", *options_of(config, copy), *ALL_OF_IT, "--json").json
        assert told == json.loads((copy / "candidates.json").read_text())
        assert [row["status"] for row in told["trials"]] == [done[0].status(trial) for trial in done[0].trials]

    def test_nothing_kept(self, run: Run, config: SweepConfig, tmp_path: Path) -> None:
        told = run("sweep", *options_of(config, tmp_path / "sweep"), *ALL_OF_IT, "--minutes", "1e-9")
        assert told.code == 2
        assert told.err == "error: no trial was finished; give more minutes\n"

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--channels", "x"], "'x' is no number of channels"),
            (["--channels", "1/0"], "'1/0' is no number of channels"),
            (["--strides", "1,y"], "'y' is no whole number"),
            (["--cuts", ","], "no cuts; give one at least"),
            (["--engine", "slurm"], "one of local, ray"),
        ],
    )
    def test_bad_input(self, run: Run, config: SweepConfig, tmp_path: Path, arguments: list[str], message: str) -> None:
        given = [] if "--cuts" in arguments else ["--cuts", "stem"]
        done = run("sweep", *options_of(config, tmp_path / "sweep"), *given, *arguments)
        assert message in done.error

    def test_help(self, run: Run) -> None:
        done = run("sweep", "--help")
        assert "bottlenet sweep " in done.out
        for option in ("--channels", "--max-drop", "--engine", "--epochs", "--json"):
            assert option in done.out

    def test_plan_takes_bytes_and_accuracy_from_a_sweep(
        self, run: Run, copy: Path, config: SweepConfig, no_footprint: None, tmp_path: Path
    ) -> None:
        profile = tmp_path / "my.profile.json"
        assert run("profile", copy / "ladder", "--data", config.data[0], "--limit", "3", "-o", profile).code == 0
        measured = parse_profile(profile.read_bytes())
        trained = parse_trained((copy / "candidates.json").read_bytes())
        known = {each.name: each for each in with_trained(measured, trained).candidates}
        for each in trained.candidates:
            candidate = known[each.name]
            assert (candidate.payload_bytes_mean, candidate.top1_drop) == (each.payload_bytes_mean, each.top1_drop)
            assert candidate.device_s > 0
        done = run("plan", profile, "--sweep", copy / "candidates.json", "--link", "3g", "--json")
        assert done.code == 0
        rung = tmp_path / "rung.json"
        assert run("profile", copy / "ladder" / "stem", "--data", config.data[0], "--limit", "3", "-o", rung).code == 0
        assert run("plan", rung, "--sweep", copy / "candidates.json", "--link", "3g").code == 0

    def test_a_profile_of_another_ladder(
        self, run: Run, bundle: Bundle, copy: Path, config: SweepConfig, no_footprint: None, tmp_path: Path
    ) -> None:
        profile = tmp_path / "other.json"
        assert run("profile", bundle.path, "--data", config.data[0], "--limit", "3", "-o", profile).code == 0
        error = run("plan", profile, "--sweep", copy / "candidates.json", "--link", "3g").error
        assert "neither the sweep's ladder nor a rung of it" in error
        assert "can't be read" in run("plan", profile, "--sweep", tmp_path / "gone", "--link", "3g").error
        (tmp_path / "other.txt").write_text("{}")
        assert "no sweep of BottleNet" in run("plan", profile, "--sweep", tmp_path / "other.txt", "--link", "3g").error
        assert "no sweep of BottleNet" in run("plan", profile, "--sweep", profile, "--link", "3g").error
