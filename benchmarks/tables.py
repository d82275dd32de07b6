"""The tables of README.md and docs/, made from the records in results/. `--check` only says if they are up to date."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from live_rows import day_rows
from plan_rows import bench_rows, regret_rows
from rate_rows import rate_figures
from record import RESULTS, write_whole
from service_rows import load_rows

ROOT = Path(__file__).parent.parent
PAGES = (
    "README.md",
    "docs/training.md",
    "docs/sweep.md",
    "docs/operating.md",
    "docs/networks.md",
    "docs/planning.md",
    "docs/privacy.md",
)
SHIPPED = "shipped"  # the bundle in the package, in the record of rate_accuracy.py
RIVAL_BYTES = (2, 316, 600)  # of an answer, or a payload, that the README shows
SLOWEST = 5  # networks that are shown
# What records call things -> what readers do
SETTINGS = {"whole": "full payload"}
TRIALS = {
    "kept": "**kept**",
    "loses too much": "drop too large",
    "within the bound, with more bytes": "meets the bound, more bytes",
}
REBUILT_BY = {
    "attacker": "attacker",
    "linear, tile by tile": "linear map of each tile",
    "linear": "linear map of 3 x 3",
    "jpeg": "JPEG",
}
SAME_TOP1 = {"bytes": 0, "input_bytes": 0, "ratio": 1}  # columns of that record, and their digits
BLOCK = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def load(name: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return record


def table(header: list[str], rows: list[list[str]]) -> str:
    """Write a Markdown table; columns behind the first are numbers."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def summary() -> str:
    """Show the shipped bundle on the evaluation photos."""
    results = load("input_codecs")["results"]
    mine, needed = results["evaluation"], results["same_top1"]["file"]
    rows = [
        ["top-1", f"{mine['top1']:.1f} %"],
        ["top-1 of the uncut network on the same photos", f"{mine['top1_uncut']:.1f} %"],
        ["drop", f"**{mine['top1_drop']:.1f} points**"],
        ["agreement with the uncut network", f"{mine['agreement']:.1f} %"],
        ["payload: mean / 95th percentile / maximum", sizes(mine["payload_bytes"])],
        ["frame: mean / 95th percentile / maximum", sizes(mine["frame_bytes"])],
        ["share of the FLOPs on the device", f"{100 * mine['head_flops_share']:.0f} %"],
        ["best input codec at the same top-1", f"{needed['best_input_codec_bytes']:,.0f} bytes"],
        ["compared with BottleNet", f"**{needed['ratio']:.1f} times as many**"],
    ]
    return table([f"shipped bundle, {mine['photos']:,} photos", ""], rows)


def rivals() -> str:
    """Show the simplest alternatives beside the shipped bundle, from few FLOPs of the device to many."""
    results = load("pareto")["results"]
    names = {
        "int8": "int8 {}, whole on the device",
        "whole": "the same network, whole, photo of {}",
        "sent": "**BottleNet**, {}",
    }
    rows = []
    for row in sorted(results["rows"], key=lambda row: (row["flops_share"], row["bytes"])):
        if row["kind"] in names and row["flops_share"] < 1 and row["bytes"] in RIVAL_BYTES:
            what = row["name"].removeprefix("shipped, ").removesuffix("_quant").replace("mobilenet_v", "MobileNetV")
            drop = results["top1_uncut"] - row["top1"]
            cells = (f"{100 * row['flops_share']:.0f} %", f"{row['bytes']:,.0f}", f"{row['top1']:.1f} %", f"{drop:.1f}")
            rows.append([names[row["kind"]].format(what.replace("_", " ")), *cells])
    return table(["what answers", "FLOPs on the device", "bytes sent", "top-1", "drop, points"], rows)


def sizes(values: dict[str, float]) -> str:
    """Write what `measure.evaluate.Sizes` holds."""
    return f"{values['mean']:,.0f} / {values['p95']:,} / {values['max']:,} bytes"


def figures() -> str:
    """Everything else that is claimed, with the command that makes it again."""
    loop, overhead = load("codec_in_loop"), load("encode_overhead")
    memory, naive, padding = load("memory"), load("naive_aware"), load("tile_padding")
    page, rate = load("page"), load("server_rate")
    rows = [
        [
            "share of a training step that the codec takes, batch 64",
            loop_share(loop["results"]),
            loop["command"],
        ],
        *rate_figures(),
        [
            "time of head, codec and frame relative to the head alone",
            f"{overhead['results']['ratio']:.3f}",
            overhead["command"],
        ],
        [
            "time of decoding relative to the tail, one payload / batches of 8",
            f"{overhead['results']['decode_share']:.3f} / {overhead['results']['decode_of_8_share']:.3f}",
            overhead["command"],
        ],
        [
            "photos/s of a server relative to its tail in a loop / to a server with the codec in numpy",
            " / ".join(f"{row['share']:.2f}" for row in rate["results"]["rows"]),
            rate["command"],
        ],
        *([what, value, memory["command"]] for what, value in memory_rows(memory["results"])),
        [
            f"gain in top-1 from the codec in the training loop, JPEG quality {naive['results']['config']['quality']}",
            f"{naive['results']['gap_at_training_quality']:.1f} points",
            naive["command"],
        ],
        [
            "JPEG features without padding between channels, same quality",
            packing_saves(padding["results"]),
            padding["command"],
        ],
        *([what, value, page["command"]] for what, value in page_rows(page["results"])),
    ]
    return commanded(rows)


def commanded(rows: list[list[str]]) -> str:
    """List what, how much, and the command that makes it again."""
    return table(["quantity", "measured", "command"], [[what, value, f"`{command}`"] for what, value, command in rows])


def loop_share(results: dict[str, Any]) -> str:
    """Take the larger of the two ways to measure it."""
    return percent(max(results["codec_share_alone"], results["codec_share_by_difference"]))


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def memory_rows(results: dict[str, Any]) -> list[tuple[str, str]]:
    """Resident memory: at the end of a device's job, at the peak of the others; and the installation."""
    rows = []
    for job in ("evaluate", "train"):
        few, many = results[job]["runs"][0], results[job]["runs"][-1]
        what = f"peak memory of `{job}`, {few['photos']:,} / {many['photos']:,} photos"
        rows.append((what, f"{few['peak_bytes'] / 1e6:,.0f} / {many['peak_bytes'] / 1e6:,.0f} MB"))
    for took in results["device"]["runs"]:
        what = f"resident / peak memory of a device process, {took['megapixels']:.1f}-megapixel photo"
        rows.append((what, f"{took['resident_bytes'] / 1e6:.0f} / {took['peak_bytes'] / 1e6:.0f} MB"))
    install = results["install"]
    pip = install["largest"]["pip"]
    sizes_mb = f"{(install['bytes'] - pip) / 1e6:.0f} / {install['bytes'] / 1e6:.0f} MB"
    rows.append(("base installation on disk, without / with pip itself", sizes_mb))
    return rows


def page_rows(results: dict[str, Any]) -> list[tuple[str, str]]:
    """Show the browser as a device, beside Python."""
    photos, took = results["photos"], results["ms"]["head_encode_answer"]
    names = ("same_top1", "payload_equal", "symbols_equal")
    equal = " / ".join(f"{results[name]:,}" for name in names)
    return [
        (f"of {photos:,} photos, same answer / payload / symbols in Chromium as in Python", equal),
        ("head, encoding and answer in Chromium, median / maximum", f"{took['median']:.0f} / {took['max']:.0f} ms"),
    ]


def packing_saves(results: dict[str, Any]) -> str:
    """At the bundle's own quality: the share of bytes that tiles without padding save, and what it does to top-1."""
    padded, packed = (
        row
        for align in (8, 1)
        for row in results["rows"]
        if (row["align"], row["quality"]) == (align, results["quality"])
    )
    saved = 1 - packed["payload_bytes"] / padded["payload_bytes"]
    return f"{100 * saved:.0f} % fewer bytes, top-1 {packed['top1'] - padded['top1']:+.1f} points"


def training(name: str) -> str:
    """Show a run, pass by pass, and at each budget where it has some."""
    header = ["pass", "payload bytes", "distillation loss", "agreement with the uncut network"]
    rows = [
        [str(each["epoch"]), f"{each['payload_bytes']:,.0f}", f"{each['distillation']:.3f}", percent(each["agreement"])]
        for each in load(name)["results"]["passes"]
    ]
    return table(header, rows)


def budgets() -> str:
    """Show the shipped bundle, cut to budgets."""
    rows = [
        [f"{row['largest_bytes']:,}", f"{row['top1']:.1f} %", f"{row['drop']:.1f}", f"{row['agreement']:.1f} %"]
        for result in load("rate_accuracy")["results"]["methods"]
        if result["name"] == SHIPPED
        for row in result["rows"]
    ]
    return table(["largest payload, bytes", "top-1", "drop, points", "agreement with the uncut network"], rows)


def quick() -> str:
    """Set the bundle without training beside the trained one."""
    rows = [
        [f"{mine['budget']:,}" if mine["budget"] else "none", f"{mine['payload_bytes']:,.0f}"]
        + [f"{row['agreement']:.1f} %" for row in (mine, theirs)]
        for mine, theirs in zip(*load("quick")["results"]["curves"].values(), strict=True)
    ]
    return table(["budget, bytes", "payload without training", "agreement without training", "shipped"], rows)


def methods() -> str:
    """Show all methods that were trained side by side."""
    rows = [
        [
            f"{result['curve']}, {SETTINGS.get(row['setting'], row['setting'])}",
            f"{100 * result['head_flops_share']:.0f} %",
            f"{result['trained_photos'] or 0:,}",
            f"{row['payload_bytes']:,.0f}",
            f"{row['top1']:.1f} %",
        ]
        for result in load("rate_accuracy")["results"]["methods"]
        if result["name"] != SHIPPED
        for row in result["rows"]
    ]
    return table(["method", "FLOPs of the head", "training photos", "payload bytes", "top-1"], rows)


def smaller_head(record: str) -> str:
    """Show a head of few of the FLOPs, and what others do with as much."""
    rows = [
        [
            f"{result['curve']}, {SETTINGS.get(row['setting'], row['setting'])}",
            f"{row['payload_bytes']:,.0f}",
            f"{row['top1']:.1f} %",
            f"{row['drop']:.1f}",
        ]
        for result in load(record)["results"]["methods"]
        for row in result["rows"]
    ]
    return table(["method", "payload bytes", "top-1", "drop, points"], rows)


def caltech101() -> str:
    """Show the paper's setting; the units learned from its photos alone, or from others too."""
    rows = [
        [
            row["unit"],
            learned,
            f"{row['payload_bytes']['mean']:,.0f}",
            f"{row['top1']:.1f} %",
            f"{row['top1_drop']:.1f}",
        ]
        for name, learned in (("caltech101", "Caltech-101"), ("caltech101_more", "Caltech-101 and others"))
        for row in load(name)["results"]["rows"]
    ]
    return table(["unit", "training photos", "payload bytes", "top-1", "drop, points"], rows)


def same_top1() -> str:
    """Compare the shipped bundle with the best input codec."""
    rows = [
        [
            str(row["drop"]),
            *("-" if row[name] is None else f"{row[name]:,.{digits}f}" for name, digits in SAME_TOP1.items()),
        ]
        for row in load("rate_accuracy")["results"]["same_top1_as_input_codecs"]
        if row["ours"] == SHIPPED
    ]
    return table(["drop, points", "BottleNet, bytes", "best input codec, bytes", "ratio"], rows)


def naive_aware() -> str:
    """Show the paper's Fig. 7 in numbers."""
    rows = load("naive_aware")["results"]["rows"]
    by_quality: dict[int, dict[str, dict[str, float]]] = {}
    for row in rows:
        by_quality.setdefault(row["quality"], {})[row["training"]] = row
    return table(
        ["JPEG quality", "naive, top-1", "naive, bytes", "aware, top-1", "aware, bytes"],
        [
            [str(quality), *(cell for name in ("naive", "aware") for cell in cells(pair[name]))]
            for quality, pair in by_quality.items()
        ],
    )


def cells(row: dict[str, float]) -> tuple[str, str]:
    """Write top-1 and bytes of one network at one quality."""
    return f"{row['top1']:.1f} %", f"{row['payload_bytes']:,.0f}"


def sweep() -> str:
    """Show the paper's Table 4 for this network; what is kept stands out."""
    header = ["cut", "c'", "s", "payload bytes", "top-1", "drop, points", "other answer, held-out photos, %", "result"]
    rows = [
        [
            row["cut"],
            *(str(row[name]) for name in ("channels", "stride")),
            f"{row['payload_bytes']:,.0f}",
            *(f"{row[name]:.1f}" for name in ("top1", "top1_drop", "held_out_drop")),
            TRIALS.get(row["status"], row["status"]),
        ]
        for row in load("sweep")["results"]["rows"]
    ]
    return table(header, rows)


def privacy() -> str:
    """Show what an attacker rebuilds, by cut and budget, beside linear maps and a JPEG.

    Where a cut was attacked again by one that learned more, that one counts.
    """
    header = ["cut, method", "bytes", "PSNR, dB", "SSIM", "same answer", "found by scores", "found by pixels"]
    rows = []
    bundles = {one["cut"]: one for name in ("privacy", "privacy_deep") for one in load(name)["results"]["bundles"]}
    for one in bundles.values():
        seen = {each["budget"]: f" (server: {each['same_answer']:.1f} % same answer)" for each in one["intended"]}
        for row in one["rows"]:
            found, size = row["quality"], row["sent_bytes"]
            name = f"{one['cut']}, {REBUILT_BY[row['what']]}"
            name += seen[row["budget"]] if row["what"] == "attacker" else ""
            name += f"; {row['missing']:,} photos do not fit" if row["missing"] else ""
            rows.append([name, "-" if size is None else f"{size:,.0f}", *privacy_cells(found)])
    *_, last = bundles.values()
    rows.append(["the original, at the size of the reconstructions", "", *privacy_cells(last["originals"])])
    rows.append(["mean training photo", "0", f"{last['mean_psnr']:.1f}", "", "", "", ""])
    return table(header, rows)


def adversarial() -> str:
    """Accuracy against what is rebuilt, by the weight of the adversary."""
    header = ["`--adversarial`", "same answer, server", "attacker, dB", "linear map, dB", "SSIM", "found by pixels"]
    rows = []
    for row in load("adversarial")["results"]["rows"]:
        psnr = (f"{row['psnr'][what]:.1f}" for what in ("attacker", "linear"))
        found = (f"{row['ssim']:.2f}", f"{row['found_by_pixels']:.1f} %")
        rows.append([f"{row['weight']:g}", f"{row['same_answer']:.1f} %", *psnr, *found])
    return table(header, rows)


def privacy_cells(found: dict[str, float] | None) -> list[str]:
    """Write one row; dashes where no JPEG fits."""
    if found is None:
        return ["-"] * 5
    rates = (found[name] for name in ("same_answer", "matched_by_scores", "matched_by_pixels"))
    same = found["psnr"] >= 100  # the photo itself
    return ["" if same else f"{found['psnr']:.1f}", f"{found['ssim']:.2f}", *(f"{rate:.1f} %" for rate in rates)]


def engines() -> str:
    """Compare the one process with replicas on Ray Serve."""
    results = load("engines")["results"]
    added = {(one["engine"], one["way"], one["connections"]): one for one in results["overhead"]}
    rows = []
    for row in results["rows"]:
        over = added.get((row["engine"], row["way"], row["connections"]))
        beside = [f"{over['added_p50_ms']:+.2f}", percent(over["share_of_rate"])] if over else ["", ""]
        times = [f"{row['per_s']:,.0f}", f"{row['p50_ms']:.2f}", f"{row['p99_ms']:.2f}"]
        rows.append([row["engine"], row["way"], str(row["connections"]), *times, *beside])
    header = ["engine", "request", "connections", "answers/s", "p50 ms", "p99 ms", "added p50, ms", "share of rate"]
    memory = ", ".join(f"{name} {taken / 1e6:,.0f} MB" for name, taken in results["memory_bytes"].items())
    return table(header, rows) + f"\nMemory of all processes: {memory}.\n"


def networks() -> str:
    """List what `benchmarks/zoo.py` cut."""
    names = ["network", "input", "parameters", "cuts", "cuts with a grid", "equal symbols", "score difference"]
    return table(names, [network_cells(row) for row in load("zoo")["results"]["networks"]])


def network_cells(row: dict[str, Any]) -> list[str]:
    """Write one network; dashes where no bundle was made."""
    made = row["fidelity"]
    cells = ["-", "-"] if made is None else [f"{100 * made['symbols_equal']:.2f} %", f"{made['scores_difference']:.0e}"]
    millions = f"{row['parameters'] / 1e6:.1f} M"
    return [row["network"], str(row["size"]), millions, str(row["cuts"]), str(sum(row["grids"].values())), *cells]


def large_networks() -> str:
    """List the networks of very many blocks."""
    rows = [
        [row["network"], str(row["blocks"]), str(row["cuts"]), f"{row['cuts_s']:.1f} s", f"{row['split_s']:.1f} s"]
        for row in load("zoo")["results"]["large"]
    ]
    return table(["network", "blocks", "cuts", "listing cuts with FLOPs", "splitting"], rows)


def slowest_networks() -> str:
    """List the networks whose split takes longest."""
    rows = sorted(load("zoo")["results"]["networks"], key=lambda row: row["split_s"], reverse=True)[:SLOWEST]
    cells = [[row["network"], str(row["cuts"]), f"{row['cuts_s']:.1f} s", f"{row['split_s']:.1f} s"] for row in rows]
    return table(["network", "cuts", "listing cuts with FLOPs", "splitting"], cells)


def failing_networks() -> str:
    """List the networks that have no cut, and why."""
    return table(["network", "reason"], [[name, why] for name, why in load("zoo")["results"]["failing"].items()])


def dense() -> str:
    """Show maps and boxes, to a server and back."""
    names = ["network", "cut", "symbols", "payload bytes", "answer bytes", "compared", "match", "chance level"]
    what = {"segmentation": "cells", "detection": "boxes"}
    rows = [
        [
            row["network"],
            f"`{row['cut']}`",
            " x ".join(map(str, row["latent"])),
            f"{row['payload_bytes']:,.0f}",
            f"{row['received_bytes']:,.0f}",
            f"{row['compared']:,} {what[row['task']]}",
            percent(row["same"]),
            percent(row["another"]),
        ]
        for row in load("dense")["results"]["networks"]
    ]
    return table(names, rows)


def detector(record: str) -> str:
    """Set a detector's mAP through a bundle beside the best picture file of as many bytes, and that of the same mAP."""
    results = load(record)["results"]
    names = ["payload bytes", "mAP", "points lost", "AP50", "best picture of as many bytes", "picture for the same mAP"]
    rows = [["uncut", f"{results['uncut']['map']:.1f} %", "", f"{results['uncut']['ap50']:.1f} %", "", ""]]
    for row, same in zip(results["bundle"], results["same_map"]["payload_bytes"], strict=True):
        lost = results["uncut"]["map"] - row["map"]
        low, high = row["lost_interval"]
        fitting = [each["map"] for each in results["input_codecs"] if each["payload_bytes"] <= row["payload_bytes"]]
        needed = same["best_input_codec_bytes"]
        rows.append(
            [
                f"{row['payload_bytes']:,.0f}",
                f"{row['map']:.1f} %",
                f"{lost:.1f} ({low:.1f} to {high:.1f})",
                f"{row['ap50']:.1f} %",
                f"{max(fitting):.1f} %" if fitting else "none",
                "" if needed is None else f"{needed:,.0f} bytes, {same['ratio']:.1f} times",
            ]
        )
    return table(names, rows)


def filled(text: str) -> str:
    """Make the tables of a page anew."""
    return BLOCK.sub(lambda found: found[1] + TABLES[found[2]]() + found[3], text)


def main() -> int:
    made = argparse.ArgumentParser(description=(__doc__ or "").strip())
    made.add_argument("--check", action="store_true", help="write nothing; exit 1 if a page is not up to date")
    check = made.parse_args().check
    stale = []
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        if (fresh := filled(text)) != text:
            stale.append(page)
            if not check:
                write_whole(ROOT / page, fresh.encode())
    print("up to date" if not stale else f"{'stale' if check else 'written'}: {', '.join(stale)}")
    return 1 if check and stale else 0


TABLES: dict[str, Callable[[], str]] = {
    "engines": engines,
    "summary": summary,
    "rivals": rivals,
    "figures": figures,
    "training": partial(training, "training"),
    "training_jpeg": partial(training, "training_jpeg"),
    "training_rates": lambda: commanded(rate_figures()),
    "budgets": budgets,
    "quick": quick,
    "methods": methods,
    "smaller_head": lambda: smaller_head("rate_accuracy_30"),
    "smallest_head": lambda: smaller_head("rate_accuracy_15"),
    "caltech101": caltech101,
    "same_top1": same_top1,
    "naive_aware": naive_aware,
    "sweep": sweep,
    "live": lambda: table(*day_rows(load("live")["results"])),
    "live_resnet50": lambda: table(*day_rows(load("live_resnet50")["results"])),
    "bench": lambda: table(*bench_rows(load("bench")["results"])),
    "regret": lambda: table(*regret_rows(load("regret_resnet50")["results"])),
    "load": lambda: table(*load_rows(load("load")["results"])),
    "privacy": privacy,
    "adversarial": adversarial,
    "networks": networks,
    "large_networks": large_networks,
    "slowest_networks": slowest_networks,
    "failing_networks": failing_networks,
    "dense": dense,
    "detector": lambda: detector("detector"),
    "detector_quick": lambda: detector("detector_quick"),
}

if __name__ == "__main__":
    raise SystemExit(main())
