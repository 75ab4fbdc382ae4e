"""Joules from counters: folder trees as the kernel writes them, and a meter from a plug-in."""

import itertools
import threading
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from waiting import PATIENCE_S

from costsim.hardware.meters import energy
from costsim.hardware.meters.energy import EnergyRecorder, RaplDomain, find_counters


def write(folder: Path, **files: object) -> Path:
    """A folder of sysfs: one value and a line feed in each file."""
    folder.mkdir(parents=True)
    for name, value in files.items():
        (folder / name).write_text(f"{value}\n")
    return folder


def rapl_tree(root: Path) -> dict[str, Path]:
    """Two packages with cores and memory inside, a whole platform, and the bus's own folder."""
    top = root / "sys/class/powercap"
    rng = {"max_energy_range_uj": 262_143_328_850}
    zones = {
        "intel-rapl:0": "package-0",
        "intel-rapl:0:0": "core",
        "intel-rapl:0:1": "dram",
        "intel-rapl:1": "package-1",
        "intel-rapl:1:0": "dram",
        "intel-rapl:2": "psys",
    }
    found = {
        zone: write(top / zone, name=name, energy_uj=1000 * number, enabled=1, **rng)
        for number, (zone, name) in enumerate(zones.items(), start=1)
    }
    write(top / "intel-rapl", enabled=1)
    return found


def hwmon_tree(root: Path) -> Path:
    """The Jetson Orin's INA3221 as Linux's driver shows it, beside a temperature sensor."""
    write(root / "sys/class/hwmon/hwmon0", name="thermal", temp1_input=41_000)
    return write(
        root / "sys/class/hwmon/hwmon1",
        name="ina3221",
        in1_label="VDD_IN",
        in1_input=5000,
        curr1_input=900,
        in2_label="VDD_CPU_GPU_CV",
        in2_input=5000,
        curr2_input=300,
        in3_label="VDD_SOC",
        in3_input=5000,
        curr3_input=200,
    )


def iio_tree(root: Path) -> Path:
    """The Jetson Nano's INA3221 as NVIDIA's older driver shows it."""
    return write(
        root / "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0",
        rail_name_0="POM_5V_IN",
        in_power0_input=2512,
        rail_name_1="POM_5V_GPU",
        in_power1_input=40,
        rail_name_2="POM_5V_CPU",
        in_power2_input=810,
    )


def test_a_machine_without_counters_says_so(tmp_path):
    found = find_counters(tmp_path)
    assert found.counters == ()
    (note,) = found.notes
    assert "no energy counter" in note
    assert "no joules were measured" in note


def test_packages_and_memory_are_counted_once(tmp_path):
    zones = rapl_tree(tmp_path)
    found = find_counters(tmp_path)
    assert {source for source, _ in found.by_source} == {"RAPL"}
    counters: tuple[Any, ...] = tuple(found.counters)
    assert {counter.name: counter.joules() for counter in counters} == pytest.approx(
        {
            "RAPL package-0": 1000e-6,
            "RAPL dram-0": 3000e-6,
            "RAPL package-1": 4000e-6,
            "RAPL dram-1": 5000e-6,
        }
    )
    with EnergyRecorder(found.counters) as recorder:
        for zone, gained_j in (("intel-rapl:0", 2.5), ("intel-rapl:1:0", 0.25)):
            file = zones[zone] / "energy_uj"
            file.write_text(f"{int(file.read_text()) + round(gained_j * 1e6)}\n")
    gained = dict(zip([c.name for c in found.counters], recorder.joules, strict=True))
    assert gained == pytest.approx(
        {"RAPL package-0": 2.5, "RAPL dram-0": 0, "RAPL package-1": 0, "RAPL dram-1": 0.25}
    )


@given(
    start_uj=st.integers(0, 10**9 - 1),
    steps_uj=st.lists(st.integers(0, 10**9 - 1), min_size=1, max_size=5),
)
def test_a_counter_that_starts_again_loses_nothing(tmp_path_factory, start_uj, steps_uj):
    """The law: what is recorded is what went by, however often the counter wrapped."""
    folder = tmp_path_factory.mktemp("zone")
    file, range_uj = folder / "energy_uj", 10**9
    file.write_text(f"{start_uj}\n")
    recorder = EnergyRecorder([RaplDomain("zone", folder, range_uj * 1e-6)], sample_s=60)
    now = start_uj
    with recorder:
        for step in steps_uj:
            now = (now + step) % range_uj
            file.write_text(f"{now}\n")
            recorder._add()
    assert recorder.joules[0] == pytest.approx(sum(steps_uj) * 1e-6)


def test_counters_that_only_root_may_read_are_named(tmp_path):
    zones = rapl_tree(tmp_path)
    for zone in ("intel-rapl:0", "intel-rapl:0:1", "intel-rapl:1:0"):
        (zones[zone] / "energy_uj").unlink()
        (zones[zone] / "energy_uj").mkdir()  # unreadable for root too
    found = find_counters(tmp_path)
    assert [counter.name for counter in found.counters] == ["RAPL package-1"]
    assert len(found.notes) == 3
    assert "the RAPL counter RAPL package-0 cannot be read: Is a directory" in found.notes


@pytest.mark.parametrize(
    ("tree", "name", "watts"),
    [(hwmon_tree, "INA3221 VDD_IN", 5.0 * 0.9), (iio_tree, "INA3221 POM_5V_IN", 2.512)],
)
def test_the_rail_that_feeds_a_jetson_is_its_power(tmp_path, tree, name, watts):
    tree(tmp_path)
    counter: Any
    (counter,) = find_counters(tmp_path).counters
    assert counter.name == name
    assert counter.watts() == pytest.approx(watts)


def test_without_a_rail_that_feeds_all_every_rail_counts(tmp_path):
    folder = hwmon_tree(tmp_path)
    (folder / "in1_label").write_text("NC\n")
    names = [counter.name for counter in find_counters(tmp_path).counters]
    assert names == ["INA3221 VDD_CPU_GPU_CV", "INA3221 VDD_SOC"]


@pytest.fixture
def clock(monkeypatch):
    """The recorder's clock: a second passes whenever it is looked at."""
    ticks = map(float, itertools.count())
    monkeypatch.setattr(energy, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))


@pytest.mark.usefixtures("clock")
def test_power_is_summed_over_time(tmp_path):
    """By the trapezoidal rule over readings at 0, 2, 3 and 4 s; at 1 s it is told to begin."""
    folder = iio_tree(tmp_path)
    with EnergyRecorder(find_counters(tmp_path).counters, sample_s=60) as recorder:
        recorder._add()
        (folder / "in_power0_input").write_text("5024\n")
        recorder._add()
    assert recorder.joules[0] == pytest.approx(2 * 2.512 + (2.512 + 5.024) / 2 + 5.024)
    assert recorder.seconds == 4.0


def test_a_meter_is_read_again_and_again():
    often = threading.Event()

    class Counted(Meter):
        readings = 0

        def watts(self):
            self.readings += 1
            if self.readings > 5:
                often.set()
            return super().watts()

    with EnergyRecorder([Counted()], sample_s=0.005):
        assert often.wait(PATIENCE_S)


def test_a_reading_that_fails_for_a_moment_is_spanned(tmp_path):
    folder = write(tmp_path / "zone", energy_uj=0)
    recorder = EnergyRecorder([RaplDomain("zone", folder, None)], sample_s=60)
    with recorder:
        (folder / "energy_uj").write_text("\n")
        recorder._add()
        (folder / "energy_uj").write_text("3000000\n")
    assert recorder.joules == [3.0]
    assert recorder.doubts == [None]


def test_a_counter_that_falls_silent_has_no_joules_to_believe(tmp_path):
    """Its last reading is missing, so that what it counted by then is not all."""
    folder = write(tmp_path / "zone", energy_uj=0)
    with EnergyRecorder([RaplDomain("zone", folder, None)], sample_s=60) as recorder:
        (folder / "energy_uj").write_text("5000000\n")
        recorder._add()
        (folder / "energy_uj").unlink()
    assert recorder.doubts == ["cannot be read: No such file or directory"]


def test_a_counter_that_cannot_be_read_at_first_is_doubted(tmp_path):
    folder = write(tmp_path / "zone")
    with EnergyRecorder([RaplDomain("zone", folder, None)], sample_s=60) as recorder:
        (folder / "energy_uj").write_text("5000000\n")
    assert recorder.doubts == ["cannot be read: No such file or directory"]


def test_a_counter_without_a_range_that_starts_again_is_doubted(tmp_path):
    folder = write(tmp_path / "zone", energy_uj=5_000_000)
    with EnergyRecorder([RaplDomain("zone", folder, None)], sample_s=60) as recorder:
        (folder / "energy_uj").write_text("7\n")
    assert recorder.doubts == ["started again from 0"]


class Foreign:
    """A plug-in's counter that answers whatever it is given, or raises it."""

    name, range_j = "foreign", None

    def __init__(self, *answers):
        self.answers = list(answers)

    def joules(self):
        """The next answer; the last one over and over."""
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.mark.parametrize(
    "answer", [float("nan"), float("inf"), "7", None, RuntimeError("\x1b[2J gone"), KeyError(1)]
)
def test_nonsense_of_a_plugin_is_no_joules(answer):
    with EnergyRecorder([Foreign(1.0, answer)], sample_s=0.001) as recorder:
        pass
    (told,) = recorder.doubts
    assert told.startswith("cannot be read: ")
    assert told.isprintable()


def test_less_than_nothing_is_doubted():
    class Backwards(Meter):
        def watts(self):
            return -0.5

    with EnergyRecorder([Backwards()], sample_s=60) as recorder:
        pass
    assert recorder.doubts == ["counted less than nothing"]


def test_what_is_written_in_other_letters_is_a_name_like_any(tmp_path):
    folder = hwmon_tree(tmp_path)
    (folder / "in1_label").write_bytes(b"VDD\xff_IN\n")
    assert len(find_counters(tmp_path).counters) == 1


def raising_plugin():
    return [Foreign(RuntimeError("no such board"))]


class Meter:
    """What a plug-in brings."""

    name = "bench meter"

    def watts(self):
        """Two watts, always."""
        return 2.0


def good_plugin():
    return [Meter()]


def bad_plugin():
    raise OSError("no meter on /dev/ttyUSB0")


def odd_plugin():
    return [Meter(), 7]


@pytest.mark.usefixtures("clock")
def test_a_meter_comes_from_a_plugin_and_a_bad_one_does_no_harm(tmp_path, monkeypatch):
    """Found as installed packages announce them: by a real entry point in a real folder."""
    info = tmp_path / "meters-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: meters\nVersion: 1.0\n")
    lines = [
        f"{kind} = {__name__}:{kind}_plugin" for kind in ("good", "bad", "odd", "absent", "raising")
    ]
    (info / "entry_points.txt").write_text("\n".join([f"[{energy.PLUGINS}]", *lines]) + "\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = find_counters(tmp_path / "root")
    assert [source for source, _ in found.by_source] == ["good", "odd"]
    assert [counter.name for counter in found.counters] == ["bench meter"] * 2
    told = "\n".join(found.notes)
    assert "plug-in 'bad' failed: OSError: no meter on /dev/ttyUSB0" in told
    assert "plug-in 'absent' failed: AttributeError" in told
    assert "plug-in 'odd' gave a int" in told
    assert "the raising counter foreign cannot be read: RuntimeError: no such board" in told
    with EnergyRecorder(found.counters[:1], sample_s=60) as recorder:
        pass
    assert recorder.joules == [2.0 * recorder.seconds]
    assert EntryPoint("good", f"{__name__}:good_plugin", energy.PLUGINS).load() is good_plugin
