"""How many cuts has each network of torchvision and timm, how long does it take to list them and to split, and does its
bundle do what torch does?

The list is that of `make test-zoo`; three larger networks come with it, at 224 pixels, for the targets: two of 60
blocks and more, and the deepest of tokens in timm that has less than 100 million parameters. Weights are random: only
structure counts. Needs the packages of `make test-zoo`: run it with `.venv-zoo/bin/python`. Processor time of one
thread.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from architectures import FAILING, SIZES, full_name
from bottlenet.net.build import insert, start_from_components
from bottlenet.net.cut import Cut, cuts, split
from bottlenet.net.export import Fidelity, export
from bottlenet.net.models import Classifier, load_model
from record import parser, run_script, show, write_record
from timing import processor_ms

LARGE = {  # and how many blocks they have
    "torchvision/densenet169": 82,
    "torchvision/efficientnet_v2_l": 79,
    "timm/pvt_v2_b5": 52,
}
LARGE_SIZE = 224
CUTS_TARGET_S, SPLIT_TARGET_S = 5.0, 2.0
PHOTOS, CHANNELS = 4, 4


@dataclass(frozen=True)
class Row:
    """One network."""

    network: str
    size: int  # of the photo, pixels
    parameters: int
    cuts: int
    grids: dict[str, int]  # layout -> cuts that have it; a unit can go there
    flops: int  # of the network, for one photo
    cuts_s: float  # to list the cuts with their FLOPs
    split_s: float  # to split at the middle one
    export_s: float | None  # of a bundle with a unit in the middle; None where none was made
    fidelity: Fidelity | None  # how near onnxruntime came to torch on noise


def measured(name: str, size: int, *, exported: bool) -> Row:
    """Make a row, after the network was built."""
    torch.manual_seed(0)
    classifier = load_model(full_name(name, size))
    gc.collect()  # what the export before left is not this network's time
    found: list[Cut] = []
    cuts_ms = processor_ms(lambda: found.extend(cuts(classifier.module, classifier.input_size)))
    with_grid = [cut for cut in found if cut.layout is not None]
    grids: dict[str, int] = {}
    for cut in with_grid:
        grids[cut.layout.kind] = grids.get(cut.layout.kind, 0) + 1
    middle = with_grid[len(with_grid) // 2].name
    split_ms = processor_ms(lambda: split(classifier.module, middle, classifier.input_size))
    parameters = sum(each.numel() for each in classifier.module.parameters())
    flops = round(found[-1].head_flops / found[-1].head_flops_share)
    made: list[Fidelity] = []
    export_ms = processor_ms(lambda: made.append(bundle(classifier, middle))) if exported else None
    return Row(
        name,
        size,
        parameters,
        len(found),
        grids,
        flops,
        cuts_ms / 1e3,
        split_ms / 1e3,
        None if export_ms is None else export_ms / 1e3,
        made[0] if made else None,
    )


def bundle(classifier: Classifier, cut: str) -> Fidelity:
    """Export on noise, and throw it away."""
    net = insert(classifier, cut=cut, channels=CHANNELS)
    size = classifier.preprocess.size
    pixels = np.random.default_rng(0).integers(0, 256, (PHOTOS, size, size, 3), dtype=np.uint8)
    with torch.no_grad():
        start_from_components(net, [net.head(torch.from_numpy(pixels))])
    with tempfile.TemporaryDirectory() as folder:
        return export(net, Path(folder) / "bundle", pixels=pixels)[1]


def cells(row: Row) -> list[str]:
    exported = "-" if row.export_s is None else f"{row.export_s:.1f}"
    numbers = [f"{row.size}", f"{row.parameters:,}", f"{row.cuts}", f"{row.cuts_s:.2f}", f"{row.split_s:.2f}"]
    return [row.network, *numbers, exported]


def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    measured(*next(iter(SIZES.items())), exported=False)  # what is imported at the first use is no one's time
    only = {args.only} if args.only else set()
    rows = [measured(name, size, exported=not args.no_export) for name, size in SIZES.items() if only <= {name}]
    large_rows = [measured(name, LARGE_SIZE, exported=False) for name in LARGE if only <= {name}]
    columns = ["network", "photo", "parameters", "cuts", "list, s", "split, s", "export, s"]
    show("Cuts", columns, [cells(row) for row in (*rows, *large_rows)])
    results = {
        "networks": [asdict(row) for row in rows],
        "large": [{**asdict(row), "blocks": LARGE[row.network]} for row in large_rows],
        "failing": FAILING,
        "targets": {"cuts_s": CUTS_TARGET_S, "split_s": SPLIT_TARGET_S},
    }
    write_record("zoo", results, args.out)


if __name__ == "__main__":
    made = parser(__doc__)
    made.add_argument("--only", help="one network of the list")
    made.add_argument("--no-export", action="store_true", help="cut and split alone, which takes a few minutes")
    run_script(made, main)
