"""A model that trains only what a plan selects, as an ordinary module."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from costsim.base.errors import InputError
from costsim.base.units import counted
from costsim.ir.plan import UpdatePlan
from costsim.ir.program import TrainingProgram, compile_program, plan_atoms
from costsim.ir.step import BitWidths, TrainingStep
from costsim.models.folding import fold_batch_norm
from costsim.models.inputs import input_shape_of, says_its_images
from costsim.models.outputs import as_given, one_output, output_of
from costsim.models.tokens import taking_tokens, whole_numbers_in
from costsim.models.tracing import capture, check_example
from costsim.run.native import Backend
from costsim.run.native.backend import check_backend
from costsim.run.sparse.compact import Branch, CompactParameter, path_of, synchronise
from costsim.run.sparse.function import ProgramFunction, ProgramPass
from costsim.run.sparse.plan_match import check_planned
from costsim.solving.planfile import PlanFile, read_plan


def sparsify(
    model: nn.Module,
    plan: UpdatePlan | PlanFile | Path | str,
    example_input: Tensor | None = None,
    *,
    recompute: tuple[str, ...] | None = None,
    output: str | None = None,
    backend: Backend = "torch",
) -> "SparseModule":
    """A module that computes what `model` does and trains only what `plan` selects.

    `plan` is a plan, a plan file or the path of one. `example_input` is a batch `[N, ...]`; a plan
    file, or what the model says of its images itself, stands in for it
    (`costsim.models.inputs`). `output` names which of several tensors that the model returns is
    trained, see `costsim.models.outputs`: the module returns that one alone.
    `recompute` names the calls that end segments of the forward pass to be computed again rather
    than kept, as `TrainingStep` has it; None is what the plan file says. `model` is not copied:
    training writes to its selected weights; but for a plan whose batch norms were folded into the
    weights before them, which is of such a copy: `dense()` gives it. With `backend` "native" the
    program runs by kernels compiled for this machine, where there are some for it; where not, torch
    runs it and that is said. Between forward and backward the whole arena is held then.

    Raises `InputError` for a model in training mode or one that cannot be traced, for one that
    makes gradients of its own (an `autograd.Function`, a hook on a gradient), and for a plan that
    selects nothing, or something that the model does not have or its author froze, or that was
    made for another architecture or input size.
    """
    if not isinstance(plan, str | Path):
        return _sparsify(model, plan, example_input, recompute, output, backend)
    try:
        return _sparsify(model, read_plan(Path(plan)), example_input, recompute, output, backend)
    except InputError as error:
        named = str(error).startswith(str(plan))
        raise error if named else InputError(f"{plan}: {error}") from error


def _sparsify(
    model: nn.Module,
    given: UpdatePlan | PlanFile,
    example_input: Tensor | None,
    recompute: tuple[str, ...] | None,
    output: str | None,
    backend: Backend,
) -> "SparseModule":
    check_backend(backend)
    file = given if isinstance(given, PlanFile) else None
    plan = given.plan if isinstance(given, PlanFile) else given
    if not plan.subsets and not plan.biases:
        raise InputError("the plan selects nothing to update")
    shape: tuple[int, ...]
    if example_input is not None:
        check_example(example_input)
        shape = tuple(example_input.shape)
    else:
        said = says_its_images(model)
        if file is None and not said:
            raise InputError("an example_input is needed: nothing says what the model takes")
        shape = (1, *input_shape_of(model, file.model.resolution if file else None))
    if file is not None:
        shape = (file.step.samples_a_pass, *shape[1:])
        recompute = file.step.recompute if recompute is None else recompute
    like = next((t for t in model.parameters() if t.is_floating_point()), torch.empty(0))
    if output is None and file is not None:
        output = output_of(file.model.spec)
    if example_input is not None and not example_input.is_floating_point():
        model = whole_numbers_in(model)
    model = taking_tokens(model)
    model = one_output(model, like.new_zeros((1, *shape[1:])), output)
    if file is not None and file.model.folds_batch_norm:
        model = fold_batch_norm(model, like.new_zeros((1, *shape[1:]))).module
    module = SparseModule(model, plan, shape, recompute or (), backend)
    if file is not None:
        check_planned(file, module.program().graph)
    return module


class SparseModule(nn.Module):
    """A model behind its training program; made by `sparsify`.

    **Training** (`train()`, the state it starts in, with gradients enabled): the program runs in
    place of the model, compiled once for each shape of input. The output is an ordinary tensor
    for any loss; autograd sees one node, whose buffers are released as the program says. The
    parameters hold the selected channels and biases alone, named `selected.` and then as in the
    model; an optimizer updates, decays and keeps state for nothing else. They are written into
    the model before the next forward, and before anything is saved.

    **Otherwise** (`eval()`, or without gradients) the model itself runs, at any batch size, and
    nothing is kept; the output has no gradient then.

    Known limits. The model stays in evaluation mode: batch norm uses its statistics and does not
    change them, dropout is off. While training, hooks of the model do not run: what a forward hook
    computes is in the program, and hooks on gradients are refused. The input gets no
    gradient: one that requires it is refused. Each forward goes backward at most once. Everything
    is computed in the type of the weights: under autocast the input is converted to it and the
    output has it; only the model itself, when it runs, is cast as autocast likes. Change and move
    the model through this module: `load_state_dict`, `state_dict`, `to` and the like are the
    model's own.
    """

    _model: nn.Module

    def __init__(
        self,
        model: nn.Module,
        plan: UpdatePlan,
        input_shape: tuple[int, ...],
        recompute: tuple[str, ...] = (),
        backend: Backend = "torch",
    ) -> None:
        super().__init__()
        self.plan, self.input_shape, self.recompute = plan, input_shape, recompute
        self.backend: Backend = backend
        self.selected = Branch()
        # Not a submodule: its parameters are not what is trained.
        self.__dict__["_model"] = model
        self._forget()
        executor = self._pass_for(input_shape).executor
        self._paths: list[str] = []
        for atom, selection in executor.selections.items():
            layer = executor.graph.layers[atom[1]]
            owner = layer.bias if atom[0] == "bias" else layer.weight
            assert owner is not None
            part = selection.read(executor.parameter(atom).detach()).clone()
            self._paths.append(path_of(owner.name))
            self.selected.add(self._paths[-1], nn.Parameter(part))
        self._bind()

    def forward(self, x: Tensor) -> Tensor:
        """`[N, ...]` to the model's output.

        Raises `InputError` for an input that requires a gradient, or that the model, traced again
        for its shape, cannot take; `RuntimeError` where weights changed behind this module.
        """
        self.sync()
        parameters = [compact.parameter for compact in self._compact]
        if not x.is_floating_point():  # tokens
            x = x.to(parameters[0].dtype)
        wanted = any(parameter.requires_grad for parameter in parameters)
        if not (self.training and torch.is_grad_enabled() and wanted):
            with torch.no_grad():
                output: Tensor = self._model(x)
            return output
        if x.requires_grad:
            raise InputError(
                "the input requires a gradient, which a sparse module does not give; detach it"
            )
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(parameters[0].dtype)
        run = self._pass_for(tuple(x.shape))
        output = ProgramFunction.apply(run, x, *parameters)  # type: ignore[no-untyped-call]
        return output

    def dense(self) -> nn.Module:
        """The model itself, with the weights as trained so far."""
        self.sync()
        return as_given(self._model)

    def program(self, input_shape: tuple[int, ...] | None = None) -> TrainingProgram:
        """The program that runs for inputs of a shape: that of the example without one."""
        return self._pass_for(input_shape or self.input_shape).program

    def sync(self) -> None:
        """Write the parameters into the model where they changed.

        If it was the model that changed, in place, they are read from it instead. Raises
        `RuntimeError` if both did, or if the model's tensors are no longer the same.
        """
        if not self._compact:
            self._bind()
        elif any(
            (tensor := owner.get(key)) is not known or tensor.data_ptr() != address
            for owner, key, known, address in self._known
        ):
            raise RuntimeError(
                "the model's tensors were replaced or moved; do that through the sparse module"
            )
        synchronise(self._compact)
        if any(module.training for module in self._modules_within):
            self._model.eval()

    def sparse_state_dict(self) -> dict[str, Tensor]:
        """The trained part alone: parameter names of the model to compact tensors."""
        return {path: self.selected.get_parameter(path).detach() for path in self._paths}

    def load_sparse_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """What `sparse_state_dict` gave, of a module with the same plan.

        Raises `InputError` for a name that is missing or unknown, or another shape, before
        anything is changed.
        """
        own = self.sparse_state_dict()
        for name in own.keys() | state.keys():
            if name not in state or name not in own:
                where = "is not in the plan" if name in state else "is missing"
                raise InputError(f"the sparse state: {name!r} {where}")
            if state[name].shape != own[name].shape:
                raise InputError(
                    f"the sparse state: {name!r} is {tuple(state[name].shape)}; "
                    f"the plan selects {tuple(own[name].shape)}"
                )
        for name, tensor in own.items():
            tensor.copy_(state[name])

    def extra_repr(self) -> str:
        """What the plan selects, in a few words."""
        channels = sum(len(subset.channels) for subset in self.plan.subsets)
        return (
            f"{type(self._model).__name__}: {counted(channels, 'channel')} in "
            f"{counted(len(self.plan.subsets), 'layer')}, "
            f"{counted(len(self.plan.biases), 'bias', 'biases')}"
        )

    # Programs, and the model's tensors that they run on.

    def _forget(self) -> None:
        self._passes: dict[tuple[int, ...], ProgramPass] = {}
        self._compact: tuple[CompactParameter, ...] = ()
        self._known: tuple[tuple[dict[str, Any], str, Tensor, int], ...] = ()
        self._modules_within: tuple[nn.Module, ...] = ()

    @torch.inference_mode(False)
    @torch.no_grad()
    def _bind(self, *, pull: bool = False) -> None:
        """Tie the parameters to the model as it is now; `pull` where the model's values count."""
        executor = self._pass_for(self.input_shape).executor
        compact = []
        for path, (atom, selection) in zip(self._paths, executor.selections.items(), strict=True):
            parameter, dense = self.selected.get_parameter(path), executor.parameter(atom)
            if pull:
                parameter.copy_(selection.read(dense))
            compact.append(
                CompactParameter(parameter, dense, selection)
            )  # writes where they differ
        for part in compact:
            part.note()
        self._compact = tuple(compact)
        self._modules_within = tuple(self._model.modules())
        self._known = tuple(
            (owner, key, tensor, tensor.data_ptr())
            for module in self._modules_within
            for owner in (module._parameters, module._buffers)
            for key, tensor in owner.items()
            if tensor is not None
        )

    @torch.inference_mode(False)
    def _pass_for(self, shape: tuple[int, ...]) -> ProgramPass:
        if shape not in self._passes:
            tensors = (*self._model.parameters(), *self._model.buffers())
            like = next((t for t in tensors if t.is_floating_point()), torch.empty(0))
            with torch.autocast(like.device.type, enabled=False):
                traced = capture(self._model, torch.zeros_like(like).new_zeros(shape))
            bits = 8 * like.element_size()
            step = TrainingStep(
                batch=shape[0],
                update="deferred",
                bits=BitWidths(bits, bits, bits, bits),
                recompute=self.recompute,
            )
            self._passes[shape] = ProgramPass(
                compile_program(traced.graph, self.plan, step),
                traced.tensors,
                tuple(plan_atoms(self.plan)),
                self.backend,
            )
        return self._passes[shape]

    # What torch does to modules.

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        if self._compact:
            self.sync()
        self._model._apply(fn)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._forget()
        return self

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        self.sync()
        self._model.state_dict(destination=destination, prefix=prefix, keep_vars=keep_vars)

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Mapping[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        inside = OrderedDict(
            (key.removeprefix(prefix), value)
            for key, value in state_dict.items()
            if key.startswith(prefix)
        )
        assign = bool(local_metadata.get("assign_to_params_buffers", False))
        self.sync()
        try:
            found = self._model.load_state_dict(inside, strict=False, assign=assign)
        except RuntimeError as error:
            error_msgs.append(str(error))
        else:
            missing_keys += [prefix + key for key in found.missing_keys]
            unexpected_keys += [prefix + key for key in found.unexpected_keys]
        self._forget()
        self._bind(pull=True)

    def __getstate__(self) -> dict[str, Any]:
        """Without programs: a copy traces and compiles its own."""
        if self._compact:
            self.sync()
        return {**self.__dict__, "_passes": {}, "_compact": (), "_known": (), "_modules_within": ()}
