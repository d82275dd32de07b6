"""`bottlenet bench`, its workbench, and the benchmarks made of it: real servers, real sockets, a shaped link."""

from __future__ import annotations

import json
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bottlenet.bundle import Bundle
from bottlenet.edge.encoder import EDGE_ONLY, Partition, cloud_only, split
from bottlenet.edge.meter import open_meter
from bottlenet.errors import BottleNetError, InputError, LinkError, WireError
from bottlenet.measure import bench as servers
from bottlenet.measure.bench import BenchReport, BenchRow, Conditions, Workbench, ask, bench, pipeline, readable, run
from bottlenet.plan.link import PRESETS, Link
from bottlenet.wire.answer import parse_answer
from bottlenet.wire.frame import NETWORK_INPUT, PHOTO, PROBE, Frame
from bottlenet.wire.pictures import InputCodec
from test_benchmarks import BENCHMARKS, launch, record
from test_cli import Run
from test_cli import run as run_fixture

__all__ = ["run_fixture"]

SLOW = Link("slow", 400e3, 0.05)
FAST = Link("fast", 1e9, 0.0)
NAMESPACE = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four photos, of no class."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(5)
    for number in range(4):
        Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def paths(photos: Path) -> list[Path]:
    return sorted(photos.iterdir())


@pytest.fixture(scope="module")
def workbench(bundle: Bundle) -> Iterator[Workbench]:
    with Workbench([bundle], codecs=[InputCodec("JPEG", 95)]) as ready:
        yield ready


@pytest.fixture(scope="module")
def rows(workbench: Workbench, paths: list[Path]) -> dict[str, BenchRow]:
    return {row.partition: row for row in run(workbench, paths, [Conditions(SLOW)])}


class TestWorkbench:
    def test_partitions(self, workbench: Workbench, bundle: Bundle) -> None:
        assert workbench.partitions == [EDGE_ONLY, cloud_only(InputCodec("JPEG", 95)), split(bundle)]

    def test_the_server_gives_the_answers_of_this_process(self, workbench: Workbench, paths: list[Path]) -> None:
        conditions = Conditions(FAST)
        for partition in workbench.partitions[1:]:
            with workbench.connected(partition, conditions) as transport:
                for path in paths:
                    sent = workbench.work(partition, path, 3).result
                    assert isinstance(sent, Frame)
                    assert (sent.codec == PHOTO) == (partition.kind == "cloud-only")
                    transport.send(sent.to_stream_bytes())
                    answer = parse_answer(transport.receive(10))
                    assert answer.sequence == 3
                    assert answer.top[0][0] == self.expected(workbench, partition, path)

    @staticmethod
    def expected(workbench: Workbench, partition: Partition, path: Path) -> int:
        from bottlenet.measure.profile import Server as Local

        sent = workbench.work(partition, path, 0).result
        assert isinstance(sent, Frame)
        return Local(workbench.bundles[0]).answers([sent])[0].top[0][0]

    def test_a_slower_device_is_this_one_asleep(self, workbench: Workbench, paths: list[Path]) -> None:
        partition = workbench.partitions[2]
        plain = min(workbench.work(partition, paths[0], 0).device_s for _ in range(5))
        slow = min(workbench.work(partition, paths[0], 0, 20.0).device_s for _ in range(5))
        assert 10 * plain < slow < 400 * plain

    def test_energy_is_of_computing_and_not_of_sleeping(self, bundle: Bundle, paths: list[Path]) -> None:
        workbench = Workbench([bundle], meter=open_meter("model"))
        one, slow = (workbench.work(EDGE_ONLY, paths[0], 0, slowdown).compute_mj for slowdown in (1.0, 30.0))
        assert one is not None
        assert slow is not None
        assert 0 < slow < 5 * one
        assert Workbench([bundle]).work(EDGE_ONLY, paths[0], 0).compute_mj is None

    def test_neighbours_keep_the_server_busy_and_go(self, workbench: Workbench, paths: list[Path]) -> None:
        def server_s(load: int) -> float:
            partition = workbench.partitions[1]
            with (
                workbench.neighbours(partition, paths[0], load),
                workbench.connected(partition, Conditions(FAST)) as transport,
            ):
                time.sleep(0.1)
                frame = workbench.work(partition, paths[0], 0).result
                times = []
                for _ in range(9):
                    started = time.perf_counter()
                    ask(transport, frame, FAST)
                    times.append(time.perf_counter() - started)
            return sorted(times)[4]

        idle = min(server_s(0) for _ in range(3))  # whatever else the machine does, one of them is nearly alone
        assert max(server_s(16) for _ in range(3)) > 1.5 * idle

    def test_several_bundles_are_several_cuts(self, bundle: Bundle, make_bundle: Callable[..., Bundle]) -> None:
        other = make_bundle(cut="elsewhere")
        workbench = Workbench([bundle, other], codecs=[])
        assert [each.name for each in workbench.partitions] == ["edge-only", "split at patches", "split at elsewhere"]
        with pytest.raises(InputError, match="two bundles are cut at patches"):
            Workbench([bundle, make_bundle(setting=20)])
        with pytest.raises(InputError, match="no bundle is given"):
            Workbench([])

    @pytest.mark.parametrize(("changes", "message"), [
        ({"server_load": -1}, "server load is -1"),
        ({"server_load": 33}, "server load is 33; give an integer from 0 to 32"),
        ({"server_load": 1.5}, "server load is 1.5"),
        ({"device_slowdown": 0.5}, "device slowdown is 0.5; give a number from 1"),
        ({"device_slowdown": float("nan")}, "device slowdown is nan"),
    ])  # fmt: skip
    def test_no_conditions(self, changes: dict[str, float], message: str) -> None:
        with pytest.raises(InputError, match=message):
            Conditions(FAST, **changes)  # type: ignore[arg-type]


class TestServers:
    def test_one_that_does_not_start(self, tmp_path: Path) -> None:
        with pytest.raises(LinkError, match="the server did not start: .*no such folder"):  # noqa: SIM117
            with servers.server_process(
                ["-m", "bottlenet.cli", "serve", "--port", "0", "--json", str(tmp_path / "none")]
            ):
                pass


@pytest.mark.slow
class TestRows:
    def test_latency_is_the_bound_and_hardly_more(self, rows: dict) -> None:
        for name, row in rows.items():
            assert row.photos == 4
            assert row.latency_p95_ms >= row.latency_ms
            if name != "edge-only":
                sums = SLOW.exchange_s(row.socket_bytes) * 1e3 + row.device_ms + row.server_ms
                assert row.bound_ms == pytest.approx(sums, rel=0.15)  # medians of sums, and a sum of medians
                assert row.bound_ms * 0.999 <= row.latency_ms < row.bound_ms * 1.1 + 200

    def test_edge_only_sends_nothing(self, rows: dict) -> None:
        row = rows["edge-only"]
        assert (row.socket_bytes, row.received_bytes, row.radio_mj, row.server_ms) == (0, 0, 0, 0)
        assert row.latency_ms == row.device_ms == row.bound_ms
        assert row.agreement == 100

    def test_photos_a_second_are_what_the_uplink_takes(self, rows: dict) -> None:
        for row in rows.values():
            if row.kind != "edge-only":
                most = SLOW.uplink_bps / 8 / row.socket_bytes
                assert 0.03 * most < row.photos_per_s < 1.15 * most  # a busy machine gives less, and no more than this
                assert row.photos_per_s > 1.5e3 / row.latency_ms  # several were under way

    def test_bytes_are_those_on_the_socket(self, rows: dict, workbench: Workbench, paths: list[Path]) -> None:
        for partition in workbench.partitions[1:]:
            frames = [workbench.work(partition, path, 0).result for path in paths]
            sizes = [len(each.to_stream_bytes()) for each in frames if isinstance(each, Frame)]
            # WebSocket: 2 bytes, a mask of 4, and 2 or more for a length above 125.
            assert rows[partition.name].socket_bytes == pytest.approx(np.mean(sizes) + 8, abs=2)

    def test_energy(self, rows: dict, bundle: Bundle, photos: Path) -> None:
        assert all(row.compute_mj is None for row in rows.values())
        assert all(row.radio_mj is None for name, row in rows.items() if name != "edge-only")  # no radio is known
        made = bench([bundle], photos, [Conditions(PRESETS["wifi"])], limit=2, meter="model")
        assert (made.meter, made.meter_how) == ("the paper's device, 1,306 mW", "modelled")
        row = made.rows[-1]
        assert row.compute_mj is not None
        assert row.socket_bytes is not None
        assert row.compute_mj > 0
        assert row.radio_mj == pytest.approx(row.socket_bytes * 8 / 18.88e6 * 5479.11, rel=1e-4)

    def test_what_is_too_large_or_too_slow_is_skipped(self, workbench: Workbench, paths: list[Path]) -> None:
        edge, cloud, cut = run(workbench, paths, [Conditions(PRESETS["lorawan"])], seconds=0.5)
        assert edge.skipped is None
        assert cloud.skipped is not None
        assert "bytes don't fit a message of 222" in cloud.skipped
        assert cut.skipped is not None
        edge, cloud, cut = run(workbench, paths, [Conditions(Link("none", 1000, 1.0))], seconds=1.0)
        assert cloud.skipped is not None
        assert "and 1 s are allowed" in cloud.skipped
        assert (cloud.photos, cloud.latency_ms) == (0, None)
        assert edge.photos == 4

    def test_a_slow_link_has_fewer_photos(self, workbench: Workbench, paths: list[Path]) -> None:
        cut = run(workbench, paths, [Conditions(Link("l", 1e6, 0.3))], seconds=0.4, pipelined=False)[2]
        assert (cut.photos, cut.photos_per_s) == (3, None)

    def test_a_refusal_ends_the_pipeline(self, workbench: Workbench, paths: list[Path]) -> None:
        partition = workbench.partitions[1]
        good = workbench.work(partition, paths[0], 0).result
        assert isinstance(good, Frame)
        bad = Frame(PHOTO, NETWORK_INPUT, good.bundle_tag, 1, b"nothing")
        with workbench.connected(partition, Conditions(FAST)) as transport, pytest.raises(BottleNetError):
            pipeline(transport, [good.to_stream_bytes(), bad.to_stream_bytes()] * 50, 10)

    def test_an_answer_that_says_no_class(self, workbench: Workbench) -> None:
        """The server's own to a probe."""
        probe = Frame(PROBE, 0, workbench.bundles[0].tag, 5, b"")
        says = pytest.raises(WireError, match="answer to frame 5 says no class; give it a bundle of one label")
        with workbench.connected(workbench.partitions[1], Conditions(FAST)) as transport, says:
            ask(transport, probe, FAST)


class TestArguments:
    def test_seconds(self, bundle: Bundle, photos: Path) -> None:
        with pytest.raises(InputError, match="seconds is 0; give a time above 0"):
            bench([bundle], photos, [Conditions(FAST)], seconds=0)

    def test_photos(self, bundle: Bundle, tmp_path: Path) -> None:
        (tmp_path / "one.jpg").write_bytes(b"nothing")
        with pytest.raises(InputError, match="damaged"):
            readable(bundle, tmp_path, None)

    def test_a_meter_that_cannot_be_read(
        self, bundle: Bundle, photos: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        from bottlenet.edge import meter

        monkeypatch.setitem(meter.METERS, "rapl", lambda root: meter.open_rapl(tmp_path))
        with pytest.raises(InputError, match="meter rapl can't be read"):
            bench([bundle], photos, [Conditions(FAST)], meter="rapl")


@pytest.mark.slow
class TestCommand:
    @pytest.fixture
    def run(self, run_fixture: Run) -> Run:
        return run_fixture

    def test_tables_files_and_plot(self, run: Run, bundle: Bundle, photos: Path, tmp_path: Path) -> None:
        file, plot = tmp_path / "b.json", tmp_path / "b.svg"
        arguments = ["bench", bundle.path, "--data", photos, "--limit", 2, "-o", file, "--plot", plot]
        links = ["--link", "wifi", "--link", "lorawan"]
        done = run(*arguments, *links, "--device-slowdown", 2, "--seconds", 0.5)  # a round trip of LoRaWAN is longer
        assert done.code == 0, done.err
        text = " ".join(done.out.split())
        assert "one thread, scaled: computes 2 times as long" in text
        assert "not measured: no meter was asked for" in text
        assert "split at patches" in text
        assert "is fastest with" in text
        assert "cloud-only, JPEG 95 was skipped: up to" in text
        document = json.loads(file.read_text(encoding="utf-8"))
        assert document["bundles"] == [bundle.id.hex()]
        assert [each["link"]["name"] for each in document["conditions"]] == ["Wi-Fi", "LoRaWAN"]
        assert len(document["rows"]) == 10
        root = ElementTree.fromstring(plot.read_text(encoding="utf-8"))
        texts = [each.text for each in root.iter(f"{NAMESPACE}text")]
        assert {"Wi-Fi: 18.9 Mbit/s up, round trip 5 ms", "split at patches", "device", "link", "server"} <= set(texts)
        measured = sum(row["skipped"] is None for row in document["rows"])
        bounds = [each for each in root.iter(f"{NAMESPACE}path") if each.get("stroke-width") == "2.5"]
        assert len(bounds) == measured + 1  # and one in the legend
        plot.write_text("my drawing")
        assert "not a plot of bottlenet bench" in run(*arguments).error
        assert plot.read_text() == "my drawing"

    def test_json(self, run: Run, bundle: Bundle, photos: Path) -> None:
        document = run("bench", bundle.path, "--data", photos, "--limit", 1, "--link", "1G,1ms", "--json").json
        assert document["kind"] == "bottlenet bench"
        assert document["conditions"][0]["device_slowdown"] == 1
        assert {row["partition"] for row in document["rows"]} >= {"edge-only", "cloud-only, JPEG 75"}
        assert set(document) == {"kind", "format_version", "command", *BenchReport.__dataclass_fields__}

    @pytest.mark.parametrize(("arguments", "message"), [
        (["--link", "6g"], 'link "6g" is unknown; give 3g, 4g'),
        (["--link", "0,1ms"], "above 0"),
        (["--device-slowdown", "0"], "device slowdown is 0.0"),
        (["--server-load", "99"], "server load is 99"),
        (["--meter", "watt"], "meter 'watt' is unknown"),
        (["--seconds", "-1"], "seconds is -1.0"),
    ])  # fmt: skip
    def test_errors(self, run: Run, bundle: Bundle, photos: Path, arguments: list[str], message: str) -> None:
        assert message in run("bench", bundle.path, "--data", photos, *arguments).error

    def test_links(self) -> None:
        from bottlenet.cli.planning import conditions_of

        assert [each.link.name for each in conditions_of(None, 0, 0, 1)] == ["3G", "4G", "Wi-Fi"]
        assert [each.link for each in conditions_of(["3g", "all"], 0, 0, 1)] == list(PRESETS.values())
        assert conditions_of(["3g"], 0.5, 2, 3) == [Conditions(PRESETS["3g"], 0.5, 2, 3)]

    def test_the_verdict_compares_with_the_best_of_the_others(self) -> None:
        from bottlenet.cli.planning import sentence

        def row(partition: str, latency_ms: float, socket_bytes: float, photos_per_s: float) -> BenchRow:
            kind = partition.split(",")[0].split(" ")[0]
            return BenchRow(
                "3G", partition, kind, None, 5, latency_ms, socket_bytes=socket_bytes, photos_per_s=photos_per_s
            )

        edge = row("edge-only", 400, 0, 2.5)
        large, small = row("cloud-only, JPEG 95", 600, 30_000, 4), row("cloud-only, AVIF 50", 250, 4_000, 30)
        cut = row("split at a", 200, 610, 120)
        assert sentence([edge, large, small, cut]) == (
            "split at a is fastest with 200.0 ms. split at a takes 80% of the time of cloud-only, AVIF 50, and 4 times "
            "the photos a second get through."
        )
        quick = row("edge-only", 20, 0, 50)
        assert sentence([quick, large, small, cut]) == (
            "edge-only is fastest with 20.0 ms. split at a takes 10 times the time of edge-only, and 2.4 times the "
            "photos a second get through."
        )
        slow = row("edge-only", 240, 0, 4)
        assert "of edge-only, and 4 times the photos a second of cloud-only, AVIF 50 get" in sentence(
            [slow, small, cut]
        )
        assert sentence([edge]) == "edge-only is fastest with 400.0 ms."
        smaller = replace(row("edge-only, 160 px", 90, 0, 10), needs_bound=True, agreement=95.0)
        exact = replace(edge, agreement=100.0)
        for max_drop, fastest in ((None, "edge-only is"), (4.0, "edge-only is"), (5.0, "edge-only, 160 px is")):
            assert sentence([exact, smaller], max_drop).startswith(fastest)
        assert sentence([BenchRow("3G", "split at a", "split", "a", 0, skipped="slow")]) == "Nothing was measured here."

    def test_help(self, run: Run) -> None:
        done = run("bench", "--help")
        assert "bottlenet bench demo" in done.out
        assert all(name in done.out for name in PRESETS)


class TestBenchmarks:
    @pytest.mark.slow
    def test_bench(self, bundle: Bundle, photos: Path, tmp_path: Path) -> None:
        arguments = [
            "--server-threads",
            "2",
            "--data",
            photos,
            "--bundle",
            bundle.path,
            "--link",
            "wifi",
            "--slowdown",
            "1",
            "5",
            "--limit",
            "2",
        ]
        got = record("bench.py", *arguments, out=tmp_path / "out")
        assert [each["conditions"][0]["device_slowdown"] for each in got["reports"]] == [1, 5]
        assert got["judged"] == []  # only 3G is
        assert {each["weights"] for each in got["reports"]} == {"trained"}
        assert all(each["server"].endswith(", 2 threads") for each in got["reports"])
        assert {each.name for each in (tmp_path / "out").iterdir()} == {"bench.json", "bench_x1.svg", "bench_x5.svg"}

    @pytest.mark.slow
    def test_regret(self, bundle: Bundle, make_bundle: Callable[..., Bundle], photos: Path, tmp_path: Path) -> None:
        other = make_bundle(cut="elsewhere", setting=10)
        arguments = ["--data", photos, "--bundle", bundle.path, "--bundle", other.path, "--link", "wifi", "--load", "0"]
        got = record("regret.py", *arguments, "--slowdown", "1", "30", "--limit", "2", out=tmp_path / "out")
        assert got["conditions"] == 2
        assert got["bundles"] == [bundle.id.hex(), other.id.hex()]
        assert sum(got["wins"].values()) == sum(got["choices"].values()) == 2
        assert got["all_kinds_win"] is False  # of two conditions
        assert got["met"] == (got["median_regret"] <= 0.10 and got["worst_regret"] <= 0.25)
        for row in got["runs"]:
            measured = row["measured_ms"]
            assert {"split at patches", "split at elsewhere"} <= set(measured) == set(row["predicted_ms"])
            assert row["regret"] == pytest.approx(measured[row["choice"]] / min(measured.values()) - 1)

    def test_what_is_judged(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.syspath_prepend(str(BENCHMARKS))
        from bench import judged
        from bottlenet.wire.pictures import InputCodec

        def row(partition: str, kind: str, latency_ms: float, photos_per_s: float) -> BenchRow:
            return BenchRow("3G", partition, kind, None, 5, latency_ms, bound_ms=100.0, photos_per_s=photos_per_s)

        rows = [
            row("edge-only", "edge-only", 500, 2),
            row("cloud-only, JPEG 95", "cloud-only", 109, 4),
            row("cloud-only, AVIF 50", "cloud-only", 105, 30),
            row("split at a", "split", 101, 80),
            row("split at b", "split", 108, 100),
        ]
        got = judged(rows, [InputCodec("AVIF", 50)])
        assert got["latency_met"] is True
        assert got["split"] == "split at b"
        assert got["photos_per_s_over"] == pytest.approx({"cloud-only, JPEG 95": 25, "cloud-only, AVIF 50": 100 / 30})
        assert (got["rate_met"], got["best_rate_met"]) == (True, True)
        assert judged(rows, [])["best_rate_met"] is None
        slower = [*rows[1:4], row("split at b", "split", 111, 60)]
        assert [judged(slower, [])[name] for name in ("latency_met", "rate_met")] == [False, True]

    @pytest.mark.slow
    def test_what_the_plan_would_choose(self, bundle: Bundle, photos: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        arguments = ["--data", photos, "--bundle", bundle.path, "--link", "wifi", "--only-plan", "--out", out]
        ran = launch("regret.py", *arguments)
        assert ran.returncode == 0, ran.stderr
        assert "Wi-Fi, 4, 30" in ran.stdout
        assert not out.exists()

    def test_when_all_kinds_win(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.syspath_prepend(str(BENCHMARKS))
        from regret import all_kinds

        assert all_kinds(["edge-only", "cloud-only, JPEG 75", "split at a", "split at b"])
        assert not all_kinds(["edge-only", "cloud-only, JPEG 75", "cloud-only, WebP 75", "split at b"])
        assert not all_kinds(["cloud-only, JPEG 75", "split at a", "split at b"])
        assert not all_kinds(["edge-only", "split at a", "split at b"])
