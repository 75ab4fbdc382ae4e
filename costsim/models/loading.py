"""The model a command works on, from what a person typed after `--model`.

torch is imported when a model is loaded, not with this file.
"""

import copy
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from costsim.base.code import (
    EXPORTED,
    CodeName,
    find_code,
    folder_of,
    importable_from,
    is_code,
    others_prints_aside,
    parse_code_name,
    sentence,
)
from costsim.base.errors import InputError
from costsim.base.nearness import hint
from costsim.models.inputs import (
    check_room,
    check_sizes,
    input_shape_of,
    side_of,
    vocabulary_of,
)
from costsim.models.networks import NETWORKS
from costsim.models.networks.shipped import RANDOM, shipped_weights

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.export import ExportedProgram

    from costsim.models.folding import Folded

UNSEEN_GRADIENTS = (
    "an exported program does not say whether its model makes gradients of its own (an "
    "autograd.Function, a hook): those of its operators are taken"
)
"""What cannot be checked of a `.pt2` file, for a person."""


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to be traced.

    `module` is in evaluation mode and returns one tensor; `example_input` is float32
    `[N, C, H, W]` of images, `[N, ...]` of what a model takes else, noise in [-1, 1], or tokens;
    `provenance` says in a few words where the weights come from. `spec` names the model again, or
    says in angle brackets what a program gave. `fixed_batch`: it takes batches of one size alone.
    `folded`: what was done to its batch norms, None if nothing.
    """

    name: str
    module: "nn.Module"
    example_input: "Tensor"
    provenance: str
    spec: str
    fixed_batch: bool = False
    folded: "Folded | None" = None


def load_model(
    spec: str,
    *,
    weights: Path | None = None,
    seed: int = 0,
    resolution: int | None = None,
    batch: int = 1,
    fold: bool = False,
) -> LoadedModel:
    """The model that `spec` names, for `batch` images of `resolution` x `resolution` pixels.

    `spec` is a built-in network; or code (`costsim.base.code`): `net.py:make` or
    `package.module:make`, a function or class that gives a module, with the arguments that stand
    behind it (and `resolution` if it has such a parameter and one is given), or a module itself,
    which is copied; or the path of a program exported with fixed sizes (`.pt2`). What images it
    takes: see `input_shape_of`. Of a model that returns several tensors one is taken, see
    `costsim.models.outputs`.

    `weights`: for a built-in network any file `costsim.models.networks` reads, by default the
    weights that come with it if it has any (`random`: initialised from `seed` all the same); for
    code a checkpoint as safetensors or by `torch.save`, see `costsim.models.state`. `fold`: take
    batch norms into the weights before them. Raises `InputError` for anything that cannot be used:
    an unknown name, a failing import or function, a file that is missing, damaged or of another
    architecture, sizes that do not fit.
    """
    check_sizes(batch, resolution)
    if spec in NETWORKS:
        return _built_in(spec, weights, seed, resolution, batch)
    if spec.endswith(EXPORTED):
        return _exported(Path(spec), weights, seed, resolution, batch)
    if is_code(spec):
        found, origin = _made(spec, seed, resolution)
        return _given(found, origin, weights, seed, resolution, batch, fold)
    if spec.startswith("<"):
        raise InputError(
            f"the model {spec} was an object of a program: use the plan there, "
            "costsim.sparsify(model, plan), or plan again with --model file.py:name"
        )
    raise InputError(
        f"model {spec!r} is unknown; {hint(spec, NETWORKS)}give one of "
        f"{', '.join(NETWORKS)}, file.py:name, "
        "package.module:name, or a .pt2 file"
    )


def load_given(
    model: "nn.Module | ExportedProgram",
    *,
    output: str | None = None,
    weights: Path | None = None,
    seed: int = 0,
    resolution: int | None = None,
    batch: int = 1,
    fold: bool = False,
) -> LoadedModel:
    """The same of an object: a module, which is not changed, or an exported program.

    `output` names which of several tensors that it returns is meant. Raises `InputError`.
    """
    check_sizes(batch, resolution)
    kind = type(model).__name__
    name = CodeName("", kind, output=output)
    part = "" if output is None else f"[{output}]"
    origin = _Origin(f"<{kind} in a program>{part}", name, f"as given, a {kind}")
    if weights is not None:
        model = copy.deepcopy(model)
    return _given(model, origin, weights, seed, resolution, batch, fold)


def _noise(seed: int, *shape: int) -> "Tensor":
    import torch

    check_room(shape)
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator) * 2 - 1


def _example(model: "nn.Module", shape: tuple[int, ...], seed: int) -> "Tensor":
    """Noise of this shape, or tokens."""
    vocabulary = vocabulary_of(model)
    if vocabulary is None:
        return _noise(seed, *shape)
    from costsim.models.tokens import drawn_tokens

    check_room(shape)
    return drawn_tokens(vocabulary, shape, seed)


def _built_in(
    name: str, weights: Path | None, seed: int, resolution: int | None, batch: int
) -> LoadedModel:
    from costsim.models.networks.build import build
    from costsim.models.networks.weights import load_weights

    side = side_of(name, NETWORKS[name].resolution, resolution)
    module: nn.Module
    shipped = shipped_weights(name)
    if weights == RANDOM or (weights is None and shipped is None):
        module = build(name, seed=seed)
        provenance = f"initialised from seed {seed} (no pretrained weights)"
    elif weights is None and shipped is not None:
        module, _ = load_weights(name, shipped)
        provenance = "built-in weights, meta-trained on characters and drawings"
    else:
        assert weights is not None
        module, provenance = load_weights(name, weights)
    # Its graph is written down, not traced: the batch may be of any size.
    example = _noise(seed, 1, 3, side, side).expand(batch, -1, -1, -1)
    return LoadedModel(name, module.eval(), example, provenance, name)


def _exported(
    path: Path, weights: Path | None, seed: int, resolution: int | None, batch: int
) -> LoadedModel:
    from costsim.models.tracing.archive import load_program

    if weights is not None:
        raise InputError(f"{path}: an exported program has its weights inside; leave --weights out")
    program = load_program(path)
    loaded = _of_program(program, str(path), None, seed, resolution, batch)
    return replace(loaded, name=path.stem, provenance=f"weights inside {path.name}")


def _of_program(
    program: "ExportedProgram",
    spec: str,
    output: str | None,
    seed: int,
    resolution: int | None,
    batch: int,
) -> LoadedModel:
    from torch.export.graph_signature import InputKind

    from costsim.models.outputs import one_output

    nodes = {node.name: node for node in program.graph.nodes}
    shapes = [
        tuple(getattr(nodes[getattr(item.arg, "name", "")].meta.get("val"), "shape", ()))
        for item in program.graph_signature.input_specs
        if item.kind == InputKind.USER_INPUT
    ]
    if len(shapes) != 1:
        raise InputError(f"{spec}: takes {len(shapes)} inputs; one tensor is needed")
    shape = shapes[0]
    if shape[0] != batch:
        raise InputError(
            f"{spec}: was exported for batch {shape[0]}, not {batch}; "
            "use that batch or export it again"
        )
    if resolution not in (None, shape[-1]):
        sizes = "x".join(map(str, shape[2:] or shape[1:]))
        raise InputError(
            f"{spec}: was exported for images of {sizes}, not {resolution}x{resolution}; use those "
            "or export it again"
        )
    module: nn.Module = program.module()
    for part in module.modules():  # its own eval() only raises: what it does is fixed
        part.training = False
    example = _noise(seed, *shape)
    module = one_output(module, example, output)
    return LoadedModel(spec, module, example, "weights inside it", spec, fixed_batch=True)


@dataclass(frozen=True)
class _Origin:
    """Where a module comes from: the text that names it, its parts, and how it was made.

    `side` of its square images in pixels, where what made it says that.
    """

    spec: str
    name: CodeName
    how: str
    side: int | None = None


def _made(spec: str, seed: int, resolution: int | None) -> tuple[Any, _Origin]:
    """What code gives: the module that it is or makes, and where that comes from."""
    import torch
    from torch import nn
    from torch.export import ExportedProgram

    name = parse_code_name(spec, "model")
    with importable_from(folder_of(name)), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        found = find_code(name, "model")
        if isinstance(found, nn.Module | ExportedProgram):
            if name.arguments:
                raise InputError(f"model {spec!r}: is a model already, which takes no arguments")
            return copy.deepcopy(found), _Origin(spec, name, f"as it stands in {name.place}")
        if not callable(found):
            raise InputError(
                f"model {spec!r}: {name.attribute!r} is neither a function nor a model"
            )
        takes = _parameters(found)
        sized = {"resolution": resolution} if resolution and "resolution" in takes else {}
        try:
            with others_prints_aside():
                made = found(**{**sized, **name.arguments})
        except (Exception, SystemExit) as error:
            raise InputError(
                f"model {spec!r}: the factory fails: {sentence(error)}{_remedy(error)}"
            ) from error
    if not isinstance(made, nn.Module | ExportedProgram):
        raise InputError(
            f"model {spec!r}: the factory returns {type(made).__name__}, not a torch.nn.Module"
        )
    default = takes["resolution"].default if "resolution" in takes else None
    usual = name.arguments.get("resolution", default)
    side = usual if isinstance(usual, int) else None
    return made, _Origin(spec, name, f"as {spec} made it, seed {seed}", side)


def _remedy(error: BaseException) -> str:
    missing = isinstance(error, TypeError) and "missing" in str(error)
    return "; give them with --model-args name=value" if missing else ""


def _given(
    model: "nn.Module | ExportedProgram",
    origin: _Origin,
    weights: Path | None,
    seed: int,
    resolution: int | None,
    batch: int,
    fold: bool,
) -> LoadedModel:
    from torch import nn

    from costsim.models.outputs import one_output
    from costsim.models.tokens import taking_tokens

    name, spec, output = origin.name.attribute, origin.spec, origin.name.output
    if not isinstance(model, nn.Module):
        loaded = _of_program(model, spec, output, seed, resolution, batch)
        return replace(loaded, name=name, provenance=origin.how)
    provenance = origin.how
    if weights is not None:
        from costsim.models.state import load_state

        left_out = load_state(model, weights)
        provenance = f"weights from {weights.name} {left_out}".rstrip()
    example = _example(model, (batch, *input_shape_of(model, resolution, origin.side)), seed)
    module = one_output(taking_tokens(model.eval()), example, output)
    folded = None
    if fold:
        from costsim.models.folding import fold_batch_norm

        folded = fold_batch_norm(module, example[:1])
        module = folded.module
    pairs = folded is not None and folded.pairs
    return LoadedModel(name, module, example, provenance, spec, folded=folded if pairs else None)


def _parameters(factory: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(factory).parameters
    except ValueError:  # some compiled functions have none
        return {}
