"""The model a command works on, from what a person typed after `--model`.

torch is imported when a model is loaded, not with this file.
"""

import contextlib
import functools
import importlib
import inspect
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from costsim.base.errors import InputError, shown
from costsim.base.units import format_bytes
from costsim.models.networks import NETWORKS
from costsim.models.networks.shipped import RANDOM, shipped_weights

if TYPE_CHECKING:
    from torch import Tensor, nn

DEFAULT_RESOLUTION = 128
"""Side of the square images for a model that does not say what it takes."""

IMAGE_CHANNELS = (3, 1)
"""Of images in colour and in grey."""

LARGEST_INPUT_BYTES = 2**30
"""Of the example a model is traced with."""

UNSEEN_GRADIENTS = (
    "an exported program does not say whether its model makes gradients of its own (an "
    "autograd.Function, a hook): those of its operators are taken"
)
"""What cannot be checked of a `.pt2` file, for a person."""

SMALLEST_RESOLUTION = 32
"""Of the built-in networks, which halve the image five times."""


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to be traced.

    `module` is in evaluation mode; `example_input` is float32 `[N, C, H, W]`, noise in [-1, 1],
    with 3 channels or, where the model says so, 1;
    `provenance` says in a few words where the weights come from.
    """

    name: str
    module: "nn.Module"
    example_input: "Tensor"
    provenance: str


def load_model(
    spec: str,
    *,
    weights: Path | None = None,
    seed: int = 0,
    resolution: int | None = None,
    batch: int = 1,
) -> LoadedModel:
    """The model that `spec` names, for `batch` images of `resolution` x `resolution` pixels.

    `spec` is a built-in network; or `package.module:factory`, imported with the current folder on
    the path, whose factory returns a module (it receives `resolution` if it has such a parameter
    and one is given); or the path of a program exported with fixed sizes (`.pt2`). Without
    `resolution` a module's own integer attribute `resolution` counts, else 128. A module whose
    images are grey or not square says so by an attribute `input_shape`: (channels, height, width).

    `weights`: for a built-in network any file `costsim.models.networks` reads, by default the
    weights that come with it if it has any (`random`: initialised from `seed` all the same); for a
    factory a state dict as safetensors or by `torch.save`, which must fit exactly. Raises
    `InputError` for anything that cannot be used: an unknown name, a failing import or factory, a
    file that is missing, damaged or of another architecture, sizes that do not fit.
    """
    if batch < 1:
        raise InputError(f"batch is {batch}; at least 1 is needed")
    if resolution is not None and resolution < 1:
        raise InputError(f"resolution is {resolution}; at least 1 is needed")
    if spec in NETWORKS:
        return _built_in(spec, weights, seed, resolution, batch)
    if spec.endswith(".pt2"):
        return _exported(Path(spec), weights, seed, resolution, batch)
    if ":" in spec:
        return _from_factory(spec, weights, seed, resolution, batch)
    raise InputError(
        f"model {spec!r} is unknown; give one of {', '.join(NETWORKS)}, "
        "package.module:factory, or a .pt2 file"
    )


def _noise(seed: int, *shape: int) -> "Tensor":
    import torch

    size = 4 * math.prod(shape)
    if size > LARGEST_INPUT_BYTES:
        raise InputError(
            f"resolution is {shape[-1]}, batch {shape[0]}: an input of shape {shape} takes "
            f"{format_bytes(size)}; at most {format_bytes(LARGEST_INPUT_BYTES)} can be traced"
        )
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator) * 2 - 1


def _built_in(
    name: str, weights: Path | None, seed: int, resolution: int | None, batch: int
) -> LoadedModel:
    from costsim.models.networks.build import build
    from costsim.models.networks.weights import load_weights

    side = resolution or NETWORKS[name].resolution
    if side < SMALLEST_RESOLUTION:
        raise InputError(
            f"resolution is {side}; {name} needs at least {SMALLEST_RESOLUTION} pixels a side"
        )
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
    return LoadedModel(name, module.eval(), example, provenance)


def _exported(
    path: Path, weights: Path | None, seed: int, resolution: int | None, batch: int
) -> LoadedModel:
    from torch.export.graph_signature import InputKind

    from costsim.models.tracing.archive import load_program

    if weights is not None:
        raise InputError(f"{path}: an exported program has its weights inside; leave --weights out")
    program = load_program(path)
    nodes = {node.name: node for node in program.graph.nodes}
    shapes = [
        tuple(getattr(nodes[getattr(item.arg, "name", "")].meta.get("val"), "shape", ()))
        for item in program.graph_signature.input_specs
        if item.kind == InputKind.USER_INPUT
    ]
    if len(shapes) != 1:
        raise InputError(f"{path}: takes {len(shapes)} inputs; one tensor is needed")
    shape = shapes[0]
    if len(shape) != 4 or shape[1] not in IMAGE_CHANNELS:
        raise InputError(
            f"{path}: takes input of shape {shape}; images [N, 3, H, W] or [N, 1, H, W] are needed"
        )
    if shape[0] != batch:
        raise InputError(
            f"{path}: was exported for batch {shape[0]}, not {batch}; "
            "use that batch or export it again"
        )
    if resolution not in (None, shape[3]):
        raise InputError(
            f"{path}: was exported for images of {shape[2]}x{shape[3]}, not "
            f"{resolution}x{resolution}; use those or export it again"
        )
    module: nn.Module = program.module()
    for part in module.modules():  # its own eval() only raises: what it does is fixed
        part.training = False
    return LoadedModel(path.stem, module, _noise(seed, *shape), f"weights inside {path.name}")


def _from_factory(
    spec: str, weights: Path | None, seed: int, resolution: int | None, batch: int
) -> LoadedModel:
    import torch
    from torch import nn

    with _importable_from_here(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        factory = _find(spec)
        takes = _parameters(factory)
        arguments = {"resolution": resolution} if resolution and "resolution" in takes else {}
        try:
            module = factory(**arguments)
        except (Exception, SystemExit) as error:
            raise InputError(f"model {spec!r}: the factory fails: {_sentence(error)}") from error
    if not isinstance(module, nn.Module):
        raise InputError(
            f"model {spec!r}: the factory returns {type(module).__name__}, not a torch.nn.Module"
        )
    provenance = f"as {spec} made it, seed {seed}"
    if weights is not None:
        _load_state(module, weights)
        provenance = f"weights from {weights.name}"
    own = getattr(module, "resolution", None)
    default = takes["resolution"].default if "resolution" in takes else None
    side = next(
        size for size in (resolution, own, default, DEFAULT_RESOLUTION) if isinstance(size, int)
    )
    shape = own_input_shape(module, resolution) or (3, side, side)
    example = _noise(seed, batch, *shape)
    return LoadedModel(spec.partition(":")[2], module.eval(), example, provenance)


def own_input_shape(module: "nn.Module", resolution: int | None) -> tuple[int, int, int] | None:
    """(channels, height, width) that a module's attribute `input_shape` says; None without one.

    At another `resolution`, the width of the images, if they are square. Raises `InputError` for
    anything but images, and for another width of images that are not square.
    """
    given: Any = getattr(module, "input_shape", None)
    if given is None:
        return None
    sizes = tuple(given) if isinstance(given, tuple | list) else (given,)
    plain = all(isinstance(size, int) and size > 0 for size in sizes)
    if len(sizes) != 3 or not plain or sizes[0] not in IMAGE_CHANNELS:
        raise InputError(
            f"the model's input_shape is {given!r}; images are needed, (channels, height, width) "
            "with 3 channels or 1"
        )
    channels, height, width = sizes
    if resolution in (None, width):
        return channels, height, width
    if height != width:
        raise InputError(
            f"resolution is {resolution}; the model says that its images are {height}x{width}"
        )
    assert resolution is not None
    return channels, resolution, resolution


@contextlib.contextmanager
def _importable_from_here() -> Iterator[None]:
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(folder)


def _find(spec: str) -> Callable[..., Any]:
    module_name, _, attribute = spec.partition(":")
    if not module_name or not attribute:
        raise InputError(f"model {spec!r}: write it as package.module:factory")
    if _is_pythons_own(module_name):
        raise InputError(f"model {spec!r}: Python's own modules have no models")
    importlib.invalidate_caches()
    try:
        found: Any = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        raise InputError(
            f"model {spec!r}: {module_name} cannot be imported: {_sentence(error)}"
        ) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise InputError(f"model {spec!r}: {module_name} has no {attribute!r}")
        found = getattr(found, part)
        # Through an attribute too, such as `package:os.abort`, or under another name.
        if _is_pythons_own(_home(found)):
            raise InputError(f"model {spec!r}: Python's own modules have no models")
    if not callable(found):
        raise InputError(f"model {spec!r}: {attribute!r} is not a function")
    factory: Callable[..., Any] = found
    return factory


def _is_pythons_own(module_name: str) -> bool:
    return module_name.partition(".")[0] in sys.stdlib_module_names


def _home(found: object) -> str:
    """The module that it is, or that it was made in; empty for what is neither."""
    while isinstance(found, functools.partial):
        found = found.func
    if isinstance(found, ModuleType):
        return found.__name__
    if inspect.isroutine(found) or inspect.isclass(found):
        return str(getattr(found, "__module__", None) or "")
    return ""


def _parameters(factory: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(factory).parameters
    except ValueError:  # some compiled functions have none
        return {}


def _sentence(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _load_state(module: "nn.Module", path: Path) -> None:
    """Load a state dict that fits exactly; raises `InputError` naming a key that does not.

    A parameter under several names (tied weights) may be there under one of them, as safetensors
    keeps it; several must agree. Tensors of whole numbers are no weights: of a quantised network
    they mean nothing without their scales.
    """
    import torch

    from costsim.models.networks.tensors import read_state

    state = dict(read_state(path))
    wanted = module.state_dict(keep_vars=True)
    for key in state:
        if key not in wanted:
            raise InputError(f"{path}: {shown(key)} does not belong to the model")
    tied: dict[int, list[str]] = {}
    for key, tensor in wanted.items():
        tied.setdefault(id(tensor), []).append(key)
    for key, tensor in wanted.items():
        names = [name for name in tied[id(tensor)] if name in state]
        if not names:
            raise InputError(f"{path}: {key!r} of the model is missing")
        found = state.setdefault(key, state[names[0]])
        if found.shape != tensor.shape:
            raise InputError(
                f"{path}: {key!r} has shape {tuple(found.shape)}; "
                f"the model needs {tuple(tensor.shape)}"
            )
        if tensor.is_floating_point() != found.is_floating_point() or found.is_complex():
            raise InputError(
                f"{path}: {key!r} is of {found.dtype}; the model needs {tensor.dtype}"
                + (
                    ""
                    if found.is_floating_point()
                    else " (weights of an int8 network? its scales are needed too)"
                )
            )
        if not torch.isfinite(found.float()).all():
            raise InputError(f"{path}: {key!r} has values that are NaN or infinite")
        if not torch.equal(found.float(), state[names[0]].float()):
            raise InputError(
                f"{path}: {names[0]!r} and {key!r} are one parameter of the model and differ"
            )
    module.load_state_dict(state)
