"""Write words and pictures for HTML pages: escaped, inside the page, and in one style."""

from __future__ import annotations

import base64
import html
import io
from importlib import resources
from string import Template

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bottlenet.wire.answer import one_line

STRETCH = (0.5, 99.5)  # percentiles of a mosaic that become black and white


def words(text: str) -> str:
    """Escape words from anywhere, for HTML and SVG."""
    return html.escape(one_line(text))


def percent(share: float) -> str:
    """Write a share of 0..1 for people."""
    return "&lt;1%" if share < 0.005 else f"{share:.0%}"


def stretched(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Spread a picture's contrast over black to white. What is flat stays grey."""
    low, high = np.percentile(picture, STRETCH)
    if high <= low:
        return np.full_like(picture, 128)
    spread: NDArray[np.uint8] = (np.clip((picture - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    return spread


def data_url(pixels: NDArray[np.uint8], format_: str, **settings: int) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format_, **settings)
    return f"data:image/{format_.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def template(package: str, name: str) -> Template:
    return Template(resources.files(package).joinpath(name).read_text(encoding="utf-8"))


def style() -> str:
    return resources.files("bottlenet.report").joinpath("page.css").read_text(encoding="utf-8").strip()
