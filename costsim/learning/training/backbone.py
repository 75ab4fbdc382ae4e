"""The network that is adapted: a module, its tensors, and its layer graph at any batch."""

from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from costsim.base.errors import InputError
from costsim.ir.cuts import between
from costsim.ir.graph import LayerGraph
from costsim.learning.training.network import Forward, forward_by_torch
from costsim.learning.training.patch import Origin
from costsim.models.folding import Folded
from costsim.models.loading import load_model
from costsim.models.networks.build import Network
from costsim.models.networks.graph import architecture_graph
from costsim.models.tracing import capture
from costsim.run.native import Backend
from costsim.run.native.backend import make_forward

T = TypeVar("T")

PASS = 64
"""Samples in one pass, at most: enough to be fast, few enough to stay in cache."""

SIZE_STEP = 8
"""The sizes of passes for which a model is traced are multiples of it."""


class Backbone:
    """A model that returns features, in evaluation mode, on one torch device.

    `tensors` are the module's own, by the graph's names; adapting writes to them and puts the base
    back. `origin` says how to load the base again, for a patch, `folded` what was done to its batch
    norms, None if nothing. What is derived from a backbone
    (graphs, modified copies) is made once. Raises `InputError` for a model without weights.
    """

    def __init__(
        self, module: nn.Module, input_shape: tuple[int, ...], *, name: str,
        origin: Origin | None = None, provenance: str = "", backend: Backend = "torch",
        folded: Folded | None = None,
    ) -> None:  # fmt: skip
        self.module, self.name, self.origin = module.eval(), name, origin
        self.input_shape, self.provenance = input_shape, provenance
        self.backend: Backend = backend
        self.folded = folded
        self._graphs: dict[int, LayerGraph] = {}
        self._variants: dict[Hashable, Backbone] = {}
        self._derived: dict[Hashable, Any] = {}
        if isinstance(module, Network):
            self.tensors: dict[str, Tensor] = dict(module.state_dict())
        else:
            traced = capture(module, self._zeros(1))
            self._graphs[1], self.tensors = traced.graph, dict(traced.tensors)
        if not any(tensor.is_floating_point() for tensor in self.tensors.values()):
            raise InputError(f"{name}: has no weights, so that there is nothing to adapt")

    @property
    def device(self) -> torch.device:
        """Where the tensors lie."""
        return next(iter(self.tensors.values())).device

    @property
    def dtype(self) -> torch.dtype:
        """That of its weights."""
        return next(tensor.dtype for tensor in self.tensors.values() if tensor.is_floating_point())

    def graph(self, batch: int) -> LayerGraph:
        """The layer graph over `[batch, C, H, W]`.

        Raises `InputError` for a model that cannot be traced at this batch.
        """
        if batch not in self._graphs:
            if isinstance(self.module, Network):
                side = self.input_shape[-1]
                self._graphs[batch] = architecture_graph(
                    self.module.architecture,
                    batch=batch,
                    resolution=side,
                    batch_norm=self.module.batch_norm,
                ).with_frozen(self.module.frozen)
            else:
                traced = capture(self.module, self._zeros(batch))
                self._graphs[batch] = traced.graph
                for name, tensor in traced.tensors.items():  # constants may depend on the batch
                    self.tensors.setdefault(name, tensor)
        return self._graphs[batch]

    def pass_size(self, samples: int) -> int:
        """In passes of how many samples so many are best run: with as little filling as possible.

        A traced model is traced again for each size, so that its sizes are few.
        """
        passes = -(-samples // PASS)
        even = -(-samples // passes)
        return even if isinstance(self.module, Network) else -(-even // SIZE_STEP) * SIZE_STEP

    def forward(self, batch: int, start: str, end: str | None) -> Forward:
        """From the values of `batch` samples at the cut `start` to those at `end`, or the output.

        By the tensors as they stand when it is called, and by native kernels where they are asked
        for.
        """
        if self.backend == "torch":
            return forward_by_torch(between(self.graph(batch), start, end), self.tensors)

        def make() -> Forward:
            graph = between(self.graph(batch), start, end)
            return make_forward(graph, self.tensors, self.backend)

        return self.derived(("native forward", batch, start, end), make)

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Outputs `[N, D]` of the model as it is now for images `[N, C, H, W]`."""
        if self.backend == "native":
            start = self.graph(1).input
            return torch.cat(
                [
                    self.forward(len(part), start, None)(part).flatten(1)
                    for part in torch.split(images, self.pass_size(len(images)))
                ]
            )
        parts = [
            self.module(part.contiguous(memory_format=_layout(part))).flatten(1)
            for part in torch.split(images, PASS)
        ]
        return torch.cat(parts)

    def variant(self, key: Hashable, make: "Callable[[Backbone], Backbone]") -> "Backbone":
        """A modified copy, made by `make` the first time it is asked for under this key."""
        if key not in self._variants:
            self._variants[key] = make(self)
        return self._variants[key]

    def derived(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` made the first time it was asked for under this key."""
        if key not in self._derived:
            self._derived[key] = make()
        found: T = self._derived[key]
        return found

    def _zeros(self, batch: int) -> Tensor:
        like = next((p for p in self.module.parameters()), torch.zeros(()))
        return like.detach().new_zeros((batch, *self.input_shape))


def _layout(images: Tensor) -> torch.memory_format:
    """In which convolutions of images are fastest; what is no image stays as it is."""
    return torch.channels_last if images.ndim == 4 else torch.contiguous_format


def on_torch_device(module: nn.Module, device: str | torch.device) -> nn.Module:
    """The module there; raises `InputError` for a torch device that is not there."""
    try:
        return module.to(device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"torch device {str(device)!r} cannot be used: {reason}") from error


def load_backbone(
    spec: str,
    *,
    weights: Path | None = None,
    resolution: int | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    backend: Backend = "torch",
    fold: bool = False,
) -> Backbone:
    """The model that `spec` names, as `costsim plan` loads it (see
    `costsim.models.loading.load_model`), its batch norms folded where `fold` says so.

    Raises `InputError` for a model or weights that cannot be used, and for a torch device that is
    not there.
    """
    if spec.endswith(".pt2"):
        raise InputError(
            f"{spec}: an exported program takes batches of one size, and adapting needs several; "
            "give the function that makes the model, as file.py:name"
        )
    loaded = load_model(spec, weights=weights, seed=seed, resolution=resolution, fold=fold)
    shape = tuple(loaded.example_input.shape[1:])
    module = on_torch_device(loaded.module, device)
    origin = Origin(
        name=loaded.name,
        spec=spec,
        weights=None if weights is None else str(weights),
        resolution=shape[-1],
        seed=seed,
    )
    return Backbone(
        module,
        shape,
        name=loaded.name,
        origin=origin,
        provenance=loaded.provenance,
        backend=backend,
        folded=loaded.folded,
    )
