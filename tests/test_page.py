"""The page in Chromium: photo in, answer out, and what a person sees when something goes wrong."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import re
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

import bottlenet
from bottlenet.bundle import Bundle, write_bundle
from bottlenet.bundle.manifest import Exit
from bottlenet.cloud.decoder import Decoder
from bottlenet.edge import Encoder
from bottlenet.photo import photo_to_pixels
from bottlenet.runtime import open_uncut, run_graph
from bottlenet.wire.answer import Answer, Boxes, best
from bottlenet.wire.codecs import encode_within
from bottlenet.wire.frame import Frame, parse_stream_frame
from conftest import CLASSES, MakeBundle, exit_files, exit_manifest
from other_tasks import other_bundle
from processes import Process, serving

pytest.importorskip("playwright", reason="playwright is not installed")
sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))
from playwright.sync_api import expect, sync_playwright

from chromium import Visit, executable, launch

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Playwright, Route

HERE = Path(__file__).parent
PACKAGE = Path(bottlenet.__file__).parent
PHOTOS = sorted((PACKAGE / "demo" / "photos").glob("*.jpg"))
AXE = HERE / "vendor" / "axe.min.js"
VENDOR = PACKAGE / "cloud" / "page" / "vendor"
TOKEN = "page/with+odd~letters-0123"
ELSEWHERE = "server.test"  # which to Chromium is another machine: over plain http it gives pages less
LONG_MS = 60_000
CHECK = (HERE / "page_check.js").read_text(encoding="utf-8")

pytestmark = [
    pytest.mark.skipif(not executable(), reason="chromium is not installed"),
    pytest.mark.skipif(not any(VENDOR.glob("ort*")), reason="npm has not fetched onnxruntime-web: make page"),
    pytest.mark.skipif(not AXE.is_file(), reason="npm has not fetched axe-core: python tests/axe.py"),
]
MakeVisit = Callable[..., Visit]


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as made:
        yield made


@pytest.fixture(scope="module")
def browser(playwright: Playwright) -> Browser:
    return launch(playwright, "--use-fake-device-for-media-stream", f"--host-resolver-rules=MAP {ELSEWHERE} 127.0.0.1")


@pytest.fixture(scope="module")
def site() -> Iterator[Process]:
    with serving("demo", "--insecure") as process:  # one test reaches it by another name
        yield process


@pytest.fixture(scope="module")
def demo() -> Bundle:
    return Bundle.load("demo")


@pytest.fixture
def visit(browser: Browser, site: Process) -> Iterator[MakeVisit]:
    """`visit(url, **options of the context)`: asks no other host, and puts nothing on the console if `quiet`."""
    visits: list[tuple[Visit, bool]] = []

    def make(url: str = site.http_url, *, quiet: bool = True, **options: object) -> Visit:
        visits.append((Visit(browser, f"{url}/", **options), quiet))
        return visits[-1][0]

    yield make
    for one, quiet in visits:
        one.close()
        assert one.hosts <= {urlsplit(one.url).netloc, ""}
        assert one.complaints == [] or not quiet


@pytest.fixture(scope="module")
def opened(browser: Browser, site: Process) -> Visit:
    made = Visit(browser, f"{site.http_url}/")
    made.open()
    return made


@pytest.fixture
def one(opened: Visit) -> Iterator[Visit]:
    """A page that is ready, and that tests share which leave budget and networks as they are: to load takes seconds."""
    opened.complaints.clear()
    opened.sent.clear()
    yield opened
    assert opened.hosts <= {urlsplit(opened.url).netloc, ""}
    assert opened.complaints == []


def answered(one: Visit) -> str:
    """The best class, once everything is there."""
    one.done()
    expect(one.page.locator("#top li")).to_have_count(5)
    return one.page.locator("#top li span").first.inner_text()


def problem(one: Visit, said: str = "") -> None:
    """The page comes to say that something is wrong, in words with `said` in them."""
    expect(one.page.locator("#problem")).to_be_visible(timeout=LONG_MS)
    expect(one.page.locator("#problem p")).to_contain_text(said, timeout=LONG_MS)


def file(image: Image.Image, name: str, **options: Any) -> dict[str, object]:
    """As the browser's file dialog gives it."""
    buffer = io.BytesIO()
    image.save(buffer, Path(name).suffix[1:].replace("jpg", "jpeg"), **options)
    return {"name": name, "mimeType": "", "buffer": buffer.getvalue()}


SHADES = """(canvas) => {
  const context = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", { willReadFrequently: true });
  context.drawImage(canvas, 0, 0);
  return [...context.getImageData(0, 0, canvas.width, canvas.height).data];
}"""


def inside(one: Visit, bundle: Bundle, data: bytes, budget: int = 2**24) -> tuple[np.ndarray, np.ndarray, bytes]:
    """Pixels, symbols and payload, as the page's device makes them of a file."""
    made, size = one.device(bundle.id.hex(), data, budget), bundle.manifest.preprocess.size
    pixels, symbols = (np.frombuffer(each, np.uint8) for each in (made.pixels, made.symbols))
    return pixels.reshape(size, size, 3), symbols.reshape(bundle.manifest.latent), made.payload


class TestPhoto:
    def test_the_codec_gives_pythons_bytes(self, one: Visit) -> None:
        vectors = json.loads((HERE / "page_vectors.json").read_text(encoding="utf-8"))
        tables = base64.b64encode((PACKAGE / "demo" / "bundle" / "tables.bin").read_bytes()).decode()
        result = one.page.evaluate(
            f"([v, t]) => ({CHECK.rstrip().rstrip(';')})((n) => import(`/page/${{n}}`), v, t)", [vectors, tables]
        )
        assert result["failed"] == []
        assert result["count"] > 100

    def test_in_and_answer_out(self, one: Visit, demo: Bundle) -> None:
        """Every photo of the demo: the same payload, to the byte, and the same answer as Python's."""
        encoder, decoder = Encoder(demo), Decoder(demo)
        for path in PHOTOS:
            one.choose(path)
            label = answered(one)
            frame = encoder.encode(path).frame
            (answer,) = decoder.answers([frame])
            assert not isinstance(answer, Exception)
            assert label == demo.labels[answer.top[0][0]]
            sent = parse_stream_frame(one.sent[-1], bundle_tag=demo.tag)
            assert (sent.codec, sent.setting, sent.payload) == (frame.codec, frame.setting, frame.payload)
        assert len(one.sent) == len(PHOTOS)

    def test_every_kind_of_file_gives_pythons_pixels(self, one: Visit, demo: Bundle) -> None:
        photo = Image.open(PHOTOS[0]).convert("RGB").resize((301, 260))
        exif = Image.Exif()
        exif[0x112] = 6
        faded = photo.copy()
        faded.putalpha(Image.linear_gradient("L").resize(photo.size))
        for given in (
            file(photo, "a.jpg", exif=exif),
            file(photo, "a.jpg", progressive=True, subsampling=0),
            file(photo.convert("L"), "a.jpg"),
            file(photo.convert("CMYK"), "a.jpg"),
            file(faded, "a.png"),
            file(photo.convert("P"), "a.png"),
            file(photo, "a.webp", quality=70),
            file(photo.resize((1500, 1100)), "a.jpg"),
        ):
            data = given["buffer"]
            assert isinstance(data, bytes)
            pixels, symbols, payload = inside(one, demo, data, 600)
            assert np.array_equal(pixels, photo_to_pixels(data, demo.manifest.preprocess))
            codec = demo.codec
            assert payload == codec.encode(symbols)[:600]
            # The graph's floating point differs between WebAssembly and the processor: a symbol may round otherwise.
            there = Encoder(demo).symbols(data)
            assert np.mean(symbols != there) < 1e-3
            assert np.abs(symbols.astype(int) - there).max() <= 1

    def test_other_codecs(self, visit: MakeVisit, make_bundle: MakeBundle) -> None:
        """One after the other on one server; those with a budget are coarser, as Python makes them."""
        bundles = [
            make_bundle(name="accurate", setting=98),
            make_bundle(name="fast", setting=90),
            make_bundle(name="small", setting=90, budget_bytes=60),
            make_bundle(name="raw", codec="raw", setting=0),
        ]
        with serving(*(bundle.path for bundle in bundles)) as process:
            one = visit(process.http_url)
            page = one.open()
            for bundle in bundles:
                page.get_by_label("Bundle").select_option(bundle.manifest.name)
                expect(page.locator("#about")).to_contain_text(bundle.id.hex()[:12])
                one.choose(PHOTOS[0])
                answered(one)
                budget = bundle.manifest.budget_bytes or 2**24
                pixels, symbols, payload = inside(one, bundle, PHOTOS[0].read_bytes(), budget)
                assert np.array_equal(pixels, photo_to_pixels(PHOTOS[0], bundle.manifest.preprocess))
                made = encode_within(bundle.codec, symbols, budget)
                sent = parse_stream_frame(one.sent[-1], bundle_tag=bundle.tag)
                assert (sent.setting, sent.payload) == (made.setting, payload) == (made.setting, made.payload)
                expect(page.locator("#budget")).to_be_enabled(enabled=bundle.manifest.codec == "jpeg")
                assert len(set(page.locator("#mosaic").evaluate(SHADES))) > 10

    @pytest.mark.slow
    def test_what_the_device_is_sure_of_is_not_sent(
        self, visit: MakeVisit, demo: Bundle, exit_bundle: Bundle, tmp_path: Path
    ) -> None:
        """By another network as by the rest of the own one: the page sends what Python sends, and answers the rest."""
        files = {name: demo.path / name for name in demo.manifest.files}
        entry = Exit(demo.manifest.uncut_preprocess, 1.0, None, 0.6, 0.9)
        manifest = dataclasses.replace(demo.manifest, name="own", exit=entry)
        own = write_bundle(tmp_path / "own", manifest, {**files, "exit.onnx": demo.path / "uncut.onnx"})
        photos = [tmp_path / f"{path.stem}.png" for path in PHOTOS]  # a JPEG may be scaled down as it is decoded
        for path, photo in zip(PHOTOS, photos, strict=True):
            Image.open(path).save(photo)
        shares = []
        with serving(own.path, exit_bundle.path) as process:
            one = visit(process.http_url)
            page = one.open()
            for bundle in (own, exit_bundle):
                page.get_by_label("Bundle").select_option(bundle.manifest.name)
                expect(page.locator("#about")).to_contain_text(bundle.id.hex()[:12])
                encoder, codec = Encoder(bundle), bundle.codec
                for path in photos:
                    one.sent.clear()
                    one.choose(path)
                    label, made = answered(one), encoder.work(path).result
                    sent = isinstance(made, Frame)
                    shares.append(sent)
                    assert len(one.sent) == sent
                    expect(page.locator("#costs")).to_be_visible(visible=sent)
                    if isinstance(made, Answer):
                        assert label == bundle.labels[made.top[0][0]]
                        expect(page.locator("#mosaic-note")).to_contain_text("Nothing: the device is")
                        page.get_by_role("button", name="Send it anyway").click()
                        expect(page.locator("#mosaic-note")).to_contain_text("as the server gets them", timeout=LONG_MS)
                        one.done()
                    expect(page.locator("#costs")).to_be_visible()
                    (message,) = one.sent
                    there, here = parse_stream_frame(message, bundle_tag=bundle.tag), encoder.encode(path).frame
                    assert there.setting == here.setting
                    symbols = [codec.decode(each.payload).astype(int) for each in (there, here)]
                    assert (
                        np.abs(symbols[0] - symbols[1]).mean() < 0.5
                    )  # one that rounds otherwise moves a block of JPEG
        assert 0 < sum(shares[: len(photos)]) < len(photos)

    def test_nothing_of_a_photo_can_be_pressed_while_another_bundle_loads(
        self, visit: MakeVisit, exit_bundle: Bundle, tmp_path: Path
    ) -> None:
        sure = write_bundle(tmp_path / "sure", dataclasses.replace(exit_manifest(0.0), name="sure"), exit_files())
        liar = write_bundle(
            tmp_path / "liar", dataclasses.replace(exit_manifest(0.0), name="liar"), exit_files(classes=CLASSES - 1)
        )
        with serving(sure.path, exit_bundle.path, liar.path) as process:
            one = visit(process.http_url)
            page = one.open()
            held: list[Route] = []
            page.get_by_label("Bundle").select_option("sure")
            expect(page.locator("#about")).to_contain_text(sure.id.hex()[:12])
            one.choose(PHOTOS[0])
            answered(one)
            button = page.get_by_role("button", name="Send it anyway")
            expect(button).to_be_enabled()
            page.route("**/head.onnx", lambda route: held.append(route))
            with page.expect_request("**/head.onnx", timeout=LONG_MS):
                page.get_by_label("Bundle").select_option(exit_bundle.manifest.name)
            expect(button).to_be_hidden()
            held[0].continue_()
            page.unroute("**/head.onnx")
            expect(page.locator("#about")).to_contain_text(exit_bundle.id.hex()[:12], timeout=LONG_MS)
            answered(one)
            expect(page.locator("#result")).to_be_visible()  # the photo that was looked at, by the other bundle
            page.get_by_label("Bundle").select_option("liar")
            problem(one, f"exit.onnx gives {CLASSES - 1} scores for {CLASSES} classes")

    def test_the_uncut_network(self, visit: MakeVisit, demo: Bundle) -> None:
        one = visit()
        one.open()
        one.choose(PHOTOS[1])
        answered(one)
        one.page.get_by_role("button", name="Compare").click()
        rows = one.page.locator("#uncut-top li")
        expect(rows).to_have_count(5, timeout=LONG_MS)
        pixels = photo_to_pixels(PHOTOS[1], demo.manifest.uncut_preprocess)
        top = best(run_graph(open_uncut(demo), pixels=pixels[None])[0])
        assert rows.locator("span:first-child").all_inner_texts() == [demo.labels[index] for index, _ in top]
        assert rows.first.inner_text().split("\n")[-1] == f"{round(100 * top[0][1])} %"
        expect(one.page.locator("#answer")).to_contain_text("The uncut network says")
        one.choose(PHOTOS[2])  # and from now on it is asked by itself
        expect(one.page.locator("#answer")).to_contain_text("espresso")
        expect(one.page.locator("#answer")).to_contain_text("The uncut network says the same", timeout=LONG_MS)

    def test_boxes(self, visit: MakeVisit, tmp_path: Path) -> None:
        """As many as Python finds, in the list, in words and on the photo; the uncut network's beside them."""
        bundle = other_bundle(tmp_path / "bundle", "detection")
        with serving(bundle.path) as process:
            one = visit(process.http_url)
            page = one.open()
            one.choose(PHOTOS[0])
            one.done()
            (answer,) = Decoder(bundle).answers([Encoder(bundle).encode(PHOTOS[0]).frame])
            assert isinstance(answer, Answer)
            assert isinstance(answer.result, Boxes)
            boxes = [box for box in answer.result.boxes if box.score >= 0.3]
            assert boxes
            rows = page.locator("#top li span:first-child")
            expect(rows).to_have_text([bundle.labels[box.class_index] for box in boxes])
            for box in boxes:
                expect(page.locator("#answer")).to_contain_text(bundle.labels[box.class_index])
            expect(page.locator("#photo")).to_have_attribute(
                "aria-label", re.compile(bundle.labels[boxes[0].class_index])
            )
            drawn = page.locator("#photo").evaluate(SHADES)
            pixels = photo_to_pixels(PHOTOS[0], bundle.manifest.preprocess)
            plain = np.array(drawn, np.uint8).reshape(*pixels.shape[:2], 4)[..., :3]
            changed = (plain != pixels).any(2)
            assert 0 < changed.sum() < changed.size
            page.get_by_role("button", name="Compare").click()
            expect(page.locator("#uncut-top li")).to_have_count(len(boxes), timeout=LONG_MS)
            expect(page.locator("#answer")).to_contain_text("The uncut network says the same")

    def test_a_map_is_for_the_command_line(self, visit: MakeVisit, tmp_path: Path) -> None:
        with serving(other_bundle(tmp_path / "bundle", "segmentation").path) as process:
            one = visit(process.http_url)
            one.page.goto(one.url)
            problem(one, "This page shows labels and boxes, but the task of the bundle")

    def test_the_camera(self, visit: MakeVisit) -> None:
        one = visit(permissions=["camera"])
        page = one.open()
        page.get_by_role("button", name="Use the camera").click()
        expect(page.locator("#finder")).to_be_visible()
        page.get_by_role("button", name="Take the photo").click()
        answered(one)
        page.get_by_role("button", name="Close the camera").click()
        expect(page.locator("#finder")).to_be_hidden()
        assert page.locator("#video").evaluate("(video) => video.srcObject") is None

    def test_photos_that_come_with_the_page_a_drop_and_the_clipboard(self, one: Visit) -> None:
        page = one.page
        page.get_by_role("button", name="goldfish").click()
        expect(page.locator("#answer")).to_contain_text("goldfish", timeout=LONG_MS)
        assert page.get_by_role("button", name="goldfish").get_attribute("aria-pressed") == "true"
        for kind, path, label in (("drop", PHOTOS[7], "palace"), ("paste", PHOTOS[5], "hammer")):
            page.evaluate(
                """([kind, file]) => {
                  const bytes = Uint8Array.from(atob(file), (letter) => letter.charCodeAt(0));
                  const data = new DataTransfer();
                  data.items.add(new File([bytes], "one.jpg", { type: "image/jpeg" }));
                  const event = kind === "drop" ? new DragEvent(kind, { dataTransfer: data, cancelable: true })
                    : new ClipboardEvent(kind, { clipboardData: data });
                  document.dispatchEvent(event);
                }""",
                [kind, base64.b64encode(path.read_bytes()).decode()],
            )
            expect(page.locator("#answer")).to_contain_text(label, timeout=LONG_MS)


class TestBudget:
    def test_the_slider_by_keyboard(self, visit: MakeVisit, demo: Bundle) -> None:
        one = visit()
        page = one.open()
        one.choose(PHOTOS[3])
        answered(one)
        slider = page.get_by_role("slider", name="Budget")
        expect(slider).to_have_attribute("aria-valuetext", "600 bytes")
        slider.focus()
        slider.press("Home")
        expect(page.locator("#state")).to_contain_text("with 16 bytes")
        slider.press("End")
        whole = demo.codec.encode(inside(one, demo, PHOTOS[3].read_bytes())[1])
        expect(page.locator("#state")).to_contain_text(f"with {len(whole):,} bytes")
        expect(page.locator("#bytes")).to_have_attribute(
            "aria-label", f"The payload, byte by byte: {len(whole):,} of {len(whole):,} are sent"
        )
        for data in one.sent:
            payload = parse_stream_frame(data, bundle_tag=demo.tag).payload
            assert payload == whole[: len(payload)]
        one.sent.clear()  # of many steps only the last counts
        page.locator("#budget").evaluate(
            """(slider) => {
              for (let step = 0; step <= 400; step += 2) {
                slider.value = step;
                slider.dispatchEvent(new Event("input"));
              }
            }"""
        )
        expect(page.locator("#budget-note")).to_have_text(f"of {len(whole):,} in the whole payload")
        assert len(one.sent) < 20

    def test_links(self, visit: MakeVisit) -> None:
        one = visit()
        page = one.open()
        one.choose(PHOTOS[0])
        answered(one)
        row = page.locator("#times tr", has_text="Link").locator("td")
        expect(row).to_have_text("105 ms")  # 100 ms, and (600 + 52) * 8 / 1.1e6 s
        for name in ("Head", "Encode", "Server"):
            took = page.locator("#times tr", has_text=name).locator("td")
            expect(took).to_have_text(re.compile(r"^<?\s?\d[\d.,]* (ms|s)$"))
        sizes = page.locator("#sizes tr").all_inner_texts()
        for name in ("Sent", "JPEG 75", "JPEG 20", "WebP 75", "WebP 20"):
            (size,) = (text for text in sizes if text.startswith(name))
            assert int(size.split()[-1].replace(",", "")) > 100
        page.get_by_label("Uplink").select_option("LoRaWAN")
        expect(page.locator("#link-note")).to_contain_text("LoRaWAN carries 210 bytes")
        page.get_by_role("button", name="Make it fit").click()
        expect(page.locator("#budget-bytes")).to_have_text("210 bytes")
        expect(page.locator("#link-note")).to_be_hidden()
        assert len(one.sent[-1]) == 214


class TestForEverybody:
    def test_no_serious_fault(self, visit: MakeVisit) -> None:
        """As axe-core finds them, of each state of the page, in light and dark."""
        one = visit(color_scheme="dark")
        one.context.add_init_script(path=AXE)
        page = one.open()
        assert faults(one) == []
        one.choose(PHOTOS[1])
        answered(one)
        page.get_by_role("button", name="Compare").click()
        expect(page.locator("#uncut-top li")).to_have_count(5, timeout=LONG_MS)
        page.get_by_label("Uplink").select_option("LoRaWAN")
        assert faults(one) == []
        one.choose({"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no photo"})
        problem(one)
        page.locator("#access").evaluate("(element) => (element.hidden = false)")
        assert faults(one) == []
        page.emulate_media(color_scheme="light")
        assert faults(one) == []

    def test_a_narrow_window(self, one: Visit) -> None:
        page = one.page
        one.choose(PHOTOS[8])
        answered(one)
        one.choose({"name": "x" * 200, "mimeType": "text/plain", "buffer": b"no photo"})
        problem(one)
        page.locator("#access").evaluate("(element) => (element.hidden = false)")
        for width in (320, 360, 768, 1280):
            page.set_viewport_size({"width": width, "height": 640})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            for control in page.locator("button:visible, select:visible, input[type=range]:visible, .button").all():
                box = control.bounding_box()
                assert box is not None
                assert box["height"] >= 43.5
                assert box["x"] >= 0
                assert box["x"] + box["width"] <= width
        page.locator("#access").evaluate("(element) => (element.hidden = true)")

    def test_everything_can_be_reached_by_keyboard(self, one: Visit) -> None:
        page = one.page
        one.choose(PHOTOS[0])
        answered(one)
        reached = []
        page.locator("h1").click()
        page.keyboard.press("Tab")
        for _ in range(30):
            reached.append(page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))
            page.keyboard.press("Tab")
        order = ["file", "camera", "load-uncut", "budget", "link"]
        assert [name for name in reached if name in order][: len(order)] == order


def faults(one: Visit) -> list[str]:
    result = one.page.evaluate("axe.run()")
    assert len(result["passes"]) > 10
    return [f"{each['id']}: {each['nodes'][0]['html']}" for each in result["violations"]]


class TestToken:
    def test_behind_a_token(self, visit: MakeVisit, tmp_path: Path) -> None:
        tokens = tmp_path / "tokens.txt"
        tokens.write_text(f"{TOKEN}\n")
        with serving("demo", "--tokens", tokens) as process:
            one = visit(process.http_url, quiet=False)  # Chromium puts every 401 on the console
            page = one.open("Not connected")
            problem(one, "This server asks for a token.")
            one.choose(PHOTOS[4])  # before there is a token: it waits
            field = page.get_by_label("Token for this server")
            for wrong, says in (("short", "This is no token"), ("another-token-of-mine", "doesn't know this token")):
                field.fill(wrong)
                field.press("Enter")
                expect(page.locator("#problem")).to_contain_text(says)
            field.fill(TOKEN)
            page.get_by_role("button", name="Use it").click()
            expect(page.locator("#answer")).to_contain_text("goldfish", timeout=LONG_MS)
            expect(page.locator("#access")).to_be_hidden()
            one.open()  # the tab knows it still
            one.choose(PHOTOS[7])
            assert answered(one) == "palace"
            assert TOKEN not in page.url
            kept = page.evaluate(
                "[document.cookie, JSON.stringify({...localStorage}), JSON.stringify({...sessionStorage})]"
            )
            assert kept == ["", "{}", json.dumps({"token": TOKEN}, separators=(",", ":"))]
            tokens.write_text("another-token-from-now-on\n")
            page.wait_for_timeout(1500)
            one.choose(PHOTOS[0])
            problem(one, "doesn't know this token")
            field.fill("another-token-from-now-on")
            field.press("Enter")
            expect(page.locator("#answer")).to_contain_text("anemone fish", timeout=LONG_MS)


class TestBadCases:
    """Each is a sentence on the page, and a way on."""

    def test_no_photo(self, one: Visit) -> None:
        page = one.page
        for data in (b"just text", b"", PHOTOS[0].read_bytes()[:200], b"\x89PNG\r\n\x1a\n" + bytes(50)):
            one.choose({"name": "notes.jpg", "mimeType": "image/jpeg", "buffer": data})
            said = "notes.jpg is no photo that this browser can open. Choose a JPEG, PNG, WebP or AVIF file."
            problem(one, said)
            with page.expect_file_chooser() as chooser:
                page.get_by_role("button", name="Choose another photo").click()
            chooser.value.set_files(PHOTOS[4])
            assert answered(one) == "goldfish"
            expect(page.locator("#problem")).to_be_hidden()

    def test_a_photo_of_50_megapixels(self, one: Visit, demo: Bundle) -> None:
        hen = Image.open(PHOTOS[6]).convert("RGB")
        one.choose(file(hen.resize((8660, 5780), Image.Resampling.NEAREST), "large.jpg", quality=60))
        label = answered(one)
        small = Encoder(demo).encode(PHOTOS[6]).frame
        (answer,) = Decoder(demo).answers([small])
        assert not isinstance(answer, Exception)
        assert label == demo.labels[answer.top[0][0]]
        expect(one.page.locator("#photo-note")).to_contain_text(
            "8,660 × 5,780 pixels, which the browser scaled down first"
        )
        one.choose(file(Image.new("1", (12000, 9000)), "huge.png"))
        problem(one, "huge.png has 108 megapixels; up to 100 are allowed.")
        one.choose(file(Image.new("L", (200, 7), 128), "thin.png"))
        problem(one, "thin.png is 200 × 7 pixels")

    def test_no_camera(self, playwright: Playwright, site: Process) -> None:
        with launch(playwright, "--use-fake-device-for-media-stream=device-count=0") as without:
            one = Visit(without, f"{site.http_url}/", permissions=["camera"])
            one.open().get_by_role("button", name="Use the camera").click()
            problem(one, "This device has no camera. Choose a photo instead.")
            one.choose(PHOTOS[4])
            assert answered(one) == "goldfish"
            assert one.complaints == []

    def test_the_camera_is_refused(self, one: Visit) -> None:
        page = one.page
        page.get_by_role("button", name="Use the camera").click()
        problem(one, "The camera was refused. Allow it for this page")
        one.choose(PHOTOS[4])
        assert answered(one) == "goldfish"
        expect(page.locator("#problem")).to_be_hidden()

    def test_plain_http_from_another_machine(self, visit: MakeVisit, site: Process) -> None:
        """There browsers offer neither the camera nor digests. The photo can be chosen still."""
        one = visit(f"http://{ELSEWHERE}:{site.port}")
        one.open().get_by_role("button", name="Use the camera").click()
        problem(one, "Browsers give the camera only to pages that came over https")
        one.choose(PHOTOS[4])
        assert answered(one) == "goldfish"

    def test_no_webassembly(self, playwright: Playwright, site: Process) -> None:
        with launch(playwright, "--js-flags=--jitless") as bare:
            one = Visit(bare, f"{site.http_url}/")
            one.open("Not connected")
            problem(one, "This browser has no WebAssembly")
            problem(one, "bottlenet classify")
            one.choose(PHOTOS[0])  # says the same, and does nothing else
            problem(one, "This browser has no WebAssembly")
            assert one.complaints == []

    def test_the_server_goes_in_mid_photo(self, visit: MakeVisit) -> None:
        with serving("demo") as process:
            one = visit(process.http_url, quiet=False)
            page = one.open()
            one.choose(PHOTOS[4])
            answered(one)
            process.popen.send_signal(signal.SIGSTOP)  # it takes the frame, and says nothing
            one.choose(PHOTOS[7])
            while len(one.sent) < 2:
                page.wait_for_timeout(50)
            process.end(signal.SIGKILL)
            problem(one, "The server went away before it answered. The photo is still here")
            page.get_by_role("button", name="Try again").click()
            expect(page.locator("#problem")).to_contain_text("The server can't be reached. The photo is still here")
        with serving("demo", "--port", process.port):
            page.get_by_role("button", name="Try again").click()
            expect(page.locator("#answer")).to_contain_text("palace", timeout=LONG_MS)
            expect(page.locator("#problem")).to_be_hidden()

    def test_the_server_is_not_there_when_the_page_wants_its_bundle(self, visit: MakeVisit) -> None:
        one = visit(quiet=False)
        one.page.route("**/v1/bundles", lambda route: route.abort())
        page = one.open("Not connected")
        problem(one, "The server can't be reached.")
        page.unroute("**/v1/bundles")
        page.get_by_role("button", name="Try again").click()
        one.says("Ready")
        expect(page.locator("#problem")).to_be_hidden()

    def test_a_bundle_that_is_too_large(self, visit: MakeVisit, make_bundle: MakeBundle) -> None:
        with serving("demo", make_bundle().path) as process:
            one = visit(process.http_url)

            def larger(route: Any) -> None:
                listed = route.fetch().json()
                listed[0]["files"]["head.onnx"] = 612_000_000
                route.fulfill(json=listed)

            one.page.route("**/v1/bundles", larger)
            page = one.open("Not connected")
            problem(one, "has 612.0 MB; up to 100.0 MB fit a browser. Choose another bundle")
            page.get_by_label("Bundle").select_option("tiny")
            one.says("Ready")
            one.choose(PHOTOS[0])
            assert answered(one) in {f"class {number}" for number in range(CLASSES)}

    def test_a_codec_that_no_browser_has(self, visit: MakeVisit, make_bundle: MakeBundle) -> None:
        with serving(make_bundle(codec="webp", setting=50).path) as process:
            one = visit(process.http_url)
            one.open("Not connected")
            said = "This bundle can't be used in a browser: codec webp; this page has entropy, jpeg, raw."
            problem(one, said)

    def test_the_runtime_was_not_fetched(self, visit: MakeVisit) -> None:
        one = visit(quiet=False)
        error = {"error": "it is not installed; run python -m bottlenet.cloud.vendor on the server"}
        one.page.context.route("**/vendor/*", lambda route: route.fulfill(status=404, json=error))
        one.open("Not connected")
        problem(one, "run python -m bottlenet.cloud.vendor on the server")

    def test_a_file_that_is_not_what_was_promised(self, visit: MakeVisit) -> None:
        one = visit()
        one.page.context.route("**/head.onnx", lambda route: route.fulfill(body=b"\0" * 2093296))
        one.open("Not connected")
        problem(one, "head.onnx did not come as the server promised it. Load the page again.")

    def test_answers_of_two_photos_are_not_mixed_up(self, one: Visit) -> None:
        page = one.page
        for number in (7, 4, 5, 4):
            one.choose(PHOTOS[number])
        expect(page.locator("#photo")).to_have_attribute("aria-label", "The photo goldfish.jpg as the network sees it")
        assert answered(one) == "goldfish"
        page.wait_for_timeout(500)
        assert answered(one) == "goldfish"
