from __future__ import annotations

import errno
import logging
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bottlenet.bundle import Preprocess
from bottlenet.edge.photo_files import Folder
from bottlenet.errors import InputError, PhotoError
from bottlenet.net.build import insert
from bottlenet.net.models import load_model
from bottlenet.photo import photo_to_pixels, prepare, read_photo
from bottlenet.photos import folders as data_module
from bottlenet.photos.crops import Damaged, centre_views, is_held_out, random_views, read_views
from bottlenet.photos.folders import Photo, count_sub_folders, list_photos
from bottlenet.train.config import TrainConfig
from bottlenet.train.features import FeatureCache, open_cache

PREPROCESS = Preprocess(32, 0.875, "bicubic")


def save(path: Path, seed: int = 0) -> Path:
    """A small photo."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((64, 48), Image.Resampling.BICUBIC).save(path)
    return path


def named(photos: list[Photo], root: Path) -> dict[str, int | None]:
    return {photo.path.relative_to(root).as_posix(): photo.label for photo in photos}


def one_line(error: pytest.ExceptionInfo[InputError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


class TestFolders:
    def test_photos_alone_are_unlabelled(self, tmp_path: Path) -> None:
        for name in ("b.png", "a.jpg", "C.JPEG", "d.webp"):
            save(tmp_path / name)
        (tmp_path / "notes.txt").write_text("no photo")
        (tmp_path / "folder.jpg").mkdir()
        photos = list_photos(tmp_path)
        assert photos == sorted(photos, key=lambda photo: photo.path)
        assert named(photos, tmp_path) == dict.fromkeys(("C.JPEG", "a.jpg", "b.png", "d.webp"))

    def test_a_path_may_be_a_string(self, tmp_path: Path) -> None:
        save(tmp_path / "a.jpg")
        assert list_photos(str(tmp_path)) == list_photos(tmp_path)

    def test_sub_folders_are_classes_in_the_order_of_their_names(self, tmp_path: Path) -> None:
        for name in ("dog/1.jpg", "cat/2.jpg", "cat/1.jpg", "fish/1.jpg"):
            save(tmp_path / name)
        (tmp_path / "empty").mkdir()
        assert named(list_photos(tmp_path), tmp_path) == {
            "cat/1.jpg": 0,
            "cat/2.jpg": 0,
            "dog/1.jpg": 1,
            "fish/1.jpg": 2,
        }

    def test_one_sub_folder_is_no_class(self, tmp_path: Path) -> None:
        save(tmp_path / "photos" / "1.jpg")
        assert named(list_photos(tmp_path), tmp_path) == {"photos/1.jpg": None}

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"nothing.*no such folder") as error:
            list_photos(tmp_path / "nothing")
        one_line(error)

    def test_a_file_is_no_folder(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="folder"):
            list_photos(save(tmp_path / "a.jpg"))

    def test_empty(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("no photo")
        with pytest.raises(InputError, match=r"no photos in it.*\.jpg") as error:
            list_photos(tmp_path)
        one_line(error)


class TestWhatCounts:
    """What is a photo, a folder and a class is decided in one place."""

    def test_what_unpacking_leaves_is_no_class(self, tmp_path: Path) -> None:
        for name in ("cat/1.jpg", "dog/1.jpg"):
            save(tmp_path / name)
        for name in ("__MACOSX/cat/1.jpg", ".thumbnails/1.jpg", "@eaDir/1.jpg", "$RECYCLE.BIN/1.jpg", "dog/.2.jpg"):
            save(tmp_path / name)
        assert named(list_photos(tmp_path), tmp_path) == {"cat/1.jpg": 0, "dog/1.jpg": 1}

    def test_a_folder_that_can_not_be_listed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        save(tmp_path / "cat" / "1.jpg")
        (tmp_path / "dog").mkdir()
        listed = os.scandir

        def scandir(path: Path) -> object:
            if Path(path).name == "dog":
                raise PermissionError(errno.EACCES, "Permission denied")
            return listed(path)

        monkeypatch.setattr(os, "scandir", scandir)
        with pytest.raises(InputError, match=r"dog: can't list it \(Permission denied\); make it readable") as error:
            list_photos(tmp_path)
        one_line(error)

    def test_links_are_followed_but_not_in_circles(self, tmp_path: Path) -> None:
        save(tmp_path / "elsewhere" / "1.jpg")
        save(tmp_path / "photos" / "cat" / "1.jpg")
        (tmp_path / "photos" / "dog").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "photos" / "cat" / "up").symlink_to(tmp_path / "photos")
        (tmp_path / "photos" / "dog" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
        found = named(list_photos(tmp_path / "photos"), tmp_path / "photos")
        assert found == {"cat/1.jpg": 0, "dog/1.jpg": 1, "dog/gone.jpg": 1}  # the last is damaged, and is said to be

    def test_the_device_sends_the_same(self, tmp_path: Path) -> None:
        for name in ("1.jpg", "2.gif", "3.AVIF", "4.txt", ".5.jpg"):
            (tmp_path / name).write_bytes(b"x")
        assert list(Folder(tmp_path).photos()) == [str(photo.path) for photo in list_photos(tmp_path)]


class TestLabelsCsv:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        for name in ("images/a.jpg", "images/b.jpg", "c.jpg", "deep/er/d.jpg"):
            save(tmp_path / name)
        return tmp_path

    def test_files_are_under_the_folder_or_its_images(self, folder: Path) -> None:
        (folder / "labels.csv").write_text("file,class_index\na.jpg,7\nimages/b.jpg,0\nc.jpg,999\ndeep/er/d.jpg,3\n")
        want = {"images/a.jpg": 7, "images/b.jpg": 0, "c.jpg": 999, "deep/er/d.jpg": 3}
        assert named(list_photos(folder), folder) == want

    def test_what_it_does_not_name_is_unlabelled(self, folder: Path) -> None:
        (folder / "labels.csv").write_text("file,class_index\na.jpg,7\n")
        assert [photo.label for photo in list_photos(folder)].count(None) == 3

    def test_more_columns_in_another_order(self, folder: Path) -> None:
        (folder / "labels.csv").write_text('name,class_index,file\n"tench, a fish",7,c.jpg\n')
        assert named(list_photos(folder), folder)["c.jpg"] == 7

    def test_line_ends_of_windows(self, folder: Path) -> None:
        (folder / "labels.csv").write_bytes(b"file,class_index\r\nc.jpg,7\r\n")
        assert named(list_photos(folder), folder)["c.jpg"] == 7

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            ("", "class_index"),
            ("c.jpg,7\n", "class_index"),
            ("photo,label\nc.jpg,7\n", "photo.*label.*class_index"),
            ("file,class_index\nc.jpg,seven\n", "line 2.*seven.*whole number"),
            ("file,class_index\nc.jpg,7\na.jpg,1.5\n", "line 3"),
            ("file,class_index\nc.jpg\n", "line 2"),
            ("file,class_index\nc.jpg,7\ngone.jpg,1\nlost.jpg,2\n", r"2 files that are not there.*gone\.jpg"),
        ],
    )
    def test_errors(self, folder: Path, content: str, says: str) -> None:
        (folder / "labels.csv").write_text(content)
        with pytest.raises(InputError, match=says) as error:
            list_photos(folder)
        assert "labels.csv" in one_line(error)

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            ("file,class_index\nc\u00e4t.jpg,7\n".encode("latin-1"), "not UTF-8.*save it as UTF-8"),
            ("file,class_index\nc.jpg,7\n".encode("utf-16"), "not UTF-8"),
            (b"file,class_\xff\n", "not UTF-8"),
            (b"file,class_index\nc.jpg,7\n" + b"x" * 200_000 + b",7\n", "field.*131072 characters"),
            (b'file,class_index\nc.jpg,7\n"a.jpg,7\n' + b"b.jpg,7\n" * 20_000, "131072 characters: close every quote"),
            (b'file,class_index\n"a.jpg,7\nc.jpg,7\n', "whole number"),
            (b'"' + b"x" * 200_000, "131072 characters"),
            (b",".join([b"x" * 100] * 1000), "its columns are.*file,class_index are needed"),
            (b"file,class_index\nc.jpg,-1\n", r"line 2.*c\.jpg.*-1.*0 and up"),
            (b"file,class_index\n\n\nc.jpg,-1\n", "line 4"),
            (
                b"file,class_index\nc.jpg,7\na.jpg,1\nc.jpg,8\n",
                r"line 4: 'c\.jpg' has class 8, and class 7 .*remove one",
            ),
            (b"file,class_index\nimages/a.jpg,7\na.jpg,8\n", r"'a\.jpg' has class 8"),
            (b'file,class_index\n"c\nd.jpg",7\n"c\nd.jpg",8\n', "has class 8"),
            (b'file,class_index\n"c\nd.jpg",7\n', "not there"),
        ],
    )
    def test_bytes_that_are_no_labels(self, folder: Path, content: bytes, says: str) -> None:
        (folder / "labels.csv").write_bytes(content)
        with pytest.raises(InputError, match=says) as error:
            list_photos(folder)
        assert "labels.csv" in one_line(error)
        assert len(str(error.value)) < 600

    def test_a_byte_order_mark(self, folder: Path) -> None:
        (folder / "labels.csv").write_text("file,class_index\nc.jpg,7\n", encoding="utf-8-sig")
        assert named(list_photos(folder), folder)["c.jpg"] == 7

    def test_named_twice_with_the_same_class(self, folder: Path) -> None:
        (folder / "labels.csv").write_text("file,class_index\na.jpg,7\nimages/a.jpg,7\n")
        assert named(list_photos(folder), folder)["images/a.jpg"] == 7

    def test_no_file(self, folder: Path) -> None:
        (folder / "labels.csv").mkdir()
        with pytest.raises(InputError, match=r"labels\.csv: can't read it") as error:
            list_photos(folder)
        one_line(error)

    def test_too_large(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(data_module, "LARGEST_LABELS_CSV", 20)
        (folder / "labels.csv").write_text("file,class_index\na.jpg,7\n")
        with pytest.raises(InputError, match="25 bytes"):
            list_photos(folder)


def opened(*folders: Path, label_weight: float = 1.0) -> FeatureCache:
    """A cache for the small network of 4 classes."""
    data = tuple(str(folder) for folder in folders)
    config = TrainConfig("small:classifier", data=data, out="", cut="first", cache="", label_weight=label_weight)
    return open_cache(config, load_model(config.model), insert(config.model, cut="first", channels=6))


class TestSubFoldersAsClasses:
    """Of a training that uses labels; `evaluate` has the same rule."""

    def folder(self, tmp_path: Path, count: int) -> Path:
        for number in range(count):
            save(tmp_path / f"class{number}" / "1.png", number)
        return tmp_path

    @pytest.mark.parametrize("count", [2, 4, 5])
    def test_how_many(self, tmp_path: Path, count: int) -> None:
        folder = self.folder(tmp_path, count)
        save(folder / "in no class.png")
        assert count_sub_folders(list_photos(folder), folder) == count

    @pytest.mark.parametrize("names", [["1.png", "2.png"], ["photos/1.png", "photos/2.png"]])
    def test_none(self, tmp_path: Path, names: list[str]) -> None:
        for name in names:
            save(tmp_path / name)
        assert count_sub_folders(list_photos(tmp_path), tmp_path) is None

    def test_labels_csv_says_it_instead(self, tmp_path: Path) -> None:
        folder = self.folder(tmp_path, 2)
        (folder / "labels.csv").write_text("file,class_index\nclass0/1.png,3\n")
        assert count_sub_folders(list_photos(folder), str(folder)) is None

    @pytest.mark.parametrize("count", [2, 3, 5])
    def test_other_numbers_than_the_models_are_refused(self, tmp_path: Path, count: int) -> None:
        folder = self.folder(tmp_path, count)
        says = rf"its {count} sub-folders .* small:classifier knows 0 to 3.*labels\.csv, or label_weight 0"
        with pytest.raises(InputError, match=says) as error:
            opened(folder)
        assert str(folder) in one_line(error)
        assert len(opened(folder, label_weight=0).photos) == count

    def test_the_models_number_is_taken(self, tmp_path: Path) -> None:
        cache = opened(self.folder(tmp_path, 4))
        assert [photo.label for photo in cache.photos] == [0, 1, 2, 3]

    def test_each_folder_counts_for_itself(self, tmp_path: Path) -> None:
        """Two folders of two classes are not one of four; an unlabelled one beside a labelled one is fine."""
        two = self.folder(tmp_path / "two", 2)
        with pytest.raises(InputError, match="its 2 sub-folders"):
            opened(self.folder(tmp_path / "four", 4), two)
        save(tmp_path / "none" / "1.png")
        assert len(opened(tmp_path / "four", tmp_path / "none").photos) == 5

    def test_labels_csv(self, tmp_path: Path) -> None:
        folder = self.folder(tmp_path, 2)
        (folder / "labels.csv").write_text("file,class_index\nclass0/1.png,3\n")
        assert [photo.label for photo in opened(folder).photos] == [3, None]
        (folder / "labels.csv").write_text("file,class_index\nclass0/1.png,4\n")
        with pytest.raises(InputError, match="label 4; small:classifier knows 0 to 3.*label_weight 0") as error:
            opened(folder)
        one_line(error)


@pytest.mark.parametrize("value", [float("nan"), 1e6])
def test_features_that_float16_can_not_hold_are_not_kept(tmp_path: Path, value: float) -> None:
    for name in ("1.png", "2.png"):
        save(tmp_path / "photos" / name)
    cache = replace(opened(tmp_path / "photos", label_weight=0), root=tmp_path / "cache")

    def frozen(uncut: np.ndarray, head: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        features = np.zeros((len(head), *cache.shape), np.float32)
        features[1] = value
        return features, np.zeros((len(uncut), cache.classes), np.float32)

    with pytest.raises(InputError, match=r"[12]\.png: the network's features or scores are not all numbers") as error:
        list(cache.fill(0, frozen))
    one_line(error)
    assert not any(cache.folder.iterdir())


class TestDamaged:
    def test_a_few_are_named_and_counted(self, caplog: pytest.LogCaptureFixture) -> None:
        damaged = Damaged(11)
        with caplog.at_level(logging.WARNING), damaged.skipping(Path("x/one.jpg")):
            raise PhotoError("x/one.jpg: it is empty")
        assert damaged.paths == [Path("x/one.jpg")]
        assert "x/one.jpg: it is empty" in caplog.text

    def test_most_are_an_error_that_names_them(self) -> None:
        damaged = Damaged(6)
        for number in range(3):
            damaged.add(Path(f"{number}.jpg"), PhotoError(f"{number}.jpg: damaged"))
        with pytest.raises(InputError, match=r"4 of 6 photos are damaged: 0\.jpg.*3\.jpg") as error:
            damaged.add(Path("3.jpg"), PhotoError("3.jpg: damaged"))
        one_line(error)

    def test_one_that_is_all_there_is(self) -> None:
        with pytest.raises(InputError):
            Damaged(1).add(Path("a.jpg"), PhotoError("a.jpg: damaged"))


class TestCrops:
    @pytest.fixture
    def photos(self, tmp_path: Path) -> list[Photo]:
        paths = [save(tmp_path / f"{number:03}.png", number) for number in range(3)]
        return [Photo(path, None) for path in paths]

    def test_centre(self, photos: list[Photo]) -> None:
        got = list(centre_views(photos, (PREPROCESS.size,), Damaged(3), PREPROCESS))
        assert [position for position, _ in got] == [0, 1, 2]
        for (_, (pixels,)), photo in zip(got, photos, strict=True):
            np.testing.assert_array_equal(pixels, prepare(read_photo(photo.path), PREPROCESS))

    def test_random_ones_are_decided_by_seed_and_position(self, photos: list[Photo]) -> None:
        first, again, other = (
            {position: views[0] for position, views in read_views(photos, (32,), Damaged(3), seed=seed)}
            for seed in (1, 1, 2)
        )
        assert first.keys() == again.keys() == other.keys() == {0, 1, 2}
        for position, a in first.items():
            np.testing.assert_array_equal(a, again[position])
            assert a.shape == (32, 32, 3)
            assert a.dtype == np.uint8
            assert (a != other[position]).any()
        same = [photos[0]] * 2
        (_, (a,)), (_, (b,)) = read_views(same, (32,), Damaged(2), seed=1)
        assert (a != b).any()

    def test_both_sizes_show_the_same_part(self, tmp_path: Path) -> None:
        y, x = np.mgrid[0:90, 0:120]
        smooth = np.stack([x * 2, y * 2, x + y], axis=2).astype(np.uint8)
        Image.fromarray(smooth).save(tmp_path / "smooth.png")
        photos = [Photo(tmp_path / "smooth.png", None)]
        for seed in range(10):
            [(_, (large, small))] = read_views(photos, (64, 32), Damaged(1), seed=seed)
            halved = large.reshape(32, 2, 32, 2, 3).mean((1, 3))
            assert np.abs(halved - small).max() < 8

    def test_blends_are_between_two_photos_and_never_of_one_held_out(self, tmp_path: Path) -> None:
        photos = []
        for number in range(200):
            path = tmp_path / f"{number:03}.png"
            value = 255 if is_held_out(Photo(path, None)) else number
            Image.fromarray(np.full((16, 16, 3), value, np.uint8)).save(path)
            photos.append(Photo(path, None))
        held_out = [is_held_out(photo) for photo in photos]
        assert 0 < sum(held_out) < 20
        blended = 0
        for position, (pixels,) in read_views(photos, (8,), Damaged(200), seed=0, blended=0.5):
            value = int(pixels[0, 0, 0])
            assert value < 255 or held_out[position]
            blended += value != position and not held_out[position]
        assert 50 < blended < 150

    def test_damaged_photos_are_left_out(self, photos: list[Photo], tmp_path: Path) -> None:
        whole = photos[0].path.read_bytes()
        (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
        many = [photos[0], Photo(tmp_path / "cut.png", None), *[photos[1]] * 98]
        damaged = Damaged(len(many))
        got = [position for position, _ in centre_views(many, (PREPROCESS.size,), damaged, PREPROCESS)]
        assert got == [0, *range(2, 100)]
        assert damaged.paths == [tmp_path / "cut.png"]

    def test_reads_one_at_a_time(self, photos: list[Photo]) -> None:
        waiting = iter(photos)
        next(centre_views(waiting, (PREPROCESS.size,), Damaged(3), PREPROCESS))
        assert list(waiting) == photos[1:]

    def test_centre_of_a_large_jpeg_is_what_the_device_takes(self, tmp_path: Path) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "large.jpg")
        photo = Photo(tmp_path / "large.jpg", None)
        [(_, (pixels,))] = centre_views([photo], (PREPROCESS.size,), Damaged(1), PREPROCESS)
        np.testing.assert_array_equal(pixels, photo_to_pixels(photo.path, PREPROCESS))
        assert (pixels != prepare(read_photo(photo.path), PREPROCESS)).any()  # or the picture is not large

    @pytest.mark.parametrize("shape", [(8, 8), (8, 300), (300, 8), (60, 80)])
    def test_random_crop_of_any_shape(self, shape: tuple[int, int]) -> None:
        photo = np.full((*shape, 3), 200, np.uint8)
        for seed in range(20):
            (crop,) = random_views(photo, (16,), np.random.default_rng(seed))
            assert crop.shape == (16, 16, 3)
            assert (crop == 200).all()

    def test_random_crop_mirrors_half_of_them(self) -> None:
        photo = np.repeat(np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], 64, 0).repeat(3, 2)
        rising = [
            int(crop[8, -1, 0]) > int(crop[8, 0, 0])
            for (crop,) in (random_views(photo, (16,), np.random.default_rng(seed)) for seed in range(100))
        ]
        assert 30 < sum(rising) < 70
