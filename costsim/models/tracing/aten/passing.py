"""Operators that hand on what they are given."""

from collections.abc import Mapping
from typing import Any

from costsim.models.tracing.aten.common import Handler, Result
from costsim.models.tracing.builder import Builder, Handle


def passed_through(b: Builder, x: Handle, *_: Any) -> Result:
    return x


def to_same_type(b: Builder, x: Handle, *_: Any) -> Result:
    assert b.node is not None
    before = b.node.all_input_nodes[0].meta["val"].dtype
    after = b.node.meta["val"].dtype
    whole = b.are_tokens(x) and not (before.is_floating_point and after.is_floating_point)
    if before != after and not whole:
        b.unsupported(f"from {before} to {after}; only conversions to the same type are")
    return x


def dropout(b: Builder, x: Handle, probability: float, train: bool) -> Result:
    if train and probability:
        b.unsupported(
            "where it is on: functional.dropout needs training=self.training, "
            "an exported program model.eval() before exporting"
        )
    return x


PASSED_THROUGH = frozenset(
    {
        "aten.alias.default",
        "aten.clone.default",
        "aten.contiguous.default",
        "aten.detach.default",
        "aten.detach_.default",
        "aten.lift_fresh_copy.default",
    }
)
"""Operators that hand on the value they are given."""

HANDLERS: Mapping[str, Handler] = {
    **dict.fromkeys(PASSED_THROUGH, passed_through),
    "aten._to_copy.default": to_same_type,
    "aten.to.dtype": to_same_type,
    "aten.to.dtype_layout": to_same_type,
    "aten.to.device": to_same_type,
    "aten.dropout.default": dropout,
    "aten.feature_dropout.default": dropout,
    "aten.native_dropout.default": lambda b, *arguments: [dropout(b, *arguments), None],
}
