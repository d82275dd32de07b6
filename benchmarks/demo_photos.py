"""The freely licensed photos that come with the package, for benchmarks that need photos but no particular ones."""

from __future__ import annotations

from pathlib import Path

import bottlenet

DEMO_PHOTOS = Path(bottlenet.__file__).parent / "demo" / "photos"
