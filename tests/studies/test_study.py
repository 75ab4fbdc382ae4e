"""Studies of methods: cells, the store, processes that die, the table."""

import csv
import json
import math
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterable
from contextlib import closing
from dataclasses import replace
from io import StringIO
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t as student

from costsim.base.errors import InputError
from costsim.base.intervals import Mean
from costsim.cli import main
from costsim.data import digits, sample_episode
from costsim.device import load_device
from costsim.ir.recipe import Recipe
from costsim.learning.adaptation.method import Method
from costsim.learning.adaptation.one_task import adapt
from costsim.learning.adaptation.place import Place
from costsim.learning.adaptation.situation import Situation
from costsim.learning.methods import METHODS, make_method
from costsim.learning.methods.sparse_update import SearchedScheme
from costsim.learning.training.backbone import Backbone, load_backbone
from costsim.report.study import render_study
from costsim.report.study_files import study_csv, study_latex
from costsim.report.study_table import percent, print_study
from costsim.report.study_words import conclusion, settings_rows
from costsim.studies.engine import StudyStore, parse_study, run_study
from costsim.studies.methods import MethodStudies, MethodStudy
from costsim.studies.methods.analysis import AVERAGE, MethodFindings, analyse
from costsim.studies.methods.store import COLUMNS
from costsim.studies.methods.work import MakeMethod, MethodWorkshop

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "study.yaml"

STATIC = METHODS.tagged("source")

DOCUMENT: dict[str, Any] = {
    "models": [{"model": "mcunet-5fps", "resolution": 32}],
    "methods": ["None", "LastLayer"],
    "domains": ["digits"],
    "seeds": 2,
    "episode": {"ways": 3, "shots": 1, "queries": 3},
    "settings": {"iterations": 1},
}


KIND = MethodStudies()


def study(**changes: Any) -> MethodStudy:
    found = parse_study({**DOCUMENT, **changes}, "study.yaml", KIND)
    assert isinstance(found, MethodStudy)
    return found


def shop(make: MakeMethod = make_method) -> MethodWorkshop:
    return replace(KIND, make_method=make).workshop()


def open_store(path: Path) -> StudyStore[Any]:
    return StudyStore(path, KIND)


def yaml(path: Path, **changes: Any) -> Path:
    path.write_text(json.dumps({**DOCUMENT, **changes}))  # JSON is YAML
    return path


# What a study is.


def test_cells_are_the_product_of_the_lists_with_the_first_seeds_first() -> None:
    cells = study(seeds=[4, 2], devices=["jetson-nano", "pi-zero-2"]).cells()
    assert [(c.seed, c.device, c.method.label) for c in cells] == [
        (seed, device, method)
        for seed in (4, 2)
        for device in ("jetson-nano", "pi-zero-2")
        for method in ("None", "LastLayer")
    ]
    assert len({cell.key for cell in cells}) == 8
    assert len({cell.group for cell in cells}) == 4
    assert len({cell.task_key for cell in cells}) == 2


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"seeds": 3}, True),
        ({"settings": {"iterations": 1, "image-interval": 1}}, True),
        ({"settings": {"iterations": 1, "image-interval": 2}}, False),
        ({"methods": [{"method": "None", "name": "plain"}]}, True),
        ({"settings": {"iterations": 2}}, False),
        ({"episode": {"ways": 3, "shots": 2, "queries": 3}}, False),
        ({"episode": "meta-dataset"}, False),
        ({"models": [{"model": "mcunet-5fps", "resolution": 64}]}, False),
        ({"models": [{"model": "mcunet-5fps", "resolution": 32, "weights": "random"}]}, None),
        ({"budget": {"memory": "64KiB"}}, False),
        ({"devices": ["stm32f746"]}, False),
        ({"methods": [{"method": "None", "learning-rate": 0.5}]}, False),
        ({"methods": [{"method": "None", "guard": "2-fold"}]}, False),
        ({"backend": "torch"}, True),
        ({"backend": "native"}, False),
    ],
)
def test_a_key_is_of_what_the_answer_depends_on(change: dict[str, Any], same: bool | None) -> None:
    first, other = study().cells()[0], study(**change).cells()[0]
    if same is None:  # as they come with the network or not
        from costsim.models.networks.shipped import shipped_weights

        assert (first.key == other.key) == (shipped_weights("mcunet-5fps") is None) or (
            first.key != other.key
        )
    else:
        assert (first.key == other.key) == same


def test_the_source_is_of_what_static_choices_depend_on_and_nothing_else() -> None:
    methods = ["None", "TinyTrain (static)", "SparseUpdate (search)"]

    def keys(source: Any) -> list[str]:
        return [cell.key for cell in study(methods=methods, seeds=1, source=source).cells()]

    first = keys("digits")
    assert first == keys({"data": "digits", "tasks": 10})
    other = keys({"data": "digits", "tasks": 9})
    assert [a == b for a, b in zip(first, other, strict=True)] == [True, False, False]
    assert first[0] == study(methods=["None"], seeds=1).cells()[0].key
    cells = study(methods=methods, source="digits", devices=["jetson-nano", "pi-zero-2"]).cells()
    assert len({cell.source_key for cell in cells if cell.source}) == 2  # one for each method


def test_a_method_runs_at_each_of_its_learning_rates_under_one_name() -> None:
    rates = [0.001, 0.003]
    found = study(methods=["None", {"method": "LastLayer", "learning-rate": rates}]).methods
    assert [(m.label, m.learning_rate) for m in found] == [
        ("None", None), ("LastLayer", 0.001), ("LastLayer", 0.003),
    ]  # fmt: skip


def test_the_content_of_files_counts_not_their_names(tmp_path: Path) -> None:
    text = (ROOT / "devices" / "jetson-nano.yaml").read_text()
    (tmp_path / "one.yaml").write_text(text)
    (tmp_path / "two.yaml").write_text(text)
    keys = {
        parse_study({**DOCUMENT, "devices": [name]}, "s", KIND, folder=tmp_path).cells()[0].key
        for name in ("one.yaml", "two.yaml", "jetson-nano")
    }  # fmt: skip
    assert len(keys) == 1


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"methods": ["Nothing"]},
            r"methods\[0\]\.method: method 'Nothing' is unknown; known are None",
        ),
        ({"methods": ["None", "None"]}, "methods: 'None' is there twice"),
        ({"methods": []}, "methods: a list of at least one is needed"),
        ({"methods": [{"name": "x"}]}, r"methods\[0\]\.method: is missing"),
        (
            {"methods": [{"method": "None", "learning-rate": "1e-3"}]},
            r"methods\[0\]\.learning-rate: is '1e-3'; a number above 0",
        ),
        (
            {"methods": [{"method": "LastLayer", "learning-rate": [0.1, "x"]}]},
            r"methods\[0\]\.learning-rate: is 'x'; a number above 0, or a list of them",
        ),
        (
            {"methods": [{"method": "LastLayer", "learning-rate": []}]},
            r"methods\[0\]\.learning-rate: is \[\]; a number above 0, or a list of them",
        ),
        (
            {"methods": [{"method": "LastLayer", "guard": "dog"}]},
            r"methods\[0\]\.guard: guard 'dog' is unknown; known are none; shrink; leave-one-out",
        ),
        (
            {"methods": [{"method": "LastLayer", "learning-rate": [0.1, 0.1]}]},
            r"methods\[0\]\.learning-rate: a rate is there twice",
        ),
        ({"models": ["resnet"]}, r"models\[0\]\.model: 'resnet' is unknown; give one of mcunet"),
        (
            {"models": [{"model": "mcunet-5fps", "weights": "no.pkl"}]},
            r"models\[0\]\.weights: no\.pkl does not exist",
        ),
        ({"domains": ["no.tar"]}, r"domains\[0\]\.data: no\.tar does not exist"),
        ({"domains": ["solvers"]}, r"domains\[0\]\.data: solvers"),
        ({"seeds": 0}, "seeds: is 0; a whole number from 1"),
        ({"seeds": [1, 1]}, "seeds: a list of different numbers"),
        ({"seeds": True}, "seeds: is True"),
        ({"devices": ["toaster"]}, r"devices\[0\]: "),
        ({"episode": "long"}, "episode: is 'long'; give meta-dataset"),
        ({"episode": {"ways": 5}}, r"episode\.shots: is missing"),
        ({"episode": {"rule": "meta-dataset", "least-ways": 1}}, "episode: least ways is 1"),
        ({"budget": {"memory": "lots"}}, r"budget\.memory"),
        ({"budget": {"disk": 1}}, "budget: disk: unknown key"),
        ({"settings": {"iterations": "many"}}, r"settings\.iterations: is 'many'; a whole number"),
        ({"settings": {"iterations": 0}}, "settings: iterations is 0"),
        ({"settings": {"seed": 3}}, "settings: seed: unknown key"),
        (
            {"settings": {"micro-batch": 2}},
            r"settings\.micro-batch: is 2; a step is over 3 images, and a number that divides",
        ),
        ({"color": 1}, "color: unknown key; allowed are models"),
        (
            {"methods": ["None", "TinyTrain (static)"]},
            r"methods\[1\]: TinyTrain \(static\) chooses by tasks of other images; give them as so",
        ),
        ({"source": "no.tar"}, r"source\.data: no\.tar does not exist"),
        ({"source": {"tasks": 3}}, r"source\.data: is missing"),
        (
            {"domains": [{"data": "digits", "split": "x"}]},
            r"domains\[0\]\.split: the digits have no",
        ),
        (
            {"domains": [{"data": "digits", "name": "average"}]},
            r"domains\[0\]\.name: 'average' is what the mean over domains is called",
        ),
        (
            {"methods": [{"method": "None", "name": "a\nb"}]},
            r"methods\[0\]\.name: is 'a\\nb'; text on one line",
        ),
        (
            {"settings": {"momentum": float("nan")}},
            "settings: momentum is nan; allowed is 0 to below 1",
        ),
        ({"source": {"data": "digits", "tasks": 0}}, r"source\.tasks: is 0; a whole number from 1"),
        ({"source": {"data": "digits", "name": "x"}}, "source: name: unknown key; allowed are dat"),
        ({"source": None}, "source: is empty; a mapping of data"),
        ({"backend": "cuda"}, "backend: is 'cuda'; allowed are torch, native"),
    ],
)
def test_bad_input_names_the_key_and_what_is_allowed(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=f"^study.yaml: {says}"):
        study(**changes)


@pytest.mark.parametrize(
    ("key", "twice"),
    [
        ("models", ["mcunet-5fps", {"model": "mcunet-5fps", "name": "other"}]),
        ("methods", ["None", {"method": "None", "name": "other"}]),
        ("domains", ["digits", {"data": "digits", "name": "other"}]),
    ],
)
def test_the_same_under_two_names_is_refused(key: str, twice: list[Any]) -> None:
    names = {"models": "mcunet-5fps", "methods": "None", "domains": "digits"}
    with pytest.raises(InputError, match=f"^{key}: '{names[key]}' and 'other' are the same"):
        study(**{key: twice}).cells()


def test_the_same_device_in_two_files_is_refused(tmp_path: Path) -> None:
    copy = tmp_path / "copy.yaml"
    copy.write_text((ROOT / "devices" / "jetson-nano.yaml").read_text())
    with pytest.raises(InputError, match=f"^devices: jetson-nano and {copy} are the same"):
        study(devices=["jetson-nano", str(copy)]).cells()


# Rows.


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    here = shop()
    return [dict(here.computed(cell).row) for cell in study(methods=["None", "TinyTrain"]).cells()]


def test_a_cell_is_one_adaptation_as_the_library_does_it(rows: list[dict[str, Any]]) -> None:
    cells = study(methods=["None", "TinyTrain"]).cells()
    cell, row = cells[3], rows[3]
    backbone = load_backbone("mcunet-5fps", resolution=32)
    task = sample_episode(digits(), cell.episode, seed=1, resolution=32)
    situation = Situation(backbone, task, Place(load_device("jetson-nano")), Recipe(iterations=1))
    found = adapt(situation, make_method("TinyTrain"))
    assert row["status"] == "done"
    assert (row["method"], row["seed"], row["ways"], row["support"]) == ("TinyTrain", 1, 3, 3)
    assert row["accuracy"] == found.accuracy_after
    assert row["accuracy_before"] == found.accuracy_before == rows[2]["accuracy"]
    assert json.loads(row["predictions"]) == list(found.predictions)
    memory = found.cost.step.memory
    assert row["paper_bytes"] == memory.paper_bytes
    assert row["peak_bytes"] == memory.peak_bytes
    assert row["backward_macs"] == round(found.cost.step.macs.backward / 3)
    assert found.cost.adaptation is not None
    assert row["task_j"] == found.cost.adaptation.cost.energy_j.value
    assert row["channels"] == sum(len(s.channels) for s in found.choice.plan.subsets) > 0
    assert set(row) <= set(COLUMNS)


class Refusing(Method):
    learning_rate = 0.1
    name = "Refusing"

    def choose(self, situation: Situation) -> Any:
        raise InputError("nothing fits")


class Telling(Refusing):
    def choose(self, situation: Situation) -> Any:
        raise InputError(f"computed by {situation.backbone.backend}")

    def backbone(self, backbone: Backbone) -> Backbone:
        return backbone


def test_cells_are_computed_by_what_the_study_says() -> None:
    here = shop(lambda _name: Telling())
    said = [
        here.computed(study(**changes).cells()[0]).row["reason"]
        for changes in ({}, {"backend": "native"}, {"backend": "torch"})
    ]
    assert said == ["computed by torch", "computed by native", "computed by torch"]


class Breaking(Refusing):
    def choose(self, situation: Situation) -> Any:
        raise ZeroDivisionError("oh\nno")

    def backbone(self, backbone: Backbone) -> Backbone:
        return backbone


def test_a_refusal_is_an_answer_and_an_error_is_a_row() -> None:
    made = iter([Refusing(), Breaking(), make_method("None")])
    here, cell = shop(lambda _name: next(made)), study().cells()[0]
    refused, broken, done = (here.computed(cell).row for _ in range(3))
    assert (refused["status"], refused["reason"]) == ("refused", "nothing fits")
    assert (broken["status"], broken["reason"]) == (
        "failed",
        "method Refusing failed: ZeroDivisionError: oh",
    )
    assert done["status"] == "done"
    few = replace(cell, episode=replace(cell.episode, ways=11))  # type: ignore[type-var]
    assert "11 ways need as many" in here.computed(few).row["reason"]


def test_failures_are_tried_again_and_answers_stay(tmp_path: Path) -> None:
    store = open_store(tmp_path / "s.sqlite")
    cell = study().cells()[0]
    store.write(shop(lambda _name: Breaking()).computed(cell).row)
    assert store.finished() == frozenset()
    answer = shop().computed(cell).row
    store.write(answer)
    store.write({**answer, "accuracy": -1.0})
    assert store.finished() == {cell.key}
    assert store.rows([cell.key])[0]["accuracy"] == answer["accuracy"]


def test_rows_are_named_as_the_study_names_them_now(tmp_path: Path) -> None:
    store = open_store(tmp_path / "s.sqlite")
    store.write(shop().computed(study().cells()[0]).row)
    renamed = study(methods=[{"method": "None", "name": "untouched"}]).cells()
    (row,) = store.rows_of(renamed)
    assert row["method"] == "untouched"
    assert row["status"] == "done"


class Informed(SearchedScheme):
    """Counts how often it looks at a source."""

    seen: ClassVar[list[tuple[int, int]]] = []

    def informed(self, tasks: Iterable[Situation]) -> SearchedScheme:
        found = list(tasks)
        self.seen.append((len(found), found[0].backbone.input_shape[-1]))
        return super().informed(found)


@pytest.mark.slow
def test_the_source_is_looked_at_once_for_a_model() -> None:
    models = [{"model": "mcunet-5fps", "resolution": side, "name": f"{side}"} for side in (32, 48)]
    cells = study(
        models=models, methods=["SparseUpdate (search)"], source={"data": "digits", "tasks": 2}
    ).cells()
    here = shop(lambda _name: Informed())
    rows = [here.computed(cell).row for cell in cells]
    assert [row["status"] for row in rows] == ["done"] * 4
    assert Informed.seen == [(2, 32), (2, 48)]
    assert len({row["plan"] for row in rows if row["model"] == "32"}) == 1


def test_a_source_without_tasks_is_a_failure_that_is_tried_again(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "few", labels=("0", "1"))
    (cell,) = study(methods=["TinyTrain (static)"], source=str(folder), seeds=1).cells()
    found = shop().computed(cell).row
    assert found["status"] == "failed"
    assert "few: 2 of its 2 classes" in found["reason"]


def pictures(folder: Path, labels: Iterable[str] = "01234", count: int = 6) -> Path:
    """Digits as PNG, in one folder a class."""
    source = digits()
    for label in labels:
        (folder / label).mkdir(parents=True)
        for name, image in source.read(source.classes[label][-count:]):
            image.save(folder / label / f"{name.partition('/')[2]}.png")
    return folder


@pytest.mark.slow
def test_a_study_with_a_source_through_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same plan for every task, whatever their number of images; a new source repeats them."""
    pictures(tmp_path / "images" / "val")
    pictures(tmp_path / "images" / "train", labels="56789")
    changes = {
        "methods": ["None", "TinyTrain (static)", "SparseUpdate (search)"],
        "episode": {"rule": "meta-dataset", "least-ways": 2, "most-ways": 4, "queries": 2,
                    "most-shots": 6},
        "seeds": 3,
    }  # fmt: skip
    file = yaml(tmp_path / "s.yaml", **changes, source={"data": "images::val", "tasks": 2})
    assert main(["study", str(file), "--jobs", "1"]) == 0
    assert "9 of 9 cells computed" in capsys.readouterr().err
    with closing(sqlite3.connect(tmp_path / "s.sqlite")) as database, database:
        rows = list(database.execute("SELECT method, support, status, plan FROM cells"))
    assert {status for *_, status, _ in rows} == {"done"}
    assert len({support for _, support, *_ in rows}) > 1
    for method in STATIC:
        plans = {plan for name, *_, plan in rows if name == method}
        assert len(plans) == 1
        assert json.loads(plans.pop())
    yaml(file, **changes, source={"data": "images", "split": "train", "tasks": 2})
    assert main(["study", str(file), "--jobs", "1"]) == 0
    assert "6 of 9 cells computed" in capsys.readouterr().err
    yaml(file, **changes)
    assert main(["study", str(file)]) == 2
    err = capsys.readouterr().err
    assert "methods[1]: TinyTrain (static) chooses by tasks of other images" in err
    assert len(err.splitlines()) == 1


# The run.


def test_a_run_computes_what_is_missing_once(tmp_path: Path) -> None:
    store = open_store(tmp_path / "s.sqlite")
    cells = study().cells()
    store.write(shop().computed(cells[0]).row)
    seen: list[tuple[int, int]] = []
    assert run_study(
        cells, store, KIND, workers=1, watch=lambda d: seen.append((d.done, d.total))
    ) == len(cells) - 1  # fmt: skip
    assert seen[-1] == (3, 3)
    assert run_study(cells, store, KIND) == 0


def _count(store: Path) -> int:
    return len(_contents(store)) if store.exists() else 0


def _contents(store: Path) -> dict[str, tuple[Any, ...]]:
    connection = sqlite3.connect(f"file:{store}?mode=ro", uri=True)
    try:
        return {row[0]: row for row in connection.execute("SELECT * FROM cells")}
    except sqlite3.OperationalError:  # not made yet
        return {}
    finally:
        connection.close()


# The table.


def row(method: str, seed: int, accuracy: float | None, **more: Any) -> dict[str, Any]:
    base = dict.fromkeys(COLUMNS) | {
        "key": f"{method}{seed}{more}", "status": "done", "model": "net", "device": "board",
        "domain": "signs", "method": method, "seed": seed, "task": f"t{seed}",
        "episode": "meta-dataset episode", "accuracy": accuracy, "backward_macs": 1_500_000,
        "paper_bytes": 2048, "task_s": 60.0, "task_j": 5.0,
    }  # fmt: skip
    return base | more


@given(
    pairs=st.lists(
        st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=20
    )
)  # fmt: skip
def test_intervals_are_those_of_paired_differences(pairs: list[tuple[float, float]]) -> None:
    found = analyse(
        [
            one
            for seed, (plain, other) in enumerate(pairs)
            for one in (row("None", seed, plain), row("Best", seed, other))
        ],
        2 * len(pairs),
    )
    over = found.lines[1].over_reference["signs"]
    differences = [other - plain for plain, other in pairs]
    assert over is not None
    assert over.value == pytest.approx(fmean(differences), abs=1e-12)
    nothing = found.lines[0].over_reference["signs"]
    assert nothing is not None
    if len(pairs) < 5:  # none is claimed
        assert over.half is nothing.half is None
        return
    half = student.ppf(0.975, len(pairs) - 1) * stdev(differences) / math.sqrt(len(pairs))
    assert over.half == pytest.approx(half, abs=1e-12)
    assert (nothing.value, nothing.half) == (0, 0)


def test_an_average_counts_every_domain_the_same() -> None:
    rows = [row("None", seed, 0.1 * seed) for seed in range(6)]
    rows += [row("None", seed, 0.9 - 0.1 * seed, domain="birds") for seed in range(5)]
    (line,) = analyse(rows, 11).lines
    signs, birds, both = (line.accuracy[name] for name in ("signs", "birds", AVERAGE))
    assert signs is not None
    assert birds is not None
    assert both is not None
    assert both.value == pytest.approx((0.25 + 0.7) / 2)
    assert signs.half is not None
    assert birds.half is not None
    assert both.half == pytest.approx(math.hypot(signs.half, birds.half) / 2)


def test_models_count_the_same_when_they_are_pooled() -> None:
    from rich.console import Console

    found = [row("None", seed, 0.5 + seed / 50, model=m) for m in ("a", "b") for seed in range(6)]
    found += [row("Tiny", seed, 0.6 + seed / 25, model="a") for seed in range(6)]
    found += [row("Tiny", seed, 0.8 + seed / 50, model="b") for seed in range(5)]
    found += [row("One", seed, 0.9, model="b") for seed in range(6)]  # not on all: left out
    findings = analyse(found, len(found))
    none, tiny = findings.over_models()
    assert (none.method, none.tasks, tiny.method, tiny.tasks) == ("None", 12, "Tiny", 11)
    assert tiny.accuracy is not None
    assert tiny.accuracy.value == pytest.approx((0.7 + 0.84) / 2)
    assert tiny.over_reference is not None
    assert tiny.over_reference.value == pytest.approx((0.15 + 0.3) / 2)
    parts = [line.over_reference[AVERAGE] for line in findings.lines if line.method == "Tiny"]
    assert tiny.over_reference.half == pytest.approx(
        math.hypot(*(part.half for part in parts if part)) / 2
    )
    console = Console(width=100, record=True, file=StringIO())
    print_study(console, findings)
    pooled = console.export_text().partition("all models")[2]
    assert "+22.5 ± " in pooled
    assert "+22.5 ± " in render_study(findings)
    assert "One" not in pooled
    assert (
        findings.to_json()["over_models"][1]["over_reference"]["mean"] == tiny.over_reference.value
    )
    assert table().over_models() == ()
    assert "All models" not in render_study(table())


def table() -> MethodFindings:
    rows = [row("None", seed, 0.5 + 0.01 * seed, backward_macs=0, paper_bytes=0, task_s=None,
                task_j=None) for seed in range(5)]  # fmt: skip
    rows += [row("Tiny & sparse", seed, 0.6 + 0.02 * seed) for seed in range(5)]
    rows += [
        row("Wide", seed, 0.55, paper_bytes=9e6, peak_bytes=12e6, task_s=None, task_j=None,
            exceeds="memory_bytes macs" if seed else "macs")
        for seed in range(5)
    ]  # fmt: skip
    rows += [row("Odd", 0, None, status="refused", reason="no <scheme>")]
    rows += [row("Tiny & sparse", 9, None, status="failed", reason="it died")]
    return analyse(rows, 18)


def test_the_table_in_every_form() -> None:
    from rich.console import Console

    found = table()
    console = Console(width=100, record=True, file=StringIO())
    print_study(console, found, "paper")
    text = console.export_text()
    assert "64.0±3.9" in text
    assert "+12.0 ± 2.0" in text
    assert "does not fit" in text
    assert "no <scheme>" in text
    assert "memory (paper)" in text
    flat = " ".join(text.split())
    told = "† outside the budget: Wide, backward MACs in 5 of 5 tasks, memory in 4 of 5 tasks."
    assert told in flat
    assert "none is claimed below 5 tasks" in flat
    assert "Wide †" in flat
    assert "sparse †" not in flat
    peaks = Console(width=100, record=True, file=StringIO())
    print_study(peaks, found)
    assert "memory  " in peaks.export_text(clear=False)  # without a name: the peak
    assert "11.4 MiB" in peaks.export_text(clear=False)
    assert "16 of 18 cells are finished" in text.replace("\n", " ")
    narrow = Console(width=30, record=True, file=StringIO())
    print_study(narrow, found, "paper")
    accuracies = narrow.export_text().partition("points")[0]
    assert re.findall(r"±[\d.]*", accuracies) == ["±2.0", "±3.9", "±0.0"]  # below, and whole
    page = render_study(found)
    assert page == render_study(found)
    assert "mathdefault" not in page  # ticks in words
    assert "stroke-dasharray" in page  # None takes no memory: a line across
    assert "stroke-dasharray" not in render_study(analyse([row("Wide", 0, 0.5)], 1))
    assert "Tiny &amp; sparse" in page
    assert "no &lt;scheme&gt;" in page
    assert "it died" in page
    assert page.count("<svg") == 2
    # in both widths: two methods, and the line of None
    assert render_study(found, "paper").count('class="mark"') == 2 * 3
    assert "outside the budget</tspan>" in page
    latex = study_latex(found)
    assert r"Tiny \& sparse & \textbf{64.0 $\pm$ 3.9} & +12.0 $\pm$ 2.0 & " in latex
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 1
    lines = list(csv.DictReader(study_csv(found).splitlines()))
    assert len(lines) == 17
    assert lines[5]["method"] == "Tiny & sparse"
    assert float(lines[5]["accuracy"]) == 0.6
    for told in (page, latex):
        assert "Wide †" in told
        assert "outside the budget: Wide" in told
    document = found.to_json()
    assert document["methods"][2]["outside_budget"] == {"macs": 5, "memory_bytes": 4}
    assert document["methods"][1]["outside_budget"] == {}
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["methods"][1]["over_reference"]["signs"]["mean"] == pytest.approx(0.12)


def test_no_difference_has_no_sign_of_a_loss() -> None:
    assert percent(Mean(-1e-17, 0.01, 3), signed=True) == "+0.0 ± 1.0"


def test_the_page_says_whose_weights() -> None:
    rows = [row("Tiny", 0, 0.5, model=name, weights=f"of {name}") for name in ("one", "other")]
    page = render_study(analyse(rows, 2))
    assert "one: of one" in page
    assert "other: of other" in page


# The command.


def test_the_example_runs_and_shows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    store, page = tmp_path / "s.sqlite", tmp_path / "s.html"
    arguments = ["study", str(EXAMPLE), "--store", str(store), "--jobs", "1"]
    assert main([*arguments, "--show"]) == 2
    assert "there is no study yet" in capsys.readouterr().err
    assert main([*arguments, "--report", str(page)]) == 0
    out, err = capsys.readouterr()
    assert "TinyTrain" in out
    assert "6 of 6 cells computed" in err
    assert page.read_text().startswith("<!DOCTYPE html>")
    before = store.read_bytes()
    extra = ["--show", "--json", "--csv", str(tmp_path / "s.csv"), "--latex", str(tmp_path / "t")]
    assert main([*arguments, *extra]) == 0
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert (document["schema"], document["cells"], document["finished"]) == (
        "costsim.study/1",
        6,
        6,
    )
    assert not err
    assert store.read_bytes() == before
    assert len((tmp_path / "s.csv").read_text().splitlines()) == 7
    assert r"\bottomrule" in (tmp_path / "t").read_text()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["missing.yaml"], "missing.yaml: cannot be read"),
        (["study.yaml", "--store", "nowhere/s.sqlite"], "the folder nowhere does not exist"),
        (["study.yaml", "--store", "study.yaml"], "--store: study.yaml is FILE.yaml too"),
        (["study.yaml", "--store", "other.yaml"], "other.yaml: cannot be used as a study"),
        (["study.yaml", "--reference", "Full"], "--reference 'Full': the study has None, Last"),
        (["study.yaml", "--show", "--scheduler", "tcp://x:1"], "leave --scheduler out"),
        (["study.yaml", "--scheduler", "tcp://127.0.0.1:9"], "nobody answers there"),
        (["study.yaml", "--scheduler", "nonsense"], "--scheduler nonsense: is no address; tcp://H"),
        (["study.yaml", "--scheduler", "tcp://127.0.0.1"], "127.0.0.1: is no address"),
        (["study.yaml", "--csv", "study.sqlite"], "--csv: study.sqlite is --store too"),
        (["study.yaml", "--csv", "a", "--latex", "./a"], "--latex: a is --csv too"),
        (["study.yaml", "--report", "study.yaml"], "--report: study.yaml is FILE.yaml too"),
    ],
)
def test_the_command_refuses_in_one_line(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("costsim.studies.engine.cluster.TIMEOUT", "1s")
    for name in ("study.yaml", "other.yaml"):
        yaml(tmp_path / name)
    assert main(["study", *arguments]) == 2
    err = capsys.readouterr().err
    assert says in err
    assert len(err.splitlines()) == 1


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_keeps_what_was_finished(tmp_path: Path) -> None:
    file = yaml(tmp_path / "study.yaml", seeds=40)
    script = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))\n"
        "from costsim.cli import main\n"
        "if __name__ == '__main__':\n"
        f"    sys.exit(main(['study', {str(file)!r}, '--jobs', '1']))\n"
    )
    (tmp_path / "run.py").write_text(script)
    done = subprocess.run(
        [sys.executable, "run.py"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 2, done.stderr
    *progress, line = done.stderr.splitlines()
    assert all("adapting" in told for told in progress)
    assert line.startswith(f"costsim: {tmp_path / 'study.sqlite'}: cannot be used as a study: ")
    kept = _count(tmp_path / "study.sqlite")
    assert 0 < kept < 80


# What the page says first.


def test_the_conclusion_is_of_methods_within_the_budget() -> None:
    told = conclusion(table())
    assert told.startswith(
        "Tiny & sparse has the highest mean accuracy within the budget: 64.0 ± 3.9 % over 5 tasks, "
    )
    assert told.endswith("+12.0 ± 2.0 points over None, surely more.")


def test_below_five_tasks_the_conclusion_calls_nothing_better() -> None:
    few = [row("None", 0, 0.5, backward_macs=0), row("Tiny", 0, 0.6)]
    assert conclusion(analyse(few, 2)).endswith("too few tasks to call it better.")
    worse = [row("None", 0, 0.5, backward_macs=0), row("Tiny", 0, 0.4)]
    assert conclusion(analyse(worse, 2)) == (
        "No method within the budget brings more than None: 50.0 % over 1 task; too few tasks to "
        "call any method better or worse."
    )
    assert conclusion(analyse([], 2)) == "No cell of the study is finished."


def test_the_page_says_the_settings_of_its_cells() -> None:
    cells = study(seeds=3, budget={"memory": "64KiB"}, settings={"iterations": 2}).cells()
    assert settings_rows(cells) == [
        ("Seeds", "0 to 2"),
        ("Budget", "memory 64 KiB"),
        ("Recipe", "2 iterations, adam; else as usual"),
        ("Computed by", "PyTorch"),
    ]
    assert "0 to 2" in render_study(table(), cells=cells)
    assert settings_rows(()) == []
