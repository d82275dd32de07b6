"""Several bundles in one folder, each weight once."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from bottlenet.bundle import Bundle, write_bundle
from bottlenet.bundle import manifest as contents_module
from bottlenet.bundle.graph import STORE, Store, StoreWriter, pieces
from bottlenet.bundle.ladder import Ladder, folders, load_rungs, write_ladder
from bottlenet.bundle.manifest import LADDER, parse_contents
from bottlenet.cloud.decoder import Decoder
from bottlenet.edge.encoder import Encoder
from bottlenet.errors import BottleNetError, BundleError, InputError
from bottlenet.runtime import Head, open_tail, open_uncut, run_graph
from conftest import CLASSES, LATENT, PIXELS, SCORES, SIZE, SYMBOLS, MakeBundle, graph_bytes, tiny_manifest
from latents import flat_tables

WIDTH = 256  # of the layers of `deep_files`: 256 KB each
LAYERS = 4


def weights(name: str, shape: tuple[int, ...]) -> np.ndarray:
    seed = sum(name.encode())
    return np.random.default_rng(seed).normal(0, 0.02, shape).astype(np.float32)


def layers(start: str, numbers: range) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray], str]:
    """Matrix products behind `start`, one a number, of the one network that all these bundles are of."""
    nodes, constants = [], {}
    for number in numbers:
        constants[f"layer {number}"] = weights(f"layer {number}", (WIDTH, WIDTH))
        nodes.append(helper.make_node("MatMul", [start, f"layer {number}"], [f"out {number}"]))
        start = f"out {number}"
    return nodes, constants, start


def entry() -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """Pixels to the first features."""
    nodes = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["floats"], ["flat"]),
        helper.make_node("MatMul", ["flat", "entry"], ["features"]),
    ]
    return nodes, {"entry": weights("entry", (SIZE * SIZE * 3, WIDTH))}


def leaving(features: str) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """Features to scores."""
    return [helper.make_node("MatMul", [features, "leaving"], ["scores"])], {
        "leaving": weights("leaving", (WIDTH, CLASSES))
    }


def deep_files(cut: int) -> dict[str, bytes]:
    """Head, tail and whole of one network of four layers that is cut behind `cut` of them."""
    first, first_weights = entry()
    nodes, constants, end = layers("features", range(cut))
    shape = np.array([-1, *LATENT], np.int64)
    unit = [
        helper.make_node("Reshape", [end, "latent shape"], ["latent"]),
        helper.make_node("Clip", ["latent", "low", "high"], ["symbol"]),
        helper.make_node("Cast", ["symbol"], ["symbols"], to=TensorProto.UINT8),
    ]
    unit_constants = {"latent shape": shape, "low": np.array(8, np.float32), "high": np.array(248, np.float32)}
    head = graph_bytes([*first, *nodes, *unit], [PIXELS], [SYMBOLS], {**first_weights, **constants, **unit_constants})
    start = [
        helper.make_node("Cast", ["symbols"], ["latent"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["latent"], ["features"]),
    ]
    nodes, constants, end = layers("features", range(cut, LAYERS))
    last, last_weights = leaving(end)
    tail = graph_bytes([*start, *nodes, *last], [SYMBOLS], [SCORES], {**constants, **last_weights})
    nodes, constants, end = layers("features", range(LAYERS))
    last, last_weights = leaving(end)
    uncut = graph_bytes([*first, *nodes, *last], [PIXELS], [SCORES], {**first_weights, **constants, **last_weights})
    labels = "".join(f"class {number}\n" for number in range(CLASSES)).encode()
    return {"head.onnx": head, "tail.onnx": tail, "uncut.onnx": uncut, "labels.txt": labels}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Bundle]:
    """Of one network, cut behind 1, 2 and 3 of its layers; the last with the entropy codec."""
    folder = tmp_path_factory.mktemp("bundles")
    made = []
    for cut in (1, 2, 3):
        codec = {"codec": "entropy", "setting": 0} if cut == 3 else {}
        manifest = tiny_manifest(cut=f"layer.{cut}", model="deep", head_flops_share=cut / 4, **codec)
        tables = {"tables.bin": flat_tables(*LATENT).to_bytes()} if codec else {}
        made.append(write_bundle(folder / str(cut), manifest, deep_files(cut) | tables))
    return made


@pytest.fixture(scope="module")
def written(bundles: list[Bundle], tmp_path_factory: pytest.TempPathFactory) -> Ladder:
    """In any order. Don't change its files: copy it."""
    return write_ladder(tmp_path_factory.mktemp("ladders") / "my.ladder", [bundles[2], bundles[0], bundles[1]])


@pytest.fixture
def ladder(written: Ladder, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(written.path, tmp_path / "copy.ladder"))


def one_line(error: pytest.ExceptionInfo[BottleNetError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 600
    return text


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_what_was_written_is_what_is_loaded(written: Ladder, bundles: list[Bundle]) -> None:
    loaded = Ladder.load(str(written.path))
    assert (loaded.name, loaded.model) == ("deep", "deep")
    assert [rung.manifest for rung in loaded.rungs] == [bundle.manifest for bundle in bundles]
    assert [rung.id for rung in loaded.rungs] == [rung.id for rung in written.rungs] == [one.id for one in bundles]
    assert loaded.id == written.id
    assert loaded.id not in {bundle.id for bundle in bundles}
    assert [rung.path.name for rung in loaded.rungs] == ["layer.1", "layer.2", "layer.3"]
    assert {rung.path.parent for rung in written.rungs} == {written.path}


def test_a_rung_is_the_bundle_that_was_put_in(written: Ladder, bundles: list[Bundle]) -> None:
    for bundle in bundles:
        rung = Bundle.load(written.path / bundle.manifest.cut)
        assert (rung.id, rung.tag, rung.labels, rung.codec.name) == (
            *(bundle.id, bundle.tag, bundle.labels, bundle.codec.name),
        )
        for name in ("head.onnx", "tail.onnx", "uncut.onnx"):
            assert rung.graph(name) == (bundle.path / name).read_bytes()
            assert not (rung.path / name).exists()
        assert bundle.graph("head.onnx") == bundle.path / "head.onnx"


def test_a_rung_says_what_its_bundle_says(written: Ladder, bundles: list[Bundle]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), dtype=np.uint8)
    for rung, bundle in zip(written.rungs, bundles, strict=True):
        symbols = Head(rung)(pixels)
        assert np.array_equal(symbols, Head(bundle)(pixels))
        assert np.array_equal(
            run_graph(open_tail(rung), symbols=symbols), run_graph(open_tail(bundle), symbols=symbols)
        )
        assert np.array_equal(run_graph(open_uncut(rung), pixels=pixels), run_graph(open_uncut(bundle), pixels=pixels))


def test_a_device_with_the_bundle_and_a_server_with_the_ladder(
    written: Ladder, bundles: list[Bundle], photo_path: Path
) -> None:
    frame = Encoder(bundles[1]).encode(photo_path).frame
    (answer,), (same,) = (Decoder(each).answers([frame]) for each in (written.rungs[1], bundles[1]))
    assert answer.top == same.top  # type: ignore[union-attr]


def test_each_weight_is_stored_once(written: Ladder, bundles: list[Bundle]) -> None:
    """Three cuts of one network take little more room than the network itself; three bundles take six times that."""
    network = (bundles[0].path / "uncut.onnx").stat().st_size
    assert sum(size_of(bundle.path) for bundle in bundles) > 5.5 * network
    assert size_of(written.path) < 1.02 * network


def test_a_ladder_can_be_copied_and_renamed(ladder: Path, written: Ladder, tmp_path: Path) -> None:
    assert Ladder.load(ladder).id == written.id
    (tmp_path / "link").symlink_to(ladder / "layer.2")
    rung = Bundle.load(tmp_path / "link")
    assert rung.id == written.rungs[1].id
    assert Head(rung)


def test_a_ladder_made_of_rungs(written: Ladder, bundles: list[Bundle], tmp_path: Path) -> None:
    made = write_ladder(tmp_path / "new", [written.rungs[0], bundles[2]], name="two")
    assert made.name == "two"
    assert [rung.id for rung in made.rungs] == [bundles[0].id, bundles[2].id]


def test_a_bundle_beside_a_ladder_keeps_its_graphs(ladder: Path, bundles: list[Bundle]) -> None:
    shutil.copytree(bundles[0].path, ladder / "stranger")
    assert Bundle.load(ladder / "stranger").store is None


def test_load_rungs(written: Ladder, bundles: list[Bundle]) -> None:
    assert [rung.id for rung in load_rungs(written.path)] == [bundle.id for bundle in bundles]
    assert [rung.id for rung in load_rungs(bundles[0].path)] == [bundles[0].id]
    with pytest.raises(BundleError, match="no such folder"):
        load_rungs(written.path / "nothing")


class TestDamage:
    def test_one_bit_of_the_store(self, ladder: Path) -> None:
        content = bytearray((ladder / STORE).read_bytes())
        content[len(content) // 2] ^= 1
        (ladder / STORE).write_bytes(content)
        with pytest.raises(BundleError, match="truncated or changed") as error:
            Ladder.load(ladder)
        assert str(ladder) in one_line(error)

    def test_a_store_that_changes_behind_our_back(self, ladder: Path) -> None:
        rung = Ladder.load(ladder).rungs[0]
        with open(ladder / STORE, "r+b") as file:
            file.write(bytes(1000))
        with pytest.raises(BundleError, match="it was changed") as error:
            Head(rung)
        one_line(error)
        (ladder / STORE).unlink()
        with pytest.raises(BundleError, match="No such file"):
            Head(rung)

    def test_a_truncated_store(self, ladder: Path) -> None:
        os.truncate(ladder / STORE, (ladder / STORE).stat().st_size - 1)
        with pytest.raises(BundleError, match="it is truncated") as error:
            Ladder.load(ladder)
        one_line(error)

    def test_no_store(self, ladder: Path) -> None:
        (ladder / STORE).unlink()
        with pytest.raises(BundleError, match=r"store\.bin: No such file") as error:
            Ladder.load(ladder)
        one_line(error)

    def test_a_rung_that_is_gone(self, ladder: Path) -> None:
        shutil.rmtree(ladder / "layer.2")
        with pytest.raises(BundleError, match=r"layer\.2: there is no such folder"):
            Ladder.load(ladder)

    def test_another_rung_in_its_place(self, ladder: Path) -> None:
        shutil.rmtree(ladder / "layer.2")
        shutil.copytree(ladder / "layer.1", ladder / "layer.2")
        with pytest.raises(BundleError, match=r"layer\.2 is another bundle") as error:
            Ladder.load(ladder)
        one_line(error)

    def test_a_whole_bundle_in_its_place(self, ladder: Path, bundles: list[Bundle]) -> None:
        shutil.rmtree(ladder / "layer.2")
        shutil.copytree(bundles[1].path, ladder / "layer.2")
        with pytest.raises(BundleError, match=r"layer\.2 is another bundle"):
            Ladder.load(ladder)

    def test_a_graph_that_is_not_listed(self, ladder: Path) -> None:
        values = json.loads((ladder / LADDER).read_bytes())
        values["graphs"].pop(Ladder.load(ladder).rungs[0].manifest.files["head.onnx"])
        (ladder / LADDER).write_text(json.dumps(values))
        with pytest.raises(BundleError, match="there is no graph") as error:
            Ladder.load(ladder)
        one_line(error)

    def test_a_graph_larger_than_allowed_is_not_read(self, ladder: Path) -> None:
        values = json.loads((ladder / LADDER).read_bytes())
        digest = Ladder.load(ladder).rungs[0].manifest.files["head.onnx"]
        values["graphs"][digest] = [[0, 2**33]] * 1000
        (ladder / LADDER).write_text(json.dumps(values))
        with pytest.raises(BundleError, match="at most 2147483648 are allowed") as error:
            Ladder.load(ladder)
        one_line(error)

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            (b"", "not JSON"),
            (b"[" * 100_000, "not JSON"),
            (b"[]", "no format_version, so it is no ladder"),
            (b'{"format_version": 2}', "format version 2 .* version 1"),
            (b'{"format_version": true}', "format version True"),
            (b'{"format_version": 1}', "lacks name, model, rungs, graphs"),
        ],
    )
    def test_a_ladder_json_that_is_none(self, ladder: Path, content: bytes, says: str) -> None:
        (ladder / LADDER).write_bytes(content)
        for load in (lambda: Ladder.load(ladder), lambda: Bundle.load(ladder / "layer.1")):
            with pytest.raises(BundleError, match=says) as error:
                load()
            assert str(ladder) in one_line(error)

    def test_a_ladder_json_without_end(self, ladder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(contents_module, "MAX_LADDER_BYTES", 100)
        with pytest.raises(BundleError, match="larger than the 100 bytes"):
            Ladder.load(ladder)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("name", ""),
            ("name", 5),
            ("model", "two\nlines"),
            ("rungs", []),
            ("rungs", {}),
            ("rungs", [5]),
            ("rungs", [{"folder": "layer.1"}]),
            ("rungs", [{"folder": "../layer.1", "id": "0" * 64}]),
            ("rungs", [{"folder": "store.bin", "id": "0" * 64}]),
            ("rungs", [{"folder": "layer.1", "id": "0"}]),
            ("rungs", [{"folder": "layer.1", "id": None}]),
            ("rungs", [{"folder": "layer.1", "id": "0" * 64}, {"folder": "Layer.1", "id": "1" * 64}]),
            ("rungs", [{"folder": f"layer.{number}", "id": "0" * 64} for number in range(101)]),
            ("graphs", []),
            ("graphs", {"abc": [[0, 1]]}),
            ("graphs", {"0" * 64: 5}),
            ("graphs", {"0" * 64: [[0]]}),
            ("graphs", {"0" * 64: [[0, 0]]}),
            ("graphs", {"0" * 64: [[-1, 5]]}),
            ("graphs", {"0" * 64: [[0, 2**34]]}),
            ("graphs", {"0" * 64: [["0", 5]]}),
            ("graphs", {"0" * 64: [[0, 1]] * 100_001}),
            ("surprise", 1),
        ],
    )
    def test_a_wrong_value(self, ladder: Path, name: str, value: object) -> None:
        values = json.loads((ladder / LADDER).read_bytes())
        (ladder / LADDER).write_text(json.dumps({**values, name: value}))
        with pytest.raises(BundleError, match=r"ladder\.json can't be used") as error:
            Ladder.load(ladder)
        one_line(error)

    def test_what_is_no_ladder(self, bundles: list[Bundle], tmp_path: Path) -> None:
        for path in (bundles[0].path, tmp_path / "nothing"):
            with pytest.raises(BundleError, match=r"there is no ladder\.json"):
                Ladder.load(path)

    def test_a_ladder_where_a_bundle_is_wanted(self, written: Ladder) -> None:
        with pytest.raises(BundleError, match=r"it is a ladder .*: layer\.1, layer\.2, layer\.3") as error:
            Bundle.load(written.path)
        one_line(error)


class TestWrite:
    def test_no_bundle(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="one at least"):
            write_ladder(tmp_path / "new", [])

    def test_two_networks(self, bundles: list[Bundle], bundle: Bundle, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="of one network") as error:
            write_ladder(tmp_path / "new", [*bundles, bundle])
        one_line(error)
        assert list(tmp_path.iterdir()) == []

    def test_one_cut_twice(self, make_bundle: MakeBundle, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="both cut at patches"):
            write_ladder(tmp_path / "new", [make_bundle(), make_bundle(setting=50)])

    def test_a_ladder_is_replaced_whole(self, ladder: Path, bundles: list[Bundle]) -> None:
        written = write_ladder(ladder, bundles[:1])
        assert [rung.id for rung in Ladder.load(ladder).rungs] == [bundles[0].id] == [one.id for one in written.rungs]
        assert {entry.name for entry in ladder.iterdir()} == {LADDER, STORE, "layer.1"}
        assert list(ladder.parent.iterdir()) == [ladder]

    @pytest.mark.parametrize("place", ["notes.txt", "layer.1/notes.txt"])
    def test_a_ladder_with_other_files_is_kept(self, ladder: Path, bundles: list[Bundle], place: str) -> None:
        (ladder / place).write_text("mine")
        with pytest.raises(BundleError, match=r"also holds notes\.txt") as error:
            write_ladder(ladder, bundles[:1])
        one_line(error)
        assert len(Ladder.load(ladder).rungs) == 3

    def test_what_is_no_ladder_is_kept(self, bundles: list[Bundle], tmp_path: Path) -> None:
        (tmp_path / "work").mkdir()
        (tmp_path / "file").write_text("mine")
        for path in (tmp_path / "work", tmp_path / "file", bundles[0].path):
            with pytest.raises(BundleError, match="that is no ladder"):
                write_ladder(path, bundles)
        assert Bundle.load(bundles[0].path).id == bundles[0].id

    def test_a_rung_is_not_replaced_by_a_bundle(self, ladder: Path) -> None:
        with pytest.raises(BundleError, match="a rung of a ladder"):
            write_bundle(ladder / "layer.1", tiny_manifest(), deep_files(1))
        Ladder.load(ladder)

    def test_a_disk_that_is_full_leaves_the_old_one(
        self, ladder: Path, bundles: list[Bundle], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def failing(self: StoreWriter, graph: bytes) -> None:
            raise OSError(28, "No space left on device", STORE)

        monkeypatch.setattr(StoreWriter, "add", failing)
        with pytest.raises(BundleError, match="No space left") as error:
            write_ladder(ladder, bundles[:1])
        one_line(error)
        assert len(Ladder.load(ladder).rungs) == 3
        assert list(ladder.parent.iterdir()) == [ladder]

    def test_cuts_whose_names_are_no_names_of_folders(self, bundles: list[Bundle]) -> None:
        cuts = ["a/b", "a-b", "..", "store.bin", "x" * 60, "x" * 61, "Größe", "größe"]
        made = [
            dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, cut=cut))
            for cut, bundle in zip(cuts, [bundles[0]] * len(cuts), strict=True)
        ]
        found = folders(made)
        assert len({name.lower() for name in found}) == len(cuts)
        for name in found:
            contents_module.Rung(name, "0" * 64)


class TestStore:
    @given(st.lists(st.binary(max_size=400), max_size=6))
    def test_what_comes_out_is_what_went_in(
        self, tmp_path_factory: pytest.TempPathFactory, graphs: list[bytes]
    ) -> None:
        path = tmp_path_factory.mktemp("store") / STORE
        with open(path, "wb") as file:
            writer = StoreWriter(file)
            for graph in graphs:
                writer.add(graph)
        store = Store(path, writer.graphs)
        for graph, digest in zip(dict.fromkeys(graphs), writer.graphs, strict=True):
            assert store.read(digest) == graph
            assert store.size(digest) == len(graph)

    @given(st.binary(max_size=300))
    def test_pieces_are_all_of_it(self, data: bytes) -> None:
        assert b"".join(pieces(data)) == data

    def test_the_pieces_of_a_graph_are_its_weights(self) -> None:
        graph = deep_files(2)["head.onnx"]
        found = {bytes(piece) for piece in pieces(graph)}
        for name, shape in (("entry", (SIZE * SIZE * 3, WIDTH)), ("layer 0", (WIDTH, WIDTH))):
            assert weights(name, shape).tobytes() in found

    def test_every_field_is_in_the_json(self, written: Ladder) -> None:
        data = (written.path / LADDER).read_bytes()
        assert parse_contents(data).to_json() == data
