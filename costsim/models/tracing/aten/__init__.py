"""What each aten operator is in terms of `costsim.ir.operators`: one function an operator.

The empty decomposition table of `torch.export` leaves these whole.
"""

from collections.abc import Mapping

from costsim.models.tracing.aten import (
    elementwise,
    layout,
    normalization,
    passing,
    pooling,
    products,
    sampling,
)
from costsim.models.tracing.aten.common import Handler
from costsim.models.tracing.aten.passing import PASSED_THROUGH

HANDLERS: Mapping[str, Handler] = {
    **passing.HANDLERS,
    **products.HANDLERS,
    **normalization.HANDLERS,
    **elementwise.HANDLERS,
    **pooling.HANDLERS,
    **layout.HANDLERS,
    **sampling.HANDLERS,
}
"""By the name of the operator's overload, as `str(node.target)` writes it."""

__all__ = ["HANDLERS", "PASSED_THROUGH", "Handler"]
