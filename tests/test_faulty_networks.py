"""Networks that can't be cut, trained, exported or answered from: refused before anything is computed, in one line."""

from __future__ import annotations

import copy
import errno
import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.progress import Progress
from torch import Tensor, nn

import bottlenet
from bottlenet.bundle import Preprocess
from bottlenet.cli import show
from bottlenet.errors import BundleError, InputError
from bottlenet.net import export as export_module
from bottlenet.net import models
from bottlenet.net.build import insert
from bottlenet.net.cut import cuts, split
from bottlenet.net.export import check_exportable, export
from bottlenet.net.models import Classifier, check_classifier, load_model
from bottlenet.train import runs
from bottlenet.train.config import TrainConfig
from bottlenet.train.runs import export_run, find_folder, summary
from bottlenet.train.train import freeze, train
from small import SIZE, Small, classifier, config_of, pixels, save_photos
from walk import walked

Run = tuple[TrainConfig, dict[str, set[str]], list[float]]


def one_line(error: pytest.ExceptionInfo[BaseException]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def network(*layers: nn.Module, task: object = None, labels: int = 4) -> Classifier:
    """Three convolutions of stride 2, then these layers, on features (B, 4, 4, 4)."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        stem = [nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 4, 3, 2, 1)]
        module = nn.Sequential(*stem, *layers).eval()
    names = tuple(f"class {number}" for number in range(labels))
    changes = {} if task is None else {"task": task}
    return Classifier("n", module, Preprocess(SIZE, 0.875, "bicubic"), (127,) * 3, (64,) * 3, names, "none", **changes)


class Does(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def compiled(module: nn.Module) -> nn.Module:
    return torch.compile(module, backend="eager")


def pooled() -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten()]


class TestScores:
    """Scores that are no class logits would be answered from all the same."""

    @pytest.mark.parametrize(
        ("layers", "labels", "says"),
        [
            ([nn.Softmax(1)], 4, "its scores are probabilities, as after a softmax"),
            ([nn.Softmax(1), nn.Unflatten(1, (4, 1)), nn.Flatten()], 4, "as after a softmax"),
            ([Does(lambda x: x.exp() / x.exp().sum(1, keepdim=True))], 4, "as after a softmax"),
            ([nn.Sigmoid()], 4, "as after a sigmoid"),
            ([nn.Linear(4, 1)], 1, "it has one score, so its answer would always be 'class 0'.*multilabel"),
        ],
    )
    def test_refused(self, layers: list[nn.Module], labels: int, says: str) -> None:
        with pytest.raises(InputError, match=says) as error:
            insert(network(*pooled(), *layers, labels=labels), cut="2")
        one_line(error)

    @pytest.mark.parametrize("layer", [nn.Identity(), nn.LogSoftmax(1), nn.ReLU(), nn.Tanh()])
    def test_logits_are_taken(self, layer: nn.Module) -> None:
        check_classifier(network(*pooled(), layer))

    def test_of_several_labels_too(self) -> None:
        from bottlenet.task import Multilabel

        with pytest.raises(InputError, match="as after a sigmoid"):
            check_classifier(network(*pooled(), nn.Sigmoid(), task=Multilabel((0.5,) * 4)))


class TestAsItIsCalled:
    """tail(head(x)) is what the network gives when it is called."""

    def halves(self, module: nn.Module) -> tuple[Tensor, Tensor]:
        x = torch.linspace(-1, 1, 2 * 3 * SIZE * SIZE).reshape(2, 3, SIZE, SIZE)
        with torch.no_grad():
            found = split(module, "first", (3, SIZE, SIZE))
            return found.tail(found.head(x)), module(x)

    def test_hooks_of_the_network_itself(self) -> None:
        module = copy.deepcopy(classifier().module)
        module.register_forward_hook(lambda module, inputs, output: output * 2 + 1)
        module.register_forward_pre_hook(lambda module, inputs: (inputs[0] * 3,))
        assert torch.equal(*self.halves(module))

    def test_a_forward_that_was_replaced(self) -> None:
        module = copy.deepcopy(classifier().module)
        before = module.forward
        module.forward = lambda x: before(x).flip(1)
        assert torch.equal(*self.halves(module))

    def test_what_no_trace_shows_is_refused(self) -> None:
        calls = {"traced": True}

        class Changing(Small):
            def forward(self, x: Tensor) -> Tensor:
                scores = super().forward(x)
                return scores + 1 if isinstance(x, torch.fx.Proxy) and calls["traced"] else scores

        with pytest.raises(InputError, match="gives other scores than when it is called") as error:
            split(Changing().eval(), "first", (3, SIZE, SIZE))
        one_line(error)


class Returns(nn.Module):
    """A network whose scores are in something else."""

    def __init__(self, module: nn.Module, kind: type[tuple] | type[dict]) -> None:
        super().__init__()
        self.module, self.kind = module, kind

    def forward(self, x: torch.Tensor) -> object:
        return self.kind([("scores", self.module(x))])


class TestUnusable:
    @pytest.mark.parametrize(
        ("change", "says"),
        [
            (lambda module: module.half(), r"its weights are float16, and photos are float32; give module.float\(\)"),
            (lambda module: module.bfloat16(), "its weights are bfloat16"),
            (lambda module: module.to("meta"), "is on the meta device.*load weights into it first"),
            (compiled, r"it is compiled; give .*_orig_mod"),
            (
                lambda module: nn.Sequential(nn.Conv2d(1, 3, 1), module),
                "it takes 1 channels, and photos have 3: wrap it",
            ),
            (lambda module: Returns(module, tuple), "it returns a tuple; wrap it in a module that returns the tensor"),
            (lambda module: Returns(module, dict), "it returns a dict; wrap it"),
        ],
    )
    def test_says_what_it_is(self, change: Callable[[nn.Module], nn.Module], says: str) -> None:
        with pytest.raises(InputError, match=says) as error:
            check_classifier(replace(classifier(), module=change(copy.deepcopy(classifier().module))))
        assert "the size that it was made for" not in one_line(error)

    def test_cuts_says_so_too(self) -> None:
        module = copy.deepcopy(classifier().module)
        with pytest.raises(InputError, match="it is compiled"):
            cuts(compiled(module), (3, SIZE, SIZE))
        assert len(cuts(module.to("meta"), (3, SIZE, SIZE))) == 6  # shapes are enough for that

    def test_one_channel_for_cuts(self) -> None:
        with pytest.raises(InputError, match="it takes 1 channels, and photos have 3: wrap it"):
            cuts(nn.Sequential(nn.Conv2d(1, 3, 1), nn.Flatten()), (3, SIZE, SIZE))

    def test_what_can_not_be_copied(self) -> None:
        made = network(*pooled(), nn.Linear(4, 4))
        made.module.register_buffer("made", nn.Parameter(torch.ones(1)) * 2)  # as an old weight_norm leaves it
        with pytest.raises(InputError, match=r"can't be copied \(RuntimeError: .*weight_norm") as error:
            insert(made, cut="2")
        one_line(error)

    def test_a_mistyped_name_is_only_answered_with_names_that_are_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        listed = SimpleNamespace(list_models=lambda: ["resnet50", "resnet18"])
        monkeypatch.setattr(models.importlib, "import_module", lambda name: listed)
        monkeypatch.setattr(models.importlib.util, "find_spec", lambda name: True if name == "timm" else None)
        with pytest.raises(InputError, match="did you mean timm/resnet50") as error:
            load_model("resnet5O")
        assert "torchvision/resnet5" not in one_line(error)
        with pytest.raises(InputError, match=r"did you mean timm/resnet50:random\?") as error:
            load_model("tim/resnet51:random")
        with pytest.raises(InputError) as error:
            load_model("hf/resnet50")  # a folder that may not be there
        assert "did you mean" not in one_line(error)
        with pytest.raises(InputError) as error:
            load_model("blumenkohl")
        assert "did you mean" not in one_line(error)


class TestWhatABundleHolds:
    """Shown before the first step."""

    @pytest.mark.parametrize("label", ["\ufeffcat", "a\nb", "x" * 501, "\x1b[31mred"])
    def test_labels(self, label: str) -> None:
        with pytest.raises(InputError, match="label 2 is .*one line of 1 to 500 printable characters") as error:
            replace(classifier(), labels=("a", label, "c", "d"))
        one_line(error)

    def test_a_file_of_labels_with_a_byte_order_mark(self, tmp_path: Path) -> None:
        (tmp_path / "labels.txt").write_bytes("\ufeffcat\r\ndog\r\n".encode())
        named = models.parse_name("x", "timm", f"x,labels={tmp_path}/labels.txt")
        assert named.labels() == ("cat", "dog")
        (tmp_path / "labels.txt").write_text("cat\nd\x07og\n")
        with pytest.raises(InputError, match="line 2 is .*printable"):
            named.labels()

    def test_a_batch_of_one(self) -> None:
        lost = network(nn.AdaptiveAvgPool2d(1), Does(torch.squeeze))
        with pytest.raises(InputError, match=r"it gives \(4,\) for 1 photo, not \(1, 4\): the batch is lost") as error:
            insert(lost, cut="2")
        one_line(error)

    def test_an_operation_that_onnx_has_not(self) -> None:
        odd = network(nn.Upsample((7, 7)), nn.AdaptiveMaxPool2d((3, 5)), nn.Flatten(), nn.Linear(60, 4))
        with pytest.raises(InputError, match="can't be converted to ONNX") as error:
            check_exportable(insert(odd, cut="2", channels=2))
        assert len(one_line(error)) < 600

    def test_training_does_not_start(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("bottlenet.train.train.check_exportable", check_fails)
        config = config_of(tmp_path, epochs=1)
        save_photos(tmp_path / "photos", 20)
        with pytest.raises(InputError, match="can't be converted"), Progress(disable=True) as bar:
            train(config, bar)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["photos"]

    def test_export_reads_back_what_it_wrote(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        net = insert(classifier(), cut="first", channels=6)
        convert = export_module.convert

        def lossy(*arguments: object) -> dict[str, bytes]:
            graphs = convert(*arguments)  # type: ignore[arg-type]
            return {**graphs, "tail.onnx": graphs["head.onnx"]}

        monkeypatch.setattr(export_module, "convert", lossy)
        monkeypatch.setattr(export_module, "compare", lambda *arguments: export_module.Fidelity(2, 1, 0, 1, 1))
        with pytest.raises(BundleError, match=r"tail\.onnx: its input is"):
            export(net, tmp_path / "bundle", pixels=pixels(4))
        assert not (tmp_path / "bundle").exists()


def check_fails(net: object) -> None:
    raise InputError("it can't be converted")


class TestStrides:
    """A `view` behind the cut needs features as the network itself has them in memory."""

    @pytest.mark.parametrize("inside", [False, True])
    def test_a_view_at_the_end(self, inside: bool) -> None:
        view = Does(lambda x: x.view(x.size(0), -1))
        made = network(nn.Sequential(nn.Identity(), view) if inside else view, nn.Linear(64, 4))
        net = insert(made, cut="2", channels=4)
        freeze(net, tail=True)
        for batch in (1, 2, 3):
            features = net.head(torch.from_numpy(pixels(batch)))
            net.forward_features(features).scores.sum().backward()
        assert net.tail_order != (0, 2, 3, 1)

    def test_maps_are_laid_out_as_convolutions_are_fastest(self) -> None:
        net = insert(classifier(), cut="first", channels=6)
        freeze(net, tail=True)
        assert net.tail_order == (0, 2, 3, 1)
        given = []
        net.tail.register_forward_pre_hook(lambda module, inputs: given.append(inputs[0]))
        net.forward_features(net.head(torch.from_numpy(pixels(2))))
        assert given[0].is_contiguous(memory_format=torch.channels_last)


class TestDisk:
    def test_a_full_disk_is_one_line(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*arguments: object, **more: object) -> None:
            raise runs.SafetensorError("Error while serializing: I/O error: No space left on device\n" + "frame\n" * 50)

        monkeypatch.setattr(runs, "save_file", full)
        net = classifier().module
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        with pytest.raises(InputError, match="No space left on device.*make room, and the same command goes") as error:
            runs.save_checkpoint(tmp_path, net, optimizer, runs.Averaged(net), runs.Position())
        one_line(error)

    def test_a_log_that_can_not_be_written(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="can't be written"):
            runs.append(tmp_path / "gone" / "log.jsonl", {"steps": 1})

    def test_a_bundle(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*arguments: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(bottlenet.bundle, "write_new", full)
        net = insert(classifier(), cut="first", channels=6)
        with pytest.raises(BundleError, match="can't be written: No space left on device"):
            bottlenet.bundle.write_bundle(tmp_path / "b", export_module.describe(net, net.origin, {}), export_files())


def export_files() -> dict[str, bytes]:
    return dict.fromkeys(("head.onnx", "tail.onnx", "labels.txt"), b"")


class TestCommands:
    def run(self, *arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        paths = [str(Path(__file__).parent), *sys.path]
        command = [sys.executable, "-X", "importtime", "-m", "bottlenet.cli", *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        return subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment, cwd=cwd)

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (("train", "--codec", "jpg"), "codec is 'jpg'; choose one of raw, deflate, jpeg"),
            (("train", "--data", "nowhere"), "nowhere: no such folder"),
            (("sweep", "--codec", "jpg"), "codec is 'jpg'"),
            (("sweep", "--data", "few"), r"few: \d of 3 photos are held out, too few to measure on"),
        ],
    )
    def test_refused_before_torch_is_imported(self, arguments: tuple[str, ...], says: str, tmp_path: Path) -> None:
        save_photos(tmp_path / "few", 3)
        command, *options = arguments
        common = ["--model", "small:classifier", "--cut", "first"] if command == "train" else ["small:classifier"]
        common += [] if command == "train" else ["--cuts", "first"]
        data = [] if "--data" in options else ["--data", "few"]
        done = self.run(command, *common, *data, "--out", "run", *options, cwd=tmp_path)
        imports = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
        errors = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
        assert done.returncode == 2
        assert len(errors) == 1
        assert re.search(says, errors[0])
        assert not any(line.rpartition("|")[2].strip() == "torch" for line in imports)

    def test_raw_with_the_usual_quality(self) -> None:
        config = TrainConfig("m", ("d",), "o", "c", codec="raw")
        assert (config.quality, TrainConfig("m", ("d",), "o", "c").quality) == (0, 50)
        assert insert(classifier(), cut="first", channels=6, codec="raw").codec.setting == 0
        assert insert(classifier(), cut="first", channels=6, codec="deflate").codec.setting == 9
        with pytest.raises(InputError, match="raw"):
            insert(classifier(), cut="first", channels=6, codec="raw", quality=50)

    def test_numbers_are_the_same_in_python_and_on_the_command_line(self) -> None:
        defaults = {field.name: field.default for field in fields(TrainConfig)}
        for name, parameter in inspect.signature(insert).parameters.items():
            if name not in ("model", "cut", "quality"):
                assert parameter.default == defaults[name]
                assert f"{name}: " in (insert.__doc__ or "")

    @pytest.mark.parametrize(
        ("asked", "size", "says", "reached"),
        [
            (1000.0, 1851.0, "asked for 1,000 bytes: not reached, 85% above; train more epochs", False),
            (120.0, 220.0, "not reached, 83% above", False),
            (1000.0, 1040.0, "asked for 1,000 bytes: reached", True),
            (0.0, 700.0, "700 bytes, 91.5% with the uncut network's answer, loss 0.250", None),
        ],
    )
    def test_the_end_of_training_says_what_was_reached(
        self, asked: float, size: float, says: str, reached: bool | None
    ) -> None:
        config = TrainConfig("m", ("d",), "o", "c", target_bytes=asked)
        row = {"photos": 40, "distillation": 0.25, "agreement": 0.915, "payload_bytes": size}
        text, found = summary(config, [row])
        assert says in text
        assert found is reached

    def test_the_end_of_training_where_no_photo_is_held_out(self) -> None:
        config = TrainConfig("m", ("d",), "o", "c", target_bytes=1000.0)
        text, reached = summary(config, [{"photos": 0, "distillation": 0.0, "agreement": 0.0, "payload_bytes": 0.0}])
        assert text.startswith("no photo was held out, so bytes and answers are not known: measure them with bottlenet")
        assert reached is None

    def test_plain_lines_without_a_terminal(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
    ) -> None:
        monkeypatch.setattr(show, "LINE_S", 0.0)
        with show.progress_bar() as bar:
            task = bar.add_task("training", total=100)
            bar.update(task, completed=7, description="loss 0.123, 456 bytes, 78 images/s and more")
        assert capsys.readouterr().err == "loss 0.123, 456 bytes, 78 images/s and more, 7 of 100\n"
        with show.progress_bar(hidden=True) as bar:
            bar.update(bar.add_task("training"), completed=1)
        assert capsys.readouterr().err == ""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A small run from data named relative to where one stood, the files it went through, and its progress."""
    folder = tmp_path_factory.mktemp("walked")
    save_photos(folder / "photos", 40)
    config = replace(config_of(folder, epochs=1), data=("photos",), out="runs/first", cache="cache")
    seen: list[float] = []

    class Noting(Progress):
        def update(self, task_id: object, **values: object) -> None:
            super().update(task_id, **values)
            if self.tasks[-1].description == "training" or "loss" in self.tasks[-1].description:
                seen.append(float(self.tasks[-1].completed))

    before = os.getcwd()
    os.chdir(folder)
    try:
        with Noting(disable=True) as bar:
            files = walked(lambda: train(config, bar))
    finally:
        os.chdir(before)
    return replace(config, out=str(folder / "runs" / "first")), files, seen


def test_a_small_training_run_goes_through_few_files(
    trained: Run,
) -> None:
    files = trained[1]
    print(f"{len(files)} files, {sum(map(len, files.values()))} functions: {', '.join(sorted(files))}")
    assert len(files) <= 30


def test_progress_moves_at_each_step(trained: Run) -> None:
    assert sorted(set(trained[2])) == [1.0, 2.0]


def test_export_finds_the_photos_from_anywhere(trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, said = trained[0], list[str]()
    monkeypatch.chdir(tmp_path)
    export_run(config.out, tmp_path / "bundle", say=said.append)
    assert said == ["loading", "converting", "comparing with torch", "reading it back"]
    assert json.loads(Path(config.out, "run.json").read_text())["data"] == ["photos"]
    assert find_folder("photos", Path(config.out)).is_dir()


def test_the_top_of_the_package_has_what_a_network_of_ones_own_needs() -> None:
    assert bottlenet.Classifier is Classifier
    assert bottlenet.Preprocess is Preprocess
    assert bottlenet.export is export
