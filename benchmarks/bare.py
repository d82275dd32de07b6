"""What is left of a picture file without the parts that a receiver could rebuild or be told once."""

from __future__ import annotations

STANDALONE = {0xD8, 0xD9}  # SOI, EOI: markers without a length
START_OF_SCAN, HUFFMAN_TABLES = 0xDA, 0xC4


def bare_bytes(codec: str, file: bytes) -> int:
    """Count the bytes of JPEG's Huffman tables and scan, WebP's VP8 data, AVIF's AV1 data with its sequence header."""
    return BARE[codec](file)


def bare_jpeg(file: bytes) -> int:
    """Count from the tables on: an optimised file has its own, and everything before them can be rebuilt."""
    at, tables = 0, 0
    while at < len(file):
        marker = file[at + 1]
        length = 0 if marker in STANDALONE else int.from_bytes(file[at + 2 : at + 4], "big")
        if marker == HUFFMAN_TABLES:
            tables += length
        at += 2 + length
        if marker == START_OF_SCAN:
            return tables + len(file) - at - 2  # EOI
    raise ValueError("a JPEG without a scan")


def bare_webp(file: bytes) -> int:
    """Count the only chunk of a lossy file without alpha."""
    if file[12:16] != b"VP8 ":
        raise ValueError(f"a WebP of {file[12:16]!r}, not of one VP8 chunk")
    return int.from_bytes(file[16:20], "little")


def bare_avif(file: bytes) -> int:
    """Count the contents of the mdat boxes."""
    at, data = 0, 0
    while at < len(file):
        length, kind = int.from_bytes(file[at : at + 4], "big"), file[at + 4 : at + 8]
        if length < 8:
            raise ValueError(f"an AVIF with a box {kind!r} of {length} bytes")
        if kind == b"mdat":
            data += length - 8
        at += length
    return data


BARE = {"jpeg": bare_jpeg, "webp": bare_webp, "avif": bare_avif}
