"""A network's price without data, on a terminal and as JSON."""

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from costsim.base.units import counted, format_bytes, format_joules, format_macs, format_seconds
from costsim.planning.inspection import Case, Inspection
from costsim.report.layers import kept_bytes, layer_kind, layer_macs
from costsim.report.table import Dotted

SCHEMA = "costsim.inspection/1"

WIDE = 100
"""Columns of a terminal with room for shapes."""

SHORTEST_NAME = 12
"""Letters of a layer's name on one line, at least."""


def render_inspection(console: Console, found: Inspection) -> None:
    """The cases, a sentence on what fits, and a table by layer."""
    graph = found.graph
    shape = "×".join(map(str, found.input_shape[1:]))
    console.print(
        Text(
            f"{found.model}: {counted(len(graph.layers), 'layer')}, "
            f"{counted(found.parameters, 'parameter')}, one input of {shape}, "
            f"{format_macs(found.cases[0].cost.macs.forward)} forward.",
            style="bold",
        )
    )
    console.print(Text(verdict(found)))
    console.print()
    console.print(_cases(found))
    console.print()
    console.print(_layers(found, console.width >= WIDE))
    console.print()
    console.print(Text(_footnote(found)))


def verdict(found: Inspection) -> str:
    """What a device has room for, in one sentence; or that none was named."""
    device = found.device
    if device is None:
        return "No --device: bytes and MACs alone, which are the same everywhere."
    fitting = [one.name for one in found.cases if _fits(one)]
    not_fitting = [one.name for one in found.cases if not _fits(one)]
    room = f"{format_bytes(device.largest_block_bytes)} of RAM in one block"
    if device.flash_bytes:
        room += f" and {format_bytes(device.flash_bytes)} of flash"
    told = f"On {device.name} ({room}) "
    if not fitting:
        return told + "nothing of it fits."
    does = "fit" if len(fitting) > 1 else "fits"
    told += f"{' and '.join((', '.join(fitting[:-1]), fitting[-1]) if fitting[:-1] else fitting)}"
    told += f" {does}"
    return f"{told}; {' and '.join(not_fitting)} not." if not_fitting else f"{told}."


def _fits(case: Case) -> bool:
    return case.cost.on_device is None or case.cost.on_device.fits


def _cases(found: Inspection) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("one step of one sample", overflow="fold", min_width=SHORTEST_NAME)
    for case in found.cases:
        table.add_column(case.name, justify="right", no_wrap=True)
    for words, cells in case_rows(found):
        table.add_row(words, *cells)
    return table


def case_rows(found: Inspection) -> list[tuple[str, list[str]]]:
    """A row for each kind of cost, with a cell for each case."""
    costs = [case.cost for case in found.cases]
    rows = [
        ("MACs, forward", [format_macs(one.macs.forward) for one in costs]),
        ("MACs, backward", [format_macs(one.macs.backward) for one in costs]),
        ("memory (peak)", [format_bytes(one.memory.peak_bytes) for one in costs]),
        ("  kept for the backward pass", [format_bytes(one.memory.kept_bytes) for one in costs]),
        ("frozen weights, beside it", [format_bytes(w.memory.frozen_weight_bytes) for w in costs]),
    ]
    on = [one.on_device for one in costs if one.on_device is not None]
    if on:
        rows += [
            ("time", [format_seconds(one.latency_s.value) for one in on]),
            ("  at least", [format_seconds(one.latency_s.low) for one in on]),
            ("  at most", [format_seconds(one.latency_s.high) for one in on]),
            ("energy", [format_joules(one.energy_j.value) for one in on]),
            ("  at least", [format_joules(one.energy_j.low) for one in on]),
            ("  at most", [format_joules(one.energy_j.high) for one in on]),
            ("fits", [_fit_word(one.fits, one.swap_s is not None) for one in on]),
        ]
    return rows


def _fit_word(fits: bool, swaps: bool) -> str:
    return "yes" if fits else "by swapping" if swaps else "no"


def layer_rows(found: Inspection) -> list[dict[str, Any]]:
    """A layer a row: what it is and has, and what it takes in full training, in model order."""
    graph = found.graph
    full = found.cases[-1]
    forward = {one.name: one for one in layer_macs(full.program)}
    kept = kept_bytes(full.program)
    rows = []
    for name, layer in graph.layers.items():
        macs = forward.get(name)
        call = graph[layer.calls[0]]
        rows.append(
            {
                "layer": name,
                "kind": layer_kind(graph, name),
                "output": list(graph.shapes(call).output[1:]),
                "parameters": sum(p.size for p in (call.weight, call.bias) if p is not None),
                "forward_macs": 0 if macs is None else macs.forward,
                "backward_macs": 0 if macs is None else macs.input_gradient + macs.weight_gradient,
                "kept_bytes": kept.get(name, 0),
            }
        )
    return rows


def _layers(found: Inspection, wide: bool) -> Table:
    """By layer; the shape of its output where there is room for it."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("layer", overflow="fold", min_width=SHORTEST_NAME)
    table.add_column("kind", no_wrap=True)
    for head in (*(("output",) if wide else ()), "parameters", "forward", "backward", "kept"):
        table.add_column(head, justify="right", no_wrap=True)
    for row in layer_rows(found):
        output = "×".join(map(str, row["output"]))
        table.add_row(
            Dotted(Text(str(row["layer"]))),
            Text(str(row["kind"])),
            *((output,) if wide else ()),
            f"{row['parameters']:,}",
            format_macs(row["forward_macs"]),
            format_macs(row["backward_macs"]),
            format_bytes(row["kept_bytes"]),
        )
    return table


def _footnote(found: Inspection) -> str:
    bits = found.step.bits
    widths = {bits.weights, bits.activations, bits.gradients}
    told = f"{bits.weights}-bit" if len(widths) == 1 else f"{bits.weights}-bit weights"
    return (
        f"{told}, {found.step.optimizer}. Backward and kept: where everything is trained; kept "
        "counts for the first layer that needs it. MACs are multiply-accumulates, padding included."
    )


def inspection_json(found: Inspection) -> dict[str, Any]:
    """All of it as one document."""
    step, device = found.step, found.device
    return {
        "schema": SCHEMA,
        "model": found.model,
        "input": list(found.input_shape),
        "layers": len(found.graph.layers),
        "parameters": found.parameters,
        "device": None if device is None else device.name,
        "target": None if device is None else found.target or device.default_target,
        "step": step.to_json(),
        "cases": {case.name: case.cost.to_json("peak") for case in found.cases},
        "by_layer": layer_rows(found),
    }
