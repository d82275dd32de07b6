"""A frame arrives as it was sent or is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bottlenet.errors import FrameError, InputError
from bottlenet.wire.frame import (
    ALONE,
    AUDIT,
    HEADER_BYTES,
    PROBE,
    REPORT,
    STREAM_HEADER_BYTES,
    Frame,
    Report,
    parse_frame,
    parse_report,
    parse_stream_frame,
)

SPEC = "".join((Path(__file__).parent.parent / "docs" / "wire.md").read_text(encoding="utf-8").split())
TAG = bytes.fromhex("a1b2c3")
FRAME = Frame(codec=2, setting=20, bundle_tag=TAG, sequence=258, payload=bytes.fromhex("ad15afb5588ad7dabf"))

quick = settings(max_examples=100, deadline=None)
frames = st.builds(
    Frame,
    codec=st.integers(0, 15),
    setting=st.integers(0, 255),
    bundle_tag=st.binary(min_size=3, max_size=3),
    sequence=st.integers(0, 65535),
    payload=st.binary(max_size=400),
)


def test_golden_bytes() -> None:
    golden = "12 14 a1b2c3 0102 000009 bf6e ad15afb5588ad7dabf".replace(" ", "")
    assert FRAME.to_bytes().hex() == golden
    assert parse_frame(bytes.fromhex(golden)) == FRAME
    assert golden in SPEC


def test_golden_stream_bytes() -> None:
    golden = "12 14 0102 ad15afb5588ad7dabf".replace(" ", "")
    assert FRAME.to_stream_bytes().hex() == golden
    assert parse_stream_frame(bytes.fromhex(golden), bundle_tag=TAG) == FRAME
    assert golden in SPEC


@quick
@given(frames)
def test_a_frame_comes_back(frame: Frame) -> None:
    data = frame.to_bytes()
    assert len(data) == HEADER_BYTES + len(frame.payload)
    assert parse_frame(data) == frame
    assert parse_frame(memoryview(data), bundle_tag=frame.bundle_tag) == frame


@quick
@given(frames)
def test_a_stream_frame_comes_back(frame: Frame) -> None:
    data = frame.to_stream_bytes()
    assert len(data) == STREAM_HEADER_BYTES + len(frame.payload)
    assert parse_stream_frame(memoryview(data), bundle_tag=frame.bundle_tag) == frame


def test_the_payload_is_a_copy() -> None:
    data = bytearray(FRAME.to_bytes())
    frame = parse_frame(memoryview(data))
    data[:] = bytes(len(data))
    assert frame == FRAME


def test_every_flipped_bit_is_refused() -> None:
    data = Frame(2, 20, TAG, 7, bytes(range(256)) + bytes(60)).to_bytes()
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(FrameError):
            parse_frame(bytes(damaged))


def test_every_truncation_is_refused() -> None:
    data = FRAME.to_bytes()
    for length in range(len(data)):
        with pytest.raises(FrameError, match=f"^frame of {length} bytes"):
            parse_frame(data[:length])


def test_trailing_bytes_are_refused() -> None:
    with pytest.raises(FrameError, match="frame of 22 bytes, but its header says 21"):
        parse_frame(FRAME.to_bytes() + b"\0")


@quick
@given(st.binary(max_size=64))
def test_garbage_is_refused_in_one_line(data: bytes) -> None:
    with pytest.raises(FrameError) as caught:
        parse_frame(data)
    assert "\n" not in str(caught.value)


def test_another_version_is_refused_by_name() -> None:
    for version in (0, 2, 15):
        first = bytes([version << 4 | 2])
        with pytest.raises(FrameError, match=f"version {version}, or no frame; this side speaks version 1"):
            parse_frame(first + FRAME.to_bytes()[1:])
        with pytest.raises(FrameError, match=f"version {version}, or no frame; this side speaks version 1"):
            parse_stream_frame(first + FRAME.to_stream_bytes()[1:], bundle_tag=TAG)


def test_a_frame_of_another_bundle_is_refused_by_name() -> None:
    with pytest.raises(FrameError, match="for bundle a1b2c3, but this is bundle 000001"):
        parse_frame(FRAME.to_bytes(), bundle_tag=bytes([0, 0, 1]))


def test_what_is_larger_than_allowed_is_refused() -> None:
    whole = Frame(0, 0, TAG, 0, bytes(65537))
    assert parse_frame(whole.to_bytes(), max_payload_bytes=65537) == whole
    with pytest.raises(FrameError, match="payload of 65537 bytes; this side takes up to 65536"):
        parse_frame(whole.to_bytes())
    with pytest.raises(FrameError, match="payload of 65537 bytes; this side takes up to 65536"):
        parse_stream_frame(whole.to_stream_bytes(), bundle_tag=TAG)


def test_a_length_that_is_too_large_is_refused_before_the_payload_is_there() -> None:
    with pytest.raises(FrameError, match="payload of 16777215 bytes; this side takes up to 65536"):
        parse_frame(FRAME.to_bytes()[:7] + b"\xff\xff\xff" + FRAME.to_bytes()[10:12])


def test_a_stream_frame_shorter_than_its_header_is_refused() -> None:
    for length in range(STREAM_HEADER_BYTES):
        with pytest.raises(FrameError, match=f"^stream frame of {length} bytes is shorter"):
            parse_stream_frame(FRAME.to_stream_bytes()[:length], bundle_tag=TAG)


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("codec", 16, "0 to 15"),
        ("codec", -1, "0 to 15"),
        ("setting", 256, "0 to 255"),
        ("sequence", 65536, "0 to 65535"),
        ("bundle_tag", b"ab", "the first 3"),
        ("payload", bytes(2**24), "0 to 16777215"),
    ],
)
def test_fields_that_the_header_cannot_hold_are_refused(field: str, value: object, allowed: str) -> None:
    fields = {"codec": 2, "setting": 20, "bundle_tag": TAG, "sequence": 1, "payload": b"", field: value}
    with pytest.raises(InputError, match=allowed):
        Frame(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("audit", "whole", "stream"),
    [
        (None, "1d 00 a1b2c3 0102 000004 be3f 011d bfff", "1d 00 0102 011d bfff"),
        (
            FRAME,
            "1d 01 a1b2c3 0102 00000f a30a 011d bfff 02 14 ad15afb5588ad7dabf",
            "1d 01 0102 011d bfff 02 14 ad15afb5588ad7dabf",
        ),
    ],
    ids=["report", "audit"],
)
def test_golden_reports(audit: Frame | None, whole: str, stream: str) -> None:
    frame = Report(285, 0.75, audit).to_frame(TAG, 258)
    assert frame.to_bytes().hex() == whole.replace(" ", "")
    assert frame.to_stream_bytes().hex() == stream.replace(" ", "")
    assert whole.replace(" ", "") in SPEC
    assert stream.replace(" ", "") in SPEC
    report = parse_report(parse_frame(bytes.fromhex(whole)))
    assert (report.class_index, report.audit) == (285, audit)
    assert report.confidence == pytest.approx(0.75, abs=1e-5)


@quick
@given(st.integers(0, 65535), st.integers(0, 65535), st.none() | st.builds(Frame, *map(st.just, (4, 0, TAG, 9, b"x"))))
def test_a_report_comes_back(class_index: int, steps: int, audit: Frame | None) -> None:
    report = Report(class_index, steps / 65535, audit)
    assert parse_report(report.to_frame(TAG, 9)) == report


@pytest.mark.parametrize(("index", "confidence"), [(-1, 0.5), (65536, 0.5), (0, -0.1), (0, 1.1), (0, float("nan"))])
def test_reports_that_cannot_travel(index: int, confidence: float) -> None:
    with pytest.raises(InputError, match="give a class index of 0 to 65535, and a confidence of 0 to 1"):
        Report(index, confidence).to_frame(TAG)


@pytest.mark.parametrize(
    ("setting", "payload", "says"),
    [
        (2, bytes(4), "report of setting 2; this side knows 0 (alone) and 1 (audit)"),
        (ALONE, bytes(3), "report of 3 bytes, but it should have 4"),
        (ALONE, bytes(5), "report of 5 bytes, but it should have 4"),
        (AUDIT, bytes(5), "audit of 5 bytes, but it should have 6 or more"),
        (AUDIT, bytes([0, 0, 0, 0, PROBE, 0]), "audit with codec 14"),
        (AUDIT, bytes([0, 0, 0, 0, 255, 0]), "audit with codec 255"),
    ],
)
def test_refused_reports(setting: int, payload: bytes, says: str) -> None:
    with pytest.raises(FrameError, match=re.escape(says)):
        parse_report(Frame(REPORT, setting, TAG, 0, payload))
