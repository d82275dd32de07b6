"""Requests and responses of the Open Inference Protocol: JSON, with tensors in it or as binary data behind it.

    {"inputs": [{"name": "frame", "datatype": "BYTES", "shape": [N], "parameters": {"binary_data_size": S}}]} S bytes

As binary data an element of BYTES is its length, 4 bytes, least significant first, then its bytes.
"""

from __future__ import annotations

import base64
import binascii
import json
import struct
from collections.abc import Sequence

import numpy as np

from bottlenet.bundle import Bundle
from bottlenet.errors import InputError
from bottlenet.wire.answer import Answer

HEADER_LENGTH = "Inference-Header-Content-Length"
MAX_JSON_BYTES = 2**18
LENGTH = struct.Struct("<I")
OUTPUTS = ("scores", "classes", "labels")
INPUT = "give one input: frame, BYTES, [N]"


def parse_request(body: bytes, header_length: str | None, max_json_bytes: int) -> tuple[dict[str, object], bytes]:
    """The JSON object, and the binary data behind it. InputError: no such thing, or more JSON than allowed."""
    length = len(body)
    if header_length is not None:
        if not header_length.isdecimal() or len(header_length) > 12 or int(header_length) > length:
            raise InputError(f"{HEADER_LENGTH} is {header_length[:20]!a}; give the length of the JSON in the body")
        length = int(header_length)
    if length > max_json_bytes:
        raise InputError(f"JSON of {length} bytes; at most {max_json_bytes} are taken: send frames as binary data")
    try:
        asked = json.loads(body[:length])
    except (ValueError, RecursionError):
        raise InputError("the body does not start with a JSON object; see the Open Inference Protocol") from None
    if not isinstance(asked, dict):
        raise InputError("the body is no JSON object; see the Open Inference Protocol")
    if not isinstance(asked.get("id", ""), str):
        raise InputError("id is no string; give one, or none")
    return asked, body[length:]


def frames_of(asked: dict[str, object], binary: bytes, most: int) -> list[bytes]:
    """The elements of the tensor "frame", at most `most`. InputError: another tensor, or not what its shape says."""
    inputs = asked.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise InputError(INPUT)
    (tensor,) = inputs
    if tensor.get("name") != "frame" or tensor.get("datatype") != "BYTES":
        raise InputError(INPUT)
    count = elements(tensor.get("shape"), most)
    size = parameters(tensor).get("binary_data_size")
    if size is None:
        frames = from_json(tensor.get("data"), binary)
    elif type(size) is not int or size != len(binary):
        raise InputError(f"binary_data_size does not agree with the {len(binary)} bytes behind the JSON")
    else:
        frames = from_binary(binary, count)
    if len(frames) != count:
        raise InputError(f"frame has {len(frames)} elements; its shape says {count}")
    return frames


def elements(shape: object, most: int) -> int:
    """How many a shape of one dimension, or of ones around it, holds. InputError: another shape, or above `most`."""
    if not isinstance(shape, list) or not 1 <= len(shape) <= 8 or not all(type(side) is int for side in shape):
        raise InputError(INPUT)
    large = [side for side in shape if side != 1]
    count = large[0] if large else 1
    if len(large) > 1 or not 1 <= count <= most:
        raise InputError(f"frame has the shape {shape}; give [N] with N from 1 to {most}")
    return count


def from_binary(binary: bytes, count: int) -> list[bytes]:
    """Elements with their lengths before them. InputError: a length that leads beyond the end, or bytes left over."""
    found: list[bytes] = []
    at = 0
    while at < len(binary) and len(found) < count:
        if at + LENGTH.size > len(binary):
            break
        (length,) = LENGTH.unpack_from(binary, at)
        at += LENGTH.size
        if at + length > len(binary):
            break
        found.append(binary[at : at + length])
        at += length
    if at != len(binary):
        raise InputError("the binary data of frame does not hold whole elements, each with its length before it")
    return found


def from_json(data: object, binary: bytes) -> list[bytes]:
    """Elements in base64. InputError: anything else, or binary data that nobody speaks of."""
    while isinstance(data, list) and len(data) == 1 and isinstance(data[0], list):
        data = data[0]
    if binary or not isinstance(data, list) or not all(isinstance(one, str) for one in data):
        raise InputError("frame has no data; give each element in base64, or binary data with binary_data_size")
    try:
        return [base64.b64decode(one, validate=True) for one in data]
    except (binascii.Error, ValueError):
        raise InputError("an element of frame is no base64; give it so, or as binary data") from None


def asked_outputs(asked: dict[str, object]) -> list[tuple[str, bool]]:
    """Which outputs to send, and whether as binary data. InputError: one that there is not."""
    by_default = parameters(asked).get("binary_data_output", False)
    outputs = asked.get("outputs") or [{"name": name} for name in OUTPUTS]
    if not isinstance(outputs, list) or len(outputs) > len(OUTPUTS):
        raise InputError(f"outputs can be {', '.join(OUTPUTS)}, each once")
    chosen: dict[str, bool] = {}
    for output in outputs:
        name = output.get("name") if isinstance(output, dict) else None
        if name not in OUTPUTS or name in chosen:
            raise InputError(f"outputs can be {', '.join(OUTPUTS)}, each once")
        chosen[name] = bool(parameters(output).get("binary_data", by_default))
    return list(chosen.items())


def parameters(holder: dict[str, object]) -> dict[str, object]:
    """Of a request or a tensor. InputError: no object."""
    found = holder.get("parameters") or {}
    if not isinstance(found, dict):
        raise InputError("parameters is no JSON object; give one, or none")
    return found


def response_of(
    asked: dict[str, object], bundle: Bundle, answers: Sequence[Answer], outputs: Sequence[tuple[str, bool]]
) -> tuple[dict[str, object], bytes | None]:
    """The JSON object, and the binary data behind it, None if no output was asked for in that form."""
    values: dict[str, tuple[str, list[float] | list[int] | list[str]]] = {
        "scores": ("FP32", [score for answer in answers for _, score in answer.top]),
        "classes": ("INT32", [index for answer in answers for index, _ in answer.top]),
        "labels": ("BYTES", [bundle.labels[index] for answer in answers for index, _ in answer.top]),
    }
    shape = [len(answers), len(answers[0].top)]
    tensors: list[dict[str, object]] = []
    binary = b""
    for name, as_binary in outputs:
        kind, data = values[name]
        tensor: dict[str, object] = {"name": name, "datatype": kind, "shape": shape}
        if as_binary:
            packed = pack(kind, data)
            binary += packed
            tensors.append({**tensor, "parameters": {"binary_data_size": len(packed)}})
        else:
            tensors.append({**tensor, "data": data})
    document: dict[str, object] = {"id": asked["id"]} if "id" in asked else {}
    return {**document, "outputs": tensors}, binary if any(chosen for _, chosen in outputs) else None


def pack(kind: str, data: Sequence[float] | Sequence[int] | Sequence[str]) -> bytes:
    """As binary data, least significant byte first."""
    if kind == "BYTES":
        texts = [str(one).encode() for one in data]
        return b"".join(LENGTH.pack(len(text)) + text for text in texts)
    return np.asarray(data, {"FP32": "<f4", "INT32": "<i4"}[kind]).tobytes()
