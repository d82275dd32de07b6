"""What the device's computing takes in energy, and who says so: meters that count millijoules.

    open_meter("rapl") -> Meter --energy_mj--> a count that never falls; what a piece of work took is the difference

docs/planning.md, "Energy", lists the meters and what each reads.

A meter counts all that draws from what it is connected to, other programs too: measure on an idle machine. One that
can't be read is an error; only `auto` takes another, and the name says which. `auto` never takes nvml, since a device's
half computes on the CPU.
"""

import importlib
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, Protocol

from bottlenet.errors import InputError

SYS = Path("/sys")
MAX_VALUE_CHARACTERS = 64  # of a file in sysfs that holds a number or a name
MAX_ZONES = MAX_RAILS = 64
SAMPLE_S = 0.005
# BottleNet (ISLPED 2019), results: mobile-only takes the Jetson TX2 15.7 ms and 20.5 mJ.
PAPER_DEVICE_MW = 20.5 / 15.7 * 1e3
BOARD_RAILS = ("VDD_IN", "POM_5V_IN")  # what feeds all of the board: TX2 and later, Nano


class Meter(Protocol):
    """A count of energy, since it was opened."""

    @property
    def name(self) -> str: ...  # what gave the figure, for people: "RAPL package-0"
    @property
    def how(self) -> str: ...  # as in `plan.profile.Energy`: measured or modelled
    def energy_mj(self) -> float: ...  # never falls; InputError: it can't be read any more
    def close(self) -> None: ...  # once more does no harm


@dataclass(frozen=True)
class Counter:
    """A counter of energy that begins again from 0 at `range_mj`."""

    read_mj: Callable[[], float]
    range_mj: float


class CountingMeter:
    """The sum of counters, each of which may begin again once between two readings: within minutes at the earliest."""

    def __init__(self, name: str, counters: Sequence[Counter], how: str = "measured") -> None:
        self.name, self.how = name, how
        self._counters = counters
        self._last = [counter.read_mj() for counter in counters]
        self._total_mj = 0.0

    def energy_mj(self) -> float:
        for number, counter in enumerate(self._counters):
            now = counter.read_mj()
            step = now - self._last[number]
            self._total_mj += step if step >= 0 else step + counter.range_mj
            self._last[number] = now
        return self._total_mj

    def close(self) -> None:
        pass


class SamplingMeter:
    """The sum of a power that a thread reads 200 times a second; between two readings it is taken to change evenly."""

    how = "measured"

    def __init__(self, name: str, power_mw: Callable[[], float], clock: Callable[[], float] = perf_counter) -> None:
        self.name = name
        self._power_mw = power_mw
        self._clock = clock
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._failed: InputError | None = None
        self._total_mj = 0.0
        self._last = (clock(), power_mw())
        self._thread = threading.Thread(target=self._sample, name="bottlenet-meter", daemon=True)
        self._thread.start()

    def energy_mj(self) -> float:
        if self._failed is not None:
            raise self._failed
        return self._add()

    def close(self) -> None:
        self._end.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._end.wait(SAMPLE_S):
            try:
                self._add()
            except InputError as error:
                self._failed = error  # whoever asks next is told
                return

    def _add(self) -> float:
        with self._lock:
            power, now = self._power_mw(), self._clock()
            before, power_before = self._last
            self._total_mj += (now - before) * (power + power_before) / 2
            self._last = (now, power)
            return self._total_mj


def open_meter(kind: str, sys_root: Path = SYS) -> Meter:
    """Open a meter, counting from now; `sys_root` is where sysfs is. InputError: no such kind, or it can't be read."""
    if kind == "auto":
        for each in AUTO:
            try:
                return METERS[each](sys_root)
            except InputError:
                continue
    if kind not in METERS:
        raise InputError(f"meter {kind!a:.40} is unknown; choose one of {', '.join((*METERS, 'auto'))}")
    return METERS[kind](sys_root)


def open_rapl(sys_root: Path) -> CountingMeter:
    """Count all CPU packages; what is inside of one, such as its cores, is in its figure already."""
    found = [path for path in (sys_root / "class/powercap").glob("intel-rapl:*") if path.name.count(":") == 1]
    zones = [zone for zone in sorted(found)[:MAX_ZONES] if read_text("rapl", zone / "name").startswith("package")]
    if not zones:
        raise unreadable("rapl", sys_root / "class/powercap", "no intel-rapl zone of a CPU package is there")
    name = "RAPL " + ", ".join(read_text("rapl", zone / "name") for zone in zones)
    ranges_mj = [read_number("rapl", zone / "max_energy_range_uj") / 1e3 for zone in zones]
    reads = [partial(read_number, "rapl", zone / "energy_uj", per_unit=1e-3) for zone in zones]
    return CountingMeter(name, list(map(Counter, reads, ranges_mj)))


def open_jetson(sys_root: Path) -> SamplingMeter:
    """Sample the rail of the whole board: by hwmon (JetPack 5 and later), or by the older driver's own files."""
    for pattern in ("ina3221/*/hwmon/hwmon*/in*_label", "ina3221x/*/iio:device*/rail_name_*"):
        for label in sorted((sys_root / "bus/i2c/drivers").glob(pattern))[:MAX_RAILS]:
            if (rail := read_text("jetson", label)) in BOARD_RAILS:
                return SamplingMeter(f"INA3221 {rail}", power_of(label))
    rails = " or ".join(BOARD_RAILS)
    raise unreadable("jetson", sys_root / "bus/i2c/drivers", f"no INA3221 with a rail {rails} is there")


def power_of(label: Path) -> Callable[[], float]:
    """Return what reads a rail's power, in mW; by in<N>_label that is mV times mA, by rail_name_<N> one file."""
    if label.name.startswith("rail_name_"):
        return partial(read_number, "jetson", label.with_name(f"in_power{label.name[len('rail_name_') :]}_input"))
    number = label.name.removeprefix("in").removesuffix("_label")
    volts, amperes = label.with_name(f"in{number}_input"), label.with_name(f"curr{number}_input")
    return lambda: read_number("jetson", volts) * read_number("jetson", amperes) / 1e3


def open_nvml(sys_root: Path) -> CountingMeter:
    """Count what GPU 0 takes, Volta or later."""
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError as error:
        text = "meter nvml needs the package pynvml; pip install nvidia-ml-py, or take another: --meter auto"
        raise InputError(text) from error
    try:
        nvml.nvmlInit()
        gpu = nvml.nvmlDeviceGetHandleByIndex(0)
        name = nvml.nvmlDeviceGetName(gpu)
    except nvml.NVMLError as error:
        raise unreadable("nvml", None, str(error)) from error

    def read_mj() -> float:
        try:
            return float(nvml.nvmlDeviceGetTotalEnergyConsumption(gpu))
        except nvml.NVMLError as error:
            raise unreadable("nvml", None, str(error)) from error

    shown = name.decode(errors="replace") if isinstance(name, bytes) else str(name)
    return CountingMeter(f"NVML GPU 0 ({shown:.100})", [Counter(read_mj, 2.0**64)])


def read_number(kind: str, path: Path, per_unit: float = 1.0) -> float:
    text = read_text(kind, path)
    if not text.isdecimal():
        raise unreadable(kind, path, f"it says {text!a:.40}, which is no number")
    return float(text) * per_unit


def read_text(kind: str, path: Path) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            text = file.read(MAX_VALUE_CHARACTERS).strip()
    except OSError as error:
        raise unreadable(kind, path, error.strerror or "it can't be read") from error
    return "".join(character for character in text if character.isprintable())


def unreadable(kind: str, path: Path | None, why: str) -> InputError:
    what = f"meter {kind} can't be read: {'' if path is None else f'{path}: '}{why}"
    return InputError(f"{what}; mend that (most need root), or take another: --meter auto")


def open_model(sys_root: Path) -> CountingMeter:
    """Take the paper's power for each second of processor time of this process, as there is no meter."""
    modelled = Counter(lambda: process_time() * PAPER_DEVICE_MW, math.inf)
    return CountingMeter(f"the paper's device, {PAPER_DEVICE_MW:,.0f} mW", [modelled], "modelled")


AUTO = ("rapl", "jetson", "model")
METERS: dict[str, Callable[[Path], Meter]] = {
    "rapl": open_rapl,
    "jetson": open_jetson,
    "nvml": open_nvml,
    "model": open_model,
}
