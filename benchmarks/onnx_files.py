"""ONNX files that this project did not make: is each the same network in torch, where can it be cut, do halves agree?

    .venv-zoo/bin/python benchmarks/onnx_files.py
    python benchmarks/onnx_files.py --public FOLDER --data PHOTOS

Networks of torchvision, timm and transformers with random weights are written by torch's two exporters, as their users
write them: at several opsets, for one photo or for any number. Each is loaded as a model, which compares it with
onnxruntime on photos, and cut at the first, the middle and the last place; those that fail are listed with the reason.

With `--public` it is the files of onnx_public.csv, from repositories and packages of others, in a folder as NAME.onnx.
The table has the normalisation of the code beside each file, and pixels from 0 to 1 where that says none. Their halves
are compared with onnxruntime's scores of the file, on photos. Then each is cut in the middle by `bottlenet quick`,
served by `bottlenet serve`, and asked for a photo.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from bottlenet.bundle import Bundle
from bottlenet.edge import Edge
from bottlenet.errors import BottleNetError, InputError
from bottlenet.net import from_onnx
from bottlenet.net.build import can_have_unit
from bottlenet.net.cut import Cut, cuts, split
from bottlenet.net.models import Classifier, Normalize, load_model, parse_name
from bottlenet.photo import photo_to_pixels
from bottlenet.photos.folders import list_photos
from chaos import Server
from record import Json, parser, run_script, show, write_record

SIDE = 64  # pixels, of networks that take any
USUAL = {"mean": "0.5", "std": "0.25", "crop": "0.875", "interpolation": "bilinear"}


@dataclass(frozen=True)
class Export:
    """A network, and how its user exports it."""

    name: str
    newer: bool  # torch.onnx.export(dynamo=True)
    opset: int
    any_batch: bool
    side: int = SIDE


EXPORTS = (
    Export("torchvision/resnet18", False, 11, False),
    Export("torchvision/squeezenet1_1", False, 9, False),
    Export("torchvision/mobilenet_v2", False, 10, True),
    Export("torchvision/shufflenet_v2_x0_5", False, 13, False),
    Export("torchvision/densenet121", False, 12, True),
    Export("torchvision/googlenet", False, 15, False),
    Export("torchvision/efficientnet_b0", True, 18, True),
    Export("torchvision/mobilenet_v3_small", True, 20, False),
    Export("torchvision/regnet_y_400mf", True, 18, True),
    Export("torchvision/convnext_tiny", False, 17, True),
    Export("torchvision/swin_t", True, 18, False, 224),
    Export("torchvision/vit_b_32", False, 17, False),
    Export("timm/vit_tiny_patch16_224", False, 14, True, 224),
    Export("timm/deit_tiny_distilled_patch16_224", True, 20, True, 224),
    Export("timm/mobilenetv4_conv_small", False, 16, False),
    Export("timm/ghostnet_050", True, 18, False),
    Export("timm/repvgg_a0", False, 13, True),
    Export("timm/efficientvit_b0", True, 18, True),
    Export("timm/mixer_s32_224", False, 13, False, 224),
    Export("hf/mobilevit", True, 18, True, 256),
    Export("hf/resnet", False, 14, True),
)


def options() -> argparse.ArgumentParser:
    made = parser(__doc__)
    made.add_argument("--public", type=Path, default=None, help="folder with the files of onnx_public.csv instead")
    made.add_argument(
        "--data", default="", help="folder of photos for these: to compare with, to fit to, and to ask for"
    )
    made.add_argument("--only", default="", help="only files whose name has this in it")
    return made


def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    if args.public:
        public(args)
        return
    rows: list[dict[str, Json]] = []
    with tempfile.TemporaryDirectory() as folder:
        for export in (each for each in EXPORTS if args.only in each.name):
            path = Path(folder) / "network.onnx"
            described: dict[str, Json] = {
                "network": export.name,
                "exporter": "torch.export" if export.newer else "TorchScript",
            }
            described |= {"any_batch": export.any_batch}
            try:
                classes = write(export, path)
            except Exception as error:  # the exporter's own
                print(f"{export.name} was not exported: {type(error).__name__}: {error}"[:200])
                continue
            (Path(folder) / "labels.txt").write_text("".join(f"class {number}\n" for number in range(classes)))
            rows.append(checked(described, path, f",labels={folder}/labels.txt"))
    show("ONNX files", ("network", "exporter", "opset", "cuts", "outcome"), [cells(row) for row in rows])
    write_record("onnx_files", {"files": rows}, args.out)


def write(export: Export, path: Path) -> int:
    """Export a network, and return the number of its classes."""
    torch.manual_seed(0)
    network, classes = build(export)
    photo = torch.randn(1, 3, export.side, export.side)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if export.newer:
            shapes = ({0: torch.export.Dim.DYNAMIC},) if export.any_batch else None
            photos = photo.repeat(2, 1, 1, 1) if export.any_batch else photo
            program = torch.onnx.export(
                network, (photos,), dynamo=True, opset_version=export.opset, dynamic_shapes=shapes, verbose=False
            )
            program.save(str(path))
        else:
            torch.onnx.export(
                network,
                (photo,),
                str(path),
                dynamo=False,
                opset_version=export.opset,
                input_names=["input"],
                dynamic_axes={"input": {0: "batch"}} if export.any_batch else None,
            )
    return classes


def build(export: Export) -> tuple[nn.Module, int]:
    source, _, name = export.name.partition("/")
    if source == "torchvision":
        import torchvision

        options = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
        options |= {"image_size": export.side} if name.startswith("vit") else {}
        return torchvision.models.get_model(name, weights=None, **options).eval(), 1000
    if source == "timm":
        import timm

        return timm.create_model(name, pretrained=False).eval(), 1000
    import transformers

    kinds: dict[str, Callable[[], Any]] = {
        "mobilevit": lambda: transformers.MobileViTForImageClassification(
            transformers.MobileViTConfig(num_labels=5, initializer_range=0.2)
        ),
        "resnet": lambda: transformers.ResNetForImageClassification(
            transformers.ResNetConfig(
                num_labels=5, depths=[1, 1, 1, 1], layer_type="basic", hidden_sizes=[16, 32, 64, 96]
            )
        ),
    }
    return Logits(kinds[name]()).eval(), 5


class Logits(nn.Module):
    """What a user wraps a network of transformers in, to export it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.network(pixel_values=pixel_values).logits


def completed(name: str, usual: dict[str, str]) -> str:
    """Add to a network's name the settings that it leaves out."""
    return name + "".join(f",{key}={value}" for key, value in usual.items() if f",{key}=" not in name)


def places(classifier: Classifier) -> list[Cut]:
    """List the cuts that a unit can go to."""
    return [cut for cut in cuts(classifier.module, classifier.input_size) if can_have_unit(cut)]


def checked(described: dict[str, Json], path: Path, settings: str) -> dict[str, Json]:
    """Load a file as a model, cut it, and describe what came of it."""
    began = time.process_time()
    row: dict[str, Json] = {**described, **facts_of(path)}
    try:
        classifier = load_model(completed(f"{path}{settings}", USUAL))
        found = places(classifier)
        photos = torch.randn(2, *classifier.input_size)
        worst = 0.0
        with torch.no_grad():
            whole = classifier.module(photos)
            for cut in {found[at].name for at in (0, len(found) // 2, -1)}:
                halves = split(classifier.module, cut, classifier.input_size)
                worst = max(worst, float((halves.tail(halves.head(photos)) - whole).abs().max() / whole.abs().max()))
    except BottleNetError as error:
        return {**row, "failed": str(error).replace(f"{path.parent}/", "")}
    return {**row, "cuts": len(found), "difference": worst, "cpu_s": round(time.process_time() - began, 1)}


PUBLIC = Path(__file__).parent / "onnx_public.csv"
COMPARED, FITTED = 4, 48  # photos


def public(args: argparse.Namespace) -> None:
    """Check the files of the table, and record what came of each."""
    with PUBLIC.open(newline="") as file:
        table = [row for row in csv.DictReader(file) if args.only in row["name"]]
    photos = [str(photo.path) for photo in list_photos(args.data)[:COMPARED]]
    rows: list[dict[str, Json]] = []
    for each in table:
        path = args.public / f"{each['name']}.onnx"
        row: dict[str, Json] = {name: each[name] for name in ("name", "source", "version", "path")}
        row |= facts_of(path)
        began = time.process_time()
        try:
            with tempfile.TemporaryDirectory() as folder:
                row |= through(each, path, Path(folder), photos, args.data)
        except (BottleNetError, subprocess.CalledProcessError) as error:
            row["failed"] = str(error).replace(f"{path.parent}/", "")
        rows.append({**row, "cpu_s": round(time.process_time() - began, 1)})
        print(*public_cells(rows[-1]), flush=True)
    columns = ("file", "exporter", "opset", "cuts", "differ by", "bytes", "outcome")
    show("ONNX files of others", columns, [public_cells(row) for row in rows])
    write_record("onnx_public", {"files": rows}, args.out)


def through(each: dict[str, str], path: Path, folder: Path, photos: list[str], data: str) -> dict[str, Json]:
    """Take a file all the way, from its cuts to an answer of a server."""
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != each["sha256"]:
        raise InputError(f"{path}: it is not there, or not the file of the table; get it from {each['source']}")
    usual = {"crop": "1", "interpolation": "bilinear"}
    if each["classes"]:
        labels = folder / "labels.txt"
        labels.write_text("".join(f"class {number}\n" for number in range(int(each["classes"]))))
        usual["labels"] = str(labels)
    name = completed(f"{path},{each['settings']}", usual)
    classifier = load_model(name)
    found = places(classifier)
    row: dict[str, Json] = {"cuts": len(found), "difference": difference(name, classifier, found, photos)}
    cut = found[len(found) // 2].name
    made = folder / "quick.bundle"
    command = ["quick", name, "--cut", cut, "--data", data, "--limit", str(FITTED), "-o", str(made), "--json"]
    done = subprocess.run([sys.executable, "-m", "bottlenet.cli", *command], capture_output=True, text=True)
    if done.returncode:
        raise InputError(done.stderr.strip().removeprefix("error: ").partition("\n")[0])
    whole = json.loads(done.stdout)["curve"][-1]
    row |= {"cut": cut, "payload_bytes": round(whole["payload_bytes"]["mean"]), "agreement": whole["agreement"]}
    server = Server(Bundle.load(made))
    try:
        with Edge(made, f"ws://127.0.0.1:{server.port}") as edge:
            answer = edge.classify(photos[0])
    finally:
        server.kill()
    return {**row, "answer": answer.label, "answer_bytes": answer.payload_bytes}


def difference(name: str, classifier: Classifier, found: list[Cut], photos: list[str]) -> float:
    """Return by how much halves differ from onnxruntime's scores of the file at most, as a share of the largest."""
    model, entry = from_onnx.understood(parse_name(name, "onnx", name))
    pixels = np.stack([photo_to_pixels(Path(photo).read_bytes(), classifier.preprocess) for photo in photos])
    normalised = Normalize(classifier.mean, classifier.std)(torch.from_numpy(pixels))
    whole = torch.from_numpy(from_onnx.run_file(model, entry, entry.arranged(normalised).numpy())).flatten(1)
    ending = from_onnx.ENDINGS[from_onnx.probabilities_of(model.graph).op_type]
    worst = 0.0
    with torch.no_grad():
        for cut in {found[at].name for at in (0, len(found) // 2, -1)}:
            halves = split(classifier.module, cut, classifier.input_size)
            scores = ending(halves.tail(halves.head(normalised))).flatten(1)
            scores = scores[:, -whole.shape[1] :]  # the file's own one of two
            worst = max(worst, float((scores - whole).abs().max() / whole.abs().max()))
    return worst


def public_cells(row: dict[str, Json]) -> list[str]:
    outcome = str(row["failed"]) if "failed" in row else f"answered {row['answer']}"
    known = [str(row.get(key, "-")) for key in ("producer", "opset", "cuts")]
    figures = [
        f"{row[key]:{how}}" if key in row else "-" for key, how in (("difference", ".0e"), ("payload_bytes", ","))
    ]
    return [str(row["name"]), *known, *figures, outcome]


def facts_of(path: Path) -> dict[str, Json]:
    try:
        model = onnx.load_model(str(path), load_external_data=False)
    except Exception:  # protobuf's own
        return {}
    producer = f"{model.producer_name} {model.producer_version}".strip()
    return {"opset": from_onnx.opset_of(model), "nodes": len(model.graph.node), "producer": producer}


def cells(row: dict[str, Json]) -> list[str]:
    outcome = str(row["failed"])[:60] if "failed" in row else f"halves differ by {row['difference']:.0e}"
    return [str(row["network"]), str(row["exporter"]), str(row.get("opset", "-")), str(row.get("cuts", "-")), outcome]


if __name__ == "__main__":
    run_script(options(), main)
