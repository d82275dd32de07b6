"""The page's files and the bundles', as the server gives them out. In a browser: test_page.py."""

from __future__ import annotations

import asyncio
import base64
import gzip
import re
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from bottlenet.bundle import Bundle
from bottlenet.bundle.ladder import write_ladder
from bottlenet.cloud import create_app
from bottlenet.cloud import http as static
from bottlenet.cloud.http import CSP, PAGE, PHOTOS
from bottlenet.wire.answer import parse_answer
from bottlenet.wire.frame import SUBPROTOCOL, TOKEN_SUBPROTOCOL
from conftest import MakeBundle
from processes import frame_of, serving

TOKEN = "page/with+odd~letters-0123"


@pytest.fixture(scope="module")
def app(bundle: Bundle) -> Starlette:
    return create_app([bundle])


def ask(app: Starlette, path: str, method: str = "GET", **headers: str) -> httpx.Response:
    async def main() -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            return await client.request(method, path, headers={"accept-encoding": "identity", **named})

    return asyncio.run(main())


def refused(response: httpx.Response) -> str:
    assert response.status_code == 404
    return str(response.json()["error"])


class TestPage:
    def test_the_page_itself(self, app: Starlette) -> None:
        response = ask(app, "/")
        assert response.status_code == 200
        assert response.content == (PAGE / "index.html").read_bytes()
        assert response.headers["content-type"] == "text/html; charset=utf-8"
        assert response.headers["content-security-policy"] == CSP
        assert response.headers["x-content-type-options"] == "nosniff"

    def test_all_that_it_names_is_there(self, app: Starlette) -> None:
        text = ask(app, "/").text
        named = re.findall(r'(?:href|src)="([^"]+)"', text)
        assert len(named) == 3
        for path in named:
            assert ask(app, f"/{path}").status_code == 200

    def test_modules_have_the_type_that_browsers_ask_for(self, app: Starlette) -> None:
        for file in PAGE.glob("*.js"):
            response = ask(app, f"/page/{file.name}")
            assert response.content == file.read_bytes()
            assert response.headers["content-type"] == "text/javascript; charset=utf-8"
            assert response.headers["content-security-policy"] == CSP  # a worker has that of its own script
            for imported in re.findall(r'^import .* from "\./(.+)";$', file.read_text(encoding="utf-8"), re.MULTILINE):
                assert (PAGE / imported).is_file()

    def test_nothing_of_another_host_is_allowed_or_named(self) -> None:
        assert not re.search(r"https?:|\*|unsafe-inline|'unsafe-eval'", CSP)
        for file in [*PAGE.glob("*.js"), *PAGE.glob("*.html"), *PAGE.glob("*.css")]:
            urls = re.findall(r"(?:https?|wss?)://\S+", file.read_text(encoding="utf-8"))
            assert urls == [], file.name

    def test_nothing_is_sent_twice(self, app: Starlette) -> None:
        first = ask(app, "/page/app.js")
        assert first.headers["cache-control"] == "no-cache"
        again = ask(app, "/page/app.js", if_none_match=first.headers["etag"])
        assert (again.status_code, again.content) == (304, b"")

    @pytest.mark.parametrize(
        "path",
        [
            "/page/nothing.js",
            "/page/%2e%2e/%2e%2e/app.py",
            "/page/..%2fapp.py",
            "/page/photos/x",
            "/page/%00",
            "/page/photos/%00",
            "/page/" + "x" * 253,
            "/page/" + "x" * 5000,
        ],
    )
    def test_what_is_not_there(self, app: Starlette, path: str) -> None:
        assert "the page has no" in refused(ask(app, path))

    def test_only_reading(self, app: Starlette) -> None:
        assert ask(app, "/page/app.js", "HEAD").headers["content-length"] == str((PAGE / "app.js").stat().st_size)
        assert ask(app, "/page/app.js", "POST").status_code == 405
        assert ask(app, "/", "POST").status_code == 405

    def test_photos_to_try(self, app: Starlette) -> None:
        names = ask(app, "/page/photos").json()
        assert len(names) == 10
        response = ask(app, f"/page/photos/{names[0]}")
        assert response.content == (PHOTOS / names[0]).read_bytes()
        assert response.headers["content-type"] == "image/jpeg"

    def test_without_a_page(self, bundle: Bundle) -> None:
        app = create_app([bundle], page=False)
        for path in ("/", "/page/app.js", f"/v1/bundles/{bundle.id.hex()}/head.onnx"):
            assert ask(app, path).status_code == 404

    def test_inside_another_app(self, app: Starlette, bundle: Bundle) -> None:
        outer = Starlette(routes=[Mount("/vision", app)])
        for path in ("/", "/page/app.js", "/page/photos", f"/v1/bundles/{bundle.id.hex()}/head.onnx"):
            assert ask(outer, f"/vision{path}").status_code == 200


class TestVendor:
    """What `make page` fetches: there, packed; or not there."""

    @pytest.fixture
    def app(self, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Starlette:
        monkeypatch.setattr(static, "PAGE", tmp_path)
        return create_app([bundle])

    def test_a_packed_file(self, app: Starlette, tmp_path: Path) -> None:
        data = b"\0asm" * 1000
        (tmp_path / "vendor").mkdir()
        (tmp_path / "vendor" / "x.wasm.gz").write_bytes(gzip.compress(data))
        packed = ask(app, "/page/vendor/x.wasm", accept_encoding="gzip, br")
        plain = ask(app, "/page/vendor/x.wasm")
        for response in (packed, plain):
            assert response.content == data
            assert response.headers["content-type"] == "application/wasm"
            assert response.headers["vary"] == "Accept-Encoding"
        assert packed.headers["content-encoding"] == "gzip"
        assert int(packed.headers["content-length"]) < 100
        assert "content-encoding" not in plain.headers
        etag = packed.headers["etag"]
        assert ask(app, "/page/vendor/x.wasm", accept_encoding="gzip", if_none_match=etag).status_code == 304

    def test_a_large_file_is_unpacked_bit_by_bit(self, app: Starlette, tmp_path: Path) -> None:
        """A client that does not unpack and reads slowly would hold all of it in memory, 22 MB of WebAssembly."""
        (tmp_path / "vendor").mkdir()
        (tmp_path / "vendor" / "x.wasm.gz").write_bytes(gzip.compress(bytes(10_000_000)))
        sizes: list[int] = []

        async def receive() -> dict[str, object]:
            await asyncio.sleep(3600)
            return {"type": "http.disconnect"}

        async def send(message: dict[str, object]) -> None:
            sizes.append(len(message.get("body", b"")))  # type: ignore[arg-type]

        scope = {"type": "http", "method": "GET", "path": "/page/vendor/x.wasm", "headers": [], "query_string": b""}
        asyncio.run(app(scope, receive, send))  # type: ignore[arg-type]
        assert sum(sizes) == 10_000_000
        assert max(sizes) <= 2**16

    def test_it_is_not_there(self, app: Starlette) -> None:
        said = refused(ask(app, "/page/vendor/ort.wasm.bundle.min.mjs"))
        assert said.endswith("run python -m bottlenet.cloud.vendor on the server")


class TestBundles:
    @pytest.mark.parametrize("name", ["manifest.json", "labels.txt", "head.onnx", "uncut.onnx"])
    def test_the_device_gets_its_half(self, app: Starlette, bundle: Bundle, name: str) -> None:
        response = ask(app, f"/v1/bundles/{bundle.id.hex()}/{name}")
        assert response.content == (bundle.path / name).read_bytes()
        assert "immutable" in response.headers["cache-control"]

    @pytest.mark.parametrize("name", ["tail.onnx", "tables.bin", "x", "a%0ab"])
    def test_and_no_more(self, app: Starlette, bundle: Bundle, name: str) -> None:
        said = refused(ask(app, f"/v1/bundles/{bundle.id.hex()}/{name}"))
        assert said.endswith("it has manifest.json, labels.txt, head.onnx, uncut.onnx")
        assert "\n" not in said

    def test_tables(self) -> None:
        shipped = Bundle.load("demo")
        response = ask(create_app([shipped]), f"/v1/bundles/{shipped.id.hex()}/tables.bin")
        assert response.content == (shipped.path / "tables.bin").read_bytes()

    def test_a_rung_of_a_ladder(self, make_bundle: MakeBundle, tmp_path: Path) -> None:
        """Its graphs are in the ladder's store."""
        bundle = make_bundle(name="shallow")
        (rung,) = write_ladder(tmp_path / "my.ladder", [bundle]).rungs
        app = create_app([rung])
        (listed,) = ask(app, "/v1/bundles").json()
        assert listed["id"] == bundle.id.hex()
        for name, size in listed["files"].items():
            response = ask(app, f"/v1/bundles/{listed['id']}/{name}")
            assert response.content == (bundle.path / name).read_bytes()
            assert len(response.content) == size == int(response.headers["content-length"])

    def test_another_bundle(self, app: Starlette, make_bundle: MakeBundle) -> None:
        other = make_bundle(name="other")
        assert "not served here" in refused(ask(app, f"/v1/bundles/{other.id.hex()}/head.onnx"))

    def test_a_file_that_went_away(self, make_bundle: MakeBundle) -> None:
        bundle = make_bundle(name="short")
        app = create_app([bundle])
        (bundle.path / "uncut.onnx").unlink()
        assert "uncut.onnx" not in ask(app, "/v1/bundles").json()[0]["files"]
        assert "has no 'uncut.onnx'" in refused(ask(app, f"/v1/bundles/{bundle.id.hex()}/uncut.onnx"))


class TestTokens:
    @pytest.fixture
    def tokens(self, tmp_path: Path) -> Path:
        path = tmp_path / "tokens.txt"
        path.write_text(f"{TOKEN}\n")
        return path

    def test_the_page_is_open_and_the_bundles_are_not(self, bundle: Bundle, tokens: Path) -> None:
        app = create_app([bundle], tokens=tokens)
        for path in ("/", "/page/app.js", "/page/photos"):
            assert ask(app, path).status_code == 200
        for path in ("/pages", "/v1/bundles", f"/v1/bundles/{bundle.id.hex()}/head.onnx"):
            assert ask(app, path).status_code == 401
        assert ask(app, f"/v1/bundles/{bundle.id.hex()}/head.onnx", authorization=f"Bearer {TOKEN}").status_code == 200

    def test_a_stream_names_its_token_in_a_subprotocol(self, bundle: Bundle, tokens: Path) -> None:
        """Browsers can't set headers on a WebSocket."""
        encoded = base64.urlsafe_b64encode(TOKEN.encode()).decode().rstrip("=")
        with serving(bundle.path, "--tokens", tokens, "--log-level", "debug") as process:
            url = f"{process.url}/v1/stream?bundle={bundle.id.hex()}"

            def names(*subprotocols: str) -> int | None:
                with connect(url, proxy=None, compression=None, subprotocols=subprotocols) as stream:  # type: ignore[arg-type]
                    assert stream.subprotocol == (SUBPROTOCOL if SUBPROTOCOL in subprotocols else None)
                    try:
                        stream.send(frame_of(bundle, 9).to_stream_bytes())
                        return parse_answer(stream.recv(timeout=30)).sequence
                    except ConnectionClosed as closed:
                        return closed.rcvd and closed.rcvd.code

            assert names(SUBPROTOCOL, TOKEN_SUBPROTOCOL + encoded) == 9
            for wrong in (encoded[:-2], encoded + "AA", "%%%", "", "A"):
                assert names(SUBPROTOCOL, TOKEN_SUBPROTOCOL + wrong) == 4401
            assert names(SUBPROTOCOL) == 4401
            process.popen.terminate()
            _, log = process.popen.communicate(timeout=60)
        assert TOKEN not in log
        assert encoded not in log

    def test_who_needs_none_may_name_the_subprotocol(self, bundle: Bundle) -> None:
        with serving(bundle.path) as process:
            url = f"{process.url}/v1/stream?bundle={bundle.id.hex()}"
            with connect(url, proxy=None, compression=None, subprotocols=[SUBPROTOCOL]) as stream:  # type: ignore[list-item]
                assert stream.subprotocol == SUBPROTOCOL
                stream.send(frame_of(bundle, 3).to_stream_bytes())
                assert parse_answer(stream.recv(timeout=30)).sequence == 3


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")
def test_two_bundles_of_one_name_can_be_told_apart() -> None:
    code = """
        const { titleOf } = await import(process.argv[1]);
        const names = [["0123456789abcdef", "a"], ["fedcba9876543210", "a"], ["00", "b"]];
        const bundles = names.map(([id, name]) => ({ id, name }));
        console.log(bundles.map((one) => titleOf(one, bundles)).join());
    """
    command = ["node", "--input-type=module", "-e", code, (PAGE / "bundle.js").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "a (0123456789ab),a (fedcba987654),b"
