"""What a device learnt, as the bytes it saved and as a patch of its base model: each to the other.

A firmware's folder says how many bytes there are and whose, and of integers what a unit of each is
worth. An integer that did not move stands for the base's own value; one that did, for its multiple.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from costsim.base.errors import InputError, shown
from costsim.base.files import read_json
from costsim.c.emission.memory import Memory, Update
from costsim.c.emission.sizes import DOCUMENT
from costsim.c.emission.store import DIGEST_BYTES, Slot, StoreLayout, newest_slot, slot_bytes
from costsim.ir.operators import elements
from costsim.ir.program import TrainingProgram
from costsim.ir.program.adaptation import class_means_bytes
from costsim.learning.training.base_model import Subject, load_planned
from costsim.learning.training.patch import Origin, Patch, apply_patch, make_patch, plan_digest
from costsim.run.execution.executor import find_selections
from costsim.solving.planfile import PlanFile, read_plan

PLAN = "costsim_plan.json"
"""The plan of a firmware, in its folder."""

_EXACT = 2.0**-22
"""Share by which an integer of 32 bits may be off where it was computed from a float."""


@dataclass(frozen=True, eq=False)
class Firmware:
    """An exported folder with the model it was made of.

    `units` are what the integers of a parameter count, for each output channel; none in floats.
    """

    folder: Path
    plan: PlanFile
    subject: Subject
    program: TrainingProgram
    layout: StoreLayout
    units: Mapping[str, NDArray[np.float64]]

    @classmethod
    def read(cls, folder: Path, weights: Path | None = None) -> "Firmware":
        """Raises `InputError` for a folder that no export wrote, and as `load_planned` does."""
        source = folder / PLAN
        plan, document = read_plan(source), read_json(folder / DOCUMENT)
        subject, program = load_planned(plan, str(source), weights)
        try:
            kept = document["kept"]
            layout = StoreLayout(int(kept["bytes"]), bytes.fromhex(kept["digest"]))
            units = {
                one["parameter"]: np.asarray(one["units"], np.float64)
                for one in kept["updates"]
                if "units" in one
            }
            atoms = [(one["kind"], one["layer"]) for one in kept["updates"]]
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise InputError(f"{folder / DOCUMENT}: kept: is not as an export writes it") from error
        if wrong := _not_of(Memory(program), plan, atoms, layout, units):
            raise InputError(
                f"{folder / DOCUMENT}: kept: {wrong}: it is of another plan than {source}"
            )
        return cls(folder, plan, subject, program, layout, units)

    @property
    def updates(self) -> tuple[Update, ...]:
        """What it updates, in the order in which it is kept."""
        return Memory(self.program).updates

    @property
    def dtypes(self) -> Mapping[str, "np.dtype[Any]"]:
        """Of each updated parameter on the device."""
        memory = Memory(self.program)
        return {u.parameter.name: memory.dtype(u.parameter.name) for u in memory.updates}

    def units_of(self, update: Update) -> NDArray[np.float64]:
        """Of every element that is updated."""
        units = self.units[update.parameter.name]
        return units[update.places // (update.parameter.size // len(units))]


def _not_of(
    memory: Memory,
    plan: PlanFile,
    atoms: Sequence[tuple[object, object]],
    layout: StoreLayout,
    units: Mapping[str, NDArray[np.float64]],
) -> str | None:
    """What of a folder's document cannot be of this program; None where all of it can."""
    if atoms != [update.atom for update in memory.updates]:
        return "its updates are others"
    features = elements(memory.graph[memory.graph.output].shape[1:])
    weights = sum(update.bytes for update in memory.updates)
    means = class_means_bytes(plan.task.ways, features, memory.program.step.bits)
    if layout.kept_bytes not in (weights, weights + means):
        return f"its {shown(layout.kept_bytes)} bytes are not those of the plan"
    if len(layout.digest) != DIGEST_BYTES:
        return "its digest is of another length"
    for parameter in (update.parameter for update in memory.updates):
        if memory.dtype(parameter.name) == np.float32:
            continue
        found = units.get(parameter.name)
        if found is None or found.shape != parameter.shape[:1]:
            return f"the units of {parameter.name!r} are not one for each output channel"
        if not (np.isfinite(found) & (found > 0)).all():
            return f"a unit of {parameter.name!r} is not a positive number"
    return None


def from_device(content: bytes, firmware: Firmware, source: str) -> tuple[Patch, Slot]:
    """What a device saved as a patch of its base model, and the slot it was in.

    Raises `InputError`, naming `source`, for what that firmware did not save, or damaged.
    """
    slot = newest_slot(content, firmware.layout, source)
    base = firmware.subject.tensors
    trained = {name: tensor.detach().clone() for name, tensor in base.items()}
    offset = 0
    for update in firmware.updates:
        name = update.parameter.name
        raw = slot.kept[offset : offset + update.bytes]
        offset += update.bytes
        whole = trained[name].numpy().reshape(-1)
        values = np.frombuffer(raw, firmware.dtypes[name])
        if values.dtype != np.float32:
            before, units = whole[update.places], firmware.units_of(update)
            moved = values != _integers(before, units, values)
            values = np.where(moved, values * units, before).astype(np.float32)
        if not np.isfinite(values).all():
            raise InputError(f"{source}: what was learnt of {name!r} is not finite")
        whole[update.places] = values
    file, weights = firmware.plan, firmware.subject.weights
    patch = make_patch(
        find_selections(firmware.subject.graph, file.plan),
        firmware.subject.graph,
        base,
        trained,
        origin=Origin(
            name=file.model.name,
            spec=file.model.spec,
            weights=None if weights is None else str(weights),
            resolution=file.model.resolution,
            seed=file.seed,
        ),
        plan_sha256=plan_digest(file),
    )
    return patch, slot


def to_device(patch: Patch, firmware: Firmware, source: str) -> bytes:
    """A patch as the firmware would have saved it: one slot, without class means.

    Raises `InputError`, naming `source`, for a patch of another base, and for one that changes what
    the firmware does not update.
    """
    base = firmware.subject.tensors
    trained = {name: tensor.detach().clone() for name, tensor in base.items()}
    apply_patch(patch, trained, source)
    parts = []
    left = {name: tensor.clone() for name, tensor in trained.items()}
    for update in firmware.updates:
        name, dtype = update.parameter.name, firmware.dtypes[update.parameter.name]
        values = trained[name].numpy().reshape(-1)[update.places]
        if dtype != np.float32:
            values = _integers(values, firmware.units_of(update), np.zeros(0, dtype))
        parts.append(values.astype(dtype).tobytes())
        original = base[name].detach().numpy().reshape(-1)
        left[name].numpy().reshape(-1)[update.places] = original[update.places]
    for name, tensor in left.items():
        if not torch.equal(tensor, base[name]):
            raise InputError(
                f"{source}: changes {name!r} where the firmware in {firmware.folder} updates "
                "nothing: it is of another plan"
            )
    kept = b"".join(parts).ljust(firmware.layout.kept_bytes, b"\0")
    return slot_bytes(firmware.layout, Slot(kept, classes=0, sequence=1))


def _integers(
    values: NDArray[np.float32], units: NDArray[np.float64], like: NDArray[Any]
) -> NDArray[Any]:
    """Floats in whole units, as an export rounds them; where `like` is as near, that."""
    limits = np.iinfo(like.dtype)
    if like.dtype == np.int8:
        steps = np.rint(values / units.astype(np.float32))
        narrow: NDArray[Any] = np.clip(steps, limits.min, limits.max).astype(like.dtype)
        return narrow
    exact = values.astype(np.float64) / units
    found = np.clip(np.rint(exact), limits.min, limits.max)
    if like.size:
        found = np.where(np.abs(like - exact) <= _EXACT * np.abs(exact), like, found)
    rounded: NDArray[Any] = found.astype(like.dtype)
    return rounded
