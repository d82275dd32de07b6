"""The Open Inference Protocol, version 2, as KServe and Triton speak it: REST, with the binary tensor data extension.

    GET  /v2, /v2/health/live, /v2/health/ready
    GET  /v2/models/NAME[/versions/VERSION], and /ready
    POST /v2/models/NAME[/versions/VERSION]/infer     frame BYTES [N]  ->  scores, classes, labels [N, K]

A model is a bundle of one label: its name is the manifest's, its version the first 12 hex digits of the id. K is 5, or
the number of classes where there are fewer. As binary data a frame is its bytes; in JSON, which can't hold those,
base64.
Source: the protocol's REST specification, and Triton's "Binary Tensor Data Extension".
"""

from __future__ import annotations

import asyncio
import json

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bottlenet.cloud.http import failure, read_body, refusal
from bottlenet.cloud.service import Service
from bottlenet.cloud.shelf import Served
from bottlenet.cloud.tensors import (
    HEADER_LENGTH,
    MAX_JSON_BYTES,
    asked_outputs,
    frames_of,
    parse_request,
    response_of,
)
from bottlenet.errors import FrameError, InputError
from bottlenet.manifest import Manifest
from bottlenet.task import Classification
from bottlenet.wire.answer import TOP, Answer
from bottlenet.wire.frame import HEADER_BYTES, Frame, parse_frame
from bottlenet.wire.protocol import CLASSIFY_PATH, PROBE

VIA = "v2"
PLATFORM = "onnx_onnxv1"


def routes(service: Service) -> list[Route]:
    """Everything under /v2."""
    v2 = Version2(service)
    made = [
        Route("/v2", v2.server, methods=["GET"]),
        Route("/v2/health/live", v2.live, methods=["GET"]),
        Route("/v2/health/ready", v2.ready, methods=["GET"]),
    ]
    for model in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
        made += [
            Route(model, v2.model, methods=["GET"]),
            Route(f"{model}/ready", v2.model_ready, methods=["GET"]),
            Route(f"{model}/infer", v2.infer, methods=["POST"]),
        ]
    return made


class Version2:
    """The endpoints."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def server(self, request: Request) -> Response:
        """Server metadata."""
        from importlib import metadata

        try:
            version = metadata.version("bottlenet")
        except metadata.PackageNotFoundError:
            version = "unknown"  # run from its source
        return JSONResponse({"name": "bottlenet", "version": version, "extensions": ["binary_tensor_data"]})

    async def live(self, request: Request) -> Response:
        """It answers."""
        return JSONResponse({"live": True})

    async def ready(self, request: Request) -> Response:
        """Whether frames are welcome."""
        return JSONResponse({"ready": self._service.ready}, 200 if self._service.ready else 503)

    async def model(self, request: Request) -> Response:
        """Model metadata."""
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
            "versions": [one.version for one in self._service.shelf.by_name(manifest.name)],
            "platform": PLATFORM,
            "inputs": [{"name": "frame", "datatype": "BYTES", "shape": [-1]}],
            "outputs": [{"name": name, "datatype": kind, "shape": shape} for name, kind in outputs],
        }
        return JSONResponse(document)

    async def model_ready(self, request: Request) -> Response:
        """Whether this model's frames are welcome."""
        try:
            served = self._served(request)
        except HTTPException as error:
            return failure(error.status_code, error.detail)
        document = {"name": served.bundle.manifest.name, "ready": self._service.ready}
        return JSONResponse(document, 200 if self._service.ready else 503)

    async def infer(self, request: Request) -> Response:
        """Frames in, the best classes of each out. One that does not decode fails the request."""
        try:
            served = self._served(request)
            if not isinstance(served.bundle.manifest.task, Classification):
                raise InputError(other_task(served.bundle.manifest))
            asked, frames = await self._read(request, served)
            outputs = asked_outputs(asked)
            answers = await self._answers(served, frames)
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
        """The request, and its frames. HTTPException, InputError, FrameError: it can't be used."""
        if request.headers.get("content-encoding", "identity") != "identity":
            raise HTTPException(415, "the body is compressed; send it as it is")
        limits = self._service.limits
        frame_bytes = HEADER_BYTES + limits.max_payload_bytes
        limit = max(MAX_JSON_BYTES, 2 * frame_bytes) + limits.max_in_flight * (4 + frame_bytes)
        body = await read_body(request.scope, request.receive, limit, limits.request_s)
        told = request.headers.get(HEADER_LENGTH)
        asked, binary = parse_request(body, told, max(MAX_JSON_BYTES, 2 * frame_bytes))
        parsed = []
        for number, data in enumerate(frames_of(asked, binary, limits.max_in_flight)):
            self._service.metrics.came(VIA)
            try:
                tag = served.bundle.tag
                parsed.append(parse_frame(data, max_payload_bytes=limits.max_payload_bytes, bundle_tag=tag))
                if parsed[-1].codec == PROBE:
                    raise FrameError("a probe has no choices; ask /v2/health")
            except FrameError as error:
                raise FrameError(f"element {number} of frame: {error}") from error
        return asked, parsed

    async def _answers(self, served: Served, frames: list[Frame]) -> list[Answer]:
        """Of all frames, in their order; else the first error."""
        waiting = (self._service.answer(served, frame) for frame in frames)
        answers: list[Answer] = []
        for result in await asyncio.gather(*waiting, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result
            answers.append(result)
        return answers

    def _served(self, request: Request) -> Served:
        """The bundle in the path. HTTPException: not served, or there are several and no version was named."""
        name, version = request.path_params["name"], request.path_params.get("version")
        found = self._service.shelf.by_name(name, version)
        if not found:
            raise HTTPException(404, f"no model of this name and version; {self._service.shelf.names()}")
        if len(found) > 1:
            versions = ", ".join(one.version for one in found)
            raise HTTPException(400, f"several models have this name; name a version: {versions}")
        return found[0]


def other_task(manifest: Manifest) -> str:
    """Why a model is not for this protocol."""
    task = manifest.task.name
    return f"the answers of {manifest.name} are of task {task}, and only scores fit in here; use {CLASSIFY_PATH}"
