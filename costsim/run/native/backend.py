"""The executor of a backend: native where that is asked for and can be trusted, else torch's."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from torch import Tensor

from costsim.base.errors import InputError, note
from costsim.c.native.library import load_library
from costsim.ir.graph import LayerGraph
from costsim.ir.plan import UpdatePlan
from costsim.ir.program import TrainingProgram, compile_program
from costsim.ir.step import TrainingStep
from costsim.run.execution.executor import Executor
from costsim.run.native import BACKENDS, Backend
from costsim.run.native.executor import NativeExecutor, NoNativeKernels
from costsim.run.native.self_check import disagreement


def make_executor(
    program: TrainingProgram,
    tensors: Mapping[str, Tensor],
    backend: Backend = "torch",
    **options: Any,
) -> Executor:
    """An executor of `program` on the model's `tensors`, with the options of `Executor`.

    Where kernels are asked for and there are none for this machine or this program, or they do not
    compute what torch does, torch's executor is made and that is said in one line. Raises
    `InputError` for a backend that there is none of, and as `Executor`.
    """
    check_backend(backend)
    if backend == "native":
        reason = why_not_native()
        if reason is None:
            try:
                return NativeExecutor(program, tensors, **options)
            except NoNativeKernels as error:
                reason = str(error)
        _say(reason)
    return Executor(program, tensors, **options)


def make_forward(
    graph: LayerGraph, tensors: Mapping[str, Tensor], backend: Backend
) -> Callable[[Tensor], Tensor]:
    """The output of `graph` for a batch of the size it was traced for, by an executor.

    It is that of the program that trains nothing, by the tensors as they stand at each call.
    """
    program = compile_program(graph, UpdatePlan(), TrainingStep(graph.batch))
    executor = make_executor(program, tensors, backend)

    def forward(x: Tensor) -> Tensor:
        output = executor.forward(executor.begin(), x)
        return output if executor.gives_own_values else output.clone()

    return forward


def check_backend(backend: str) -> None:
    """Raise `InputError` for a backend that there is none of."""
    if backend not in BACKENDS:
        raise InputError(f"backend {backend!r}: allowed are {', '.join(BACKENDS)}")


@cache
def why_not_native() -> str | None:
    """Why native kernels cannot be used in this process; None if they can. Found out once.

    The kernels are built where they are not there yet, and compared with torch on drawn inputs.
    """
    try:
        load_library()
    except InputError as error:
        return str(error)
    return disagreement()


@cache
def _say(reason: str) -> None:
    """Once for each reason: programs are made by the hundred."""
    note(f"backend native: {reason}; torch runs this instead")
