"""A parsed YAML file, read part by part; what cannot be used is an error that names its key."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from costsim.base.code import is_code
from costsim.base.errors import InputError, shortened, shown
from costsim.base.files import is_there, read_file, told_path, user_path
from costsim.base.nearness import hint
from costsim.base.trust import check_named
from costsim.base.units import parse_bytes, parse_joules, parse_macs, parse_percent, parse_seconds
from costsim.base.yaml_text import parse_yaml
from costsim.data import is_of_hub, open_source
from costsim.device import load_device
from costsim.ir.recipe import LARGEST_SEED
from costsim.models.networks import NETWORKS
from costsim.models.networks.shipped import RANDOM
from costsim.pricing.accounting import ACCOUNTINGS
from costsim.studies.engine.cell import ModelChoice

LIMITS = ("memory", "accounting", "macs", "latency", "energy")
"""What a budget may limit."""

T = TypeVar("T")


def read_document(path: Path) -> Any:
    """What the YAML file at `path` says. Raises `InputError`."""
    return parse_yaml(read_file(path), str(path))


def images_name(path: Path | None, split: str | None) -> str:
    """What a table calls a source of images; None are the digits."""
    if path is None:
        return "digits"
    name = path.name
    for suffix in (".tar.gz", ".tgz", ".tar", ".zip"):
        name = name.removesuffix(suffix)
    return name if split is None else f"{name}/{split}"


@dataclass(frozen=True)
class FileReader:
    """Reads parts of a document that is called `source`; its paths are relative to `folder`.

    A part is what was given and the key it was given at, such as `models[0].weights`. All methods
    raise `InputError` with the source, the key, what was given and what is allowed.
    """

    source: str
    folder: Path

    model_keys: ClassVar[tuple[str, ...]] = ("weights",)
    """What may be said of a model beside its name."""

    def where(self, key: str) -> str:
        """What an error calls a key."""
        return f"{self.source}: {key}" if key else self.source

    @contextmanager
    def at(self, key: str) -> Iterator[None]:
        """While open, errors of others name this key too."""
        try:
            yield
        except InputError as error:
            raise InputError(f"{self.where(key)}: {error}") from error

    # Shapes.

    def mapping(self, given: object, key: str, allowed: Sequence[str]) -> dict[str, Any]:
        """A mapping of nothing but the allowed names."""
        if not isinstance(given, Mapping):
            kind = "empty" if given is None else "a list" if _nested(given) else f"{shown(given)}"
            raise InputError(
                f"{self.where(key)}: is {kind}; a mapping of {', '.join(allowed)} is needed"
            )
        for name in given:
            if name not in allowed:
                raise InputError(
                    f"{self.where(key)}: {shortened(str(name))}: unknown key; "
                    f"{hint(name, allowed)}allowed are {', '.join(allowed)}"
                )
        return dict(given)

    def entry(self, given: object, key: str, main: str, others: Sequence[str]) -> dict[str, Any]:
        """A mapping with at least `main`; a plain text is its main value."""
        found = {main: given} if isinstance(given, str) else given
        entry = self.mapping(found, key, (main, *others))
        if main not in entry:
            raise InputError(f"{self.where(f'{key}.{main}')}: is missing")
        return entry

    def each(self, given: object, key: str, read: Callable[[Any, str], T]) -> tuple[T, ...]:
        """A list of at least one part."""
        if not isinstance(given, list) or not given:
            raise InputError(f"{self.where(key)}: a list of at least one is needed")
        return tuple(read(one, f"{key}[{index}]") for index, one in enumerate(given))

    # Values.

    def text(self, given: object, key: str) -> str:
        """A text that is not blank, on one line."""
        if not isinstance(given, str) or not given.strip() or len(given.splitlines()) > 1:
            raise InputError(f"{self.where(key)}: is {shown(given)}; text on one line is needed")
        return given

    def number(self, given: object, key: str, least: int, most: int) -> int:
        """A whole number between these."""
        if isinstance(given, bool) or not isinstance(given, int) or not least <= given <= most:
            raise InputError(
                f"{self.where(key)}: is {shown(given)}; a whole number from {least} to {most} is "
                "needed"
            )
        return given

    def seed(self, given: object, key: str) -> int:
        """A number that torch's generators take."""
        return self.number(given, key, 0, LARGEST_SEED)

    def one_of(self, given: object, key: str, allowed: Sequence[str]) -> str:
        """One of these texts."""
        if given not in allowed:
            raise InputError(
                f"{self.where(key)}: is {shown(given)}; {hint(given, allowed)}allowed are "
                f"{', '.join(allowed)}"
            )
        return str(given)

    def path(self, given: object, key: str) -> Path:
        """A file or folder that is there."""
        text = self.text(given, key)
        with self.at(key):
            path = self.folder / user_path(text)
        if not is_there(path):
            raise InputError(f"{self.where(key)}: {told_path(path)} does not exist")
        return path

    # Things.

    def weights(self, given: object, key: str) -> Path | None:
        """A file of weights, or the word for none at all; None where nothing is given."""
        if given is None:
            return None
        return RANDOM if given == str(RANDOM) else self.path(given, key)

    def device(self, given: object, key: str) -> str:
        """A shipped device, or a file of one; relative to the folder where it is there."""
        name = self.text(given, key)
        beside = self.folder / name
        if name.endswith((".yaml", ".yml")) and beside.is_file():
            name = str(beside)
        with self.at(key):
            load_device(name)
        return name

    def model(self, given: object, key: str) -> str:
        """A model as `--model` names it."""
        name = self.text(given, key)
        if name.endswith(".pt2"):
            return str(self.path(name, key))
        if name not in NETWORKS and not is_code(name):
            raise InputError(
                f"{self.where(key)}: {shown(name)} is unknown; {hint(name, NETWORKS)}give one of "
                f"{', '.join(NETWORKS)}, file.py:name, package.module:name, or a .pt2 file"
            )
        return self.code(name, key, "--model")

    def code(self, name: str, key: str, option: str = "--trust") -> str:
        """A name, be it of code that a person named too, by this option or before.

        A script is relative to the folder where it is there.
        """
        place, _, rest = name.partition(":")
        beside = self.folder / place
        if place.endswith(".py") and beside.is_file():
            name = f"{beside}:{rest}"
        return check_named(name, self.where(key), option)

    def model_choice(self, given: object, key: str) -> ModelChoice:
        """A model with what is said of it; a plain text is its name."""
        entry = self.entry(given, key, "model", self.model_keys)
        side = entry.get("resolution")
        return ModelChoice(
            self.model(entry["model"], f"{key}.model"),
            self.weights(entry.get("weights"), f"{key}.weights"),
            None if side is None else self.number(side, f"{key}.resolution", 1, 10_000),
            self.text(entry["name"], f"{key}.name") if "name" in entry else None,
        )

    def images(self, data: object, split: object, key: str) -> tuple[Path | None, str | None]:
        """A source of images and a part of it, which may follow `::`; `digits` is None."""
        part = None if split is None else self.text(split, f"{key}.split")
        if data == "digits":
            if part is not None:
                raise InputError(f"{self.where(f'{key}.split')}: the digits have no splits")
            return None, None
        if part is None and isinstance(data, str) and not (self.folder / data).exists():
            name, found, after = data.rpartition("::")
            data, part = (name, self.text(after, f"{key}.split")) if found else (data, None)
        of_hub = isinstance(data, str) and is_of_hub(data)
        path = Path(str(data)) if of_hub else self.path(data, f"{key}.data")
        with self.at(f"{key}.data"):
            open_source(path, part)
        return path, part

    def limits(self, given: object, key: str) -> dict[str, str]:
        """The limits of a step as texts, by their names."""
        entry = self.mapping(given, key, LIMITS)
        if any(_nested(value) or isinstance(value, bool) for value in entry.values()):
            raise InputError(f"{self.where(key)}: each limit needs a value")
        return {name: str(value) for name, value in entry.items()}

    def limit(self, name: str, text: str, key: str) -> tuple[str, Any]:
        """One of them as a field of `BudgetRequest`, and its value."""
        what = self.where(f"{key}.{name}")
        match name:
            case "memory":
                return "memory_bytes", parse_bytes(text, what)
            case "macs":
                share = parse_percent(text, what)
                return ("macs", parse_macs(text, what)) if share is None else ("macs_share", share)
            case "latency":
                return "latency_s", parse_seconds(text, what)
            case "energy":
                return "energy_j", parse_joules(text, what)
            case _:
                return "accounting", self.one_of(text, f"{key}.{name}", ACCOUNTINGS)


def _nested(given: object) -> bool:
    return not isinstance(given, str | int | float | bool)
