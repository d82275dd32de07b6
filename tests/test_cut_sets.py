"""Cuts at which several tensors cross: where they are, that halves are the whole, and one payload for all."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.progress import Progress
from torch import Tensor, nn
from torch.nn import functional as F

import small
from bottlenet.bundle import Bundle
from bottlenet.cloud.decoder import Decoder
from bottlenet.edge import Edge
from bottlenet.edge.encoder import Encoder
from bottlenet.errors import InputError
from bottlenet.net.build import insert, start_from_components, unit_of
from bottlenet.net.cut import Layout, cuts, layout_of_set, split
from bottlenet.net.models import Classifier
from bottlenet.net.unit import SetReduction, UnitSpec
from bottlenet.photos.folders import list_photos
from bottlenet.task import Segmentation
from bottlenet.train.objective import features_error
from bottlenet.train.quick import make_bundle
from bottlenet.train.runs import export_run
from bottlenet.train.sweep import Search, SweepConfig
from bottlenet.train.sweep.sweep import find_trials
from bottlenet.train.train import train
from bottlenet.wire.answer import parse_answer
from bottlenet.wire.frame import Frame
from processes import serving
from small import SCALES, SIZE
from test_cli import Run, run
from test_split import STEPS, build

__all__ = ["run"]  # a fixture

INPUT = (3, SIZE, SIZE)


def photos(count: int = 2) -> Tensor:
    return torch.randn(count, *INPUT, generator=torch.Generator().manual_seed(0))


def listed(model: nn.Module, tensors: int = 4) -> dict[str, tuple[int, ...]]:
    return {cut.name: cut.shape for cut in cuts(model, INPUT, tensors=tensors)}


class Maps(small.Scales):
    """A class for each place."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Conv2d(12, len(small.LABELS), 1)

    def answers(self, top: Tensor) -> Tensor:
        return F.interpolate(self.classifier(top), size=(SIZE, SIZE), mode="bilinear")


def maps() -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        module = Maps().eval()
    return replace(small.segmenter(), name="maps", module=module, task=Segmentation(SIZE, SIZE))


class Woven(nn.Module):
    """What runs behind the first of two tensors comes before the second; and one of them is changed in place."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.left, self.right = nn.Conv2d(4, 6, 1), nn.Conv2d(4, 5, 3, stride=2, padding=1)
        self.drop, self.behind, self.fc = nn.Dropout(), nn.Conv2d(6, 5, 1), nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        stem = self.stem(x).relu()
        left = self.left(stem)
        behind = self.behind(self.drop(left).relu_())
        right = self.right(stem)
        return self.fc(torch.cat((behind.mean((2, 3)), self.drop(right).mean((2, 3))), 1))


class Lateral(nn.Module):
    """Of what may run behind a set, the head needs sides and the number of photos."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep = (nn.Conv2d(channels, 4, 3, stride=2, padding=1) for channels in (3, 4))
        self.side, self.smooth, self.fc = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        stem = self.stem(x)
        deep, side = self.deep(stem), self.side(stem)
        up = self.smooth(F.interpolate(deep, size=side.shape[-2:])).reshape(side.shape[0], 4, -1)
        return self.fc((side.flatten(2) + up * torch.ones(side.shape[1])[0]).mean(2))


class Pyramid(small.Scales):
    """As torchvision's: each of the maps is made right before it is used, with fewer channels."""

    def __init__(self) -> None:
        super().__init__()
        self.sides = nn.ModuleList(nn.Conv2d(channels, 4, 1) for channels in (8, 12, 16))
        self.smooth = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))
        self.classifier = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        scales = [self.stem(x)]
        scales += [self.down(scales[0])]
        scales += [self.deep(scales[1])]
        top = self.sides[2](scales[2])
        maps = [self.smooth[2](top)]
        for at in (1, 0):
            top = self.sides[at](scales[at].relu()) + F.interpolate(top, size=scales[at].shape[-2:])
            maps.append(self.smooth[at](top))
        return self.classifier(torch.cat([each.mean((2, 3)) for each in maps], 1))


class TestWhere:
    def test_sets_are_listed_in_the_order_in_which_the_network_runs(self) -> None:
        found = listed(small.scales().module)
        assert [name for name in found if "." not in name and "interpolate" not in name] == [
            *("stem", "stem+down", SCALES, "add_1", "relu_1", "mean")
        ]
        assert found[SCALES] == (8 * 16 * 16 + 12 * 8 * 8 + 16 * 4 * 4,)
        assert "sides.0+sides.1+sides.2" in found

    def test_what_follows_a_tensor_alone_may_cross_in_its_place(self) -> None:
        found = listed(Pyramid().eval())
        assert SCALES in found
        least = min(shape for name, shape in found.items() if "+" in name and "mean" not in name)
        assert least == found["sides.2+sides.1+sides.0"] == (4 * (16 * 16 + 8 * 8 + 4 * 4),)

    def test_as_many_tensors_as_are_asked_for(self) -> None:
        module = small.scales().module
        assert {name.count("+") for name in listed(module, 2)} == {0, 1}
        assert [*listed(module, 1)] == [name for name in listed(module) if "+" not in name]

    @pytest.mark.parametrize(
        "model", [small.scales().module, maps().module, Woven().eval(), Pyramid().eval(), small.classifier().module]
    )
    def test_halves_are_the_whole_at_every_set(self, model: nn.Module) -> None:
        expected = model(photos())
        for name, shape in listed(model).items():
            halves = split(model, name, INPUT)
            features = halves.head(photos())
            before = features.clone()
            assert features.shape[1:] == shape, name
            assert torch.equal(halves.tail(features), expected), name
            assert torch.equal(features, before), name  # the tail works on a copy of what it changes

    def test_what_the_set_does_not_need_runs_behind_it(self) -> None:
        model = Woven().eval()
        assert "left+right" not in listed(model)  # in the order in which it runs, the mean of `behind` crosses
        halves = split(model, "right+left", INPUT)
        assert halves.cut.name == "left+right"
        assert torch.equal(halves.tail(halves.head(photos())), model(photos()))
        names = [{name for name, _ in half.named_children()} for half in (halves.head, halves.tail)]
        assert names == [{"stem", "left", "right"}, {"drop", "behind", "fc"}]

    @pytest.mark.parametrize("name", ["stem+deep", "stem+interpolate", "stem+smooth", "stem+reshape", "stem+mul"])
    def test_numbers_of_what_runs_behind_it(self, name: str) -> None:
        model = Lateral().eval()
        halves = split(model, name, INPUT)
        assert "side" in dict(halves.tail.named_children())
        for count in (1, 3):
            assert torch.equal(halves.tail(halves.head(photos(count))), model(photos(count)))

    def test_a_module_with_a_plus_in_its_name(self) -> None:
        model = nn.Sequential()
        model.add_module("a+b", nn.Conv2d(3, 4, 3))
        model.add_module("end", nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
        cut = split(model.eval(), "a+b", INPUT).cut
        assert (cut.name, cut.tensors, cut.shape) == ("a+b", (), (4, SIZE - 2, SIZE - 2))

    def test_modules_stay_whole_and_share_weights(self) -> None:
        model = small.scales().module
        halves = split(model, SCALES, INPUT)
        assert dict(halves.head.named_children())["deep"] is model.deep
        assert {name for name, _ in halves.tail.named_children()} == {"sides", "classifier"}

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("stem+deep", "'stem+deep' does not separate photo and scores: down would have to cross, too"),
            ("sides.0+deep", "does not separate photo and scores: down would"),
            ("stem+down+deep+relu", "down is not needed beside the others; leave it out"),
            ("stem+first", "'first' is no tensor of features of this Scales"),
            ("stem+dwn+deep", "'dwn' is no tensor of features of this Scales; nearest are down"),
            ("stem+stem", "two of these are one tensor; name each once"),
            ("down+down.2+deep", "two of these are one tensor; name each once"),
            ("stem+down+deep+sides.0+sides.1", "these are 5 tensors; give 4 or fewer"),
            ("stem+", "'' is no tensor of features"),
            ("down", "the cuts around it are stem and add_1; together stem+down cross there"),
            ("classifier+stem", "stem is not needed"),
        ],
    )
    def test_what_is_no_set_says_why(self, name: str, words: str) -> None:
        with pytest.raises(InputError) as refused:
            split(small.scales().module, name, INPUT)
        assert words in str(refused.value)
        assert "\n" not in str(refused.value)


class Skips(nn.Module):
    """Steps, each of which may add what an earlier one gave."""

    def __init__(self, steps: list[nn.Module], skips: list[tuple[int, int]]) -> None:
        super().__init__()
        self.stem, self.steps, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.ModuleList(steps), nn.Linear(4, 5)
        self.skips = [(source, at) for source, at in skips if source <= at < len(steps)]

    def forward(self, x: Tensor) -> Tensor:
        found = [self.stem(x)]
        for number, step in enumerate(self.steps):
            result = step(found[-1])
            for source, at in self.skips:
                result = result + found[source] if at == number else result
            found.append(result)
        return self.fc(found[-1].mean((2, 3)))


@settings(max_examples=10, deadline=None)
@given(st.lists(STEPS, min_size=2, max_size=5), st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4)), max_size=3))
def test_halves_of_random_networks(steps: list[object], skips: list[tuple[int, int]]) -> None:
    model = Skips([build(step) for step in steps], skips).eval()
    size = (3, 8, 8)
    x = torch.randn(2, *size)
    expected = model(x)
    found = cuts(model, size, tensors=4)
    for cut in found:
        halves = split(model, cut.name, size)
        assert torch.equal(halves.tail(halves.head(x)), expected), cut.name
    names = {name for cut in found for name in cut.tensors or [cut.name]}
    for name in map("+".join, itertools.islice(itertools.combinations(sorted(names), 2), 10)):
        try:
            halves = split(model, name, size)
        except InputError as error:
            assert "\n" not in str(error)
        else:
            assert torch.equal(halves.tail(halves.head(x)), expected), name


SIDES = st.integers(2, 9)


class TestGrid:
    @given(SIDES, SIDES, st.sampled_from(["planes", "rows", "tokens"]), st.integers(1, 3), st.integers(1, 3))
    @settings(max_examples=25, deadline=None)
    def test_every_number_is_in_the_grid(self, height: int, width: int, kind: str, finer: int, finest: int) -> None:
        parts = [
            Layout("planes", (2, height * finest, width * finest)),
            Layout("planes", (3, height * finer, width * finer)),
            Layout(kind, (4, height, width)),
        ]
        layout = layout_of_set(parts)
        assert layout is not None
        assert layout.patches == [finest, finer, 1]
        row = torch.randn(2, sum(math.prod(part.shape) for part in parts))
        grid = layout.to_grid(row)
        assert grid.shape[1:] == layout.grid == (2 * finest**2 + 3 * finer**2 + 4, height, width)
        assert torch.equal(grid.flatten().sort().values, row.flatten().sort().values)
        assert [part.shape for part in parts] == [tuple(each.shape[1:]) for each in layout.apart(row)]

    def test_sides_that_do_not_divide_are_filled_up(self) -> None:
        layout = layout_of_set(
            [Layout("planes", (1, 38, 38)), Layout("planes", (1, 19, 19)), Layout("planes", (1, 10, 10))]
        )
        assert layout is not None
        assert (layout.grid, layout.patches) == ((21, 10, 10), [4, 2, 1])

    def test_no_grid_in_common(self) -> None:
        assert layout_of_set([Layout("planes", (1, 16, 16)), Layout("planes", (1, 5, 5))]) is None
        assert layout_of_set([Layout("planes", (1, 16, 16)), None]) is None
        assert layout_of_set([Layout("planes", (1, 16, 8)), Layout("planes", (1, 4, 4))]) is None


class TestUnit:
    def net(self, **more: object) -> tuple[object, Tensor]:
        net = insert(small.scales(), cut=SCALES, codec="entropy", **more).eval()
        with torch.no_grad():
            return net, net.head(torch.from_numpy(small.pixels(24)))

    @torch.no_grad()
    @pytest.mark.parametrize("stride", [1, 2])
    def test_with_all_components_next_to_nothing_is_lost(self, stride: int) -> None:
        net, features = self.net(channels=192 * stride**2, stride=stride)
        features = torch.randn(64, features.shape[1], generator=torch.Generator().manual_seed(0))
        start_from_components(net, [features])
        given = net.restoration(net.reduction(features))
        for mine, wanted in zip(net.layout.apart(given), net.layout.apart(features), strict=True):
            assert features_error(mine, wanted).max() < 0.01  # what is the same at a place of all patches, no bias says

    @torch.no_grad()
    def test_each_tensor_counts_alike_however_loud(self) -> None:
        net, features = self.net(channels=8)
        assert isinstance(net.reduction, SetReduction)
        layout, errors = net.reduction.layout, []
        for factor in (1.0, 100.0):
            loud = features.clone()
            loud[:, : 8 * 16 * 16] *= factor
            start_from_components(net, [loud])
            pairs = zip(layout.apart(net.restoration(net.reduction(loud))), layout.apart(loud), strict=True)
            errors.append([features_error(mine, wanted).mean().item() for mine, wanted in pairs])
        assert errors[0] == pytest.approx(errors[1], rel=0.01)
        assert max(errors[0]) < 1

    @torch.no_grad()
    def test_a_set_s_error_is_the_mean_of_its_tensors(self) -> None:
        net, features = self.net(channels=8)
        off = features.clone()
        off[:, : 8 * 16 * 16] = 0
        error = features_error(off, features, net.layout)
        layout = net.reduction.layout
        apart = [features_error(*pair) for pair in zip(layout.apart(off), layout.apart(features), strict=True)]
        assert torch.equal(error, torch.stack(apart).mean(0))
        assert apart[1].tolist() == apart[2].tolist() == [0] * len(features)

    @torch.no_grad()
    def test_tokens_beside_maps(self) -> None:
        layout = layout_of_set([Layout("planes", (3, 8, 8)), Layout("tokens", (5, 4, 4), 2)])
        assert layout is not None
        reduction, restoration = unit_of("residual", UnitSpec(layout.grid[0], 7, 1, (4, 4)), layout)
        row = torch.randn(6, 3 * 64 + 5 * 18)
        (grid,) = restoration.note_extra_tokens([row])
        assert torch.equal(grid, layout.to_grid(row))
        assert reduction(row).shape == (6, 7, 4, 4)
        _, tokens = layout.apart(restoration(reduction(row)))
        expected = layout.apart(row)[1][:, :2].mean(0)
        torch.testing.assert_close(tokens[:, :2], expected.expand(6, -1, -1))

    def test_a_smaller_photo_for_the_head(self) -> None:
        net = insert(small.scales(), cut=SCALES, channels=6, head_size=16).eval()
        assert net.layout.grid == (192, 2, 2)
        assert net(torch.from_numpy(small.pixels(2)[:, :16, :16])).scores.shape == (2, 4)

    def test_the_paper_s_unit(self) -> None:
        net = insert(small.scales(), cut=SCALES, unit="paper", channels=5, codec="jpeg").eval()
        pixels = torch.from_numpy(small.pixels(2))
        with torch.no_grad():
            torch.testing.assert_close(net.decompress(net.compress(pixels)), net(pixels).scores)

    @pytest.mark.parametrize(
        ("more", "words"),
        [
            ({"exit": True}, "an exit needs a cut at which one tensor crosses, and 3 do"),
            ({"learn_to": "add_1"}, "learn_to must be a cut behind"),
            ({"tail_size": 64}, "tail_size can't differ"),
            ({"channels": 193}, "193 channels at stride 1 are more than the features have, 192 x 4 x 4"),
            ({"cut": "stem+mean"}, "is not needed"),
        ],
    )
    def test_what_is_refused(self, more: dict[str, object], words: str) -> None:
        with pytest.raises(InputError, match=words):
            insert(small.scales(), **{"cut": SCALES, **more})  # type: ignore[arg-type]

    def test_the_end_of_the_head_may_learn(self) -> None:
        net = insert(small.scales(), cut=SCALES, learn_from="stem", channels=6).train()
        output = net.forward_features(net.head(torch.from_numpy(small.pixels(2))), codec_in_loop=False)
        assert output.features_hat.shape == (2, 3072)
        output.scores.sum().backward()
        assert any(p.grad is not None for name, p in net.reduction.named_parameters() if "deep" in name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.save_photos(tmp_path_factory.mktemp("sets") / "photos", 60)


@pytest.fixture(scope="module")
def bundle(folder: Path) -> Bundle:
    made, _ = make_bundle("small:scales", SCALES, list_photos(folder), str(folder.parent / "scales.bundle"))
    return made


class TestBundle:
    def test_older_programs_read_it(self, bundle: Bundle) -> None:
        manifest = bundle.manifest
        assert (manifest.format_version, manifest.cut, manifest.codec) == (2, SCALES, "entropy")
        assert manifest.latent == (192, 4, 4)

    def test_a_payload_may_end_after_every_byte(self, bundle: Bundle, folder: Path) -> None:
        frame = Encoder(bundle).encode(list_photos(folder)[0].path).frame
        frames = [replace(frame, payload=frame.payload[:end]) for end in range(1, len(frame.payload) + 1)]
        scored = Decoder(bundle).scores(frames)
        assert set(scored.errors) == {None}
        assert np.isfinite(scored.scores).all()
        off = np.abs(scored.scores - scored.scores[-1]).max(1)
        fourths = [part.mean() for part in np.array_split(off, 4)]
        assert fourths == sorted(fourths, reverse=True)

    def test_a_real_server_answers_every_prefix(self, bundle: Bundle, folder: Path) -> None:
        path, decoder = list_photos(folder)[1].path, Decoder(bundle)
        frame = Encoder(bundle).encode(path).frame
        with serving(bundle.path) as server:
            with Edge(bundle, server.url) as edge:
                answer = edge.classify(path)
            expected = decoder.scores([frame]).scores[0]
            assert answer.label == bundle.labels[int(expected.argmax())]
            assert answer.payload_bytes == len(frame.payload)
            with server.stream(bundle) as stream:
                for end in range(1, len(frame.payload) + 1):
                    part = Frame(frame.codec, frame.setting, frame.bundle_tag, end, frame.payload[:end])
                    stream.send(part.to_stream_bytes())
                    told = parse_answer(stream.recv(timeout=60))
                    assert told.sequence == end
                    assert told.top[0][0] == int(decoder.scores([part]).scores[0].argmax())


def trained(out: Path, model: str, epochs: int) -> str:
    """Train a unit of the three scales, on the photos beside its folder."""
    config = replace(
        small.config_of(out.parent, epochs=epochs, model=model),
        cut=SCALES,
        codec="entropy",
        channels=24,
        target_bytes=0.0,
        held_out=4,
        blend=0.0,
        out=str(out),
    )
    with Progress(disable=True) as progress:
        train(config, progress)
    return config.out


class TestTraining:
    def test_a_network_of_labels(self, folder: Path) -> None:
        out = trained(folder.parent / "labels", "small:scales", epochs=4)
        log = [json.loads(line) for line in (Path(out) / "log.jsonl").read_text().splitlines()]
        reports = [line["held_out"][-1] for line in log if "held_out" in line]
        assert reports[-1]["distillation"] < reports[0]["distillation"]
        bundle, fidelity = export_run(out, folder.parent / "labels.bundle")
        assert bundle.manifest.latent == (24, 4, 4)
        assert fidelity.symbols_equal > 0.999

    def test_a_network_of_maps(self, folder: Path) -> None:
        out = trained(folder.parent / "maps", "test_cut_sets:maps", epochs=3)
        bundle, _ = export_run(out, folder.parent / "maps.bundle")
        path = list_photos(folder)[0].path
        frame = Encoder(bundle).encode(path).frame
        decoder = Decoder(bundle)
        (answer,) = decoder.answers([frame])
        assert answer.result.rows == SIZE  # type: ignore[union-attr]


class TestCommands:
    def test_cuts(self, run: Run) -> None:
        table = run("cuts", "small:scales", "--tensors", "3").out
        assert "8x16x16 + 12x8x8 + 16x4x4 as 192x4x4" in table
        document = run("cuts", "small:scales", "--tensors", "3", "--json").json
        cut = next(each for each in document["cuts"] if each["name"] == SCALES)
        assert (cut["elements"], cut["layout"]["grid"]) == (3072, [192, 4, 4])
        assert cut["tensors"] == ["stem", "down", "deep"]

    def test_a_sweep_takes_the_names_in_any_order(self) -> None:
        config = SweepConfig(model="small:scales", data=("photos",))
        _, trials = find_trials(config, Search(cuts=("deep+stem+down", SCALES), channels=(8,), strides=(1,)))
        assert {trial.cut for trial in trials} == {SCALES}

    def test_a_set_is_shown_where_nothing_near_it_has_fewer_elements(self, run: Run) -> None:
        def names(*more: str) -> set[str]:
            rows = run("cuts", "test_cut_sets:maps", "--tensors", "3", *more, columns=200).out.splitlines()
            return {row.split()[0] for row in rows if "+" in row}

        assert names() < names("--all")
        assert {"stem+down", "stem+down+sides.2"} <= names()
        assert "stem+down.0" in names("--all") - names()

    def test_quick(self, run: Run, folder: Path, tmp_path: Path) -> None:
        given = ("--data", str(folder), "-o", str(tmp_path / "b"), "--budgets", "40", "--json")
        curve = run("quick", "test_cut_sets:maps", "--cut", "down+stem+deep", *given).json["curve"]
        assert 25 < curve[0]["agreement"] < curve[1]["agreement"] <= 100
        assert curve[1]["agreement"] > 95
        assert curve[0]["payload_bytes"]["max"] == 40
        assert (curve[0]["top1"], curve[0]["labelled"]) == (None, 0)
        refused = run("quick", "test_cut_sets:maps", "--cut", "stem+deep", *given).error
        assert "does not separate photo and scores: down would have to cross, too" in refused
