"""The Open Inference Protocol, with the client that people use for it, and with requests that no client sends."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import json
import struct
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette

from bottlenet.bundle import Bundle
from bottlenet.cloud import Decoder, Limits, create_app
from bottlenet.cloud.protocol_v2 import frames_of, parse_request
from bottlenet.errors import InputError
from conftest import MakeBundle, Server
from processes import frame_of

HEADER = "Inference-Header-Content-Length"


@pytest.fixture(scope="module")
def app(bundle: Bundle) -> Starlette:
    return create_app([bundle], Limits(max_in_flight=4, max_payload_bytes=1000))


@pytest.fixture(scope="module")
def server(app: Starlette) -> Iterator[Server]:
    server = Server(app)
    yield server
    server.stop()


def ask(app: Starlette, method: str, path: str, **options: Any) -> httpx.Response:
    async def main() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, **options)

    return asyncio.run(main())


def request(frames: list[bytes], **changes: Any) -> dict[str, Any]:
    data = [base64.b64encode(one).decode() for one in frames]
    return {"inputs": [{"name": "frame", "datatype": "BYTES", "shape": [len(frames)], "data": data, **changes}]}


def infer(app: Starlette, document: object) -> httpx.Response:
    return ask(app, "POST", "/v2/models/tiny/infer", json=document)


def refused(response: httpx.Response, status: int = 400) -> str:
    assert response.status_code == status
    assert list(response.json()) == ["error"]
    return str(response.json()["error"])


class TestTritonClient:
    """`tritonclient[http]`, over a socket."""

    @pytest.fixture
    def client(self, server: Server) -> Iterator[Any]:
        http = pytest.importorskip("tritonclient.http", reason="needs tritonclient[http]")
        with http.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
            yield client

    def test_health_and_metadata(self, client: Any, bundle: Bundle) -> None:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("tiny")
        assert client.is_model_ready("tiny", bundle.id.hex()[:12])
        assert not client.is_model_ready("another")
        assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
        metadata = client.get_model_metadata("tiny")
        assert metadata["versions"] == [bundle.id.hex()[:12]]
        assert metadata["inputs"] == [{"name": "frame", "datatype": "BYTES", "shape": [-1]}]
        assert [(out["name"], out["datatype"], out["shape"]) for out in metadata["outputs"]] == [
            ("scores", "FP32", [-1, 5]),
            ("classes", "INT32", [-1, 5]),
            ("labels", "BYTES", [-1, 5]),
        ]

    @pytest.mark.parametrize("binary_in", [True, False])
    @pytest.mark.parametrize("binary_out", [True, False, None])
    def test_frames(self, client: Any, bundle: Bundle, binary_in: bool, binary_out: bool | None) -> None:
        """None: the client asks for no output by name, and gets all."""
        from tritonclient.http import InferInput, InferRequestedOutput

        frames = [dataclasses.replace(frame_of(bundle), sequence=number) for number in range(3)]
        whole = [frame.to_bytes() for frame in frames]
        elements = whole if binary_in else [base64.b64encode(one) for one in whole]
        tensor = InferInput("frame", [3], "BYTES")
        tensor.set_data_from_numpy(np.array(elements, dtype=object), binary_data=binary_in)
        names = ("scores", "classes", "labels")
        outputs = None if binary_out is None else [InferRequestedOutput(name, binary_out) for name in names]
        result = client.infer("tiny", [tensor], outputs=outputs, request_id="r1")
        assert result.get_response()["id"] == "r1"
        assert result.get_response()["model_version"] == bundle.id.hex()[:12]
        (expected, *_) = Decoder(bundle).answers(frames)
        scores, classes, labels = (result.as_numpy(name) for name in names)
        assert scores.shape == classes.shape == labels.shape == (3, 5)
        for row in range(3):
            assert [int(index) for index in classes[row]] == [index for index, _ in expected.top]  # type: ignore[union-attr]
            assert scores[row] == pytest.approx([score for _, score in expected.top], abs=1e-6)  # type: ignore[union-attr]
            texts = [one.decode() if isinstance(one, bytes) else one for one in labels[row]]
            assert texts == [bundle.labels[index] for index in classes[row]]

    def test_errors_reach_it(self, client: Any, bundle: Bundle) -> None:
        from tritonclient.http import InferInput
        from tritonclient.utils import InferenceServerException

        tensor = InferInput("frame", [1], "BYTES")
        tensor.set_data_from_numpy(np.array([b"no frame"], dtype=object))
        with pytest.raises(InferenceServerException, match="element 0 of frame: .* shorter than its header"):
            client.infer("tiny", [tensor])
        with pytest.raises(InferenceServerException, match="no model of this name"):
            client.infer("another", [tensor])
        with pytest.raises(InferenceServerException, match="compressed"):
            client.infer("tiny", [tensor], request_compression_algorithm="gzip")


class TestInfer:
    def test_json(self, app: Starlette, bundle: Bundle) -> None:
        response = infer(app, {**request([frame_of(bundle).to_bytes()]), "outputs": [{"name": "labels"}]})
        assert response.status_code == 200
        assert HEADER not in response.headers
        document = response.json()
        assert (document["model_name"], document["model_version"]) == ("tiny", bundle.id.hex()[:12])
        assert "id" not in document
        (labels,) = document["outputs"]
        assert labels["shape"] == [1, 5]
        assert set(labels["data"]) <= set(bundle.labels)

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"name": "image"}, "give one input"),
            ({"datatype": "FP32"}, "give one input"),
            ({"shape": [2]}, "its shape says 2"),
            ({"shape": [5]}, "N from 1 to 4"),
            ({"shape": [0]}, "N from 1 to 4"),
            ({"shape": [-1]}, "N from 1 to 4"),
            ({"shape": [2, 2]}, "N from 1 to 4"),
            ({"shape": []}, "give one input"),
            ({"shape": [True]}, "give one input"),
            ({"shape": None}, "give one input"),
            ({"data": None}, "has no data"),
            ({"data": [1]}, "has no data"),
            ({"data": ["$$$$"]}, "no base64"),
            ({"data": ["é"]}, "no base64"),
            ({"parameters": {"binary_data_size": 5}}, "does not agree with the 0 bytes"),
            ({"parameters": {"binary_data_size": True}}, "does not agree"),
            ({"parameters": []}, None),
            ({"parameters": 7}, "parameters is no JSON object"),
        ],
    )
    def test_tensors_that_are_none(
        self, app: Starlette, bundle: Bundle, change: dict[str, object], says: str | None
    ) -> None:
        response = infer(app, request([frame_of(bundle).to_bytes()], **change))
        if says is None:
            assert response.status_code == 200
        else:
            assert says in refused(response)

    @pytest.mark.parametrize(
        "document", [None, [], {}, {"inputs": []}, {"inputs": {}}, {"inputs": [[]]}, {"inputs": [{}, {}]}, "text"]
    )
    def test_requests_that_are_none(self, app: Starlette, document: object) -> None:
        assert refused(infer(app, document))

    @pytest.mark.parametrize(
        ("content", "length"),
        [
            (b"", None),
            (b"{", None),
            (b"\xff\xfe", None),
            (b"[" * 200_000, None),
            (b"{}", "3"),
            (b"{}", "-1"),
            (b"{}", "9" * 5000),
            (b"{}", "two"),
            (b"1" * 264_000, None),
        ],
    )
    def test_bodies_that_are_none(self, app: Starlette, content: bytes, length: str | None) -> None:
        headers = {} if length is None else {HEADER: length}
        assert refused(ask(app, "POST", "/v2/models/tiny/infer", content=content, headers=headers))

    def test_a_large_body(self, app: Starlette) -> None:
        assert refused(ask(app, "POST", "/v2/models/tiny/infer", content=b"x" * 2**20), 413)

    @pytest.mark.parametrize(
        "outputs", [[{"name": "logits"}], [{"name": "labels"}, {"name": "labels"}], [7], {"name": "labels"}]
    )
    def test_outputs_that_are_none(self, app: Starlette, bundle: Bundle, outputs: object) -> None:
        document = {**request([frame_of(bundle).to_bytes()]), "outputs": outputs}
        assert "outputs can be scores, classes, labels" in refused(infer(app, document))

    def test_a_frame_of_another_bundle(self, app: Starlette, bundle: Bundle) -> None:
        good, other = frame_of(bundle), dataclasses.replace(frame_of(bundle), bundle_tag=b"xyz")
        text = refused(infer(app, request([good.to_bytes(), other.to_bytes()])))
        assert text.startswith("element 1 of frame: frame is for bundle 78797a")

    def test_a_payload_that_does_not_decode(self, app: Starlette, bundle: Bundle) -> None:
        bad = dataclasses.replace(frame_of(bundle), payload=b"\xff\xd9").to_bytes()
        assert "jpeg payload" in refused(infer(app, request([bad])))

    def test_two_bundles_of_one_name(self, bundle: Bundle, make_bundle: MakeBundle) -> None:
        second = make_bundle(cut="elsewhere")
        app = create_app([bundle, second])
        versions = {one.id.hex()[:12] for one in (bundle, second)}
        text = refused(ask(app, "GET", "/v2/models/tiny"))
        assert all(version in text for version in versions)
        for version in versions:
            document = ask(app, "GET", f"/v2/models/tiny/versions/{version}").json()
            assert set(document["versions"]) == versions
        body = request([frame_of(second).to_bytes()])
        path = f"/v2/models/tiny/versions/{second.id.hex()[:12]}/infer"
        assert ask(app, "POST", path, json=body).status_code == 200


@settings(max_examples=150, deadline=None)
@given(st.lists(st.binary(max_size=40), min_size=1, max_size=5))
def test_elements_come_back_in_both_forms(frames: list[bytes]) -> None:
    assert frames_of(request(frames), b"", 5) == frames
    packed = b"".join(struct.pack("<I", len(one)) + one for one in frames)
    document = request(frames, parameters={"binary_data_size": len(packed)})
    body = json.dumps(document).encode()
    asked, binary = parse_request(body + packed, str(len(body)), 2**18)
    assert frames_of(asked, binary, 5) == frames
    for cut in range(len(packed)):
        short = request(frames, parameters={"binary_data_size": cut})
        with pytest.raises(InputError):
            frames_of(short, packed[:cut], 5)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(list(request([]))), inner, max_size=3),
    max_leaves=10,
)


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(st.sampled_from(["name", "datatype", "shape", "data", "parameters"]), json_values, max_size=5),
    st.binary(max_size=30),
)
def test_any_json_is_frames_or_one_line(tensor: dict[str, object], binary: bytes) -> None:
    good = request([b"x"])["inputs"][0]
    try:
        frames = frames_of({"inputs": [{**good, **tensor}]}, binary, 4)
        assert 1 <= len(frames) <= 4
    except InputError as error:
        assert "\n" not in str(error)
        assert len(str(error)) < 300


class TestNames:
    """A manifest's name may hold what a URL, or a client, can't."""

    @pytest.fixture
    def named(self, make_bundle: MakeBundle) -> Bundle:
        return make_bundle(name="timm/net at blocks.8", cut="blocks.8")

    def test_an_id_is_a_name_too(self, named: Bundle) -> None:
        app = create_app([named])
        for name in (named.id.hex(), named.id.hex()[:12]):
            assert ask(app, "GET", f"/v2/models/{name}").json()["name"] == "timm/net at blocks.8"
            assert ask(app, "GET", f"/v2/models/{name}/versions/{named.id.hex()[:12]}/ready").status_code == 200
            body = request([frame_of(named).to_bytes()])
            assert ask(app, "POST", f"/v2/models/{name}/infer", json=body).status_code == 200
        text = refused(ask(app, "GET", "/v2/models/other"), 404)
        assert named.id.hex()[:12] in text

    def test_the_repository(self, named: Bundle, bundle: Bundle) -> None:
        index = ask(create_app([named, bundle]), "POST", "/v2/repository/index").json()
        assert index == [
            {"name": one.manifest.name, "version": one.id.hex()[:12], "state": "READY", "reason": ""}
            for one in (named, bundle)
        ]
