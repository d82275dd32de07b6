"""axe-core, which finds faults that keep people from using a page: fetched as vendor.py fetches, for tests alone.

python tests/axe.py        into tests/vendor; `make test` does this
"""

from __future__ import annotations

import sys
from pathlib import Path

from bottlenet.cloud.vendor import Package, fetch
from bottlenet.errors import InputError

FOLDER = Path(__file__).with_name("vendor")
AXE = Package(
    "axe-core",
    "4.14.1",
    "FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ==",
    {"package/axe.min.js": "axe.min.js"},
)

if __name__ == "__main__":
    try:
        fetch(AXE, FOLDER)
    except InputError as error:
        sys.exit(f"error: {error}")
