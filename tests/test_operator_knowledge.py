"""One place knows an operator: others ask its methods, or have a table of functions, one a class.

The syntax trees are read for tests of an operator's kind or class. They belong in the operators
themselves and in the tracer, which makes them; what the tables that run, emit and account for
operators still ask by name is listed here, and the list may only shrink.
"""

import ast
import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from costsim.base.errors import UnsupportedOperator
from costsim.c.emission import forward as emitted
from costsim.c.emission.support import check_emitted
from costsim.ir.graph import Call, LayerGraph
from costsim.ir.operators import OPERATORS, WORK_KINDS, Input, LeakyReLU, Operator, ReLU
from costsim.ir.operators.activation import Activation, Masked
from costsim.ir.operators.reading import Reading

ROOT = Path(__file__).parents[1]
FREE = ("costsim/ir/operators/", "costsim/models/tracing/")
"""Where operators are told apart."""

ALLOWED: Mapping[str, int] = {
    # Convolutions have kernels of their own, chosen before the first step.
    "costsim/run/execution/backward_pass.py": 2,
    "costsim/run/execution/forward_pass.py": 2,
    "costsim/run/execution/layout.py": 2,
    # Whose output is in 8 bits as its input is.
    "costsim/c/emission/published_scales.py": 4,
    "costsim/c/emission/quantization.py": 1,
    # The definition of 8-bit arithmetic, and the windows that it reads.
    "costsim/c/emission/reference.py": 15,
    "costsim/c/emission/windows.py": 2,
    # What torch makes a view of, and the convolutions that a paper numbers.
    "costsim/pricing/accounting/autograd.py": 1,
    "costsim/pricing/accounting/sparse_update.py": 1,
}
"""Tests of a kind or a class that are left, by file."""

AMBIGUOUS = frozenset({"input", "output", "bias"})
"""Kinds that are also what an update plan may name."""


def classes() -> frozenset[str]:
    """The names of all classes of operators, abstract ones too."""
    found, waiting = set(), [Operator]
    while waiting:
        one = waiting.pop()
        found.add(one.__name__)
        waiting += [c for c in one.__subclasses__() if c.__module__.startswith("costsim.")]
    return frozenset(found)


class Finder(ast.NodeVisitor):
    """The lines of one file that ask for an operator's kind or class."""

    def __init__(self, tree: ast.Module) -> None:
        self.found: list[int] = []
        self.names: set[str] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
                "costsim.ir.operators"
            ):
                named = {alias.asname or alias.name: alias.name for alias in node.names}
                self.names |= {bound for bound, name in named.items() if name in classes()}
        self.visit(tree)

    def is_class(self, node: ast.AST) -> bool:
        """Whether an expression is a class of operators, or holds some."""
        match node:
            case ast.Name(id=name):
                return name in self.names
            case ast.Attribute(value=ast.Name(id="operators"), attr=name):
                return name in classes()
            case ast.Tuple(elts=parts) | ast.List(elts=parts) | ast.Set(elts=parts):
                return any(map(self.is_class, parts))
            case ast.BinOp(left=left, op=ast.BitOr(), right=right):
                return self.is_class(left) or self.is_class(right)
        return False

    def kinds(self, node: ast.AST) -> set[str]:
        """The kinds of operators that a literal is or holds."""
        match node:
            case ast.Constant(value=str() as text):
                return {text} & OPERATORS.keys()
            case ast.Tuple(elts=parts) | ast.List(elts=parts) | ast.Set(elts=parts):
                return {kind for part in parts for kind in self.kinds(part)}
            case ast.Dict(keys=keys):
                return {kind for key in keys if key for kind in self.kinds(key)}
        return set()

    def is_kind(self, node: ast.AST, against: set[str]) -> bool:
        """Whether an expression is the kind of an operator, given what it is compared with."""
        match node:
            case ast.Attribute(value=ast.Attribute(attr="operator"), attr="kind"):
                return True
            case ast.Attribute(value=ast.Name(id="o" | "operator"), attr="kind"):
                return True
            case ast.Attribute(attr="kind"):
                return bool(against)
            case ast.Name(id="kind"):
                return bool(against - AMBIGUOUS)
        return False

    def visit_Compare(self, node: ast.Compare) -> None:
        sides = [node.left, *node.comparators]
        against = {kind for side in sides for kind in self.kinds(side)}
        if any(self.is_kind(side, against) or self.is_class(side) for side in sides):
            self.found.append(node.lineno)
        else:
            self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        match node:
            case ast.Call(func=ast.Name(id="isinstance" | "issubclass"), args=[_, asked]) if (
                self.is_class(asked)
            ):
                self.found.append(node.lineno)
            case _:
                self.generic_visit(node)

    def visit_Match(self, node: ast.Match) -> None:
        for case in node.cases:
            for part in ast.walk(case.pattern):
                match part:
                    case ast.MatchClass() if self.is_class(part.cls):
                        self.found.append(part.lineno)
                    case ast.MatchValue() if self.is_kind(node.subject, self.kinds(part.value)):
                        self.found.append(part.lineno)
        self.generic_visit(node)

    def _collection(self, node: ast.expr, parts: list[ast.expr]) -> None:
        named = [part for part in parts if isinstance(part, ast.Constant)]
        kinds = self.kinds(node)
        if {part.value for part in named} & set(WORK_KINDS) - OPERATORS.keys():
            kinds = set()  # a device's kinds of work
        many = len(kinds) >= 2 and 2 * len(kinds) > len(named) and bool(kinds - AMBIGUOUS)
        if many or sum(map(self.is_class, parts)) >= 2:
            self.found.append(node.lineno)
        else:
            self.generic_visit(node)

    def visit_Tuple(self, node: ast.Tuple) -> None:
        self._collection(node, node.elts)

    def visit_List(self, node: ast.List) -> None:
        self._collection(node, node.elts)

    def visit_Set(self, node: ast.Set) -> None:
        self._collection(node, node.elts)

    def visit_Dict(self, node: ast.Dict) -> None:
        self._collection(node, [key for key in node.keys if key is not None])


def asked(source: str) -> list[int]:
    """The lines of a source that ask for an operator's kind or class."""
    return Finder(ast.parse(source)).found


@cache
def all_asked() -> Mapping[str, list[int]]:
    """By file of the library, where any line asks."""
    found = {}
    for folder in ("costsim", "solvers"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            name = file.relative_to(ROOT).as_posix()
            if not name.startswith(FREE) and (lines := asked(file.read_text(encoding="utf-8"))):
                found[name] = lines
    return found


def test_operators_are_asked_and_not_told_apart() -> None:
    more = {name: lines for name, lines in all_asked().items() if len(lines) > ALLOWED.get(name, 0)}
    assert not more, "ask a method of the operator, or fill a `Reading`"


def test_the_list_of_what_is_left_only_shrinks() -> None:
    fewer = {name: n for name, n in ALLOWED.items() if len(all_asked().get(name, ())) < n}
    assert not fewer, "well done: lower the numbers in `ALLOWED`"


IMPORT = "from costsim.ir.operators import Convolution, Linear, ReLU\n"


@pytest.mark.parametrize(
    "line",
    [
        'call.operator.kind == "convolution"',
        '"convolution" != o.kind',
        'kind in ("convolution", "linear")',
        'kind == "linear"',
        "call.operator.kind in KINDS",
        'call.operator.kind not in {"input"}',
        "isinstance(o, Convolution)",
        "isinstance(call.operator, Convolution | Linear)",
        "isinstance(o, (str, Linear))",
        "issubclass(found, ReLU)",
        "type(o) is Convolution",
        "type(o) in (Convolution, Linear)",
        'KINDS = frozenset({"convolution", "linear"})',
        'KINDS = ["convolution", "linear", "relu"]',
        'TABLE = {"convolution": 1, "linear": 2}',
        "CLASSES = (Convolution, Linear)",
        "TABLE = {Convolution: 1, Linear: 2}",
        'match o.kind:\n    case "relu":\n        pass',
        'match call.operator.kind:\n    case "relu" | "clamp":\n        pass',
        "match o:\n    case Convolution():\n        pass",
        "match call:\n    case Call(operator=Convolution()):\n        pass",
    ],
)
def test_every_way_to_ask_is_seen(line: str) -> None:
    assert asked(IMPORT + line)


@pytest.mark.parametrize(
    "line",
    [
        "o = Convolution((1, 1), (0, 0), (1, 1), 1)",
        "def read(o: Convolution) -> None: ...",
        "@TABLE.of(Convolution, Linear)\ndef read(o: Convolution) -> None: ...",
        'kind == "input"',
        'axis in ("output", "input")',
        'point.kind == "frontier"',
        "call.operator.source is None",
        "isinstance(found, str)",
        'SHARES = {"convolution": 1, "depthwise_convolution": 2, "linear": 3}',
    ],
)
def test_nothing_else_is_taken_for_asking(line: str) -> None:
    assert not asked(IMPORT + line)


# Readings: which operators each table must have.


def kinds(holds: Callable[[type[Operator]], bool]) -> frozenset[str]:
    """The kinds of the operators that something holds for."""
    return frozenset(kind for kind, operator in OPERATORS.items() if holds(operator))


ALL = frozenset(OPERATORS)
GIVEN = kinds(lambda o: o.source is not None)
SAMPLE = kinds(lambda o: o.source == "sample")
VIEWS = kinds(lambda o: o.is_view)
MASKED = kinds(lambda o: issubclass(o, Masked))
SAVING = kinds(lambda o: o.saved is not Operator.saved)
WEIGHTED = kinds(lambda o: o.selectable_channels is not Operator.selectable_channels)
OVERWRITING = kinds(lambda o: bool(o.overwritable_inputs))
APART = frozenset({"convolution"})
"""What `costsim.run.execution.convolution` does, whose kernels are chosen before the first step."""
IN_C = frozenset(ALL - SAMPLE - emitted.NO_KERNEL.keys())
POOLS = {"max_pool", "average_pool", "adaptive_average_pool"}
NARROW = frozenset({"input", "convolution", "linear", "relu", "clamp", "reshape", "add", "mean"})
NARROW |= POOLS
IN_NATIVE = frozenset({"convolution", "linear", "relu", "clamp", "mean"})
"""What has native kernels; torch runs the others in the same arena."""

READINGS: Mapping[str, frozenset[str]] = {
    "costsim.pricing.accounting.autograd.SAVED": ALL,
    "costsim.run.execution.forward.FORWARD": ALL - SAMPLE,
    "costsim.run.execution.input_gradient.INPUT_GRADIENT": ALL - GIVEN - VIEWS - MASKED - APART,
    "costsim.run.execution.weight_gradient.WEIGHT_GRADIENT": WEIGHTED - APART,
    "costsim.run.execution.masks.PASSES": MASKED,
    "costsim.run.execution.masks.SLOPES": MASKED,
    "costsim.run.execution.in_place.IN_PLACE": OVERWRITING,
    "costsim.run.execution.saved_values.SAVING": SAVING - MASKED,
    # C is optional.
    "costsim.c.emission.forward.NO_KERNEL": ALL - SAMPLE - emitted.FORWARD.keys(),
    "costsim.c.emission.forward.FORWARD": IN_C,
    "costsim.c.emission.input_gradient.INPUT_GRADIENT": IN_C - GIVEN - VIEWS,
    "costsim.c.emission.weight_gradient.WEIGHT_GRADIENT": IN_C & WEIGHTED,
    "costsim.c.emission.arguments.ACTIVATION": IN_C
    & kinds(lambda o: issubclass(o, Activation)) - {"softmax", "log_softmax"},
    "costsim.c.native.forward.FORWARD": IN_NATIVE | frozenset({"add"}),
    "costsim.c.native.input_gradient.INPUT_GRADIENT": IN_NATIVE,
    "costsim.c.native.weight_gradient.WEIGHT_GRADIENT": frozenset({"convolution", "linear"}),
    "costsim.c.emission.quantization.QUANTISED": NARROW,
    "costsim.c.emission.quantization.CLIPPED": frozenset({"relu", "clamp"}),
    "costsim.c.emission.quantised_writer.QUANTISED_FORWARD": NARROW - GIVEN - VIEWS,
    "costsim.c.emission.quantised_writer.BOUNDS": frozenset({"relu", "clamp"}),
    "costsim.c.emission.quantised_writer.WINDOW": frozenset({"convolution", "linear"}),
}
"""Every table of the library, and the kinds that it has."""


@cache
def readings() -> Mapping[str, Reading[..., object]]:
    """Every table of operators by where it is defined."""
    found: dict[str, Reading[..., object]] = {}
    for file in sorted((ROOT / "costsim").rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        for name in re.findall(r"^(\w+): Reading\[", text, re.MULTILINE):
            module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
            found[f"{module}.{name}"] = getattr(importlib.import_module(module), name)
    return found


def test_every_reading_is_known() -> None:
    assert readings().keys() == READINGS.keys()


@pytest.mark.parametrize("name", READINGS)
def test_a_reading_has_every_operator_it_must(name: str) -> None:
    assert readings()[name].keys() == READINGS[name]


def test_an_operator_without_a_kernel_has_none() -> None:
    assert not emitted.NO_KERNEL.keys() & emitted.FORWARD.keys()


def test_operators_are_named_by_their_kind() -> None:
    for kind, operator in OPERATORS.items():
        assert operator.kind == kind
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", kind)
    assert len(set(WORK_KINDS)) == len(WORK_KINDS)


@dataclass(frozen=True, slots=True)
class Desktop(Activation):
    """An operator that PyTorch alone runs."""

    kind = "desktop"


def with_desktop() -> LayerGraph:
    x = Call("x", Input((1, 2)), (), (1, 2))
    return LayerGraph([x, Call("y", Desktop(), ("x",), (1, 2))])


def test_c_is_optional_and_its_lack_is_said_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(UnsupportedOperator, match="'desktop' has no C kernel; there are kernels"):
        check_emitted(with_desktop())
    reason: Reading[[], str] = Reading("reason")
    reason.of(Desktop)(lambda _o: "no board has room for it")
    monkeypatch.setattr("costsim.c.emission.support.NO_KERNEL", reason)
    with pytest.raises(UnsupportedOperator, match=r"'y'.*'desktop'.*\(no board has room for it\)"):
        check_emitted(with_desktop())


def test_a_reading_gives_the_function_of_the_class() -> None:
    table: Reading[[int], str] = Reading("word")

    @table.of(ReLU)
    def _relu(o: ReLU, n: int) -> str:
        return f"{o.kind} {n}"

    assert table[ReLU()](3) == "relu 3"
    assert ReLU() in table
    assert Desktop() not in table
    with pytest.raises(UnsupportedOperator, match="'desktop' has no word; there is one of relu"):
        _ = table[Desktop()]
    with pytest.raises(ValueError, match="'relu' has two of word"):
        table.of(ReLU)(_relu)


def test_a_reading_has_a_function_for_all_of_a_class_but_those_with_their_own() -> None:
    table: Reading[[], str] = Reading("word")
    table.of(Masked)(lambda _o: "masked")
    table.of(ReLU)(lambda _o: "its own")
    assert (table[ReLU()](), table[LeakyReLU(0.1)]()) == ("its own", "masked")
    assert Desktop() not in table
    assert table.keys() == MASKED
    table.of(Activation)(lambda _o: "any")
    assert (table[Desktop()](), table[LeakyReLU(0.1)](), table[ReLU()]()) == (
        "any", "masked", "its own"
    )  # fmt: skip


def kinds_written(file: Path) -> dict[str, str]:
    """The classes of a file that say their kind."""
    return {
        part.name: line.value.value
        for part in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(part, ast.ClassDef)
        for line in part.body
        if isinstance(line, ast.Assign)
        and [target.id for target in line.targets if isinstance(target, ast.Name)] == ["kind"]
        and isinstance(line.value, ast.Constant)
        and isinstance(line.value.value, str)
    }


def test_every_class_that_says_its_kind_is_found() -> None:
    written: dict[str, str] = {}
    for file in sorted((ROOT / "costsim/ir/operators").glob("*.py")):
        written |= kinds_written(file)
    assert {one.__name__: kind for kind, one in OPERATORS.items()} == written


def test_no_kind_is_derived_from_another() -> None:
    """It would be read as that one wherever it has nothing of its own."""
    for operator in OPERATORS.values():
        assert not [one for one in operator.__mro__[1:] if "kind" in vars(one)], operator


MISSPELT = """
from costsim.ir.operators import Convolution, Linear
from costsim.ir.operators.reading import Reading

TABLE: Reading[[int], int] = Reading("number")

@TABLE.of(Convolution)
def _right(o: Convolution, n: int) -> int:
    return o.stride[0] + n

@TABLE.of(Convolution)
def _misspelt(o: Convolution, n: int) -> int:
    return o.strides[0] + n  # wrong

@TABLE.of(Linear)  # wrong
def _other(o: Convolution, n: int) -> int:
    return o.stride[0] + n

TABLE.of(Convolution)(lambda o, n: o.kernal)  # wrong
TABLE.of(Convolution)(lambda o, n: o.groups)
"""


@pytest.mark.slow
def test_a_misspelt_attribute_is_an_error_before_anything_runs(tmp_path: Path) -> None:
    from mypy import api

    (tmp_path / "case.py").write_text(MISSPELT, encoding="utf-8")
    options = ["--strict", "--no-incremental", "--config-file", str(ROOT / "pyproject.toml")]
    told, _, _ = api.run([*options, str(tmp_path / "case.py")])
    lines = {int(line.split(":")[1]) for line in told.splitlines() if ": error:" in line}
    wrong = enumerate(MISSPELT.splitlines(), start=1)
    assert lines == {number for number, text in wrong if text.endswith("# wrong")}
