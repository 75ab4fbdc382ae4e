"""One phase of an adaptation: its program, run on real tensors, each run measured."""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TypeAlias

import torch
from torch import Tensor

from costsim.hardware.meters.observe import StorageObserver, written_weight_bytes
from costsim.ir.program import Category, Direction, Operation
from costsim.ir.program.adaptation import PhaseProgram
from costsim.run.execution.executor import Executor, LossNotFinite, Pass
from costsim.run.execution.mac_counter import MacCounter
from costsim.run.execution.score import Scorer

OutputLoss: TypeAlias = Callable[[Tensor], Tensor]
"""Of the output of a pass to a scalar."""

Take: TypeAlias = Callable[[int], tuple[Tensor, OutputLoss | None]]
"""The number of a pass to what it begins with, and its loss: none where only answers are wanted."""


class PhaseMeter:
    """Runs the program of `phase`, and measures either what each run holds and computes or how
    long it takes: `counting` slows it down.

    `live_bytes` is the most that is alive after any operation of any run, with the weights that it
    writes; `macs` are those of all runs by cause. Those of a loss are none of the network's and are
    not counted. `seconds` are those of each run, without fetching what it begins with.
    """

    def __init__(
        self,
        phase: PhaseProgram,
        tensors: Mapping[str, Tensor],
        *,
        counting: bool,
        learning_rate: float = 0.0,
        momentum: float = 0.9,
        scorer: Scorer | None = None,
    ) -> None:
        self.phase, self.counting = phase, counting
        self.executor = Executor(
            phase.program, tensors, learning_rate=learning_rate, momentum=momentum, scorer=scorer
        )
        self.storages, self.counter = StorageObserver(phase.program), MacCounter()
        if counting:
            self.executor.observer = self._observe
        self.seconds: list[float] = []

    @property
    def runs(self) -> int:
        """How often the program has run."""
        return len(self.seconds)

    @property
    def batch(self) -> int:
        """Samples of a pass."""
        return self.phase.program.graph.batch

    @property
    def written_bytes(self) -> int:
        """Of the weights that it updates: none where it only scores what another would update."""
        operations = self.phase.program.operations
        updates = any(op.direction is Direction.UPDATE for op in operations)
        return written_weight_bytes(self.executor) if updates else 0

    @property
    def state_bytes(self) -> int:
        """Of the optimizer's state."""
        return sum(states.nbytes for states in self.executor.optimizer_state.values())

    @property
    def live_bytes(self) -> int:
        """See the class."""
        return max(self.storages.live_bytes) + self.written_bytes

    @property
    def macs(self) -> Counter[str]:
        """See the class."""
        return Counter({str(cause): n for cause, n in self.counter.by_direction.items() if n})

    def run(self, take: Take) -> Tensor:
        """One run: all passes, then the updates that wait for them; the last pass's output.

        Raises `LossNotFinite` before anything of that pass is updated.
        """
        state, seconds, output = self.executor.begin(), 0.0, Tensor()
        self._hold_sums(state)
        for number in range(self.phase.program.step.passes):
            x, loss = take(number)
            started = time.perf_counter()
            with self._counted():
                output = self.executor.forward(state, x)
            del x
            gradient = None if loss is None else self._gradient(loss, output)
            with self._counted():
                self.executor.backward(state, gradient)
            seconds += time.perf_counter() - started
        started = time.perf_counter()
        with self._counted():
            self.executor.update(state)
        self.seconds.append(seconds + time.perf_counter() - started)
        return output

    def _hold_sums(self, state: Pass) -> None:
        """Put in their place the weight gradients that a criterion sums from sample to sample.

        The scoring program has them from its beginning on; the executor makes them as it goes.
        """
        program = self.phase.program
        places = {
            buffer.name: index
            for index, buffer in enumerate(program.buffers)
            if buffer.category is Category.WEIGHT_GRADIENT and buffer.birth == 0
        }
        for (kind, layer), selection in self.executor.selections.items():
            index = places.get(f"dweights:{kind}:{layer}")
            if index is not None and index not in state.buffers:
                state.buffers[index] = torch.zeros(selection.shape, dtype=self.executor.dtype)

    def _gradient(self, loss: OutputLoss, output: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = output.detach().requires_grad_()
            value = loss(leaf)
            (gradient,) = torch.autograd.grad(value, leaf)
        if not bool(torch.isfinite(value)):
            raise LossNotFinite(
                f"{self.phase.phase}: the loss is {float(value)} in run {self.runs + 1}"
            )
        return gradient

    def _counted(self) -> AbstractContextManager[object]:
        return self.counter if self.counting else nullcontext()

    def _observe(self, operation: Operation, position: int, buffers: Mapping[int, Tensor]) -> None:
        self.storages(operation, position, buffers)
        self.counter.observe(operation, position, buffers)
