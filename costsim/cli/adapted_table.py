"""The outcome of an adaptation as a table on a terminal."""

from pathlib import Path
from typing import TYPE_CHECKING

from costsim.base.units import (
    counted,
    format_bytes,
    format_joules,
    format_macs,
    format_percent,
    format_seconds,
)
from costsim.cli.facts import facts_table

if TYPE_CHECKING:
    from rich.table import Table

    from costsim.learning.adaptation.one_task import Adapted


def _broken(adapted: "Adapted") -> str:
    """The limits that a step breaks."""
    from costsim.problem.budget import describe

    budget = adapted.situation.budget
    return ", ".join(
        f"more than {describe(limit, getattr(budget, limit))}" for limit in adapted.cost.exceeds
    )


def adapted_table(adapted: "Adapted", patch: Path | None) -> "Table":
    """`adapted_rows` on a terminal."""
    return facts_table("adapted", adapted.method, adapted_rows(adapted, patch))


def adapted_rows(adapted: "Adapted", patch: Path | None) -> list[tuple[str, str]]:
    """Network, task, accuracies, what was trained, and what it costs; `patch` was written there."""
    from costsim.ir.program.adaptation import Phase
    from costsim.report.recipe import recipe_line

    situation, cost = adapted.situation, adapted.cost
    plan, memory, macs = adapted.choice.plan, cost.step.memory, cost.step.macs
    queries = len(situation.task.query_labels)

    def share(accuracy: float) -> str:
        return f"{format_percent(accuracy)} of {queries} query images" if queries else "-"

    channels = sum(len(subset.channels) for subset in plan.subsets)
    rows = [
        ("network", f"{situation.backbone.name}, {situation.backbone.provenance}"),
        ("task", situation.task.description),
        ("accuracy before", share(adapted.accuracy_before)),
        ("accuracy after", share(adapted.accuracy_after)),
        (
            "trained",
            f"{counted(channels, 'channel')} in {counted(len(plan.subsets), 'layer')}, "
            f"{counted(len(plan.biases), 'bias', 'biases')}",
        ),
        ("memory (peak)", format_bytes(memory.peak_bytes)),
        ("memory (paper)", format_bytes(memory.paper_bytes)),
        ("memory (tiny-training)", format_bytes(memory.tiny_training_bytes)),
        ("memory (autograd)", format_bytes(cost.autograd_bytes)),
        (
            "backward MACs",
            f"{format_macs(macs.backward)} an iteration, "
            f"{format_macs(round(cost.backward_macs_a_sample))} a sample",
        ),
    ]
    if cost.exceeds:
        rows.append(("outside the budget", _broken(adapted)))
    whole = None if cost.adaptation is None else cost.adaptation.cost
    if whole is not None and (scoring := whole.of(Phase.SCORING)) is not None:
        rows.append(("memory of choosing (peak)", format_bytes(scoring.peak_bytes)))
    if whole is not None:
        told = f"{format_bytes(whole.peak_bytes)}, in {whole.peak.phase}"
        rows.append(("memory of the whole (peak)", told))
    if whole is not None and whole.latency_s is None:
        rows.append(
            (
                f"on {situation.place.device.name}",
                f"does not fit: {format_bytes(memory.peak_bytes)} at the peak, and "
                f"{format_bytes(memory.frozen_weight_bytes)} of frozen weights",
            )
        )
    if whole is not None and whole.latency_s is not None and whole.energy_j is not None:
        assert cost.adaptation is not None
        took, energy = whole.latency_s, whole.energy_j
        phases = ", ".join(
            f"{phase.phase} {format_seconds(whole.seconds(phase.phase).value)}"
            for phase in whole.phases
        )
        rows += [
            (
                f"on {situation.place.device.name}",
                f"{format_seconds(took.value)} ({format_seconds(took.low)} to "
                f"{format_seconds(took.high)}), {format_joules(energy.value)}, estimated",
            ),
            ("of that", phases),
            ("recipe", recipe_line(cost.adaptation.recipe, cost.samples)),
            ("frozen part", cost.adaptation.sentence),
        ]
    rows.append(
        (
            "here",
            f"{format_seconds(adapted.selection_s)} to choose, "
            f"{format_seconds(adapted.training_s)} to train",
        )
    )
    if adapted.guard != "none":
        rows.append(
            (f"guard ({adapted.guard})", f"keeps {format_percent(adapted.kept)} of the change")
        )
    if patch is not None and adapted.patch is not None:
        rows.append(("patch", f"{patch}, {format_bytes(patch.stat().st_size)}"))
    return rows
