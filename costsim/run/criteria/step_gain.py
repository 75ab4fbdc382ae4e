"""The gain of a step of a given size, curvature and all: Fisher information along the update.

A channel whose weights move by `-r d` changes the loss `L_n` of sample n by `-r t_n` to first
order, with `t_n = g_n . d` and `g_n` the gradient of that sample. With the empirical Fisher
information of the weights in the place of the Hessian, the mean loss falls by

    gain(r) = r mean_n(t_n) - r²/2 mean_n(t_n²)

and by nothing if that is negative. The direction d is what the optimizer takes: the mean gradient
(`sgd`), its sign (`adam`). Where d is the weight itself, mean_n(t_n²)/2 is the Fisher score of
TinyTrain, which asks how far the loss hangs on a channel and not what training it would bring.

`t_n` needs no gradient of one sample: with x the layer's input and `dy` the gradient of its
output, it is the sum over positions of `dy` times the channel's output under the weights d. Of
an input channel it is x times what the layer would send back under those weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from costsim.base.errors import InputError
from costsim.ir.graph import Call
from costsim.ir.operators import UpdateKind
from costsim.ir.program import ScoringWork
from costsim.run.criteria.base import Criterion, Request, Target

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class StepGain(Criterion):
    """`gain(r)` of every channel, for the rate r = `step_size`.

    A step stands for the whole training, so that its size is that of all iterations together:
    about the learning rate times a few of them.
    """

    name: ClassVar[str] = "step_gain"
    work: ClassVar[ScoringWork] = ScoringWork(rounds=2, weight_gradients=True, again=True)

    step_size: float = 0.01
    direction: Literal["sgd", "adam"] = "adam"

    def __post_init__(self) -> None:
        if not 0 < self.step_size < float("inf"):
            raise InputError(f"step size is {self.step_size:g}; a number above 0 is needed")
        if self.direction not in ("sgd", "adam"):
            raise InputError(f"direction {self.direction!r}; allowed are sgd, adam")

    def channel_scores(self, request: Request) -> Mapping[Target, NDArray[np.float64]]:
        """The gain of every channel of every target."""
        import torch

        from costsim.run.criteria.passes import checked_tensors, parameter_gradients
        from costsim.run.criteria.slopes import channel_count, input_gradient, slopes
        from costsim.run.execution.forward import FORWARD, Operands

        samples = len(request.images)
        moves = {
            target: gradient.sign() if self.direction == "adam" else gradient / samples
            for target, (_, gradient) in parameter_gradients(request, self.name).items()
        }
        tensors = checked_tensors(request)
        moved = dict(tensors)
        for target, move in moves.items():
            name = request.parameter(target).name
            moved[name] = move
            tensors[name] = tensors[name].requires_grad_()

        def product(
            call: Call, axis: UpdateKind, values: "Mapping[str, Tensor]", gradient: "Tensor"
        ) -> "Tensor":
            x = values[call.inputs[0]].detach()
            if axis == "input":
                return x * input_gradient(call, moved, x, gradient)
            assert call.layer is not None
            buffers = tuple(tensors[buffer.name] for buffer in call.buffers)
            inputs = Operands((x,), moves[call.layer, axis], None, buffers)
            return FORWARD[call.operator](inputs) * gradient

        biases = {layer: move for (layer, axis), move in moves.items() if axis == "bias"}
        sums = {
            target: torch.zeros(2, channel_count(request, target), dtype=torch.float64)
            for target in request.targets
        }
        for found in slopes(
            request, tensors, product, biases, reads=("output", "input"), what=self.name
        ):
            for target, slope in found.items():
                sums[target] += torch.stack([slope.sum(0), slope.square().sum(0)]).cpu()
        r = self.step_size
        return {
            target: ((r * first - r**2 / 2 * second) / samples).clamp(min=0).numpy()
            for target, (first, second) in sums.items()
        }
