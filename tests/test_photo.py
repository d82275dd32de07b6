from __future__ import annotations

import errno
import io
import os
import struct
import subprocess
import sys
import time
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from bottlenet import photo as decode
from bottlenet.bundle import Preprocess
from bottlenet.errors import PhotoError
from bottlenet.photo import photo_to_pixels, prepare, read_photo

PREPROCESS = Preprocess(32, 0.875, "bicubic")
ORIENTATION = 274  # the EXIF tag


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def png_of_size(width: int, height: int) -> bytes:
    """A PNG that says it is this large, and has no pixels at all."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def refusal(source: object) -> str:
    with pytest.raises(PhotoError) as error:
        read_photo(source)  # type: ignore[arg-type]
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 500
    with pytest.raises(PhotoError) as error:
        photo_to_pixels(source, PREPROCESS)  # type: ignore[arg-type]
    assert str(error.value) == text
    return text


@cache
def large_picture(size: tuple[int, int]) -> Image.Image:
    """RGB: slopes, which show every shift, edges and noise."""
    y, x = np.mgrid[0 : size[1], 0 : size[0]]
    slopes = np.stack([x / size[0], y / size[1], (x // 40 + y // 40) % 2], axis=-1) * (200, 200, 60) + 25
    noise = np.random.default_rng(0).integers(-15, 16, slopes.shape)
    return Image.fromarray((slopes + noise).astype(np.uint8))


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    """64x48, RGB, no two pixels and no two corners alike."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[0:48, 0:64]
    smooth = np.stack([x * 4, y * 5, 255 - x * 2 - y], axis=-1)
    return Image.fromarray((smooth + rng.integers(-3, 4, smooth.shape)).clip(0, 255).astype(np.uint8))


class TestSources:
    def test_path_text_bytes_image_and_array_are_the_same(self, photo: np.ndarray, photo_path: Path) -> None:
        for source in (photo_path, str(photo_path), photo_path.read_bytes(), Image.open(photo_path), photo):
            read = read_photo(source)
            assert read.dtype == np.uint8
            assert read.flags.writeable
            np.testing.assert_array_equal(read, photo)
            np.testing.assert_array_equal(photo_to_pixels(source, PREPROCESS), prepare(photo, PREPROCESS))

    def test_an_array_is_copied(self, photo: np.ndarray) -> None:
        assert not np.shares_memory(read_photo(photo), photo)

    def test_a_pillow_image_is_left_as_it_was(self, picture: Image.Image) -> None:
        image = picture.convert("LA")
        before = image.tobytes()
        read_photo(image)
        assert (image.mode, image.tobytes()) == ("LA", before)

    @pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF", "BMP", "GIF", "PPM"])
    def test_formats(self, picture: Image.Image, format: str) -> None:
        if format == "AVIF" and not features.check("avif"):
            pytest.skip("this Pillow has no AVIF")
        data = saved(picture, format)
        with Image.open(io.BytesIO(data)) as image:
            np.testing.assert_array_equal(read_photo(data), np.asarray(image.convert("RGB")))

    def test_other_layouts_of_arrays(self, photo: np.ndarray) -> None:
        grey = photo[..., 0]
        expected = np.repeat(grey[..., None], 3, axis=2)
        np.testing.assert_array_equal(read_photo(grey), expected)
        np.testing.assert_array_equal(read_photo(grey[..., None]), expected)
        np.testing.assert_array_equal(read_photo(photo[:, ::-1]), photo[:, ::-1])
        opaque = np.concatenate([photo, np.full_like(photo[..., :1], 255)], axis=2)
        np.testing.assert_array_equal(read_photo(opaque), photo)

    def test_a_camera_file_with_several_pictures(self, picture: Image.Image) -> None:
        data = saved(picture, "MPO", save_all=True, append_images=[picture.rotate(180)])
        with Image.open(io.BytesIO(data)) as image:
            np.testing.assert_array_equal(read_photo(data), np.asarray(image))

    def test_an_animation_is_its_first_picture(self, picture: Image.Image) -> None:
        data = saved(picture, "WEBP", lossless=True, save_all=True, append_images=[picture.rotate(180)])
        np.testing.assert_array_equal(read_photo(data), np.asarray(picture))

    def test_the_file_is_closed(self, photo_path: Path) -> None:
        before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
        read_photo(photo_path)
        if before:
            assert len(os.listdir("/proc/self/fd")) <= before  # fewer where an earlier test's went meanwhile


class TestColours:
    """What each kind of pixel becomes. Values are chosen, so that a wrong scale or a wrong background shows."""

    def test_grey(self) -> None:
        assert (read_photo(saved(Image.new("L", (9, 9), 77), "PNG")) == 77).all()

    def test_one_bit(self) -> None:
        assert (read_photo(saved(Image.new("1", (9, 9), 1), "PNG")) == 255).all()

    @pytest.mark.parametrize(("value", "grey"), [(0, 0), (256, 1), (32896, 128), (65535, 255), (255, 1)])
    @pytest.mark.parametrize("format", ["PNG", "TIFF"])
    def test_sixteen_bits(self, format: str, value: int, grey: int) -> None:
        image = Image.fromarray(np.full((9, 9), value, np.uint16))
        assert (read_photo(saved(image, format)) == grey).all()

    def test_sixteen_bits_of_other_kinds(self) -> None:
        big_endian = Image.frombytes("I;16B", (9, 9), b"\x80\x80" * 81)
        assert (read_photo(big_endian) == 128).all()
        assert (read_photo(Image.new("I", (9, 9), 32896)) == 128).all()
        assert (read_photo(b"P5 9 9 65535\n" + b"\x80\x80" * 81) == 128).all()

    def test_samples_whose_white_is_unknown_are_refused(self) -> None:
        assert "70000" in refusal(Image.new("I", (9, 9), 70000))
        assert "-1" in refusal(Image.new("I", (9, 9), -1))
        assert "floating-point" in refusal(saved(Image.new("F", (9, 9), 0.5), "TIFF"))

    def test_cmyk(self) -> None:
        image = Image.new("CMYK", (9, 9), (0, 255, 255, 0))
        for data in (saved(image, "TIFF"), saved(image, "JPEG", quality=100)):
            red, green, blue = read_photo(data)[4, 4]
            assert red > 250
            assert max(green, blue) < 5

    def test_alpha_lies_over_white(self) -> None:
        half_blue = Image.new("RGBA", (9, 9), (0, 0, 255, 128))
        for format in ("PNG", "WEBP"):
            pixel = read_photo(saved(half_blue, format, lossless=True))[4, 4]
            np.testing.assert_allclose(pixel, [127, 127, 255], atol=1)
        assert (read_photo(saved(Image.new("RGBA", (9, 9), (9, 9, 9, 0)), "PNG")) == 255).all()

    def test_grey_with_alpha(self) -> None:
        data = saved(Image.new("LA", (9, 9), (0, 64)), "PNG")
        np.testing.assert_allclose(read_photo(data), 191, atol=1)

    @pytest.mark.parametrize("format", ["PNG", "GIF"])
    def test_palette_with_one_transparent_colour(self, format: str) -> None:
        image = Image.new("P", (10, 10), 1)
        image.putpalette([10, 20, 30, 200, 100, 50])
        image.paste(0, (0, 0, 5, 10))
        read = read_photo(saved(image, format, transparency=0))
        assert (read[:, :5] == 255).all()
        assert (read[:, 5:] == [200, 100, 50]).all()

    def test_palette_with_a_transparency_for_each_colour(self) -> None:
        image = Image.new("P", (10, 10), 1)
        image.putpalette([10, 20, 30, 0, 0, 0])
        data = saved(image, "PNG", transparency=bytes([255, 128]))
        np.testing.assert_allclose(read_photo(data), 127, atol=1)

    def test_a_transparent_colour_without_palette(self) -> None:
        data = saved(Image.new("RGB", (9, 9), (1, 2, 3)), "PNG", transparency=(1, 2, 3))
        assert (read_photo(data) == 255).all()
        data = saved(Image.new("L", (9, 9), 7), "PNG", transparency=7)
        assert (read_photo(data) == 255).all()

    @pytest.mark.parametrize("mode", ["YCbCr", "HSV", "RGBX", "La", "RGBa", "PA"])
    def test_other_modes_of_pillow(self, picture: Image.Image, mode: str) -> None:
        by_way_of = {"La": "LA", "RGBa": "RGBA"}
        image = (picture.convert(by_way_of[mode]) if mode in by_way_of else picture).convert(mode)
        assert read_photo(image).shape == (48, 64, 3)


class TestOrientation:
    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF"])
    def test_every_orientation(self, picture: Image.Image, orientation: int, format: str) -> None:
        """Stored with the turn undone, and tagged: must come out as it was."""
        turned = picture
        if orientation in decode.TURNS:
            inverse = {6: 8, 8: 6}.get(orientation, orientation)
            turned = picture.transpose(decode.TURNS[inverse])
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        options = {"quality": 100, "subsampling": 0} if format == "JPEG" else {}
        data = saved(turned, format, exif=exif, **options)
        upright = read_photo(data)
        assert upright.shape == (48, 64, 3)
        assert np.abs(upright.astype(int) - np.asarray(picture)).max() <= (4 if format == "JPEG" else 0)
        pixels = photo_to_pixels(data, PREPROCESS)
        np.testing.assert_array_equal(pixels, prepare(upright, PREPROCESS))

    @pytest.mark.parametrize("size", [(9, 8), (51, 37), (333, 100), (100, 333), (640, 481)])
    @pytest.mark.parametrize("crop_fraction", [0.1, 0.875, 1.0])
    @pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
    def test_the_short_way_is_exact(self, size: tuple[int, int], crop_fraction: float, interpolation: str) -> None:
        preprocess = Preprocess(32, crop_fraction, interpolation)
        noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        image = Image.fromarray(noise)
        for orientation in (1, 2, 3, 4, 5, 6, 7, 8, 99):
            image.getexif()[ORIENTATION] = orientation
            expected = prepare(read_photo(image), preprocess)
            np.testing.assert_array_equal(photo_to_pixels(image, preprocess), expected)

    @pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's own
    def test_broken_metadata_is_upright(self, picture: Image.Image) -> None:
        data = saved(picture, "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff garbage")
        assert read_photo(data).shape == (48, 64, 3)


class TestLargeJpegs:
    """For 32 pixels out of 87.5 %, decoding scales from 292 pixels on the short side."""

    def difference(self, data: bytes) -> np.ndarray:
        """From the photo decoded whole."""
        expected = prepare(read_photo(data), PREPROCESS)
        difference = photo_to_pixels(data, PREPROCESS).astype(int) - expected
        assert difference.any()  # or it was not scaled
        return difference

    def nearly(self, data: bytes) -> None:
        difference = self.difference(data)
        assert np.abs(difference).mean() < 0.4
        assert np.abs(difference).max() < 6

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("size", [(600, 456), (456, 600), (720, 624)])
    def test_every_orientation(self, size: tuple[int, int], orientation: int) -> None:
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        self.nearly(saved(large_picture(size), "JPEG", quality=95, exif=exif))

    @pytest.mark.parametrize("size", [(601, 457), (459, 603), (303, 299), (1201, 1193)])
    def test_sides_that_do_not_divide(self, size: tuple[int, int]) -> None:
        picture = large_picture(size)
        self.nearly(saved(picture, "JPEG", quality=95))
        exif = Image.Exif()
        for orientation in range(2, 9):
            exif[ORIENTATION] = orientation
            difference = self.difference(saved(picture, "JPEG", quality=95, exif=exif))
            an_eighth = 200 / 32 * 0.875 / 8  # of what red and green rise by from pixel to pixel
            assert np.abs(difference[..., :2].mean((0, 1))).max() < an_eighth + 0.15

    @pytest.mark.parametrize("mode", ["L", "CMYK"])
    def test_other_colours(self, mode: str) -> None:
        self.nearly(saved(large_picture((720, 624)).convert(mode), "JPEG", quality=95))

    @pytest.mark.parametrize(
        "options", [{"progressive": True}, {"subsampling": 0}, {"subsampling": 2}, {"quality": 40}]
    )
    def test_other_ways_of_coding(self, options: dict[str, object]) -> None:
        self.nearly(saved(large_picture((720, 624)), "JPEG", **options))

    @pytest.mark.parametrize("size", [(1200, 291), (291, 291), (290, 1000), (9, 8)])
    @pytest.mark.parametrize("subsampling", [0, 2])
    def test_smaller_ones_are_exact(self, size: tuple[int, int], subsampling: int) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        data = saved(Image.fromarray(noise), "JPEG", subsampling=subsampling)
        np.testing.assert_array_equal(photo_to_pixels(data, PREPROCESS), prepare(read_photo(data), PREPROCESS))

    @pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF", "BMP"])
    def test_other_formats_are_exact(self, format: str) -> None:
        data = saved(large_picture((600, 456)), format)
        np.testing.assert_array_equal(photo_to_pixels(data, PREPROCESS), prepare(read_photo(data), PREPROCESS))

    def test_a_pillow_image_is_exact_and_left_as_it_was(self) -> None:
        data = saved(large_picture((720, 624)), "JPEG")
        with Image.open(io.BytesIO(data)) as image:
            pixels = photo_to_pixels(image, PREPROCESS)
            assert image.size == (720, 624)
            np.testing.assert_array_equal(image, read_photo(data))
        np.testing.assert_array_equal(pixels, prepare(read_photo(data), PREPROCESS))

    @pytest.mark.parametrize("size", [(2400, 300), (300, 2400), (600, 585), (586, 586), (1171, 1200), (3000, 2600)])
    @pytest.mark.parametrize("crop_fraction", [0.3, 0.875, 1.0])
    @pytest.mark.parametrize("side", [9, 32])
    def test_no_more_is_lost_than_the_result_can_spare(
        self, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], crop_fraction: float, side: int
    ) -> None:
        """The crop keeps at least 4 pixels for one of the result, and not 8 where an eighth is not reached."""
        decoded: list[tuple[int, int]] = []
        to_rgb = decode.to_rgb

        def watched(image: Image.Image, name: str) -> Image.Image:
            decoded.append(image.size)
            return to_rgb(image, name)

        monkeypatch.setattr(decode, "to_rgb", watched)
        photo_to_pixels(saved(Image.new("RGB", size), "JPEG"), Preprocess(side, crop_fraction, "bicubic"))
        kept = min(decoded[0]) * crop_fraction / side
        whole = min(size) * crop_fraction / side
        assert kept > 4 - 0.5 / side or decoded[0] == size
        assert kept < 8 + 1 / side or decoded[0] == tuple(-(-length // 8) for length in size)
        assert (decoded[0] == size) == (round(whole * side) < 8 * side)

    @pytest.mark.parametrize(("most", "scale"), [(0, 1), (1, 1), (2, 2), (3, 2), (4, 4), (7, 4), (8, 8), (50, 8)])
    def test_scales(self, most: int, scale: int) -> None:
        with decode.opened(saved(Image.new("RGB", (1203, 901)), "JPEG")) as image:
            assert decode.scale_down(image, most) == scale
            assert decode.to_rgb(image, "it").size == (-(-1203 // scale), -(-901 // scale))
        with decode.opened(saved(Image.new("RGB", (1203, 901)), "PNG")) as image:
            assert decode.scale_down(image, most) == 1

    @pytest.mark.parametrize("options", [{}, {"progressive": True}])
    def test_truncated(self, options: dict[str, object]) -> None:
        """Wherever a file is cut, it is refused as when it is decoded whole."""
        data = saved(large_picture((600, 456)), "JPEG", **options)
        for end in [*range(100, len(data), len(data) // 40), *range(len(data) - 60, len(data), 6)]:
            assert "damaged or truncated" in refusal(data[:end])

    def test_the_limit_is_for_the_whole_photo(self) -> None:
        photo = saved(Image.new("RGB", (720, 624)), "JPEG")
        with pytest.raises(PhotoError, match="720x624"):
            photo_to_pixels(photo, PREPROCESS, max_pixels=720 * 624 - 1)
        photo_to_pixels(photo, PREPROCESS, max_pixels=720 * 624)

    @pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux says what one program's peak was")
    @pytest.mark.parametrize(("orientation", "most"), [(1, 25e6), (6, 40e6)])
    def test_memory_for_twelve_megapixels(self, tmp_path: Path, orientation: int, most: float) -> None:
        """Decoded whole it takes 48 MB."""
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        Image.new("RGB", (4000, 3000), "olive").save(tmp_path / "large.jpg", exif=exif)
        code = (
            "import sys; from bottlenet.bundle import Preprocess; from bottlenet.photo import photo_to_pixels\n"
            "def peak(): return int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0]) * 1024\n"
            "from PIL import JpegImagePlugin; before = peak()\n"
            "photo_to_pixels(sys.argv[1], Preprocess(224, 0.875, 'bicubic')); print(peak() - before)"
        )
        command = [sys.executable, "-c", code, str(tmp_path / "large.jpg")]
        assert int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) < most


class TestPrepare:
    def test_the_centre_is_taken(self) -> None:
        photo = np.zeros((40, 80, 3), np.uint8)
        photo[:, 20:60] = 200
        assert (prepare(photo, Preprocess(8, 0.5, "bilinear")) == 200).all()

    def test_size_is_the_same_as_the_crop(self, photo: np.ndarray) -> None:
        side = photo.shape[0]
        left = (photo.shape[1] - side) // 2
        np.testing.assert_array_equal(prepare(photo, Preprocess(side, 1.0, "bicubic")), photo[:, left : left + side])

    def test_interpolations_differ(self, photo: np.ndarray) -> None:
        noise = np.random.default_rng(0).integers(0, 256, photo.shape, dtype=np.uint8)
        assert (prepare(noise, PREPROCESS) != prepare(noise, Preprocess(32, 0.875, "bilinear"))).any()

    @pytest.mark.parametrize(
        "array",
        [
            np.zeros((20, 20, 3), np.float32),
            np.zeros((20, 20, 2), np.uint8),
            np.zeros((1, 20, 20, 3), np.uint8),
            np.zeros((20,), np.uint8),
            np.zeros((7, 20, 3), np.uint8),
            np.zeros((0, 0, 3), np.uint8),
        ],
    )
    def test_arrays_that_are_no_photo(self, array: np.ndarray) -> None:
        assert str(array.shape) in refusal(array)
        with pytest.raises(PhotoError):
            prepare(array, PREPROCESS)


class TestRefused:
    def test_huge_in_milliseconds(self) -> None:
        data = png_of_size(20_000, 20_000)
        started = time.perf_counter()
        text = refusal(data)
        assert time.perf_counter() - started < 0.1
        assert "20000x20000" in text
        assert "100 megapixels" in text

    @pytest.mark.parametrize("limit", [3000, 1, None])
    def test_the_limit_is_ours_not_pillows(self, monkeypatch: pytest.MonkeyPatch, limit: int | None) -> None:
        """Pillow warns above its limit and raises above twice as much; cropping to turn a photo would, too."""
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        exif = Image.Exif()
        exif[ORIENTATION] = 6
        for format in ("PNG", "JPEG"):
            data = saved(Image.new("RGB", (90, 70)), format, exif=exif)
            assert read_photo(data).shape == (90, 70, 3)
            assert photo_to_pixels(data, PREPROCESS).shape == (32, 32, 3)
        assert "20000x20000" in refusal(png_of_size(20_000, 20_000))

    def test_just_below_and_above_the_limit(self) -> None:
        photo_to_pixels(saved(Image.new("1", (10_000, 10_000)), "PNG"), PREPROCESS)
        large = Image.new("1", (10_000, 10_001))
        assert "10000x10001" in refusal(saved(large, "PNG"))
        assert "10000x10001" in refusal(large)
        assert "(10001, 10000" in refusal(np.broadcast_to(np.uint8(0), (10_001, 10_000, 3)))

    def test_webp_that_pillow_refuses_first(self) -> None:
        vp8x = b"VP8X" + struct.pack("<I", 10) + b"\0" * 4 + (16382).to_bytes(3, "little") * 2
        text = refusal(b"RIFF" + struct.pack("<I", len(vp8x) + 4) + b"WEBP" + vp8x)
        assert "too many pixels" in text or "damaged" in text  # by Pillow's version

    @pytest.mark.parametrize("size", [(1, 1), (7, 100), (100, 7)])
    def test_small(self, size: tuple[int, int]) -> None:
        text = refusal(saved(Image.new("RGB", size), "PNG"))
        assert f"{size[0]}x{size[1]}" in text
        assert "8x8" in text

    @pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF", "BMP", "GIF", "PPM"])
    @pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
    def test_truncated(self, picture: Image.Image, format: str, share: float) -> None:
        noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
        if format == "AVIF" and not features.check("avif"):
            pytest.skip("this Pillow has no AVIF")
        data = saved(noise, format)
        assert "damaged or truncated" in refusal(data[: int(len(data) * share)])

    def test_a_progressive_jpeg_is_not_shown_half_finished(self, picture: Image.Image) -> None:
        data = saved(picture, "JPEG", progressive=True)
        for end in range(len(data) // 3, len(data) - 20, 97):
            refusal(data[:end])

    @pytest.mark.parametrize("data", [b"GIF89a", b"GIF89a\x01\x00"])
    def test_the_words_of_a_decoder_that_fails(self, data: bytes) -> None:
        """Not Python's own: "unpack_from requires a buffer of at least 8 bytes"."""
        assert "it is damaged or truncated (its decoder fails); give the whole file" in refusal(data)

    def test_truncated_pillow_image(self, picture: Image.Image) -> None:
        data = saved(picture, "PNG")
        with Image.open(io.BytesIO(data[: len(data) // 2])) as image, pytest.raises(PhotoError, match="truncated"):
            read_photo(image)

    def test_damage_never_escapes_as_another_error(self, picture: Image.Image) -> None:
        rng = np.random.default_rng(5)
        for format in ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM"):
            data = saved(picture, format)
            for _ in range(40):
                damaged = bytearray(data)
                for place in rng.integers(0, len(data), 3):
                    damaged[place] = rng.integers(0, 256)
                try:
                    assert read_photo(bytes(damaged)).ndim == 3
                except PhotoError as error:
                    assert "\n" not in str(error)

    @pytest.mark.parametrize(
        "data", [b"", b"hello, I am text", b"%PDF-1.7", b"\0" * 100, b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"]
    )
    def test_not_a_photo(self, data: bytes, tmp_path: Path) -> None:
        text = refusal(data)
        assert "no photo" in text
        assert "JPEG, PNG" in text
        (tmp_path / "cat.jpg").write_bytes(data)
        assert str(tmp_path / "cat.jpg") in refusal(tmp_path / "cat.jpg")

    def test_no_file(self, tmp_path: Path) -> None:
        text = refusal(tmp_path / "gone.jpg")
        assert "gone.jpg" in text
        assert "No such file" in text
        assert "no path" in refusal("a\0b")

    def test_things_that_are_no_files(self, tmp_path: Path) -> None:
        assert "not a file" in refusal(tmp_path)
        if hasattr(os, "mkfifo"):
            os.mkfifo(tmp_path / "pipe")
            assert "not a file" in refusal(tmp_path / "pipe")  # and does not wait for a writer
            assert "not a file" in refusal("/dev/zero")

    def test_large_file(self, tmp_path: Path) -> None:
        with open(tmp_path / "large.jpg", "wb") as file:
            file.truncate(decode.MAX_FILE_BYTES + 1)  # a hole, no space
        assert "200 MB" in refusal(tmp_path / "large.jpg")

    def test_large_bytes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(decode, "MAX_FILE_BYTES", 10)
        assert "are allowed" in refusal(b"\xff\xd8\xff" + b"0" * 10)

    @pytest.mark.parametrize("source", [None, 5, 2.5, [1, 2], {"photo": 1}, object])
    def test_other_types(self, source: object) -> None:
        assert "give a path" in refusal(source)


def tiff(samples: np.ndarray, bits: int, **tags: int) -> bytes:
    """A grey TIFF, little-endian, of (H, W) samples of 12, 16 or 32 bits; `tags` replace those it has."""
    height, width = samples.shape
    if bits == 12:
        pairs = samples.astype(np.uint16).reshape(height, -1, 2)
        first, second = pairs[..., 0], pairs[..., 1]
        data = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], -1).astype(np.uint8).tobytes()
    else:
        data = samples.astype(f"<u{bits // 8}").tobytes()
    values = {"width": (256, width), "height": (257, height), "bits": (258, bits), "compression": (259, 1)}
    values |= {"photometric": (262, tags.get("photometric", 1)), "strip": (273, 8), "samples": (277, 1)}
    values |= {"rows": (278, height), "bytes": (279, len(data)), "format": (339, tags.get("sample_format", 1))}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(values.values()))
    directory = struct.pack("<H", len(values)) + entries + struct.pack("<I", 0)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory


class TestWhatAFileSaysOfItsSamples:
    """White is what the file says it is, or the file is refused: never a picture that is black, or a negative."""

    @pytest.mark.parametrize(("value", "grey"), [(0, 0), (4095, 255), (1911, 119), (16, 1)])
    def test_twelve_bits(self, value: int, grey: int) -> None:
        assert (read_photo(tiff(np.full((10, 10), value), 12)) == grey).all()

    @pytest.mark.parametrize(("value", "grey"), [(0, 255), (65535, 0), (256, 254)])
    def test_white_is_zero(self, value: int, grey: int) -> None:
        assert (read_photo(tiff(np.full((9, 9), value), 16, photometric=0)) == grey).all()

    def test_sixteen_bits_as_before(self) -> None:
        assert (read_photo(tiff(np.full((9, 9), 32896), 16)) == 128).all()

    def test_what_may_be_negative_or_has_32_bits(self) -> None:
        assert "may be negative" in refusal(tiff(np.full((9, 9), 5), 16, sample_format=2))
        assert "32 bits a sample" in refusal(tiff(np.full((9, 9), 5), 32))

    def test_a_pillow_image_of_a_file_too(self) -> None:
        with Image.open(io.BytesIO(tiff(np.full((10, 10), 4095), 12))) as image:
            assert (read_photo(image) == 255).all()

    def test_samples_that_are_not_read_are_not_called_damaged(self) -> None:
        data = tiff(np.full((10, 10), 5), 16)
        ten_bits = data.replace(struct.pack("<HHII", 258, 4, 1, 16), struct.pack("<HHII", 258, 4, 1, 10))
        text = refusal(ten_bits)
        assert "its pixels are of a kind that is not read" in text
        assert "save it as JPEG or PNG" in text


class TestOtherKindsOfFiles:
    @pytest.mark.parametrize(("data", "what"), [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100), "HEIC"),
        (b"\0\0\0\x20ftypmif1\0\0\0\0mif1heicmiaf" + bytes(100), "HEIC"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(100), "JPEG XL"),
        (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(100), "JPEG 2000"),
        (b"\0\0\0\x18ftypisom\0\0\2\0isomiso2" + bytes(100), "a video"),
    ])  # fmt: skip
    def test_they_are_called_by_their_name(self, data: bytes, what: str) -> None:
        text = refusal(data)
        assert f"it is {what}, which is not read" in text
        assert "damaged" not in text

    def test_an_avif_that_names_its_brand_second(self, picture: Image.Image) -> None:
        if not features.check("avif"):
            pytest.skip("this Pillow has no AVIF")
        data = saved(picture, "AVIF")
        assert data[4:12] == b"ftypavif"
        read_photo(data[:8] + b"mif1" + data[12:])

    def test_an_error_of_the_disk_is_no_verdict_on_the_photo(
        self, photo_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fails(*arguments: object) -> bytes:
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(decode.Bounded, "read", fails)
        text = refusal(photo_path)
        assert "can't read it (Input/output error); try again" in text
        assert "damaged" not in text


def of_many_scans(side: int, scans: int) -> bytes:
    """A progressive JPEG that goes over its pixels again and again, in 36 bytes each time."""
    data = saved(Image.new("L", (side, side), 99), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xc4", 0, data.rindex(b"\xff\xda"))
    end = data.rindex(b"\xff\xd9")
    return data[:end] + data[last:end] * scans + data[end:]


class TestMadeToTakeLong:
    """Small files that would take seconds to minutes; how long they take is measured nowhere, they are refused."""

    def test_scans(self) -> None:
        text = refusal(of_many_scans(16, 200))
        assert "101 of them scans" in text
        assert read_photo(of_many_scans(16, 20)).shape == (16, 16, 3)

    def test_scans_of_many_pixels(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(decode, "MAX_SCANNED_PIXELS", 15 * 200 * 200)
        assert read_photo(of_many_scans(200, 2)).shape == (200, 200, 3)
        assert "scans" in refusal(of_many_scans(200, 20))

    def test_scans_behind_one_that_has_all(self, picture: Image.Image) -> None:
        """They are not counted, as libjpeg decodes none of them."""
        data = saved(picture, "JPEG")
        end = data.rindex(b"\xff\xd9")
        scan = data[data.rindex(b"\xff\xda") : end]
        assert "damaged" in refusal(data[:end] + scan * 200 + data[end:])

    def test_scans_of_one_component(self, picture: Image.Image) -> None:
        """A JPEG that is not progressive has several, too."""
        data = saved(picture, "JPEG")
        scan = data.rindex(b"\xff\xda")
        of_one = b"\xff\xda\0\x08\1\1\0\0\x3f\0" + data[scan + 14 : -2]
        assert "101 of them scans" in refusal(data[:scan] + of_one * 200 + b"\xff\xd9")

    def test_what_follows_the_picture_is_not_counted(self, picture: Image.Image) -> None:
        """As phones do, who put a video behind it."""
        data = saved(picture, "JPEG")
        assert read_photo(data + b"\xff\xda\0\2" * 1000).shape == (48, 64, 3)

    def test_markers_across_the_ends_of_chunks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for size in range(2, 40):
            monkeypatch.setattr(decode, "CHUNK_BYTES", size)
            assert "scans" in refusal(of_many_scans(16, 120))
            read_photo(of_many_scans(16, 20))

    def test_many_empty_segments(self, picture: Image.Image) -> None:
        data = saved(picture, "JPEG")
        assert "too many parts" in refusal(data[:2] + b"\xff\xfe\0\2" * 6000 + data[2:])

    @pytest.mark.parametrize("data", [
        b"P4 #" + b"x" * 5000 + b"\n8 8\n" + bytes(8),
        b"\xff\xd8" + b"\xff" * 5000 + saved(Image.new("L", (9, 9)), "JPEG")[2:],
        b"P5 99 99 4095\n" + bytes(2 * 99 * 99),
    ], ids=["a comment", "padding", "samples read one by one"])  # fmt: skip
    def test_bytes_that_are_read_one_by_one(self, data: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        assert read_photo(data).ndim == 3
        monkeypatch.setattr(decode, "MAX_READS", 4000)
        assert "too many steps" in refusal(data)
        (tmp_path / "photo").write_bytes(data)
        assert "too many steps" in refusal(tmp_path / "photo")

    def test_a_picture_written_as_text(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert "1000 comments" in refusal(b"P1 8 8\n" + b"#\n" * 1001 + b"0 " * 64)
        assert read_photo(b"P1 8 8\n" + b"#\n" * 900 + b"0 " * 64).shape == (8, 8, 3)
        monkeypatch.setattr(decode, "MAX_TEXT_BYTES", 100)
        assert "written as text" in refusal(b"P2 9 9 255\n" + b"7 " * 81)
