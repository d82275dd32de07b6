"""Chromium without a window, driven by Playwright: for benchmarks/page.py and the tests of the page.

launch() -> a browser -> Visit: a page, with all that it asked for and complained about
                         Visit.device(): what the page's own modules make of a photo, and what it takes
"""

from __future__ import annotations

import base64
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Page, Playwright, WebSocket, expect

from bottlenet.errors import InputError

# Nothing that the browser does by itself; Playwright adds an empty profile of its own.
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
NAMES = ("chromium", "chromium-browser", "google-chrome")
READY_S = 120  # 14 MB of WebAssembly and a network, on a machine that is busy


def executable() -> str:
    """Find the browser; "" where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), "")


def launch(playwright: Playwright, *flags: str) -> Browser:
    """Start a browser with an empty profile. InputError: there is none."""
    path = executable()
    if not path:
        raise InputError(f"there is no browser; install one of {', '.join(NAMES)}")
    return playwright.chromium.launch(executable_path=path, headless=True, args=[*FLAGS, *flags])


# Inside the page: its device on one photo, in the order and with the clocks of app.js, but without the drawing.
DEVICE = """async ([bundleId, file, budget]) => {
  const { Device } = await import("/page/client.js");
  const { listBundles } = await import("/page/bundle.js");
  const { Stream } = await import("/page/stream.js");
  const text = (data) => btoa(Array.from(data, (byte) => String.fromCharCode(byte)).join(""));
  window.own ??= { device: new Device() };
  if (own.bundleId !== bundleId) {
    const bundle = (await listBundles("")).find(({ id }) => id === bundleId);
    await own.device.ask("open", { bundle, token: "" });
    own.stream?.close();
    Object.assign(own, { bundleId, stream: new Stream(bundleId, "") });
  }
  const source = new Blob([Uint8Array.from(atob(file), (letter) => letter.charCodeAt(0))]);
  const seen = await own.device.ask("photo", { source, name: "photo", width: 0, height: 0 });
  const { headMs } = await own.device.ask("head");
  const { pixels, symbols } = await own.device.ask("inside");
  const made = await own.device.ask("payload", { budget });
  const { answer, roundTripMs } = await own.stream.ask(made);
  return {
    pixels: text(pixels), symbols: text(symbols), payload: text(made.payload), setting: made.setting,
    top: answer.top.map(({ index }) => index),
    ms: { prepare: seen.prepareMs, head: seen.exitMs + headMs, encode: made.encodeMs, answer: roundTripMs },
  };
}"""


@dataclass(frozen=True)
class Made:
    """What the page makes of a photo."""

    pixels: bytes
    symbols: bytes
    payload: bytes
    setting: int
    top: list[int]  # class indices, best first
    ms: dict[str, float]  # prepare, head, encode, answer: from sending to the answer


class Visit:
    """A page of a context of its own, opened at `url`."""

    def __init__(self, browser: Browser, url: str, **options: object) -> None:
        self.url = url
        self.context = browser.new_context(**options)  # type: ignore[arg-type]
        self.page: Page = self.context.new_page()
        self.complaints: list[str] = []  # on the console, and what nobody caught
        self.hosts: set[str] = set()  # that anything was asked of; "" is the page itself, for a blob
        self.sent: list[bytes] = []  # frames
        self.page.on("console", self._on_console)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.context.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))
        self.page.on("websocket", self._on_socket)

    def open(self, state: str = "Ready") -> Page:
        """Open the page, and wait until it says that it is in this state."""
        self.page.goto(self.url)
        self.says(state)
        return self.page

    def says(self, state: str) -> None:
        """Wait until it does."""
        expect(self.page.locator("#state")).to_contain_text(state, timeout=READY_S * 1e3)

    def choose(self, photo: Path | dict[str, object]) -> None:
        """Choose a photo as a person does; `done` waits for what comes of it."""
        self.page.locator("#result").evaluate("(element) => (element.ariaBusy = 'true')")
        self.page.locator("#file").set_input_files(photo)  # type: ignore[arg-type]

    def done(self) -> None:
        """Wait until the page has shown all that there is of the photo, or why not."""
        expect(self.page.locator("#result")).to_have_attribute("aria-busy", "false", timeout=READY_S * 1e3)

    def device(self, bundle_id: str, photo: bytes, budget: int) -> Made:
        """Run the page's device on a picture file, within so many bytes of payload, and return the server's answer."""
        got: dict[str, Any] = self.page.evaluate(DEVICE, [bundle_id, base64.b64encode(photo).decode(), budget])
        return Made(**{name: base64.b64decode(got.pop(name)) for name in ("pixels", "symbols", "payload")}, **got)

    def close(self) -> None:
        """Close the browser with its cookies and storage."""
        self.context.close()

    def _on_console(self, message: object) -> None:
        kind, text = getattr(message, "type", ""), getattr(message, "text", "")
        if kind in ("error", "warning"):
            self.complaints.append(f"{kind}: {text}")

    def _on_socket(self, socket: WebSocket) -> None:
        self.hosts.add(urlsplit(socket.url).netloc)
        socket.on("framesent", lambda data: self.sent.append(data if isinstance(data, bytes) else data.encode()))
