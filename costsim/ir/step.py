"""How one training step is done: batch, bit widths, optimizer, when updates are applied."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias

from costsim.base.errors import InputError

Optimizer: TypeAlias = Literal["sgd", "momentum", "adam"]

OPTIMIZER_STATES = {"sgd": 0, "momentum": 1, "adam": 2}
"""State tensors an optimizer keeps for each updated parameter."""


MOST_SAMPLES = 1_000_000
"""Of a step: beyond what any device or machine has."""


@dataclass(frozen=True, slots=True)
class BitWidths:
    """Bits an element of each category takes."""

    weights: int = 32
    activations: int = 32
    gradients: int = 32
    optimizer: int = 32

    def __post_init__(self) -> None:
        for name, bits in asdict(self).items():
            if bits not in (8, 16, 32, 64):
                raise InputError(f"bits.{name} is {bits}; allowed are 8, 16, 32 and 64")


@dataclass(frozen=True, slots=True)
class TrainingStep:
    """One optimizer step over `batch` samples, `micro_batch` of them at a time.

    The samples of a pass are counted as its input; those of later passes are elsewhere until then.

    `recompute` names calls that end a segment of the forward pass: of every segment but the last
    nothing is kept but its input, and what its gradients need is computed a second time before its
    backward pass (gradient checkpointing, Chen et al. 2016).

    `update` says when a finished weight gradient is used: `immediate` applies and frees it at
    once, `deferred` keeps all gradients until the backward pass is over (what `torch.optim` in an
    ordinary loop needs). With more than one micro-batch gradients are always kept.
    """

    batch: int = 1
    micro_batch: int | None = None
    optimizer: Optimizer = "sgd"
    update: Literal["immediate", "deferred"] = "immediate"
    bits: BitWidths = field(default_factory=BitWidths)
    recompute: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise InputError(f"batch is {self.batch}; at least 1 is needed")
        if self.batch > MOST_SAMPLES:
            raise InputError(f"batch is {self.batch}; at most {MOST_SAMPLES} are allowed")
        if self.micro_batch is not None and (self.micro_batch < 1 or self.batch % self.micro_batch):
            raise InputError(f"micro-batch {self.micro_batch} does not divide batch {self.batch}")
        if self.optimizer not in OPTIMIZER_STATES:
            raise InputError(
                f"optimizer {self.optimizer!r}; allowed are {', '.join(OPTIMIZER_STATES)}"
            )
        if self.update not in ("immediate", "deferred"):
            raise InputError(f"update {self.update!r}; allowed are immediate, deferred")

    @property
    def samples_a_pass(self) -> int:
        """Samples in one forward and backward pass."""
        return self.micro_batch or self.batch

    @property
    def passes(self) -> int:
        """Forward and backward passes in one step."""
        return self.batch // self.samples_a_pass

    @property
    def keeps_gradients(self) -> bool:
        """Whether weight gradients live until the end of the step."""
        return self.update == "deferred" or self.passes > 1

    @property
    def optimizer_states(self) -> int:
        """State tensors a parameter."""
        return OPTIMIZER_STATES[self.optimizer]

    def to_json(self) -> dict[str, Any]:
        """The `step` of a plan file."""
        return {**asdict(self), "recompute": list(self.recompute)}
