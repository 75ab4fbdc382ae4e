"""Readable, unique names of calls."""

from collections import Counter
from collections.abc import Iterable

from torch.fx import Node


def plain_path(path: str) -> str:
    """The path of a module or tensor without what `torch.compile` puts into it.

    So that a plan for a model is one for the compiled model too.
    """
    return ".".join(part for part in path.split(".") if part != "_orig_mod")


def owner_of(parameter: str, suffix: str) -> str:
    """The name an update plan knows a parameter's layer by.

    `blocks.0.conv.weight` belongs to `blocks.0.conv`, `attn.in_proj_weight` to `attn.in_proj`, a
    parameter named otherwise to itself. Of a part, `attn.in_proj_weight[0:8]`, the layer is
    `attn.in_proj[0:8]`; a transpose belongs where the parameter does.
    """
    whole, bracket, part = parameter.removesuffix(".T").partition("[")
    return (whole.removesuffix(suffix).rstrip("._") or whole) + bracket + part


def module_stack(node: Node) -> list[tuple[str, str]]:
    """(call key, path) of the modules that `node` sits in, outermost first.

    The call key tells the calls of a reused module apart.
    """
    stack = node.meta.get("nn_module_stack") or {}
    return [(key, plain_path(entry[0])) for key, entry in stack.items()]


class Namer:
    """Names calls: by the weight's owner, else the module, with the operator if it has several."""

    def __init__(self, calls: Iterable[tuple[Node | None, str | None]]) -> None:
        self._used: Counter[str] = Counter()
        self._taken: set[str] = set()
        self._inside: Counter[str] = Counter()
        self._parents: set[str] = set()
        for node, owner in calls:
            if node is None:
                continue
            stack = module_stack(node)
            if owner is not None:
                self._add_parents(owner)
            if stack:
                key, path = stack[-1]
                self._inside[key] += 1
                self._add_parents(path)

    def _add_parents(self, path: str) -> None:
        parts = path.split(".")
        self._parents |= {".".join(parts[:depth]) for depth in range(len(parts))}

    def name(self, base: str) -> str:
        """`base`, or `base#2`, `base#3`, ... for later calls."""
        while True:
            self._used[base] += 1
            count = self._used[base]
            name = base if count == 1 else f"{base}#{count}"
            if name not in self._taken:
                self._taken.add(name)
                return name

    def call_name(self, node: Node | None, kind: str) -> str:
        """A name for a call that owns no tensor."""
        stack = module_stack(node) if node is not None else []
        if not stack:
            return self.name(kind)
        key, path = stack[-1]
        if path and path not in self._parents and self._inside[key] == 1:
            return self.name(path)
        return self.name(f"{path}.{kind}" if path else kind)
