"""Finding and reading device files."""

from importlib import resources
from pathlib import Path

from costsim.base.errors import InputError, shown
from costsim.base.files import is_there, read_file
from costsim.base.nearness import hint
from costsim.base.yaml_text import parse_yaml
from costsim.device.spec import DeviceSpec

SUFFIX = ".yaml"


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
    if is_there(path):
        return parse_device(read_file(path), given)
    if given.removesuffix(SUFFIX) in shipped:
        return _load_shipped(given.removesuffix(SUFFIX))
    raise InputError(
        f"device {shown(given)}: neither a file nor a shipped device; "
        f"{hint(given.removesuffix(SUFFIX), shipped)}shipped are {', '.join(shipped)}"
    )


def _load_shipped(name: str) -> DeviceSpec:
    file = resources.files("costsim.devices") / f"{name}{SUFFIX}"
    return parse_device(file.read_bytes(), f"devices/{name}{SUFFIX}")


def parse_device(content: str | bytes, source: str) -> DeviceSpec:
    """The device that a YAML text describes; `source` names it in errors (`InputError`)."""
    return DeviceSpec.from_json(parse_yaml(content, source), source)
