"""The Open Inference Protocol, version 2, as KServe and Triton speak it: REST, with the binary tensor data extension.

    GET  /v2, /v2/health/live, /v2/health/ready
    GET  /v2/models/NAME[/versions/VERSION], and /ready
    POST /v2/models/NAME[/versions/VERSION]/infer     frame BYTES [N]  ->  scores, classes, labels [N, K]
    POST /v2/repository/index                         names and versions of all models

A model is a bundle of one label. Its name is the manifest's, or the bundle's id for clients that can't write a space or
a slash in a URL; its version is the first 12 hex digits of the id, which do for a name, too. K is 5, or the number of
classes where there are fewer. As binary data a frame is its bytes; in JSON, which can't hold those,
base64:

    {"inputs": [{"name": "frame", "datatype": "BYTES", "shape": [N], "parameters": {"binary_data_size": S}}]} S bytes

As binary data an element of BYTES is its length, 4 bytes, least significant first, then its bytes.
Source: the protocol's REST specification, and Triton's "Binary Tensor Data Extension".
"""

import asyncio
import base64
import binascii
import json
import struct
from collections.abc import Sequence

import numpy as np
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bottlenet.bundle import Bundle
from bottlenet.bundle.manifest import Manifest
from bottlenet.cloud.http import Bodies, failure, refusal
from bottlenet.cloud.service import Served, Service
from bottlenet.errors import FrameError, InputError
from bottlenet.records import program_version
from bottlenet.task import Classification
from bottlenet.wire.answer import TOP, Answer
from bottlenet.wire.frame import CLASSIFY_PATH, HEADER_BYTES, PROBE, REPORT, Frame, parse_frame

HEADER_LENGTH = "Inference-Header-Content-Length"
MAX_JSON_BYTES = 2**18
LENGTH = struct.Struct("<I")
OUTPUTS = ("scores", "classes", "labels")
INPUT = "give one input: frame, BYTES, [N]"


def parse_request(body: bytes, header_length: str | None, max_json_bytes: int) -> tuple[dict[str, object], bytes]:
    """Split a body into its JSON object and the binary data behind it. InputError: no JSON, or more than allowed."""
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
    """Read the elements of the tensor "frame", at most `most`. InputError: another tensor, or it has another shape."""
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
    """Count the elements of a shape of one dimension, or of ones around it. InputError: another, or above `most`."""
    if not isinstance(shape, list) or not 1 <= len(shape) <= 8 or not all(type(side) is int for side in shape):
        raise InputError(INPUT)
    large = [side for side in shape if side != 1]
    count = large[0] if large else 1
    if len(large) > 1 or not 1 <= count <= most:
        raise InputError(f"frame has the shape {shape}; give [N] with N from 1 to {most}")
    return count


def from_binary(binary: bytes, count: int) -> list[bytes]:
    """Read elements, each with its length before it. InputError: a length beyond the end, or bytes left over."""
    found: list[bytes] = []
    at = 0
    while at + LENGTH.size <= len(binary) and len(found) < count:
        (length,) = LENGTH.unpack_from(binary, at)
        at += LENGTH.size + length
        found.append(binary[at - length : at])
    if at != len(binary):
        raise InputError("the binary data of frame does not hold whole elements, each with its length before it")
    return found


def from_json(data: object, binary: bytes) -> list[bytes]:
    """Read elements in base64. InputError: anything else, or binary data without a size."""
    while isinstance(data, list) and len(data) == 1 and isinstance(data[0], list):
        data = data[0]
    if binary or not isinstance(data, list) or not all(isinstance(one, str) for one in data):
        raise InputError("frame has no data; give each element in base64, or binary data with binary_data_size")
    try:
        return [base64.b64decode(one, validate=True) for one in data]
    except (binascii.Error, ValueError):
        raise InputError("an element of frame is no base64; give it so, or as binary data") from None


def asked_outputs(asked: dict[str, object]) -> list[tuple[str, bool]]:
    """Choose which outputs to send, and whether as binary data. InputError: an unknown one."""
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
    """Read the parameters of a request or a tensor. InputError: no object."""
    found = holder.get("parameters") or {}
    if not isinstance(found, dict):
        raise InputError("parameters is no JSON object; give one, or none")
    return found


def response_of(
    asked: dict[str, object], bundle: Bundle, answers: Sequence[Answer], outputs: Sequence[tuple[str, bool]]
) -> tuple[dict[str, object], bytes | None]:
    """Make the JSON object, and the binary data behind it: None if no output was asked for in that form."""
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
    if kind == "BYTES":
        texts = [str(one).encode() for one in data]
        return b"".join(LENGTH.pack(len(text)) + text for text in texts)
    return np.asarray(data, {"FP32": "<f4", "INT32": "<i4"}[kind]).tobytes()


VIA = "v2"
PLATFORM = "onnx_onnxv1"


def routes(service: Service, bodies: Bodies) -> list[Route]:
    v2 = Version2(service, bodies)
    found = [
        Route("/v2", v2.server, methods=["GET"]),
        Route("/v2/health/live", v2.live, methods=["GET"]),
        Route("/v2/health/ready", v2.ready, methods=["GET"]),
        Route("/v2/repository/index", v2.index, methods=["POST"]),
    ]
    for model in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
        found += [
            Route(model, v2.model, methods=["GET"]),
            Route(f"{model}/ready", v2.model_ready, methods=["GET"]),
            Route(f"{model}/infer", v2.infer, methods=["POST"]),
        ]
    return found


class Version2:
    """The endpoints of the protocol."""

    def __init__(self, service: Service, bodies: Bodies) -> None:
        self._service = service
        self._bodies = bodies

    async def server(self, request: Request) -> Response:
        version, extensions = program_version(), ["binary_tensor_data"]
        return JSONResponse({"name": "bottlenet", "version": version, "extensions": extensions})

    async def live(self, request: Request) -> Response:
        return JSONResponse({"live": True})

    async def ready(self, request: Request) -> Response:
        return JSONResponse({"ready": self._service.ready}, 200 if self._service.ready else 503)

    async def index(self, request: Request) -> Response:
        state = "READY" if self._service.ready else "UNAVAILABLE"
        models = [(served.bundle.manifest.name, served.version) for served in self._service.bundles]
        return JSONResponse([{"name": name, "version": it, "state": state, "reason": ""} for name, it in models])

    async def model(self, request: Request) -> Response:
        try:
            served = self._served(request)
        except HTTPException as error:
            return failure(error.status_code, error.detail)
        manifest = served.bundle.manifest
        if not isinstance(manifest.task, Classification):
            return failure(400, other_task(manifest))
        outputs = [("scores", "FP32"), ("classes", "INT32"), ("labels", "BYTES")]
        shape = [-1, min(TOP, manifest.num_classes)]
        document = {
            "name": manifest.name,
            "versions": [one.version for one in self._service.bundles.by_name(manifest.name)],
            "platform": PLATFORM,
            "inputs": [{"name": "frame", "datatype": "BYTES", "shape": [-1]}],
            "outputs": [{"name": name, "datatype": kind, "shape": shape} for name, kind in outputs],
        }
        return JSONResponse(document)

    async def model_ready(self, request: Request) -> Response:
        try:
            served = self._served(request)
        except HTTPException as error:
            return failure(error.status_code, error.detail)
        document = {"name": served.bundle.manifest.name, "ready": self._service.ready}
        return JSONResponse(document, 200 if self._service.ready else 503)

    async def infer(self, request: Request) -> Response:
        """Give the best classes of each frame. One that does not decode fails the request."""
        try:
            served = self._served(request)
            if not isinstance(served.bundle.manifest.task, Classification):
                raise InputError(other_task(served.bundle.manifest))
            asked, frames = await self._read(request, served)
            outputs = asked_outputs(asked)
            waiting = (self._service.answer(served, frame) for frame in frames)
            answers: list[Answer] = []
            for result in await asyncio.gather(*waiting, return_exceptions=True):
                if isinstance(result, BaseException):
                    raise result
                answers.append(result)
            document, binary = response_of(asked, served.bundle, answers, outputs)
        except InputError as error:
            return refusal(self._service, VIA, HTTPException(400, str(error)))
        except Exception as error:
            return refusal(self._service, VIA, error)
        document = {"model_name": served.bundle.manifest.name, "model_version": served.version, **document}
        head = json.dumps(document, separators=(",", ":")).encode()
        if binary is None:
            return Response(head, media_type="application/json")
        headers = {HEADER_LENGTH: str(len(head))}
        return Response(head + binary, headers=headers, media_type="application/octet-stream")

    async def _read(self, request: Request, served: Served) -> tuple[dict[str, object], list[Frame]]:
        """Read a request and its frames. HTTPException, InputError, FrameError: it can't be used."""
        if request.headers.get("content-encoding", "identity") != "identity":
            raise HTTPException(415, "the body is compressed; send it as it is")
        limits = self._service.limits
        frame_bytes = HEADER_BYTES + limits.max_payload_bytes
        limit = max(MAX_JSON_BYTES, 2 * frame_bytes) + limits.max_in_flight * (4 + frame_bytes)
        header_length = request.headers.get(HEADER_LENGTH)
        async with self._bodies.read(request, limit) as body:
            asked, binary = parse_request(body, header_length, max(MAX_JSON_BYTES, 2 * frame_bytes))
        parsed = []
        for number, data in enumerate(frames_of(asked, binary, limits.max_in_flight)):
            self._service.metrics.came(VIA)
            try:
                tag = served.bundle.tag
                parsed.append(parse_frame(data, max_payload_bytes=limits.max_payload_bytes, bundle_tag=tag))
                if parsed[-1].codec == PROBE:
                    raise FrameError("a probe has no choices; ask /v2/health")
                if parsed[-1].codec == REPORT:
                    raise FrameError(f"a report has no choices; send it to {CLASSIFY_PATH}")
            except FrameError as error:
                raise FrameError(f"element {number} of frame: {error}") from error
        return asked, parsed

    def _served(self, request: Request) -> Served:
        """Find the bundle in the path. HTTPException: not served, or there are several and no version was named."""
        name, version = request.path_params["name"], request.path_params.get("version")
        found = self._service.bundles.by_name(name, version)
        if not found:
            raise HTTPException(404, f"no model of this name and version; {self._service.bundles.names()}")
        if len(found) > 1:
            versions = ", ".join(one.version for one in found)
            raise HTTPException(400, f"several models have this name; name a version: {versions}")
        return found[0]


def other_task(manifest: Manifest) -> str:
    task = manifest.task.name
    return f"the answers of {manifest.name} are of task {task}, and only scores fit in here; use {CLASSIFY_PATH}"
