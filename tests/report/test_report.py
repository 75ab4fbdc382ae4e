"""What people see of a plan: complete, equal to the JSON, safe, and the same every time."""

import io
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from graphs import GraphBuilder, chain, graphs, plans, steps
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_files import SCORE, drawings, example
from rich.console import Console

from costsim.base.errors import InputError
from costsim.base.units import format_bytes, format_joules, format_macs, format_percent
from costsim.device import load_device
from costsim.ir.graph import LayerGraph
from costsim.ir.plan import ChannelSubset, UpdatePlan
from costsim.ir.program import memory_timeline
from costsim.ir.recipe import Recipe
from costsim.ir.step import TrainingStep
from costsim.problem.budget import Budget
from costsim.problem.importance import ChannelScores, Importance
from costsim.problem.solution import Solution, Status
from costsim.report.amounts import interval
from costsim.report.budgets import flash_use
from costsim.report.costs import cost_rows
from costsim.report.layers import layer_kind
from costsim.report.page import render_page
from costsim.report.summary import Summary
from costsim.report.table import render_plan
from costsim.solving.planfile import ModelRecord, PlanFile, plan_file

HERE = Path(__file__).parent
SCRIPT = "<script>alert('x')</script>"


def network() -> LayerGraph:
    """A stem, a bottleneck with a depthwise convolution, a classifier."""
    g = GraphBuilder()
    x = g.relu(g.conv(g.input(1, 3, 8, 8), 16, 3, stride=2))
    x = g.relu(g.conv(x, 48))
    x = g.relu(g.conv(x, 48, 5, groups=48))
    x = g.conv(x, 24)
    g.linear(g.pool(x), 10)
    return g.graph()


def chosen(graph: LayerGraph) -> UpdatePlan:
    """Some channels of three layers, the biases of two."""
    _, expand, depthwise, project, classifier = graph.layers
    return UpdatePlan(
        (
            ChannelSubset(expand, "output", tuple(range(0, 48, 5))),
            ChannelSubset(depthwise, "output", (1, 2, 3)),
            ChannelSubset(project, "output", (0, 23)),
        ),
        frozenset({project, classifier}),
    )


def scores(graph: LayerGraph) -> Importance:
    """Rising scores for every channel."""
    return Importance(
        "fisher",
        tuple(
            ChannelScores(name, "output", tuple(map(float, range(count))))
            for name in graph.layers
            if (count := graph.selectable_channels(name, "output"))
        ),
        samples=7,
    )


@pytest.fixture(scope="module")
def graph() -> LayerGraph:
    return network()


@pytest.fixture(scope="module")
def plan(graph: LayerGraph) -> PlanFile:
    return example(graph, chosen(graph), TrainingStep(optimizer="adam"))


@pytest.fixture(scope="module")
def page(plan: PlanFile, graph: LayerGraph) -> str:
    return render_page(plan, graph, scores(graph))


def shown(plan: PlanFile, graph: LayerGraph, width: int = 80, encoding: str = "utf-8") -> str:
    """What a pipe of this width receives."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    render_plan(Console(file=stream, width=width), plan, graph)
    stream.flush()
    stream.seek(0)
    return stream.read()


def amounts(plan: PlanFile) -> Iterator[str]:
    """Every number of the plan file's prediction as a person reads it."""
    predicted = plan.predicted
    assert predicted is not None
    memory, macs, task = predicted.memory, predicted.macs, predicted.adaptation
    for size in (
        memory.peak_bytes,
        memory.arena_bytes,
        memory.paper_bytes,
        memory.tiny_training_bytes,
        memory.kept_bytes,
        memory.autograd_kept_bytes,
        memory.updated_weight_bytes,
        memory.gradient_bytes,
        memory.optimizer_bytes,
        memory.frozen_weight_bytes,
    ):
        yield format_bytes(size)
    for count in (
        macs.forward,
        macs.input_gradient,
        macs.weight_gradient,
        macs.full_backward,
        macs.unpadded,
    ):
        yield format_macs(count)
    yield format_percent(macs.backward / macs.full_backward)
    assert predicted.latency_s is not None
    latency = predicted.latency_s
    yield interval(latency.step, latency.low, latency.high)
    assert predicted.energy_j is not None
    yield format_joules(predicted.energy_j)
    assert task is not None
    for phase in task.phases:
        seconds = phase.compute_s.plus(phase.storage_s)
        yield interval(seconds.value, seconds.low, seconds.high)
    assert task.latency_s is not None
    assert task.energy_j is not None
    yield interval(task.latency_s.value, task.latency_s.low, task.latency_s.high)
    yield format_joules(task.energy_j.value)


# What is read from the program sums to what the plan file says.


@settings(max_examples=40)
@given(st.data())
def test_layers_sum_to_the_whole(data: st.DataObject) -> None:
    graph = data.draw(graphs())
    file = example(graph, data.draw(plans(graph)), data.draw(steps(graph)))
    summary = Summary(file, graph)
    assert file.predicted is not None
    memory, macs = file.predicted.memory, file.predicted.macs
    kept = sum(row.kept_bytes for row in summary.chosen) + summary.other_kept_bytes
    assert kept == memory.kept_bytes
    assert sum(row.weight_gradient_macs for row in summary.chosen) == macs.weight_gradient
    for cause in ("forward", "recompute", "input_gradient", "weight_gradient"):
        assert sum(getattr(entry, cause) for entry in summary.macs) == getattr(macs, cause)
    live = np.sum(list(summary.live_bytes.values()), axis=0)
    assert np.array_equal(live, memory_timeline(summary.program).total_bytes)
    assert len(summary.chosen) + summary.unchosen == len(graph.layers)


def test_gain_shares(plan: PlanFile, graph: LayerGraph) -> None:
    shares = {row.name: row.gain_share for row in Summary(plan, graph).chosen}
    sizes = {
        name: max(graph.selectable_channels(name, axis) for axis in ("output", "input"))
        for name in graph.layers
    }
    everything = SCORE * sum(sizes.values())  # the better axis of each layer, all of it
    for subset in plan.plan.subsets:
        assert shares[subset.layer] == pytest.approx(SCORE * len(subset.channels) / everything)
    told = format_percent(sum(share for share in shares.values() if share is not None))
    assert f"for {told} of all gain" in Summary(plan, graph).answer
    assert plan.solver.share == pytest.approx(sum(share for share in shares.values() if share))


def test_gradients_above_the_peak_are_explained_where_they_stand(
    plan: PlanFile, graph: LayerGraph
) -> None:
    assert "their gradients, each freed once it is applied" in shown(plan, graph)
    deferred = replace(plan, step=replace(plan.step, update="deferred"))
    rows = dict(row for _, section in cost_rows(deferred) for row in section)
    assert "their gradients, kept until all are applied" in rows


def test_an_answer_is_priced_by_the_pass(plan: PlanFile) -> None:
    """Of as many images as go through the network at a time: the label says so."""
    passes = replace(plan, step=replace(plan.step, batch=4, micro_batch=2))
    for file, words in ((plan, "one image"), (passes, "one pass of 2 images")):
        rows = dict(row for _, section in cost_rows(file) for row in section)
        assert f"answering: {words}" in rows


def test_kinds(graph: LayerGraph) -> None:
    kinds = [layer_kind(graph, name) for name in graph.layers]
    assert kinds == [
        "conv 3×3 3→16",
        "pointwise 16→48",
        "depthwise 5×5",
        "pointwise 48→24",
        "linear 24→10",
    ]


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (4e-5, "0.004 %"),
        (9.4e-5, "0.009 %"),
        (9.6e-5, "0.01 %"),
        (0.0, "0 %"),
        (1e-9, "under 0.001 %"),
        (0.0123, "1.23 %"),
        (0.0999, "10.0 %"),
        (0.15, "15.0 %"),
        (0.9999, "100 %"),
        (1.0, "100 %"),
    ],
)
def test_percent(share: float, text: str) -> None:
    assert format_percent(share) == text


# The table.


def test_table_shows_every_number_whole(plan: PlanFile, graph: LayerGraph) -> None:
    text = shown(plan, graph)
    assert "…" not in text
    for amount in amounts(plan):
        assert re.search(rf"(?<![\w.]){re.escape(amount)}(?!\w)", text), amount


def test_table_fits_and_lists_chosen_layers_only(plan: PlanFile, graph: LayerGraph) -> None:
    text = shown(plan, graph)
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text
    for name in graph.layers:
        assert (re.search(rf"^{name} ", text, re.M) is not None) == (name in plan.order)
    assert "1 of 5 layers are not updated" in " ".join(text.split())
    for subset in plan.plan.subsets:
        size = graph.selectable_channels(subset.layer, "output")
        assert f" {len(subset.channels)}/{size} " in text


def test_table_says_where_weights_come_from(plan: PlanFile, graph: LayerGraph) -> None:
    model = plan.model.model_copy(update={"provenance": "initialised from seed 0"})
    assert "initialised from seed 0" in shown(replace(plan, model=model), graph)


def test_table_in_ascii(plan: PlanFile, graph: LayerGraph) -> None:
    text = shown(plan, graph, encoding="ascii")
    assert "pointwise 16->48" in text
    assert "depthwise 5x5" in text


def test_table_obeys_no_markup(graph: LayerGraph) -> None:
    file = example(graph, chosen(graph), TrainingStep(), name="[bold red]net[/]:smile:")
    assert "[bold red]net[/]:smile:" in shown(file, graph)


def test_table_breaks_long_names_after_dots() -> None:
    g = GraphBuilder()
    name = "encoder.layers.encoder_layer_11.self_attention.output_projection"
    g.conv(g.input(1, 3, 4, 4), 512, layer=name)
    g.pool(g.calls[-1].name)
    graph = g.graph()
    plan = UpdatePlan((ChannelSubset(name, "input", (0, 2)),), frozenset())
    text = shown(example(graph, plan, TrainingStep()), graph)
    assert max(map(len, text.splitlines())) <= 80
    broken = [line.split(" ")[0] for line in text.splitlines()]
    at = broken.index("encoder.layers.")
    assert broken[at : at + 3] == ["encoder.layers.", "encoder_layer_11.", "self_attention."]
    assert name in "".join(broken)
    assert re.search(r"input\s+$", text, re.M)


def test_both_axes_are_told_apart() -> None:
    graph = chain()
    first, second, _ = graph.layers
    plan = UpdatePlan(
        (ChannelSubset(first, "output", (0,)), ChannelSubset(second, "input", (1, 2)))
    )
    text = shown(example(graph, plan, TrainingStep()), graph)
    assert "1/4 out" in text
    assert "2/4 in" in text


def test_budgets_used_and_allowed(graph: LayerGraph) -> None:
    budget = Budget(1 << 20, "paper", 10**6, 2.0, 5.0, 1 << 21)
    file = example(graph, chosen(graph), TrainingStep(), budget=budget)
    uses = {use.name: use for use in Summary(file, graph).budgets}
    assert file.predicted is not None
    memory, macs = file.predicted.memory, file.predicted.macs
    assert uses["memory (paper)"].used == format_bytes(memory.paper_bytes)
    assert uses["memory (paper)"].allowed == "1 MiB"
    assert uses["memory (paper)"].share == memory.paper_bytes / (1 << 20)
    assert uses["room on the device (peak)"].share == memory.peak_bytes / (1 << 21)
    assert uses["backward MACs"].share == macs.backward / 10**6
    assert uses["latency"].allowed == "2 s"
    assert uses["energy"].allowed == "5 J"
    text = shown(file, graph)
    for use in uses.values():
        assert re.search(rf"{re.escape(use.name)} +{use.used} +{use.allowed}", text)


def test_the_flash_of_a_microcontroller_is_among_the_budgets(graph: LayerGraph) -> None:
    """All weights lie there: those that are updated as they start. A computer has none."""
    file = example(graph, chosen(graph), TrainingStep())
    assert file.predicted is not None
    memory, chip = file.predicted.memory, load_device("stm32f746")
    (use,) = flash_use(file.predicted, chip)
    assert use.name == "flash (weights)"
    weights = memory.frozen_weight_bytes + memory.updated_weight_bytes
    assert (use.used, use.share) == (format_bytes(weights), weights / chip.flash_bytes)
    assert use.allowed == format_bytes(chip.flash_bytes)
    assert flash_use(None, chip)[0].used is None
    assert flash_use(file.predicted, load_device("jetson-nano")) == ()
    assert flash_use(file.predicted, None) == ()


def infeasible(graph: LayerGraph) -> PlanFile:
    """What a solver that found nothing leaves."""
    return plan_file(
        model=ModelRecord(name="net", spec="net", resolution=8, provenance="from seed 0"),
        graph=graph,
        step=TrainingStep(),
        task=drawings(),
        recipe=Recipe(),
        budget=Budget(memory_bytes=1024),
        solution=Solution("ilp", None, None, Status.INFEASIBLE, None, None, 0.1, "3 MB would do"),
        importance=scores(graph),
        seed=0,
        loss="prototype",
    )


def test_infeasible_says_why(graph: LayerGraph) -> None:
    file = infeasible(graph)
    for text in (shown(file, graph), render_page(file, graph)):
        assert "No plan is within the budgets: 3 MB would do." in text
        assert "1 KiB" in text
    assert cost_rows(file) == []


def test_a_plan_for_another_model_is_refused(plan: PlanFile) -> None:
    with pytest.raises(InputError, match="is not in the model"):
        shown(plan, chain(channels=(4,)))


# The page.


VOID = {"meta", "link", "br", "wbr", "img", "hr", "input"}


class Reader(HTMLParser):
    """Checks that tags balance; collects texts, ids and what could load something."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.text = ""
        self.loads: list[str] = []
        self.labels: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        values = dict(attrs)
        self.ids += [values["id"] or ""] if "id" in values else []
        self.labels += (values.get("aria-labelledby") or "").split()
        if tag in ("script", "link", "iframe", "object", "embed", "img", "base", "form"):
            self.loads.append(tag)
        for key, value in attrs:
            local = (value or "").startswith("#")
            if key in ("src", "href", "xlink:href", "data", "action", "srcset") and not local:
                self.loads.append(f"{tag} {key}={value}")
            if key.startswith("on"):
                self.loads.append(f"{tag} {key}")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_page_is_well_formed(page: str) -> None:
    reader = Reader(page)
    assert reader.open == []
    assert len(reader.ids) == len(set(reader.ids))
    assert set(reader.labels) <= set(reader.ids)
    used = re.findall(r"url\(#([^)]+)\)", page) + re.findall(r'href="#([^"]+)"', page)
    assert set(used) <= set(reader.ids)


def test_page_loads_nothing(page: str) -> None:
    assert Reader(page).loads == []
    for loading in ("@import", "url(http", "url(//", "http-equiv"):
        assert loading not in page
    addresses = set(re.findall(r"https?://[^\"' <)]+", page))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


def test_page_contains_every_chosen_layer_and_number(
    page: str, plan: PlanFile, graph: LayerGraph
) -> None:
    text = Reader(page).text
    for row in Summary(plan, graph).chosen:
        assert row.name in text
        assert row.kind in text
        if row.size:
            assert f"{len(row.channels)} of {row.size}" in text
    for amount in amounts(plan):
        assert amount in text
    assert plan.solver.sentence in text
    assert plan.model.provenance in text


def test_page_starts_with_the_answer(page: str, plan: PlanFile, graph: LayerGraph) -> None:
    text = Reader(page).text
    assert text.index(Summary(plan, graph).answer) < text.index("Budgets")


def test_page_escapes_what_users_name() -> None:
    g = GraphBuilder()
    x = g.conv(g.input(1, 3, 4, 4), 4, layer=SCRIPT)
    g.conv(x, 4, layer="a]]>&amp;$\\frac{1}{2}$")
    odd = g.graph()
    plan = UpdatePlan(tuple(ChannelSubset(name, "output", (0,)) for name in odd.layers))
    page = render_page(example(odd, plan, TrainingStep(), name=SCRIPT), odd, scores(odd))
    assert "<script" not in page
    reader = Reader(page)
    assert reader.open == []
    assert SCRIPT in reader.text
    assert "a]]>&amp;$\\frac{1}{2}$" in reader.text


def test_same_input_same_bytes(page: str, plan: PlanFile) -> None:
    assert render_page(plan, network(), scores(network())) == page


@pytest.mark.slow
def test_page_is_the_same_from_another_process() -> None:
    program = (
        f"import sys; sys.path[:0] = {[str(HERE), str(HERE.parent / 'support')]}\n"
        "from test_report import *\n"
        "import hashlib\n"
        "g = network(); p = example(g, chosen(g), TrainingStep(optimizer='adam'))\n"
        "print(hashlib.sha256(render_page(p, g, scores(g)).encode()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "PATH": ""},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1


def test_colours_follow_the_page(page: str) -> None:
    defined = set(re.findall(r"(--[a-z]+):", page))
    assert set(re.findall(r"var\((--[a-z]+)", page)) <= defined
    assert "prefers-color-scheme: dark" in page
    for svg in re.findall(r"<svg.*?</svg>", page, re.S):
        bare = re.sub(r"var\(--[a-z]+, #[0-9a-f]{6}\)", "", svg)
        assert re.findall(r"#[0-9a-f]{6}\b(?!-)", bare) == []


@settings(max_examples=4)
@given(st.data())
def test_any_plan_has_a_page_and_a_table(data: st.DataObject) -> None:
    graph = data.draw(graphs())
    file = example(graph, data.draw(plans(graph)), data.draw(steps(graph)))
    assert Reader(render_page(file, graph)).open == []
    assert max(map(len, shown(file, graph).splitlines())) <= 80


def test_matplotlib_is_imported_for_a_page_only() -> None:
    program = (
        "import sys, costsim.solving.planfile, costsim.report.table, costsim.report.page\n"
        "assert not {'torch', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
