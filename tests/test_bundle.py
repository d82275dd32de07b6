from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bottlenet import bundle as bundle_module
from bottlenet.bundle import Bundle, Manifest, Preprocess, write_bundle
from bottlenet.bundle.manifest import parse_manifest
from bottlenet.errors import BottleNetError, BundleError, InputError
from bottlenet.task import Detection
from bottlenet.wire.entropy import Entropy
from conftest import CLASSES, LABELS, LATENT, tiny_manifest
from latents import flat_tables


@pytest.fixture
def folder(bundle: Bundle, tmp_path: Path) -> Path:
    """A copy of the tiny bundle that a test may damage."""
    return Path(shutil.copytree(bundle.path, tmp_path / "copy"))


def one_line(error: pytest.ExceptionInfo[BottleNetError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 600
    return text


def change_manifest(folder: Path, **changes: object) -> None:
    path = folder / "manifest.json"
    values = json.loads(path.read_text())
    values.update(changes)
    path.write_text(json.dumps({name: value for name, value in values.items() if value != "REMOVED"}))


def test_what_was_written_is_what_is_loaded(bundle: Bundle) -> None:
    loaded = Bundle.load(str(bundle.path))
    assert loaded.manifest == bundle.manifest
    assert loaded.id == bundle.id
    assert loaded.tag == bundle.id[:3]
    assert loaded.labels == LABELS
    assert loaded.mosaic.symbols_shape == loaded.manifest.latent == LATENT
    assert (loaded.codec.name, loaded.codec.setting) == ("jpeg", 90)
    assert (loaded.path / "head.onnx").is_file()
    assert (loaded.path / "tail.onnx").is_file()
    assert loaded.uncut_path is not None
    assert loaded.uncut_path.is_file()


def test_id_is_sha256_of_the_sorted_compact_json(bundle: Bundle) -> None:
    """The definition, spelled out: another program must be able to compute it."""
    values = json.loads((bundle.path / "manifest.json").read_bytes())
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert bundle.id == hashlib.sha256(canonical).digest()
    assert values["files"]["head.onnx"] == hashlib.sha256((bundle.path / "head.onnx").read_bytes()).hexdigest()


def test_id_changes_with_content_but_not_with_the_layout_of_the_manifest(
    bundle: Bundle, folder: Path, files: dict[str, bytes], tmp_path: Path
) -> None:
    change_manifest(folder)  # the same values, in another order and without white space
    assert (folder / "manifest.json").read_bytes() != (bundle.path / "manifest.json").read_bytes()
    assert Bundle.load(folder).id == bundle.id
    other = write_bundle(tmp_path / "other", tiny_manifest(), {**files, "labels.txt": b"x\n" * CLASSES})
    assert other.id != bundle.id


def test_path_source_gives_the_same_bundle_as_bytes(bundle: Bundle, files: dict[str, bytes], tmp_path: Path) -> None:
    paths = {name: bundle.path / name for name in files}
    assert write_bundle(tmp_path / "copied", tiny_manifest(), paths).id == bundle.id


def test_demo_is_a_name(monkeypatch: pytest.MonkeyPatch, bundle: Bundle, tmp_path: Path) -> None:
    monkeypatch.setattr(bundle_module, "DEMO", bundle.path)
    assert Bundle.load("demo").id == bundle.id
    monkeypatch.setattr(bundle_module, "DEMO", tmp_path / "gone")
    with pytest.raises(BundleError, match="no such folder"):
        Bundle.load("demo")


class TestDamage:
    @pytest.mark.parametrize("name", ["head.onnx", "tail.onnx", "labels.txt", "uncut.onnx"])
    def test_truncated_file(self, folder: Path, name: str) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:-1])
        with pytest.raises(BundleError, match=f"{name} .* truncated or changed") as error:
            Bundle.load(folder)
        assert str(folder) in one_line(error)

    def test_one_bit(self, folder: Path) -> None:
        content = bytearray((folder / "tail.onnx").read_bytes())
        content[len(content) // 2] ^= 1
        (folder / "tail.onnx").write_bytes(content)
        with pytest.raises(BundleError, match=r"tail\.onnx"):
            Bundle.load(folder)

    def test_missing_file(self, folder: Path) -> None:
        (folder / "head.onnx").unlink()
        with pytest.raises(BundleError, match=r"head\.onnx is missing") as error:
            Bundle.load(folder)
        one_line(error)

    def test_folder_in_the_place_of_a_file(self, folder: Path) -> None:
        (folder / "head.onnx").unlink()
        (folder / "head.onnx").mkdir()
        with pytest.raises(BundleError, match=r"head\.onnx is missing"):
            Bundle.load(folder)

    def test_no_folder(self, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match="no such folder") as error:
            Bundle.load(tmp_path / "nothing")
        one_line(error)

    def test_foreign_folder(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("hello")
        with pytest.raises(BundleError, match=r"no manifest\.json"):
            Bundle.load(tmp_path)

    def test_a_file(self, bundle: Bundle) -> None:
        with pytest.raises(BundleError, match="folder"):
            Bundle.load(bundle.path / "head.onnx")

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            (b"", "not JSON"),
            (b"{", "not JSON"),
            (b"\xff\xfe", "not JSON"),
            (b"[" * 100_000, "not JSON"),
            (b"[]", "no format_version"),
            (b'{"name": "a browser extension", "manifest_version": 3}', "no format_version"),
            (b'{"format_version": 1, "whatever": 1}', "format version 1 .* version 2"),
            (b'{"format_version": "' + b"x" * 10_000 + b'"}', "format version"),
            (b'{"format_version": 2}', "lacks name, model, cut"),
            (b" " * (2**20 + 1), "larger than the 1048576 bytes"),
        ],
    )
    def test_manifest_that_is_none(self, folder: Path, content: bytes, says: str) -> None:
        (folder / "manifest.json").write_bytes(content)
        with pytest.raises(BundleError, match=says) as error:
            Bundle.load(folder)
        one_line(error)

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("name", ""),
            ("name", "two\nlines"),
            ("name", "half a pair \ud800"),
            ("name", 5),
            ("name", "REMOVED"),
            ("surprise", 1),
            ("preprocess", None),
            ("preprocess", {"size": 32, "crop_fraction": 0.5}),
            ("preprocess", {"size": 32, "crop_fraction": 0, "interpolation": "bicubic"}),
            ("preprocess", {"size": 32, "crop_fraction": 1.5, "interpolation": "bicubic"}),
            ("preprocess", {"size": 10**9, "crop_fraction": 0.5, "interpolation": "bicubic"}),
            ("preprocess", {"size": 32, "crop_fraction": 0.5, "interpolation": "nearest"}),
            ("preprocess", {"size": True, "crop_fraction": 0.5, "interpolation": "bicubic"}),
            ("uncut_preprocess", "REMOVED"),
            ("uncut_preprocess", None),
            ("uncut_preprocess", {"size": 7, "crop_fraction": 0.5, "interpolation": "bicubic"}),
            ("latent", [4, 8]),
            ("latent", [0, 8, 8]),
            ("latent", [10**6, 10**6, 10**6]),
            ("latent", "4x8x8"),
            ("align", 0),
            ("codec", "pickle"),
            ("setting", 256),
            ("setting", 0),
            ("setting", 20.5),
            ("head_flops_share", -0.1),
            ("head_flops_share", float("nan")),
            ("num_classes", 0),
            ("num_classes", 70_000),
            ("num_classes", 9),
            ("files", []),
            ("files", {}),
            ("files", {"head.onnx": "0" * 64}),
            ("files", {"../head.onnx": "0" * 64}),
            ("files", {"/etc/passwd": "0" * 64}),
            ("files", {"head.onnx": "abc"}),
            ("files", {"head.onnx": None}),
            ("extra", {"x": [1]}),
            ("extra", {"x": float("inf")}),
            ("extra", {"x": float("nan")}),
            ("extra", {"x": 10**400}),
            ("extra", {str(number): 1 for number in range(101)}),
        ],
    )
    def test_manifest_with_a_wrong_value(self, folder: Path, field: str, value: object) -> None:
        change_manifest(folder, **{field: value})
        with pytest.raises(BundleError) as error:
            Bundle.load(folder)
        assert str(folder) in one_line(error)

    def test_too_large(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bundle_module, "MAX_BUNDLE_BYTES", 1000)
        with pytest.raises(BundleError, match="at most 1000 are allowed"):
            Bundle.load(folder)

    @pytest.mark.parametrize(
        ("labels", "says"),
        [
            (b"a\n" * 9, "9 labels for 10"),
            (b"a\n" * 9 + b"\n", "line 10"),
            (b"a\n" * 9 + b"\xff\n", "utf-8"),
            (b"a\n" * 9 + b"\x1b[31mred\n", "line 10"),
            (b"a\n" * 9 + b"x" * 501, "line 10"),
        ],
    )
    def test_labels(self, files: dict[str, bytes], tmp_path: Path, labels: bytes, says: str) -> None:
        with pytest.raises(BundleError, match=says) as error:
            write_bundle(tmp_path / "new", tiny_manifest(), {**files, "labels.txt": labels})
        one_line(error)
        assert list(tmp_path.iterdir()) == []

    def test_unreadable(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(path: Path, limit: int) -> bytes:
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(bundle_module, "read_bounded", refuse)
        with pytest.raises(BundleError, match="Permission denied"):
            Bundle.load(folder)


class TestWrite:
    def test_labels_may_hold_odd_spaces(self, files: dict[str, bytes], tmp_path: Path) -> None:
        labels = ("crème brûlée", "丼", *LABELS[2:])
        text = "\n".join(labels).encode()  # and the last line end is not needed
        assert write_bundle(tmp_path / "new", tiny_manifest(), {**files, "labels.txt": text}).labels == labels

    def test_a_bundle_is_replaced_whole(self, folder: Path, bundle: Bundle, files: dict[str, bytes]) -> None:
        without_uncut = {name: content for name, content in files.items() if name != "uncut.onnx"}
        written = write_bundle(folder, tiny_manifest(name="second"), without_uncut)
        assert written.path == folder.resolve()
        assert written.uncut_path is None
        assert Bundle.load(folder).id == written.id != bundle.id
        assert not (folder / "uncut.onnx").exists()
        assert list(folder.parent.iterdir()) == [folder]

    def test_a_damaged_bundle_may_be_replaced(self, folder: Path, files: dict[str, bytes]) -> None:
        (folder / "head.onnx").unlink()
        write_bundle(folder, tiny_manifest(), files)
        Bundle.load(folder)

    def test_parents_are_made(self, files: dict[str, bytes], tmp_path: Path) -> None:
        write_bundle(tmp_path / "a" / "b", tiny_manifest(), files)
        Bundle.load(tmp_path / "a" / "b")

    @pytest.mark.parametrize("stranger", ["notes.txt", ".git"])
    def test_a_bundle_with_other_files_is_kept(self, folder: Path, files: dict[str, bytes], stranger: str) -> None:
        (folder / stranger).write_text("mine")
        with pytest.raises(BundleError, match=stranger):
            write_bundle(folder, tiny_manifest(name="second"), files)
        assert (folder / stranger).read_text() == "mine"
        Bundle.load(folder)

    def test_a_folder_that_is_no_bundle_is_kept(self, files: dict[str, bytes], tmp_path: Path) -> None:
        (tmp_path / "work").mkdir()
        (tmp_path / "work" / "thesis.tex").write_text("mine")
        with pytest.raises(BundleError, match="no bundle"):
            write_bundle(tmp_path / "work", tiny_manifest(), files)
        (tmp_path / "work" / "manifest.json").write_text('{"manifest_version": 3}')
        with pytest.raises(BundleError, match="format_version"):
            write_bundle(tmp_path / "work", tiny_manifest(), files)
        assert (tmp_path / "work" / "thesis.tex").read_text() == "mine"

    def test_a_file_is_kept(self, files: dict[str, bytes], tmp_path: Path) -> None:
        (tmp_path / "file").write_text("mine")
        with pytest.raises(BundleError, match="no bundle"):
            write_bundle(tmp_path / "file", tiny_manifest(), files)
        assert (tmp_path / "file").read_text() == "mine"

    def test_a_path_that_is_none(self, files: dict[str, bytes], tmp_path: Path) -> None:
        (tmp_path / "loop").symlink_to("loop")
        for path in (tmp_path / "loop", tmp_path / "loop" / "new", tmp_path / ("x" * 300)):
            with pytest.raises(BundleError) as error:
                write_bundle(path, tiny_manifest(), files)
            one_line(error)
        assert [entry.name for entry in tmp_path.iterdir()] == ["loop"]

    @pytest.mark.parametrize("name", ["../x", "a/b", "manifest.json", ".hidden", "x" * 65])
    def test_names_that_are_refused(self, files: dict[str, bytes], tmp_path: Path, name: str) -> None:
        with pytest.raises(InputError, match="plain file name|names manifest.json"):
            write_bundle(tmp_path / "new", tiny_manifest(), {**files, name: b""})
        assert list(tmp_path.iterdir()) == []

    def test_required_files(self, files: dict[str, bytes], tmp_path: Path) -> None:
        with pytest.raises(BundleError, match=r"tail\.onnx is missing"):
            write_bundle(tmp_path / "new", tiny_manifest(), {"head.onnx": b"", "labels.txt": b""})

    def test_source_that_is_not_there(self, files: dict[str, bytes], tmp_path: Path) -> None:
        with pytest.raises(BundleError, match=r"gone\.onnx.*No such file"):
            write_bundle(tmp_path / "new", tiny_manifest(), {**files, "uncut.onnx": tmp_path / "gone.onnx"})
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("fails", [1, 2])
    def test_disk_that_fails_at_the_last_step_leaves_the_old_one(
        self, folder: Path, bundle: Bundle, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, fails: int
    ) -> None:
        rename = Path.rename
        calls = []

        def failing(self: Path, target: Path) -> Path:
            calls.append(self)
            if len(calls) == fails:
                raise OSError(28, "No space left on device", str(self))
            return rename(self, target)

        monkeypatch.setattr(Path, "rename", failing)
        with pytest.raises(BundleError, match="No space left") as error:
            write_bundle(folder, tiny_manifest(name="second"), files)
        one_line(error)
        assert Bundle.load(folder).id == bundle.id
        assert list(folder.parent.iterdir()) == [folder]


class TestTables:
    """tables.bin is there if the codec is entropy, and only then."""

    @pytest.fixture
    def entropy_files(self, files: dict[str, bytes]) -> dict[str, bytes]:
        return {**files, "tables.bin": flat_tables(*LATENT).to_bytes()}

    def test_the_codec_is_made_from_the_file(self, entropy_files: dict[str, bytes], tmp_path: Path) -> None:
        written = write_bundle(tmp_path / "new", tiny_manifest(codec="entropy", setting=0), entropy_files)
        loaded = Bundle.load(tmp_path / "new")
        assert loaded.tables == written.tables == flat_tables(*LATENT)
        assert loaded.codec == Entropy(loaded.mosaic, flat_tables(*LATENT))

    def test_other_codecs_have_none(self, bundle: Bundle, entropy_files: dict[str, bytes], tmp_path: Path) -> None:
        assert bundle.tables is None
        with pytest.raises(BundleError, match=r"the codec jpeg has no use for tables\.bin") as error:
            write_bundle(tmp_path / "new", tiny_manifest(), entropy_files)
        one_line(error)

    def test_it_must_be_there(self, files: dict[str, bytes], tmp_path: Path) -> None:
        with pytest.raises(BundleError, match=r"the codec entropy needs tables\.bin, which is not listed") as error:
            write_bundle(tmp_path / "new", tiny_manifest(codec="entropy", setting=0), files)
        one_line(error)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("damage", "says"),
        [
            (lambda data: b"", "are no tables"),
            (lambda data: data[:-1], "but their header says"),
            (lambda data: data[:-6] + bytes(4) + data[-2:], "hold a 0"),
            (lambda data: data[:-6] + b"\0\1\0\1\0\1", "tables don't sum up"),
            (lambda data: flat_tables(4, 8, 9).to_bytes(), "the tables are for symbols of shape"),
        ],
    )
    def test_damaged(
        self, files: dict[str, bytes], tmp_path: Path, damage: Callable[[bytes], bytes], says: str
    ) -> None:
        tables = damage(flat_tables(*LATENT).to_bytes())
        with pytest.raises(BundleError, match=f"tables.bin can't be used: .*{says}") as error:
            write_bundle(tmp_path / "new", tiny_manifest(codec="entropy", setting=0), {**files, "tables.bin": tables})
        one_line(error)

    def test_too_large(self, entropy_files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bundle_module, "MAX_TABLES_BYTES", 1000)
        with pytest.raises(BundleError, match="larger than the 1000 bytes"):
            write_bundle(tmp_path / "new", tiny_manifest(codec="entropy", setting=0), entropy_files)


def test_a_codec_that_this_install_lacks(folder: Path) -> None:
    change_manifest(folder, codec="hyperprior")
    with pytest.raises(BundleError, match="'hyperprior'; choose one of raw, deflate, jpeg, webp, entropy") as error:
        Bundle.load(folder)
    assert "hyperprior" in one_line(error)


class TestManifest:
    def test_round_trip(self) -> None:
        manifest = tiny_manifest(name="naïve ☃", extra={"lmbda": 0.002, "epochs": 5, "licence": "Apache-2.0"})
        assert parse_manifest(manifest.to_json()) == manifest
        assert parse_manifest(manifest.to_json(indent=2)) == manifest

    def test_is_checked_when_it_is_made(self) -> None:
        with pytest.raises(InputError, match="codec 'mp3'"):
            tiny_manifest(codec="mp3")
        with pytest.raises(InputError, match="format_version is 7; choose one of 2"):
            tiny_manifest(format_version=7)
        with pytest.raises(InputError, match="latent"):
            tiny_manifest(latent=[4, 8, 8])
        with pytest.raises(InputError, match="^preprocess is"):
            tiny_manifest(preprocess={"size": 32})
        with pytest.raises(InputError, match="^uncut_preprocess is"):
            tiny_manifest(uncut_preprocess={"size": 32})
        with pytest.raises(InputError, match="setting is 1; the codec entropy has 0"):
            tiny_manifest(codec="entropy", setting=1)

    def test_every_field_is_in_the_json(self) -> None:
        names = {field.name for field in dataclasses.fields(Manifest)}
        assert set(json.loads(tiny_manifest().to_json())) == names - {"task", "exit"}  # which go without saying
        assert set(json.loads(tiny_manifest(task=Detection(5, 0.5)).to_json())) == names - {"exit"}

    def test_preprocess_is_checked(self) -> None:
        with pytest.raises(InputError, match=r"size is 4; give a number of 8 or more"):
            Preprocess(4, 0.875, "bicubic")
