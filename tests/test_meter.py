"""Meters, fed with a sysfs of our own."""

from __future__ import annotations

import sys
import time
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bottlenet.edge.meter import METERS, PAPER_DEVICE_MW, Counter, CountingMeter, SamplingMeter, open_meter
from bottlenet.errors import InputError


def write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{value}\n")


def zone(root: Path, number: str, name: str, energy_uj: int, range_uj: int = 10_000_000) -> Path:
    folder = root / "class/powercap" / f"intel-rapl:{number}"
    write(folder / "name", name)
    write(folder / "energy_uj", energy_uj)
    write(folder / "max_energy_range_uj", range_uj)
    return folder


class TestRapl:
    def test_packages_add_up_and_their_parts_do_not(self, tmp_path: Path) -> None:
        first = zone(tmp_path, "0", "package-0", 5_000_000)
        second = zone(tmp_path, "1", "package-1", 1_000)
        cores = zone(tmp_path, "0:0", "core", 7)
        other = zone(tmp_path, "2", "psys", 7)
        with closing(open_meter("rapl", tmp_path)) as meter:
            assert (meter.name, meter.how) == ("RAPL package-0, package-1", "measured")
            assert meter.energy_mj() == 0
            for folder, energy_uj in ((first, 5_012_000), (second, 4_000), (cores, 900), (other, 900)):
                write(folder / "energy_uj", energy_uj)
            assert meter.energy_mj() == pytest.approx(15)
            assert meter.energy_mj() == pytest.approx(15)

    def test_a_counter_that_begins_again(self, tmp_path: Path) -> None:
        folder = zone(tmp_path, "0", "package-0", 9_990_000)
        meter = open_meter("rapl", tmp_path)
        write(folder / "energy_uj", 15_000)
        assert meter.energy_mj() == pytest.approx(25)

    @given(st.lists(st.floats(0, 99.9), max_size=20), st.floats(0, 99.9))
    def test_what_is_spent_is_counted_however_often_it_begins_again(self, steps: list[float], start: float) -> None:
        spent = [start]
        meter = CountingMeter("m", [Counter(lambda: spent[0] % 100, 100.0)])
        for step in steps:
            spent[0] += step
            assert meter.energy_mj() == pytest.approx(spent[0] - start, abs=1e-6)

    def test_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(
            InputError, match=r"meter rapl can't be read: .*powercap: no intel-rapl zone .* --meter auto"
        ):
            open_meter("rapl", tmp_path)

    def test_not_ours_to_read(self, tmp_path: Path) -> None:
        """As for everybody but root since 2020; here it is a folder, which root can't read either."""
        folder = zone(tmp_path, "0", "package-0", 1)
        (folder / "energy_uj").unlink()
        (folder / "energy_uj").mkdir()
        with pytest.raises(InputError, match="meter rapl can't be read: .*energy_uj: Is a directory; .* root"):
            open_meter("rapl", tmp_path)

    def test_no_number(self, tmp_path: Path) -> None:
        folder = zone(tmp_path, "0", "package-0", 1)
        meter = open_meter("rapl", tmp_path)
        write(folder / "energy_uj", "-3\x1b[31m")
        with pytest.raises(InputError, match="energy_uj: it says '-3") as error:
            meter.energy_mj()
        assert "\x1b" not in str(error.value)


class TestJetson:
    def test_hwmon(self, tmp_path: Path) -> None:
        folder = tmp_path / "bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3"
        for number, rail, mv, ma in ((1, "VDD_IN", 5000, 800), (2, "VDD_CPU_GPU_CV", 5000, 1)):
            write(folder / f"in{number}_label", rail)
            write(folder / f"in{number}_input", mv)
            write(folder / f"curr{number}_input", ma)
        self.check(tmp_path, "INA3221 VDD_IN", 4000)

    def test_the_older_driver(self, tmp_path: Path) -> None:
        folder = tmp_path / "bus/i2c/drivers/ina3221x/0-0041/iio:device1"
        write(folder / "rail_name_0", "VDD_IN")
        write(folder / "in_power0_input", 4000)
        self.check(tmp_path, "INA3221 VDD_IN", 4000)

    def check(self, root: Path, name: str, power_mw: float) -> None:
        started = time.perf_counter()
        with closing(open_meter("jetson", root)) as meter:
            assert (meter.name, meter.how) == (name, "measured")
            time.sleep(0.05)
            energy_mj = meter.energy_mj()
        longest_s = time.perf_counter() - started
        assert 0.05 * power_mw <= energy_mj <= longest_s * power_mw
        assert not meter._thread.is_alive()  # type: ignore[attr-defined]

    def test_only_other_rails(self, tmp_path: Path) -> None:
        write(tmp_path / "bus/i2c/drivers/ina3221x/0-0041/iio:device1/rail_name_0", "VDD_SOC")
        with pytest.raises(
            InputError, match="meter jetson can't be read: .*no INA3221 with a rail VDD_IN or POM_5V_IN"
        ):
            open_meter("jetson", tmp_path)

    def test_power_that_changes(self) -> None:
        """A ramp from 0 to 2 W in a second, then 2 W for another: 1 J and 2 J."""
        now = [0.0]
        power = [0.0]
        meter = SamplingMeter("m", lambda: power[0], clock=lambda: now[0])
        meter.close()  # only what is asked for below is sampled
        now[0], power[0] = 1.0, 2000.0
        assert meter.energy_mj() == pytest.approx(1000)
        now[0] = 2.0
        assert meter.energy_mj() == pytest.approx(3000)

    def test_a_rail_that_goes_away(self, tmp_path: Path) -> None:
        folder = tmp_path / "bus/i2c/drivers/ina3221x/0-0041/iio:device1"
        write(folder / "rail_name_0", "VDD_IN")
        write(folder / "in_power0_input", 4000)
        with closing(open_meter("jetson", tmp_path)) as meter:
            (folder / "in_power0_input").unlink()
            with pytest.raises(InputError, match="meter jetson can't be read"):
                meter.energy_mj()


class Nvml(SimpleNamespace):
    """Of pynvml what is used."""

    class NVMLError(Exception):
        pass


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Nvml:
    module = Nvml(
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetName=lambda gpu: b"Big GPU",
        energy=1_000,
    )
    module.nvmlDeviceGetTotalEnergyConsumption = lambda gpu: module.energy
    monkeypatch.setitem(sys.modules, "pynvml", module)  # type: ignore[arg-type]
    return module


class TestNvml:
    def test_it_counts(self, nvml: Nvml, tmp_path: Path) -> None:
        meter = open_meter("nvml", tmp_path)
        nvml.energy += 40
        assert (meter.name, meter.how, meter.energy_mj()) == ("NVML GPU 0 (Big GPU)", "measured", 40)

    def test_no_driver(self, nvml: Nvml, tmp_path: Path) -> None:
        def fail() -> None:
            raise nvml.NVMLError("Driver Not Loaded")

        nvml.nvmlInit = fail
        with pytest.raises(InputError, match="meter nvml can't be read: Driver Not Loaded"):
            open_meter("nvml", tmp_path)

    def test_an_old_gpu(self, nvml: Nvml, tmp_path: Path) -> None:
        def fail(gpu: int) -> None:
            raise nvml.NVMLError("Not Supported")

        nvml.nvmlDeviceGetTotalEnergyConsumption = fail
        with pytest.raises(InputError, match="meter nvml can't be read: Not Supported"):
            open_meter("nvml", tmp_path)

    def test_not_installed(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setitem(sys.modules, "pynvml", None)
        with pytest.raises(InputError, match="pip install nvidia-ml-py") as error:
            open_meter("nvml", tmp_path)
        assert "root" not in str(error.value)


def test_the_model_counts_processor_time_and_says_that_it_is_one(tmp_path: Path) -> None:
    assert pytest.approx(20.5) == PAPER_DEVICE_MW * 0.0157
    meter = open_meter("model", tmp_path)
    assert (meter.name, meter.how) == ("the paper's device, 1,306 mW", "modelled")
    started = time.process_time()
    before = meter.energy_mj()
    counted = time.process_time()
    while time.process_time() - counted < 0.01:
        pass
    assert meter.energy_mj() - before >= 0.01 * PAPER_DEVICE_MW
    time.sleep(0.02)
    assert meter.energy_mj() < (time.process_time() - started + 0.01) * PAPER_DEVICE_MW


class TestAuto:
    def test_the_first_that_can_be_read(self, tmp_path: Path) -> None:
        assert open_meter("auto", tmp_path).how == "modelled"
        write(tmp_path / "bus/i2c/drivers/ina3221x/0-0041/iio:device1/rail_name_0", "VDD_IN")
        write(tmp_path / "bus/i2c/drivers/ina3221x/0-0041/iio:device1/in_power0_input", 4000)
        with closing(open_meter("auto", tmp_path)) as meter:
            assert meter.name == "INA3221 VDD_IN"
        zone(tmp_path, "0", "package-0", 1)
        assert open_meter("auto", tmp_path).name == "RAPL package-0"

    def test_nothing_else_falls_back(self, tmp_path: Path) -> None:
        for kind in ("rapl", "jetson"):
            with pytest.raises(InputError, match=f"meter {kind} can't be read"):
                open_meter(kind, tmp_path)

    def test_unknown(self) -> None:
        with pytest.raises(InputError, match="meter 'watt' is unknown; choose one of rapl, jetson, nvml, model, auto"):
            open_meter("watt")
        assert list(METERS) == ["rapl", "jetson", "nvml", "model"]
