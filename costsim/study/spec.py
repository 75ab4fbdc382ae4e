"""What a study runs, from YAML.

    models: [mcunet-5fps, {model: mbv2-w0.35, weights: mbv2.pkl, name: ImageNet}]
    methods: [None, LastLayer, {method: TinyTrain, learning-rate: [0.001, 0.003], name: tuned}]
    domains: [digits, {data: signs.zip, split: test, name: signs}]
    seeds: 20
    devices: [jetson-nano]
    episode: meta-dataset
    budget: recommended
    settings: {iterations: 40}

A cell is one adaptation: one of each. Its key is a digest of everything its answer depends on: the
content of the files, not their names. A method with several learning rates runs at each, and is
reported at those of `costsim.study.tuning`.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from costsim import __version__
from costsim.accounting import ACCOUNTINGS
from costsim.adaptation.settings import Settings
from costsim.data import EpisodeRule, FixedEpisode, MetaDatasetEpisode, open_images
from costsim.device import DeviceSpec, load_device
from costsim.device.loading import parse_yaml
from costsim.errors import InputError
from costsim.networks import NETWORKS
from costsim.networks.shipped import RANDOM, shipped_weights
from costsim.planner import BudgetRequest
from costsim.units import parse_bytes, parse_joules, parse_macs, parse_percent, parse_seconds

KEYS = ("models", "methods", "domains", "seeds", "devices", "episode", "budget", "settings")
LARGEST_SEED = 2**63 - 1


@dataclass(frozen=True)
class ModelChoice:
    """A model with its weights; `weights` None are its default ones, `random` from seed 0."""

    model: str
    label: str
    weights: Path | None = None
    resolution: int | None = None


@dataclass(frozen=True)
class MethodChoice:
    """A method of `costsim.methods`; `learning_rate` None is its own."""

    method: str
    label: str
    learning_rate: float | None = None


@dataclass(frozen=True)
class DomainChoice:
    """A source of images; without `data` the digits inside scikit-learn."""

    label: str
    data: Path | None = None
    split: str | None = None


@dataclass(frozen=True)
class Cell:
    """One method on one task of one model and device, with digests of the files' content."""

    model: ModelChoice
    method: MethodChoice
    domain: DomainChoice
    seed: int
    device: str
    episode: EpisodeRule
    budget: BudgetRequest
    settings: Settings
    model_digest: str = ""
    domain_digest: str = ""
    device_digest: str = ""

    @property
    def _task(self) -> dict[str, Any]:
        return {
            "data": self.domain_digest,
            "split": self.domain.split,
            "seed": self.seed,
            "episode": [type(self.episode).__name__, _plain(self.episode)],
        }

    @property
    def _situation(self) -> dict[str, Any]:
        settings = _plain(self.settings)
        settings.pop("cache_bytes")  # changes no result
        return {
            "task": self._task,
            "model": [self.model.model, self.model_digest, self.model.resolution],
            "device": self.device_digest,
            "budget": _plain(self.budget),
            "settings": settings,
            "version": __version__,
        }

    @property
    def task_key(self) -> str:
        """Digest of the task: cells that share it saw the same images."""
        return digest(self._task)

    @property
    def situation_key(self) -> str:
        """Digest of everything but the method: cells that share it share work."""
        return digest(self._situation)

    @property
    def key(self) -> str:
        """Digest of what the answer depends on."""
        method = [self.method.method, self.method.learning_rate]
        return digest({"situation": self._situation, "method": method})


@dataclass(frozen=True)
class Study:
    """Everything to run; `cells` is the product of all lists."""

    models: tuple[ModelChoice, ...]
    methods: tuple[MethodChoice, ...]
    domains: tuple[DomainChoice, ...]
    seeds: tuple[int, ...]
    devices: tuple[str, ...] = ("jetson-nano",)
    episode: EpisodeRule = field(default_factory=MetaDatasetEpisode)
    budget: BudgetRequest = field(default_factory=BudgetRequest)
    settings: Settings = field(default_factory=Settings)

    def cells(self) -> tuple[Cell, ...]:
        """All cells, each once; the first seeds of everything before the next ones.

        A run that is stopped early thus has as many tasks of each method and domain. Raises
        `InputError` for a device or a file that cannot be read.
        """
        devices = {name: device_digest(load_device(name)) for name in self.devices}
        models = {model: _model_digest(model) for model in self.models}
        domains = {
            domain: "digits" if domain.data is None else file_digest(domain.data)
            for domain in self.domains
        }
        found: dict[str, Cell] = {}
        for seed in self.seeds:
            for model in self.models:
                for domain in self.domains:
                    for device in self.devices:
                        for method in self.methods:
                            cell = Cell(
                                model, method, domain, seed, device, self.episode, self.budget,
                                self.settings, models[model], domains[domain], devices[device],
                            )  # fmt: skip
                            found.setdefault(cell.key, cell)
        return tuple(found.values())


def digest(document: object) -> str:
    """A short digest of a JSON document."""
    text = json.dumps(document, sort_keys=True, default=str, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def device_digest(device: DeviceSpec) -> str:
    """Of all numbers of a device."""
    return digest(device.model_dump(mode="json", warnings=False))


def _plain(value: Any) -> dict[str, Any]:
    return {f.name: getattr(value, f.name) for f in fields(value)}


def _model_digest(model: ModelChoice) -> str:
    weights = shipped_weights(model.model) if model.weights is None else model.weights
    if weights == RANDOM:
        return "random"
    if weights is not None:
        return file_digest(weights)
    path = Path(model.model)
    return file_digest(path) if model.model.endswith(".pt2") and path.is_file() else ""


@lru_cache(maxsize=256)
def file_digest(path: Path) -> str:
    """Digest of a file's bytes; of a folder's names and sizes. Raises `InputError`."""
    found = hashlib.sha256()
    try:
        if path.is_dir():
            for file in sorted(p for p in path.rglob("*") if p.is_file()):
                found.update(f"{file.relative_to(path)} {file.stat().st_size}\n".encode())
        else:
            with path.open("rb") as stream:
                while block := stream.read(1 << 20):
                    found.update(block)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    return found.hexdigest()[:24]


def read_study(path: Path, *, methods: Sequence[str]) -> Study:
    """The study in the YAML file at `path`; `methods` are the known names.

    Paths in it are relative to its folder. Raises `InputError` naming the file and the key.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    document = parse_yaml(content, str(path))
    return parse_study(document, str(path), methods=methods, folder=path.resolve().parent)


def parse_study(document: object, source: str, *, methods: Sequence[str], folder: Path) -> Study:
    """A study from a parsed YAML document; see the head of this file. Raises `InputError`."""
    return _Reader(source, folder, tuple(methods)).study(document)


@dataclass(frozen=True)
class _Method:
    """One entry of `methods`, at each of its learning rates."""

    label: str
    at_rates: tuple[MethodChoice, ...]


@dataclass(frozen=True)
class _Reader:
    source: str
    folder: Path
    methods: tuple[str, ...]

    def where(self, key: str) -> str:
        return f"{self.source}: {key}"

    def study(self, document: object) -> Study:
        entry = self.mapping(document, "", KEYS)
        for key in ("models", "methods", "domains"):
            if key not in entry:
                raise InputError(f"{self.source}: {key} is missing; a list is needed")
        return Study(
            models=self.each(entry["models"], "models", self.model),
            methods=tuple(
                choice
                for choices in self.each(entry["methods"], "methods", self.method)
                for choice in choices.at_rates
            ),
            domains=self.each(entry["domains"], "domains", self.domain),
            seeds=self.seeds(entry.get("seeds", 1)),
            devices=self.each(entry.get("devices", ["jetson-nano"]), "devices", self.device),
            episode=self.episode(entry.get("episode", "meta-dataset")),
            budget=self.budget(entry.get("budget", "recommended")),
            settings=self.settings(entry.get("settings", {})),
        )

    def each(self, given: object, key: str, read: Callable[[object, str], Any]) -> tuple[Any, ...]:
        if not isinstance(given, list) or not given:
            raise InputError(f"{self.where(key)}: a list of at least one is needed")
        found = tuple(read(one, f"{key}[{index}]") for index, one in enumerate(given))
        labels = [getattr(one, "label", one) for one in found]
        if twice := [label for label in labels if labels.count(label) > 1]:
            raise InputError(
                f"{self.where(key)}: {twice[0]!r} is there twice; give each a name of its own"
            )
        return found

    def model(self, given: object, key: str) -> ModelChoice:
        entry = self.entry(given, key, "model", ("weights", "resolution", "name"))
        name = self.text(entry["model"], f"{key}.model")
        if name.endswith(".pt2"):
            name = str(self.path(name, f"{key}.model"))
        elif name not in NETWORKS and ":" not in name:
            raise InputError(
                f"{self.where(f'{key}.model')}: {name!r} is unknown; give one of "
                f"{', '.join(NETWORKS)}, package.module:factory, or a .pt2 file"
            )
        side = entry.get("resolution")
        return ModelChoice(
            name,
            self.text(entry.get("name", entry["model"]), f"{key}.name"),
            self.weights(entry.get("weights"), f"{key}.weights"),
            None if side is None else self.number(side, f"{key}.resolution", 1, 10_000),
        )

    def weights(self, given: object, key: str) -> Path | None:
        if given is None or given == str(RANDOM):
            return None if given is None else RANDOM
        return self.path(given, key)

    def method(self, given: object, key: str) -> "_Method":
        if given is None:  # `None` is a string in YAML, but `null` and `~` are not
            given = "None"
        entry = self.entry(given, key, "method", ("learning-rate", "name"))
        name = self.text(entry["method"], f"{key}.method")
        if name not in self.methods:
            raise InputError(
                f"{self.where(f'{key}.method')}: {name!r} is unknown; known are "
                f"{', '.join(self.methods)}"
            )
        label = self.text(entry.get("name", name), f"{key}.name")
        rates = entry.get("learning-rate")
        for rate in rates if isinstance(rates, list) and rates else [rates]:
            if rates is not None and (
                isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate <= 1e3
            ):
                raise InputError(
                    f"{self.where(f'{key}.learning-rate')}: is {rate!r}; a number above 0, or a "
                    "list of them, is needed (write 1.0e-3, not 1e-3)"
                )
        several = rates if isinstance(rates, list) else [rates]
        if len(set(several)) < len(several):
            raise InputError(f"{self.where(f'{key}.learning-rate')}: a rate is there twice")
        return _Method(label, tuple(MethodChoice(name, label, rate) for rate in several))

    def domain(self, given: object, key: str) -> DomainChoice:
        entry = self.entry(given, key, "data", ("split", "name"))
        data = self.text(entry["data"], f"{key}.data")
        split = entry.get("split")
        split = None if split is None else self.text(split, f"{key}.split")
        if data == "digits":
            return DomainChoice(self.text(entry.get("name", data), f"{key}.name"))
        path = self.path(data, f"{key}.data")
        try:
            open_images(path, split)
        except InputError as error:
            raise InputError(f"{self.where(f'{key}.data')}: {error}") from error
        name = path.name
        for suffix in (".tar.gz", ".tgz", ".tar", ".zip"):
            name = name.removesuffix(suffix)
        label = name if split is None else f"{name}/{split}"
        return DomainChoice(self.text(entry.get("name", label), f"{key}.name"), path, split)

    def seeds(self, given: object) -> tuple[int, ...]:
        if isinstance(given, list):
            seeds = tuple(
                self.number(seed, f"seeds[{index}]", 0, LARGEST_SEED)
                for index, seed in enumerate(given)
            )
            if not seeds or len(set(seeds)) < len(seeds):
                raise InputError(f"{self.where('seeds')}: a list of different numbers is needed")
            return seeds
        return tuple(range(self.number(given, "seeds", 1, 1_000_000)))

    def device(self, given: object, key: str) -> str:
        name = self.text(given, key)
        beside = self.folder / name
        if name.endswith((".yaml", ".yml")) and beside.is_file():
            name = str(beside)
        try:
            load_device(name)
        except InputError as error:
            raise InputError(f"{self.where(key)}: {error}") from error
        return name

    def episode(self, given: object) -> EpisodeRule:
        if given == "meta-dataset":
            return MetaDatasetEpisode()
        if not isinstance(given, dict):
            raise InputError(
                f"{self.where('episode')}: is {given!r}; give meta-dataset, or ways, shots and "
                "queries"
            )
        if "rule" in given:
            names = tuple(f.name.replace("_", "-") for f in fields(MetaDatasetEpisode))
            entry = dict(self.mapping(given, "episode", ("rule", *names)))
            if entry.pop("rule") != "meta-dataset":
                raise InputError(f"{self.where('episode.rule')}: only meta-dataset is known")
            rule: Callable[..., EpisodeRule] = MetaDatasetEpisode
        else:
            entry = dict(self.mapping(given, "episode", ("ways", "shots", "queries")))
            for name in ("ways", "shots"):
                if name not in entry:
                    raise InputError(f"{self.where(f'episode.{name}')}: is missing")
            rule = FixedEpisode
        values = {
            name.replace("-", "_"): self.number(value, f"episode.{name}", 1, 100_000)
            for name, value in entry.items()
        }
        try:
            return rule(**values)
        except InputError as error:
            raise InputError(f"{self.where('episode')}: {error}") from error

    def budget(self, given: object) -> BudgetRequest:
        if given == "recommended":
            return BudgetRequest()
        names = ("memory", "accounting", "macs", "latency", "energy")
        found: dict[str, Any] = {}
        for name, value in self.mapping(given, "budget", names).items():
            what, text = self.where(f"budget.{name}"), str(value)
            if name == "memory":
                found["memory_bytes"] = parse_bytes(text, what)
            elif name == "macs" and (share := parse_percent(text, what)) is not None:
                found["macs_share"] = share
            elif name == "macs":
                found["macs"] = parse_macs(text, what)
            elif name == "latency":
                found["latency_s"] = parse_seconds(text, what)
            elif name == "energy":
                found["energy_j"] = parse_joules(text, what)
            elif text not in ACCOUNTINGS:
                raise InputError(f"{what}: is {text!r}; allowed are {', '.join(ACCOUNTINGS)}")
            else:
                found["accounting"] = text
        return BudgetRequest(**found)

    def settings(self, given: object) -> Settings:
        allowed = {f.name.replace("_", "-"): f for f in fields(Settings) if f.name != "seed"}
        default = asdict(Settings())
        found: dict[str, Any] = {}
        for name, value in self.mapping(given, "settings", tuple(allowed)).items():
            field_name = allowed[name].name
            kind = type(default[field_name])
            right = isinstance(value, (int, float) if kind is float else kind)
            if not right or (isinstance(value, bool) and kind is not bool):
                words = {int: "a whole number", float: "a number", bool: "true or false"}
                raise InputError(
                    f"{self.where(f'settings.{name}')}: is {value!r}; "
                    f"{words.get(kind, 'a word')} is needed"
                )
            found[field_name] = value
        try:
            return Settings(**found)
        except InputError as error:
            raise InputError(f"{self.where('settings')}: {error}") from error

    # The parts.

    def entry(self, given: object, key: str, main: str, others: tuple[str, ...]) -> dict[str, Any]:
        """`given` as a mapping; a plain text is its main value."""
        entry = (
            {main: given} if isinstance(given, str) else self.mapping(given, key, (main, *others))
        )
        if main not in entry:
            raise InputError(f"{self.where(f'{key}.{main}')}: is missing")
        return dict(entry)

    def mapping(self, given: object, key: str, allowed: tuple[str, ...]) -> Mapping[str, Any]:
        where = self.where(key) if key else self.source
        if not isinstance(given, dict):
            raise InputError(f"{where}: a mapping with {', '.join(allowed)} is needed")
        for name in given:
            if name not in allowed:
                raise InputError(f"{where}: {name!r} is unknown; allowed are {', '.join(allowed)}")
        return given

    def text(self, given: object, key: str) -> str:
        if not isinstance(given, str) or not given.strip():
            raise InputError(f"{self.where(key)}: is {given!r}; a text is needed")
        return given

    def number(self, given: object, key: str, least: int, most: int) -> int:
        if isinstance(given, bool) or not isinstance(given, int) or not least <= given <= most:
            raise InputError(
                f"{self.where(key)}: is {given!r}; a whole number from {least} to {most} is needed"
            )
        return given

    def path(self, given: object, key: str) -> Path:
        path = Path(self.text(given, key)).expanduser()
        path = path if path.is_absolute() else self.folder / path
        if not path.exists():
            raise InputError(f"{self.where(key)}: {path} does not exist")
        return path
