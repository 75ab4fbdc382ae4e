"""The outcome of training as a patch: the changed channels alone, to put on a base and take off.

A safetensors file, schema `costsim.patch/1`. For each changed parameter it holds the new values
`new/<parameter>`, the base's values `base/<parameter>`, both in the compact form of
`costsim.run.execution.selection.Selection`, and `channels/<parameter>` (absent for a whole bias).
Its header names axes, the model, and SHA-256 digests of all parameters before and after, so that a
patch goes on nothing but its base, and comes off nothing but that.
"""

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from costsim import __version__
from costsim.base.errors import InputError
from costsim.ir.graph import LayerGraph
from costsim.ir.program import Atom
from costsim.learning.training.tensorfile import Header, check_names, read_tensors, write_tensors
from costsim.models.folding import Folded, folded_weight, moved, unfolded
from costsim.planning import parameters_digest
from costsim.run.execution.selection import Selection
from costsim.solving.planfile import PlanFile

SCHEMA = "costsim.patch/1"

_Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
_Positive = Annotated[int, Field(ge=1)]


class Origin(Header):
    """The model that was trained: what `models.loading.load_model` needs to load its base."""

    name: str
    spec: str
    weights: str | None
    resolution: _Positive
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)]


@dataclass(frozen=True, eq=False)
class Change:
    """One changed parameter of `layer`; `base` and `new` have the selection's compact form."""

    parameter: str
    layer: str
    selection: Selection
    base: Tensor
    new: Tensor


@dataclass(frozen=True, eq=False)
class Patch:
    """All changes of one training run. The digests are those of `costsim.planning`."""

    changes: tuple[Change, ...]
    origin: Origin
    base_sha256: str
    patched_sha256: str
    plan_sha256: str
    versions: Mapping[str, str]

    @property
    def channels(self) -> int:
        """Channels that the patch holds; a whole bias is none."""
        return sum(len(change.selection.channels or ()) for change in self.changes)


def plan_digest(plan: PlanFile) -> str:
    """SHA-256 of a plan file's content, whatever its formatting."""
    document = json.dumps(plan.to_json(), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(document.encode()).hexdigest()


def make_patch(
    selections: Mapping[Atom, Selection],
    graph: LayerGraph,
    base: Mapping[str, Tensor],
    trained: Mapping[str, Tensor],
    *,
    origin: Origin,
    plan_sha256: str,
) -> Patch:
    """What turns the parameters `base` into `trained`, which differ in the selections alone.

    Raises `InputError` if they differ elsewhere.
    """
    changes = []
    for (kind, name), selection in selections.items():
        layer = graph.layers[name]
        parameter = layer.bias if kind == "bias" else layer.weight
        assert parameter is not None
        before, after = (
            selection.read(side[parameter.name].detach()).clone() for side in (base, trained)
        )
        changes.append(Change(parameter.name, name, selection, before, after))
    # In the model's order: that of a plan's biases differs from one process to the next.
    places = {parameter.name: place for place, parameter in enumerate(graph.parameters)}
    changes.sort(key=lambda change: places[change.parameter])
    changed = {change.parameter for change in changes}
    whole = {name: t.detach().clone() if name in changed else t for name, t in base.items()}
    for change in changes:
        change.selection.write(whole[change.parameter], change.new)
    patched = parameters_digest(trained)
    if parameters_digest(whole) != patched:
        raise InputError("the parameters differ from their base outside the selected channels")
    return Patch(tuple(changes), origin, parameters_digest(base), patched, plan_sha256, _versions())


def apply_patch(patch: Patch, tensors: Mapping[str, Tensor], source: str = "patch") -> None:
    """Put `patch` on the parameters `tensors` of its base, in place.

    Raises `InputError`, naming `source` and with nothing changed, for any other parameters.
    """
    _write(patch, tensors, source, remove=False)


def remove_patch(patch: Patch, tensors: Mapping[str, Tensor], source: str = "patch") -> None:
    """Take `patch` off the parameters `tensors`, in place: they are the base again, bit for bit.

    Raises `InputError`, naming `source` and with nothing changed, if it is not on them.
    """
    _write(patch, tensors, source, remove=True)


@torch.no_grad()
def _write(patch: Patch, tensors: Mapping[str, Tensor], source: str, *, remove: bool) -> None:
    for change in patch.changes:
        where = f"{source}: parameter {change.parameter!r}"
        tensor = tensors.get(change.parameter)
        if tensor is None:
            raise InputError(f"{where} is not in the model: the patch is for another base")
        wanted = change.selection.weight
        if tuple(tensor.shape) != wanted or tensor.dtype != change.new.dtype:
            raise InputError(
                f"{where} is {wanted}, {change.new.dtype} in the patch and "
                f"{tuple(tensor.shape)}, {tensor.dtype} in the model: the patch is for another base"
            )
    before, after = patch.base_sha256, patch.patched_sha256
    if remove:
        before, after = after, before
    found = parameters_digest(tensors)
    if found != before:
        if found == after:
            told = "not on these weights" if remove else "on these weights already"
            raise InputError(f"{source}: the patch is {told}")
        raise InputError(
            f"{source}: the patch is for another base: it "
            f"{'comes off' if remove else 'goes on'} {before[:12]}..., these weights are "
            f"{found[:12]}..."
        )
    kept = []
    for change in patch.changes:
        tensor, selection = tensors[change.parameter], change.selection
        kept.append(selection.read(tensor).clone())
        selection.write(tensor, change.base if remove else change.new)
    if parameters_digest(tensors) != after:
        for change, values in zip(patch.changes, kept, strict=True):
            change.selection.write(tensors[change.parameter], values)
        raise InputError(f"{source}: the patch is damaged: its values are not those it was made of")


def unfolded_patch(
    patch: Patch, folded: Folded, graph: LayerGraph, base: Mapping[str, Tensor]
) -> Patch:
    """The same changes of the model as it was before its batch norms were folded.

    `graph` and `base` are that model's. Weights are divided by the scale of their batch norm, and
    what a folded bias moved by, its batch norm's bias moves by; see `costsim.models.folding`. So
    the patch goes on the checkpoint that people have.
    """
    changes, trained = [], dict(base)
    for change in patch.changes:
        pair = folded.norm_of(change.layer)
        if pair is None:
            changes.append(change)
            trained[change.parameter] = _written(base[change.parameter], change)
            continue
        if change.selection.channels is None:
            name, layer = f"{pair.norm}.bias", pair.norm
            value = moved(change.new, change.base, base[name])
        else:
            name, layer = change.parameter, change.layer
            whole = _written(folded_weight(base[name], pair), change)
            value = unfolded(pair, whole, base[name])
        before = change.selection.read(base[name].detach()).clone()
        one = Change(name, layer, change.selection, before, change.selection.read(value).clone())
        changes.append(one)
        trained[name] = _written(base[name], one)
    places = {parameter.name: place for place, parameter in enumerate(graph.parameters)}
    changes.sort(key=lambda change: places[change.parameter])
    return replace(
        patch,
        changes=tuple(changes),
        base_sha256=parameters_digest(base),
        patched_sha256=parameters_digest(trained),
    )


def _written(tensor: Tensor, change: Change) -> Tensor:
    """`tensor` with a change put on it, as a copy."""
    found = tensor.detach().clone()
    change.selection.write(found, change.new)
    return found


class _ChangeHeader(Header):
    parameter: str
    layer: str
    axis: Literal["output", "input"] | None
    shape: tuple[_Positive, ...]
    groups: _Positive


class _Header(Header):
    model: Origin
    base_sha256: _Digest
    patched_sha256: _Digest
    plan_sha256: _Digest
    changes: tuple[_ChangeHeader, ...]
    versions: dict[str, str]


def write_patch(path: Path, patch: Patch) -> None:
    """Write `patch` to `path`, whole or not at all."""
    tensors, listed = {}, []
    for change in patch.changes:
        selection, name = change.selection, change.parameter
        tensors[f"base/{name}"], tensors[f"new/{name}"] = change.base, change.new
        if selection.channels is not None:
            tensors[f"channels/{name}"] = torch.tensor(selection.channels)
        listed.append(
            _ChangeHeader(
                parameter=name,
                layer=change.layer,
                axis=None if selection.channels is None else selection.axis,
                shape=selection.weight,
                groups=selection.groups,
            )
        )
    header = _Header(
        model=patch.origin,
        base_sha256=patch.base_sha256,
        patched_sha256=patch.patched_sha256,
        plan_sha256=patch.plan_sha256,
        changes=tuple(listed),
        versions=dict(patch.versions),
    )
    write_tensors(path, tensors, SCHEMA, header)


def read_patch(path: Path) -> Patch:
    """The patch at `path`.

    Raises `InputError` for a file that is missing, cut short or foreign, for channels that are
    out of range or repeated, and for tensors that do not fit what the header says.
    """
    header, tensors = read_tensors(path, SCHEMA, _Header)
    wanted: dict[str, object] = {}
    for item in header.changes:
        if f"new/{item.parameter}" in wanted:
            raise InputError(f"{path}: changes: {item.parameter!r} is listed twice")
        parts = ("base", "new") if item.axis is None else ("base", "new", "channels")
        wanted |= {f"{part}/{item.parameter}": None for part in parts}
    check_names(path, tensors, wanted)
    return Patch(
        tuple(_change(path, item, tensors) for item in header.changes),
        header.model,
        header.base_sha256,
        header.patched_sha256,
        header.plan_sha256,
        header.versions,
    )


def _change(path: Path, item: _ChangeHeader, tensors: Mapping[str, Tensor]) -> Change:
    name = item.parameter
    selection = Selection(item.shape)
    if item.axis is not None:
        if (item.axis == "input" and len(item.shape) < 2) or item.shape[0] % item.groups:
            raise InputError(f"{path}: changes: {name!r} of {item.shape} has no such channels")
        index = tensors[f"channels/{name}"]
        if index.dtype != torch.int64 or index.ndim != 1 or not len(index):
            raise InputError(f"{path}: channels/{name} is no list of indices")
        channels = tuple(index.tolist())
        selection = Selection(item.shape, item.axis, channels, item.groups)
        if not all(0 <= channel < selection.count for channel in channels):
            raise InputError(
                f"{path}: channels/{name} goes from {min(channels)} to {max(channels)}; the "
                f"parameter has {selection.count} {item.axis} channels"
            )
        if list(channels) != sorted(set(channels)):
            raise InputError(f"{path}: channels/{name} repeats a channel or is not ascending")
    base, new = tensors[f"base/{name}"], tensors[f"new/{name}"]
    for tensor in (base, new):
        if tuple(tensor.shape) != selection.shape or tensor.dtype != new.dtype:
            raise InputError(
                f"{path}: values of {name!r} are {tuple(tensor.shape)}, {tensor.dtype}; "
                f"{selection.shape}, {new.dtype} is needed"
            )
    return Change(name, item.layer, selection, base, new)


def _versions() -> dict[str, str]:
    return {"costsim": __version__, "python": platform.python_version(), "torch": version("torch")}
