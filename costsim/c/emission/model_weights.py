"""The weights of an emitted step as arrays of constants."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from costsim.c.emission.memory import Memory
from costsim.c.emission.model_source import initial_symbol
from costsim.c.emission.text import array, comment


def weights_text(memory: Memory, tensors: Mapping[str, NDArray[Any]]) -> str:
    """`costsim_weights.c`: what of `tensors` stays as it is, and what updates start from."""
    parts = ["/* Weights. What is updated is here as it is at the start. */\n#include <stdint.h>\n"]

    def add(what: str, symbol: str, parameter: str, places: NDArray[np.int64]) -> None:
        c_type = memory.c_type(parameter)
        declared = f"extern const {c_type} {symbol}[{len(places)}];\n"
        parts.append(f"\n/* {comment(what)} */\n{declared}")
        parts.append(array(c_type, symbol, tensors[parameter].reshape(-1)[places]))

    for name, places in memory.frozen.items():
        add(name, memory.symbol(name), name, places)
    for i, update in enumerate(memory.updates):
        name = update.parameter.name
        add(f"{name}, {update.atom[0]}: updated", initial_symbol(i), name, update.places)
    return "".join(parts)
