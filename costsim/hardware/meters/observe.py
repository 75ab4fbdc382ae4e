"""Looking at the storages that are really alive while a program runs."""

from collections.abc import Mapping

import torch
from torch import Tensor

from costsim.hardware.results.record import MeasuredBuffer
from costsim.ir.program import Category, Operation, TrainingProgram
from costsim.ir.program.layer_of import buffer_owner
from costsim.run.execution.executor import Executor

_NOT_KEPT = frozenset({Category.OPTIMIZER, Category.WEIGHT_GRADIENT})


class StorageObserver:
    """An observer of an executor that looks at the memory behind its live tensors.

    Sizes are those of storages, each counted once however many tensors look at it; the program
    only gives the names. `live_bytes` is the most after each operation over all passes.
    """

    def __init__(self, program: TrainingProgram) -> None:
        self.program = program
        self.live_bytes = [0] * len(program.operations)
        self._bytes: dict[int, int] = {}
        self._kept: set[int] = set()
        self._at_end_of_forward: dict[int, int] = {}

    def __call__(self, operation: Operation, position: int, buffers: Mapping[int, Tensor]) -> None:
        """Note what is alive after an operation."""
        storages: dict[int, tuple[int, int]] = {}
        for index, tensor in buffers.items():
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in storages:
                storages[storage.data_ptr()] = index, storage.nbytes()
        for index, size in storages.values():
            self._bytes[index] = max(self._bytes.get(index, 0), size)
        live = sum(size for _, size in storages.values())
        self.live_bytes[position] = max(self.live_bytes[position], live)
        loss = self.program.loss_position
        if position == loss - 1:
            self._at_end_of_forward = {i: pointer for pointer, (i, _) in storages.items()}
        elif position == loss + 1:
            self._kept = {
                index
                for index, pointer in self._at_end_of_forward.items()
                if storages.get(pointer, (None,))[0] == index
                and self.program.buffers[index].category not in _NOT_KEPT
            }

    def buffers(self) -> tuple[MeasuredBuffer, ...]:
        """What was found behind each buffer, in the order of the program."""
        return tuple(
            MeasuredBuffer(
                name=self.program.buffers[index].name,
                category=str(self.program.buffers[index].category),
                owner=buffer_owner(self.program, self.program.buffers[index].name),
                bytes=self._bytes[index],
                kept=index in self._kept,
            )
            for index in sorted(self._bytes)
        )


def written_weight_bytes(executor: Executor) -> int:
    """Bytes of the weights that updates write to, found by letting them write to copies."""
    written = 0
    for atom, selection in executor.selections.items():
        like = torch.zeros_like(executor.parameter(atom))
        selection.write(like, like.new_ones(selection.shape))
        written += int(like.count_nonzero()) * like.element_size()
    return written
