"""Gradients that a model makes itself, which a training program would not: refused.

`torch.export` keeps what a forward pass computes, and nothing of how it says its gradients are to
be taken: the backward of an `autograd.Function`, or a hook on a gradient. So both are looked for
before and while a model is traced. In a program exported elsewhere nothing is left to be seen.
"""

import contextlib
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.autograd.function import _SingleLevelFunction
from torch.nn.modules import module as modules
from torch.utils.checkpoint import CheckpointFunction

from costsim.base.errors import InputError
from costsim.models.tracing.names import plain_path

_MISSING: Any = object()


@contextlib.contextmanager
def own_gradients_refused(model: nn.Module) -> Iterator[None]:
    """While it holds, `model` raises `InputError` where its forward makes gradients of its own.

    Only where they would reach a parameter that is not frozen. `torch.utils.checkpoint` is none:
    its function computes what it is given, and is traced as that. `retain_grad` changes none.
    Raises it at once for hooks that are there already.
    """
    _check_hooks(model)
    watch = _Watch(model)

    def apply(function: Any, *args: Any, **kwargs: Any) -> Any:
        return watch.apply(function, *args, **kwargs)

    with (
        _replaced(_SingleLevelFunction, "apply", classmethod(apply)),
        _replaced(Tensor, "register_hook", watch.hook("register_hook")),
        _replaced(Tensor, "grad_fn", property(watch.grad_fn)),
        _replaced(
            Tensor,
            "register_post_accumulate_grad_hook",
            watch.hook("register_post_accumulate_grad_hook"),
        ),
    ):
        yield


def _check_hooks(model: nn.Module) -> None:
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not trained:
        return
    for name, parameter in trained.items():
        accumulated = getattr(parameter, "_post_accumulate_grad_hooks", None)
        if parameter._backward_hooks or accumulated:
            _refuse_hook(f"its parameter {plain_path(name)!r}")
    for path, module in model.named_modules():
        if module._backward_hooks or module._backward_pre_hooks:
            _refuse_hook(f"its module {plain_path(path)!r}" if path else "itself")
    if modules._global_backward_hooks or modules._global_backward_pre_hooks:
        _refuse_hook("every module (register_module_full_backward_hook)")


def _refuse_hook(where: str) -> NoReturn:
    raise InputError(
        f"the model has a hook on the gradients of {where}, which a training program does not run: "
        "remove it (handle.remove())"
    )


class _Watch:
    """What stands in place of torch's own while a model is traced, in the thread that does it."""

    def __init__(self, model: nn.Module) -> None:
        self._thread = threading.get_ident()
        self._names = {id(module): name for name, module in model.named_modules()}

    def _ours(self, frame: FrameType | None) -> bool:
        """Whether a call comes from the model, not from torch nor from another thread."""
        caller = "" if frame is None else str(frame.f_globals.get("__name__", ""))
        return threading.get_ident() == self._thread and caller.partition(".")[0] != "torch"

    def apply(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        """In place of `Function.apply`, however the model got hold of it."""
        if threading.get_ident() == self._thread:
            if function is CheckpointFunction:
                run, _, *inputs = args
                return run(*inputs)
            passed = (*args, *kwargs.values())
            named = function.__module__ == "torch._library.autograd"  # an operator, refused as one
            if (
                not named
                and torch.is_grad_enabled()
                and any(isinstance(item, Tensor) and item.requires_grad for item in passed)
            ):
                raise InputError(
                    f"the model computes its own gradients {self._place()}in the autograd.Function "
                    f"{function.__name__!r}, of which tracing keeps the forward alone: write it "
                    "with plain operators, take it out, or freeze (requires_grad=False) the "
                    "parameters that its gradients reach"
                )
        single: Any = super(_SingleLevelFunction, function)
        return single.apply(*args, **kwargs)

    def hook(self, name: str) -> Any:
        """In place of a method of tensors that registers a hook."""
        original = getattr(Tensor, name)

        def register(tensor: Tensor, hook: Any) -> Any:
            if tensor.requires_grad and threading.get_ident() == self._thread:
                self._refuse(f"{name}()")
            return original(tensor, hook)

        return register

    def grad_fn(self, tensor: Tensor) -> Any:
        """In place of the attribute, which is read to hook onto it."""
        found = vars(torch._C.TensorBase)["grad_fn"].__get__(tensor)
        if found is not None and self._ours(sys._getframe(1)):
            self._refuse("grad_fn")
        return found

    def _refuse(self, how: str) -> NoReturn:
        raise InputError(
            f"the model reaches for its gradients {self._place()}with {how} in its forward, which "
            "a training program does not run: take that out, or do it where the model is trained"
        )

    def _place(self) -> str:
        """The innermost module of the model that is being called."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            name = self._names.get(id(frame.f_locals.get("self")), "")
            if name:
                return f"in its module {plain_path(name)!r} "
            frame = frame.f_back
        return ""


@contextlib.contextmanager
def _replaced(owner: type, name: str, value: Any) -> Iterator[None]:
    """`owner.name` is `value` meanwhile, also where it was inherited."""
    before = owner.__dict__.get(name, _MISSING)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if before is _MISSING:
            delattr(owner, name)
        else:
            setattr(owner, name, before)
