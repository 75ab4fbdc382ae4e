"""What a YAML text says, bounded in time and memory by what it is allowed to hold.

Aliases let a few hundred bytes stand for billions of values, and nesting costs a stack. Both are
counted over the parser's events, before anything is built: an event is a few bytes of the text, so
that the count ends soon.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from costsim.base.errors import InputError, shown

MAXIMUM_DEPTH = 64
MAXIMUM_ALIASED = 10_000
"""Values that aliases may stand for, together."""

MAXIMUM_BITS = 1024
"""Of a whole number; more is beyond any float."""

EXPLAINED_BYTES = 16_384
"""Of a text that is no YAML: Python's parser is slow."""

_PARSER = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
"""libyaml's is ten times as fast; both give the same values, errors and places."""


class _Loader(_PARSER):  # type: ignore[misc, valid-type]
    """Safe YAML that takes a key given twice for the mistake it is.

    Whatever a value cannot be read as is an error at its place, tags such as `!!bool` included.
    """

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
        except (yaml.YAMLError, RecursionError):
            raise
        except Exception as error:  # what a tag trips over depends on the tag
            raise _mistake(node, f"cannot be read as {_kind(node)}") from error
        if isinstance(value, int) and value.bit_length() > MAXIMUM_BITS:
            raise _mistake(node, "the number is too large")
        return value

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict[Any, Any]:
        if not isinstance(node, yaml.MappingNode):
            raise _mistake(node, f"cannot be read as {_kind(node)}")
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise _mistake(key_node, f"key {shown(key)} is not text")
            if key in seen:
                raise _mistake(key_node, f"key {shown(key)} is given twice")
            seen.add(key)
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found


@dataclass
class _Open:
    """A collection whose end has not come: its anchor, and how many values it has so far."""

    anchor: str | None
    size: int = 1


def parse_yaml(content: str | bytes, source: str) -> Any:
    """What a YAML text says, no key given twice; `source` names it in errors (`InputError`).

    Refused are nesting beyond `MAXIMUM_DEPTH`, aliases that stand for more than `MAXIMUM_ALIASED`
    values, and an alias inside what it stands for.
    """
    try:
        _check_size(_events(content))
        return yaml.load(content, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}: " if mark else ""
        raise InputError(f"{source}: {place}{error.problem or 'is not YAML'}") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{source}: is not YAML: {reason}") from error


def _events(content: str | bytes) -> Iterator[yaml.Event]:
    """Those of libyaml's parser; where it cannot go on, Python's says better why."""
    try:
        yield from yaml.parse(content, _PARSER)
    except yaml.MarkedYAMLError:
        if len(content) <= EXPLAINED_BYTES:
            _check_size(yaml.parse(content, yaml.SafeLoader))
        raise


def _check_size(events: Iterator[yaml.Event]) -> int:
    """Raise `MarkedYAMLError` for too much; how many events were looked at."""
    sizes: dict[str, int] = {}
    opened = [_Open(None)]
    aliased = looked_at = 0
    for event in events:
        looked_at += 1
        size = 0
        if isinstance(event, yaml.AliasEvent):
            if any(one.anchor == event.anchor for one in opened):
                raise _mistake(event, f"alias {shown(event.anchor)} is inside what it stands for")
            if event.anchor not in sizes:
                raise _mistake(event, f"alias {shown(event.anchor)} stands for nothing above it")
            size = sizes[event.anchor]
            aliased += size
            if aliased > MAXIMUM_ALIASED:
                raise _mistake(event, f"aliases stand for more than {MAXIMUM_ALIASED:,} values")
        elif isinstance(event, yaml.CollectionStartEvent):
            opened.append(_Open(event.anchor))
            if len(opened) > MAXIMUM_DEPTH + 1:
                raise _mistake(event, f"is nested deeper than {MAXIMUM_DEPTH} levels")
        elif isinstance(event, yaml.CollectionEndEvent):
            ended = opened.pop()
            size = ended.size
            if ended.anchor is not None:
                sizes[ended.anchor] = size
        elif isinstance(event, yaml.ScalarEvent):
            size = 1
            if event.anchor is not None:
                sizes[event.anchor] = 1
        opened[-1].size += size
    return looked_at


def _mistake(at: Any, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=at.start_mark)


def _kind(node: yaml.Node) -> str:
    kinds = {"int": "a whole number", "float": "a number", "bool": "true or false",
             "map": "a mapping", "seq": "a list", "timestamp": "a date"}  # fmt: skip
    name = str(node.tag).rpartition(":")[2]
    return kinds.get(name, shown(node.tag))


__all__ = ["MAXIMUM_ALIASED", "MAXIMUM_DEPTH", "parse_yaml"]
