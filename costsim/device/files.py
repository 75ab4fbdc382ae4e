"""Finding and reading device files."""

from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from costsim.base.errors import InputError
from costsim.device.spec import DeviceSpec

SUFFIX = ".yaml"


class _Loader(yaml.SafeLoader):
    """Safe YAML that takes a key given twice for the mistake it is."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.MarkedYAMLError(
                    problem=f"key {key!r} is not text", problem_mark=key_node.start_mark
                )
            if key in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"key {key!r} is given twice", problem_mark=key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def shipped_devices() -> tuple[str, ...]:
    """Names of the devices that come with the package, in alphabetical order."""
    files = resources.files("costsim.devices").iterdir()
    return tuple(sorted(f.name.removesuffix(SUFFIX) for f in files if f.name.endswith(SUFFIX)))


def load_device(spec: str | Path) -> DeviceSpec:
    """The device a person names: `jetson-nano`, `jetson-nano.yaml`, or a path to a file.

    Raises `InputError`: for a name or path that leads nowhere, with the shipped names; for a
    file that is not a device, with the key and what is allowed.
    """
    given, path, shipped = str(spec), Path(spec), shipped_devices()
    if isinstance(spec, str) and given in shipped:
        return _load_shipped(given)
    if path.exists():
        try:
            content = path.read_bytes()
        except OSError as error:
            raise InputError(f"{given}: cannot be read: {error.strerror}") from error
        return parse_device(content, given)
    if given.removesuffix(SUFFIX) in shipped:
        return _load_shipped(given.removesuffix(SUFFIX))
    raise InputError(
        f"device {given!r}: neither a file nor a shipped device; shipped are {', '.join(shipped)}"
    )


def _load_shipped(name: str) -> DeviceSpec:
    file = resources.files("costsim.devices") / f"{name}{SUFFIX}"
    return parse_device(file.read_bytes(), f"devices/{name}{SUFFIX}")


def parse_device(content: str | bytes, source: str) -> DeviceSpec:
    """The device that a YAML text describes; `source` names it in errors (`InputError`)."""
    return DeviceSpec.from_json(parse_yaml(content, source), source)


def parse_yaml(content: str | bytes, source: str) -> Any:
    """What a YAML text says, no key given twice; `source` names it in errors (`InputError`)."""
    try:
        return yaml.load(content, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}: " if mark else ""
        raise InputError(f"{source}: {place}{error.problem or 'is not YAML'}") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{source}: is not YAML: {reason}") from error
