"""Training that is killed, in several processes, in parts, without a cache, and from shards."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.progress import Progress

from bottlenet.errors import InputError
from bottlenet.photos.crops import is_held_out
from bottlenet.photos.folders import list_photos, list_samples
from bottlenet.train.config import TrainConfig
from bottlenet.train.objective import CodecInLoop, Slice
from bottlenet.train.runs import CHECKPOINT, export_run, read_tensors
from bottlenet.train.team import launch
from bottlenet.train.train import train
from conftest import until
from processes import BOTTLENET
from small import config_of, save_photos

LIMIT_S = 600  # for hangs
PHOTOS = 70
FLAGS = {"no_cache", "end_to_end", "norms"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    folder = tmp_path_factory.mktemp("size")
    save_photos(folder / "photos", PHOTOS)
    return config_of(folder, epochs=2)


def run(config: TrainConfig) -> dict[str, torch.Tensor]:
    """The tensors of the run's last checkpoint."""
    with Progress(disable=True) as progress:
        train(config, progress)
    return tensors_of(config)


def tensors_of(config: TrainConfig) -> dict[str, torch.Tensor]:
    return read_tensors(Path(config.out))[0]


def typed(config: TrainConfig) -> list[str]:
    """What a user types for that configuration."""
    words = [*BOTTLENET, "train"]
    default = TrainConfig("", (), "", "")
    for name, value in vars(config).items():
        option = "--" + name.replace("_", "-")
        if name == "data":
            words += [word for folder in value for word in (option, folder)]
        elif name in FLAGS:
            words += [option] if value else []
        elif value != getattr(default, name):
            words += [option, str(value)]
    return words


def in_process(config: TrainConfig, words: list[str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words or typed(config), env=environment(), capture_output=True, text=True, timeout=LIMIT_S, check=False
    )


def environment() -> dict[str, str]:
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def near(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], tolerance: float) -> bool:
    weights = [name for name in one if name.startswith("net.") and one[name].is_floating_point()]
    assert one.keys() == other.keys()
    return all(torch.allclose(one[name], other[name], rtol=tolerance, atol=tolerance) for name in weights)


def position_of(config: TrainConfig) -> dict[str, int]:
    at: dict[str, int] = json.loads(read_tensors(Path(config.out))[1]["at"])
    return at


def reports_of(config: TrainConfig) -> list[dict[str, float]]:
    with open(f"{config.out}/log.jsonl", encoding="utf-8") as file:
        return [record["held_out"][0] for record in map(json.loads, file) if "held_out" in record]


@contextlib.contextmanager
def started(config: TrainConfig) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(typed(config), env=environment(), start_new_session=True) as process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize(
    "mode",
    [
        {},
        {"no_cache": True},
        {"no_cache": True, "end_to_end": True, "norms": True},
        {"no_cache": True, "end_to_end": True, "optimizer": "sgd", "tail_lr": 1e-3},
    ],
    ids=["cached", "direct", "end_to_end", "sgd"],
)
def test_a_run_that_was_killed_goes_on_to_the_same_weights(
    base: TrainConfig, tmp_path: Path, mode: dict[str, object]
) -> None:
    """kill -9 of `bottlenet train` in mid-epoch, then the same command: bit for bit what the run alone gives."""
    told = replace(base, batch=2, epochs=2, workers=1, checkpoint_minutes=0.0, seed=3, **mode)
    whole, killed = (replace(told, out=str(tmp_path / name)) for name in ("whole", "killed"))
    expected = run(whole)
    total = position_of(whole)["steps"]
    with started(killed) as process:
        until((Path(killed.out) / CHECKPOINT).exists, "there is no checkpoint", LIMIT_S)
        until(lambda: position_of(killed)["step"] > 0, "no checkpoint in mid-epoch", LIMIT_S)
        process.kill()
        assert process.wait(LIMIT_S) == -signal.SIGKILL
    at = position_of(killed)
    assert 0 < at["step"] < at["steps"] + 1 <= total
    assert at["steps"] < total, "it was too quick to be killed"
    done = in_process(killed)
    assert done.returncode == 0, done.stderr
    assert position_of(killed) == position_of(whole)
    assert equal(expected, tensors_of(killed))


@pytest.fixture(scope="module")
def plain(base: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """A run that others are compared with."""
    out = str(tmp_path_factory.mktemp("plain") / "run")
    config = replace(base, out=out, epochs=1, feature_weight=0.0, smallest_bytes=4.0)
    run(config)
    return config


def test_the_same_seed_gives_the_same_weights_and_another_does_not(plain: TrainConfig, tmp_path: Path) -> None:
    again, other = (replace(plain, out=str(tmp_path / name)) for name in "ab")
    assert equal(tensors_of(plain), run(again))
    assert not equal(tensors_of(plain), run(replace(other, seed=1)))


def test_parts_give_what_the_whole_batch_gives(plain: TrainConfig, tmp_path: Path) -> None:
    assert near(tensors_of(plain), run(replace(plain, out=str(tmp_path / "4"), accumulate=4)), 2e-3)


@pytest.mark.slow
def test_parts_give_what_the_whole_batch_gives_cut_at_random(plain: TrainConfig, tmp_path: Path) -> None:
    told = replace(plain, codec="entropy", target_bytes=0.0, largest_bytes=100.0)
    one, four = replace(told, out=str(tmp_path / "1")), replace(told, out=str(tmp_path / "4"), accumulate=4)
    assert near(run(one), run(four), 2e-3)


def test_a_batch_that_cannot_be_divided(base: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="can't be divided among 1 processes with accumulate 3; give a multiple of 3"):
        run(replace(base, out=str(tmp_path / "run"), accumulate=3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": "fp8"}, "float32, bf16"),
        ({"workers": 1000}, "0 to 256"),
        ({"processes": 0}, "processes is 0; give 1 or more"),
        ({"accumulate": 0}, "accumulate is 0"),
    ],
)
def test_impossible_configurations(base: TrainConfig, changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(base, **changes)


def test_part_of_a_batch() -> None:
    batch = np.arange(10, 18)
    parts = [Slice(number, 4) for number in range(4)]
    assert np.concatenate([part.of(batch) for part in parts]).tolist() == batch.tolist()
    assert [part.before(batch) for part in parts] == [17, 11, 13, 15]


def test_bf16_learns_nearly_the_same(plain: TrainConfig, tmp_path: Path) -> None:
    half = replace(plain, out=str(tmp_path / "half"), precision="bf16")
    assert not equal(tensors_of(plain), run(half))
    assert all(tensor.dtype != torch.bfloat16 for tensor in tensors_of(half).values())
    assert reports_of(half)[-1]["distillation"] == pytest.approx(
        reports_of(plain)[-1]["distillation"], rel=0.1, abs=0.01
    )


@pytest.fixture(scope="module")
def pair(base: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainConfig, TrainConfig]:
    """One process, and two of half the batch each."""
    folder = tmp_path_factory.mktemp("processes")
    told = replace(base, no_cache=True, workers=0, feature_weight=0.0)
    one, two = replace(told, out=str(folder / "1")), replace(told, out=str(folder / "2"), processes=2)
    run(one)
    done = in_process(two)
    assert done.returncode == 0, done.stderr
    return one, two


@pytest.mark.slow
class TestProcesses:
    def test_two_learn_what_one_learns(self, pair: tuple[TrainConfig, TrainConfig]) -> None:
        one, two = pair
        assert position_of(one)["steps"] == position_of(two)["steps"]
        for alone, together in zip(reports_of(one), reports_of(two), strict=True):
            assert together["photos"] == alone["photos"]
            assert together["distillation"] == pytest.approx(alone["distillation"], rel=0.02, abs=1e-3)
            assert together["payload_bytes"] == pytest.approx(alone["payload_bytes"], rel=0.01)
        assert near(tensors_of(one), tensors_of(two), 2e-3)

    @pytest.mark.slow
    def test_two_learn_end_to_end_what_one_learns(self, base: TrainConfig, tmp_path: Path) -> None:
        told = replace(base, no_cache=True, workers=0, end_to_end=True)
        one, two = replace(told, out=str(tmp_path / "1")), replace(told, out=str(tmp_path / "2"), processes=2)
        run(one)
        done = in_process(two)
        assert done.returncode == 0, done.stderr
        for alone, together in zip(reports_of(one), reports_of(two), strict=True):
            assert together["distillation"] == pytest.approx(alone["distillation"], rel=0.02, abs=1e-3)
            assert together["payload_bytes"] == pytest.approx(alone["payload_bytes"], rel=0.01)
        assert near(tensors_of(one), tensors_of(two), 2e-3)

    def test_only_the_main_process_writes(self, pair: tuple[TrainConfig, TrainConfig]) -> None:
        """One line an epoch, and no file beside those of a run."""
        folder = Path(pair[1].out)
        assert len(reports_of(pair[1])) == pair[1].epochs
        assert {path.name for path in folder.iterdir()} == {"run.json", "log.jsonl", CHECKPOINT}

    @pytest.mark.slow
    def test_two_go_on_where_one_stopped(self, pair: tuple[TrainConfig, TrainConfig], tmp_path: Path) -> None:
        """From a checkpoint in mid-epoch, with another number of processes, and with accelerate's own launcher."""
        one = replace(pair[0], out=str(tmp_path / "run"), checkpoint_minutes=0.0)
        with pytest.raises(KeyboardInterrupt), Progress(disable=True) as progress:
            train(one, progress, objective_for=Stopping)
        assert position_of(one)["step"] == 2
        resumed = replace(one, processes=2)
        launcher = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
        settings = ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
        words = typed(resumed)
        done = in_process(resumed, [*launcher, *settings, "-m", *words[words.index("bottlenet.cli") :]])
        assert done.returncode == 0, done.stderr
        assert position_of(resumed)["steps"] == position_of(pair[0])["steps"]
        assert near(tensors_of(resumed), tensors_of(pair[0]), 2e-3)

    @pytest.mark.slow
    def test_what_is_wrong_is_said_once(self, base: TrainConfig, tmp_path: Path) -> None:
        done = in_process(replace(base, out=str(tmp_path / "run"), processes=2, batch=17))
        assert done.returncode == 2
        assert done.stderr.count("can't be divided among 2 processes") == 1
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "run").exists()

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # torch leaves a log open
    def test_one_that_fails_ends_the_others(self, capfd: pytest.CaptureFixture[str]) -> None:
        script = "import os, sys, time; os.environ['RANK'] == '1' and sys.exit('no memory left'); time.sleep(600)"
        assert launch(3, [sys.executable, "-c", script]) == 1
        assert "no memory left" in capfd.readouterr().err

    def test_a_death_by_signal_is_a_failure(self) -> None:
        assert launch(1, [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]) == 128 + signal.SIGKILL


class Stopping(CodecInLoop):
    """The usual objective, until it is interrupted in mid-epoch."""

    def after(self, distilled: torch.Tensor, payload_bytes: torch.Tensor, share: float) -> None:
        if self.at.step == 2:
            raise KeyboardInterrupt
        super().after(distilled, payload_bytes, share)


class TestWithoutACache:
    @pytest.mark.slow
    def test_workers_change_nothing(self, base: TrainConfig, tmp_path: Path) -> None:
        told = replace(base, no_cache=True, epochs=1)
        none, two = (replace(told, out=str(tmp_path / str(count)), workers=count) for count in (0, 2))
        assert equal(run(none), run(two))
        assert not Path(base.cache, "none").exists()

    def test_no_cache_is_written(self, base: TrainConfig, tmp_path: Path) -> None:
        run(replace(base, out=str(tmp_path / "run"), cache=str(tmp_path / "cache"), no_cache=True, workers=0, epochs=1))
        assert not (tmp_path / "cache").exists()

    def test_a_smaller_photo_for_the_head(self, base: TrainConfig, tmp_path: Path) -> None:
        weights = run(replace(base, out=str(tmp_path / "run"), no_cache=True, workers=0, head_size=24, epochs=1))
        assert all(tensor.isfinite().all() for tensor in weights.values())

    def test_damaged_photos_end_it_when_they_are_most(self, base: TrainConfig, tmp_path: Path) -> None:
        photos = save_photos(tmp_path / "photos", PHOTOS)
        for photo in list_photos(photos)[: PHOTOS // 2 + 3]:
            photo.path.write_bytes(photo.path.read_bytes()[:100])
        told = replace(base, data=(str(photos),), out=str(tmp_path / "run"), no_cache=True, workers=1)
        with pytest.raises(InputError, match=rf"{PHOTOS // 2 + 1} of {PHOTOS} photos are damaged: .*\.png"):
            run(told)

    def test_a_few_damaged_photos_do_not(self, base: TrainConfig, tmp_path: Path) -> None:
        """One in eleven."""
        photos = save_photos(tmp_path / "photos", 44)
        for photo in [photo for photo in list_photos(photos) if not is_held_out(photo)][:4]:
            photo.path.write_bytes(b"\xff\xd8 no photo")
        told = replace(base, data=(str(photos),), out=str(tmp_path / "run"), no_cache=True, workers=0, epochs=2)
        run(told)
        assert position_of(told)["steps"] == 2 * (len(list_photos(photos)) // 16)


def add(tar: tarfile.TarFile, name: str, data: bytes, **changes: object) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    for key, value in changes.items():
        setattr(member, key, value)
    tar.addfile(member, io.BytesIO(data) if member.isreg() else None)


@pytest.fixture(scope="module")
def shards(base: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The photos of `base` in three shards, every second one with its class."""
    folder = tmp_path_factory.mktemp("shards")
    photos = list_photos(base.data[0])
    for number in range(3):
        with tarfile.open(folder / f"{number:06}.tar", "w") as tar:
            for index in range(number, len(photos), 3):
                if index % 2:
                    add(tar, f"{photos[index].path.stem}.cls", f"{index % 4}\n".encode())
                add(tar, photos[index].path.name, photos[index].path.read_bytes())
    return folder


class TestShards:
    def test_photos_and_classes(self, base: TrainConfig, shards: Path) -> None:
        plain = {photo.path.name: photo.path.read_bytes() for photo in list_photos(base.data[0])}
        found = list_samples(shards)
        assert {photo.path.name: photo.source() for photo in found} == plain
        labels = {int(photo.path.stem): photo.label for photo in found}
        assert labels == {index: index % 4 if index % 2 else None for index in range(PHOTOS)}
        assert [photo.file for photo in found] == sorted(photo.file for photo in found)

    @pytest.mark.slow
    @pytest.mark.parametrize("no_cache", [False, True])
    def test_train_and_export(self, base: TrainConfig, shards: Path, tmp_path: Path, no_cache: bool) -> None:
        told = replace(
            base, data=(str(shards),), out=str(tmp_path / "run"), cache=str(tmp_path / "cache"), label_weight=0.5,
            no_cache=no_cache, workers=1, epochs=1,
        )  # fmt: skip
        run(told)
        assert reports_of(told)[-1]["photos"] >= 1
        bundle, _ = export_run(told.out, tmp_path / "bundle")
        assert bundle.manifest.extra["steps"] == position_of(told)["steps"]

    def test_nothing_leads_out_of_a_shard(self, tmp_path: Path) -> None:
        """Names and links that point elsewhere are names, and no links."""
        with tarfile.open(tmp_path / "0.tar", "w") as tar:
            add(tar, "../../etc/passwd.jpg", b"inside")
            add(tar, "/absolute.jpg", b"too")
            add(tar, "link.jpg", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd")
            add(tar, "hard.jpg", b"", type=tarfile.LNKTYPE, linkname="/etc/passwd")
            add(tar, "folder.jpg", b"", type=tarfile.DIRTYPE)
        before = sorted(tmp_path.rglob("*"))
        photos = list_samples(tmp_path)
        assert [photo.source() for photo in photos] == [b"inside", b"too"]
        assert sorted(tmp_path.rglob("*")) == before

    @pytest.mark.parametrize(
        ("files", "message"),
        [
            ({"a.cls": b"1"}, "no photos in its 1 shards"),
            ({"a.jpg": b"", "a.cls": b"cat"}, "'a.cls' holds no class"),
            ({"a.jpg": b"", "a.cls": b"1" * 99}, "'a.cls' holds no class"),
            ({"a.jpg": b"", "a.png": b""}, "two photos are called 'a'"),
            ({"a.v2.jpg": b"", "a.v2.png": b""}, r"two photos are called 'a\.v2'"),
        ],
    )
    def test_shards_that_cannot_be(self, tmp_path: Path, files: dict[str, bytes], message: str) -> None:
        with tarfile.open(tmp_path / "0.tar", "w") as tar:
            for name, data in files.items():
                add(tar, name, data)
        with pytest.raises(InputError, match=message):
            list_samples(tmp_path)

    def test_names_with_dots(self, tmp_path: Path) -> None:
        """A dot in a name leaves no photo out, and what else a sample has is none."""
        with tarfile.open(tmp_path / "0.tar", "w") as tar:
            for name in ("n01/1.v2.final.jpg", "2.left.jpg", "2.right.jpg", "3.jpg", "3.depth.png", "__MACOSX/._3.jpg"):
                add(tar, name, name.encode())
            add(tar, "2.cls", b"2")
            add(tar, "n01/1.v2.final.cls", b"1")
        found = {photo.path.relative_to(tmp_path / "0.tar").as_posix(): photo.label for photo in list_samples(tmp_path)}
        assert found == {"n01/1.v2.final.jpg": 1, "2.left.jpg": 2, "2.right.jpg": 2, "3.jpg": None}

    def test_a_compressed_shard_beside_others_is_not_left_out(self, tmp_path: Path, shards: Path) -> None:
        shutil.copy(shards / "000000.tar", tmp_path / "0.tar")
        (tmp_path / "1.tar.gz").write_bytes(b"")
        with pytest.raises(InputError, match=r"1\.tar\.gz is no plain tar file; give shards that are not compressed"):
            list_samples(tmp_path)

    def test_what_is_no_shard(self, tmp_path: Path, shards: Path) -> None:
        with tarfile.open(tmp_path / "0.tar", "w:gz") as tar:
            add(tar, "a.jpg", b"photo")
        with pytest.raises(InputError, match=r"0\.tar is no plain tar file.*not compressed"):
            list_samples(tmp_path)
        whole = (shards / "000000.tar").read_bytes()
        with tarfile.open(shards / "000000.tar") as tar:
            last = tar.getmembers()[-1]
        (tmp_path / "0.tar").write_bytes(whole[: last.offset_data + last.size - 5])
        with pytest.raises(InputError, match=r"0\.tar: it ends within"):
            list_samples(tmp_path)
