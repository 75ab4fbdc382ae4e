"""What a study runs, from YAML.

    models: [mcunet-5fps, {model: mbv2-w0.35, weights: mbv2.pkl, name: ImageNet}]
    methods: [None, {method: TinyTrain, learning-rate: [0.001, 0.003], guard: 2-fold, name: safe}]
    domains: [digits, {data: signs.zip, split: test, name: signs}]
    seeds: 20
    devices: [jetson-nano]
    episode: meta-dataset
    budget: recommended
    settings: {iterations: 40}
    source: {data: images.tar.gz, split: val, tasks: 10}
    backend: native

A cell is one adaptation: one of each. A method with several learning rates runs at each, and is
reported at those of `costsim.studies.methods.tuning`. Methods that choose the same for all tasks do
so by tasks of the source, which are drawn by the same episode rule with seeds of their own.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

from costsim.base.code import is_code
from costsim.base.errors import InputError, shown
from costsim.data import EpisodeRule, FixedEpisode, MetaDatasetEpisode
from costsim.ir.recipe import Recipe
from costsim.learning.adaptation.guard import GUARDS
from costsim.learning.methods import METHODS
from costsim.planning import BudgetRequest
from costsim.planning.request import DEFAULT_SOURCE_TASKS
from costsim.run.native import BACKENDS, Backend
from costsim.studies.engine import FileReader, images_name
from costsim.studies.methods.analysis import AVERAGE
from costsim.studies.methods.cells import DomainChoice, MethodChoice, MethodStudy, SourceChoice

KEYS = ("models", "methods", "domains", "seeds", "devices", "episode", "budget", "settings",
        "source", "backend")  # fmt: skip

T = TypeVar("T")


@dataclass(frozen=True)
class _Method:
    """One entry of `methods`, at each of its learning rates."""

    label: str
    at_rates: tuple[MethodChoice, ...]


@dataclass(frozen=True)
class MethodStudyReader(FileReader):
    """Reads a study of methods."""

    model_keys = ("weights", "resolution", "name")

    def study(self, document: object) -> MethodStudy:
        """The study of the whole document."""
        entry = self.mapping(document, "", KEYS)
        for key in ("models", "methods", "domains"):
            if key not in entry:
                raise InputError(f"{self.source}: {key} is missing; a list is needed")
        source = self.other_images(entry["source"]) if "source" in entry else None
        methods = self.named(entry["methods"], "methods", self.method)
        for index, choices in enumerate(methods):
            if source is None and any(choice.needs_source for choice in choices.at_rates):
                raise InputError(
                    f"{self.where(f'methods[{index}]')}: {choices.at_rates[0].method} chooses by "
                    "tasks of other images; give them as source: {data: PATH}"
                )
        episode = self.episode(entry.get("episode", "meta-dataset"))
        recipe = self.recipe(entry.get("settings", {}))
        self.check_micro_batch(recipe, episode)
        return MethodStudy(
            models=self.named(entry["models"], "models", self.model_choice),
            methods=tuple(choice for choices in methods for choice in choices.at_rates),
            source=source,
            domains=self.named(entry["domains"], "domains", self.domain),
            seeds=self.seeds(entry.get("seeds", 1)),
            devices=self.named(entry.get("devices", ["jetson-nano"]), "devices", self.device),
            episode=episode,
            budget=self.budget(entry.get("budget", "recommended")),
            recipe=recipe,
            backend=self.backend(entry.get("backend", BACKENDS[0])),
        )

    def named(self, given: object, key: str, read: Callable[[Any, str], T]) -> tuple[T, ...]:
        """A list in which no two are called the same."""
        found = self.each(given, key, read)
        labels = [getattr(one, "label", one) for one in found]
        if twice := [label for label in labels if labels.count(label) > 1]:
            raise InputError(
                f"{self.where(key)}: {shown(twice[0])} is there twice; give each a name of its own"
            )
        return found

    def method(self, given: object, key: str) -> _Method:
        """A method, its guard and its learning rates: a choice for each rate."""
        if given is None:  # `None` is a string in YAML, but `null` and `~` are not
            given = "None"
        entry = self.entry(given, key, "method", ("learning-rate", "guard", "name"))
        name = self.code(self.text(entry["method"], f"{key}.method"), f"{key}.method")
        with self.at(f"{key}.method"):
            if is_code(name):  # ours are known by name, and made where torch is there
                METHODS.make(name)
            else:
                METHODS.check(name)
        label = self.text(entry.get("name", entry["method"]), f"{key}.name")
        rates = entry.get("learning-rate")
        for rate in rates if isinstance(rates, list) and rates else [rates]:
            if rates is not None and (
                isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate <= 1e3
            ):
                raise InputError(
                    f"{self.where(f'{key}.learning-rate')}: is {shown(rate)}; a number above 0, "
                    "or a list of them, is needed (write 1.0e-3, not 1e-3)"
                )
        several = rates if isinstance(rates, list) else [rates]
        if len(set(several)) < len(several):
            raise InputError(f"{self.where(f'{key}.learning-rate')}: a rate is there twice")
        guard = entry.get("guard")
        if guard is not None:
            guard = self.text(guard, f"{key}.guard")
            with self.at(f"{key}.guard"):
                GUARDS.check(guard)
        static = name in METHODS.tagged("source")
        return _Method(
            label, tuple(MethodChoice(name, label, rate, guard, static) for rate in several)
        )

    def other_images(self, given: object) -> SourceChoice:
        """Where methods that learn from other tasks take them from."""
        entry = self.entry(given, "source", "data", ("split", "tasks"))
        path, split = self.images(entry["data"], entry.get("split"), "source")
        tasks = self.number(entry.get("tasks", DEFAULT_SOURCE_TASKS), "source.tasks", 1, 10_000)
        return SourceChoice(path, None if path is None else split, tasks)

    def domain(self, given: object, key: str) -> DomainChoice:
        """A data set and what tables call it."""
        entry = self.entry(given, key, "data", ("split", "name"))
        path, split = self.images(entry["data"], entry.get("split"), key)
        label = self.text(entry.get("name", images_name(path, split)), f"{key}.name")
        if label == AVERAGE:
            raise InputError(
                f"{self.where(f'{key}.name')}: {shown(label)} is what the mean over domains "
                "is called; give another"
            )
        return DomainChoice(label, path, None if path is None else split)

    def seeds(self, given: object) -> tuple[int, ...]:
        """So many seeds from 0 on, or those of a list; each once."""
        if not isinstance(given, list):
            return tuple(range(self.number(given, "seeds", 1, 1_000_000)))
        seeds = tuple(self.seed(seed, f"seeds[{index}]") for index, seed in enumerate(given))
        if not seeds or len(set(seeds)) < len(seeds):
            raise InputError(f"{self.where('seeds')}: a list of different numbers is needed")
        return seeds

    def episode(self, given: object) -> EpisodeRule:
        """How the classes and samples of a task are drawn."""
        if given == "meta-dataset":
            return MetaDatasetEpisode()
        if not isinstance(given, dict):
            raise InputError(
                f"{self.where('episode')}: is {shown(given)}; give meta-dataset, or ways, "
                "shots and queries"
            )
        if "rule" in given:
            names = tuple(f.name.replace("_", "-") for f in fields(MetaDatasetEpisode))
            entry = self.mapping(given, "episode", ("rule", *names))
            if entry.pop("rule") != "meta-dataset":
                raise InputError(f"{self.where('episode.rule')}: only meta-dataset is known")
            rule: Callable[..., EpisodeRule] = MetaDatasetEpisode
        else:
            entry = self.mapping(given, "episode", ("ways", "shots", "queries"))
            for name in ("ways", "shots"):
                if name not in entry:
                    raise InputError(f"{self.where(f'episode.{name}')}: is missing")
            rule = FixedEpisode
        values = {
            name.replace("-", "_"): self.number(value, f"episode.{name}", 1, 100_000)
            for name, value in entry.items()
        }
        with self.at("episode"):
            return rule(**values)

    def budget(self, given: object) -> BudgetRequest:
        """The limits of every task, or the ones that are recommended."""
        if given == "recommended":
            return BudgetRequest()
        texts = self.limits(given, "budget")
        return BudgetRequest(**dict(self.limit(n, text, "budget") for n, text in texts.items()))

    def backend(self, given: object) -> Backend:
        """Who computes the steps."""
        for one in BACKENDS:
            if given == one:
                return one
        raise InputError(
            f"{self.where('backend')}: is {shown(given)}; allowed are {', '.join(BACKENDS)}"
        )

    def check_micro_batch(self, recipe: Recipe, episode: EpisodeRule) -> None:
        """Refuse a micro-batch that no step of any task has, where that is known beforehand."""
        batch = recipe.batch
        if batch is None and isinstance(episode, FixedEpisode):
            batch = recipe.images_a_step(episode.ways * episode.shots)
        if batch is not None and batch % recipe.micro_batch:
            raise InputError(
                f"{self.where('settings.micro-batch')}: is {recipe.micro_batch}; a step is over "
                f"{batch} images, and a number that divides them is needed"
            )

    def recipe(self, given: object) -> Recipe:
        """What all cells have in common."""
        allowed = {f.name.replace("_", "-"): f for f in fields(Recipe) if f.name != "seed"}
        default = asdict(Recipe())
        found: dict[str, Any] = {}
        for name, value in self.mapping(given, "settings", tuple(allowed)).items():
            field_name = allowed[name].name
            kind = type(default[field_name])
            right = isinstance(value, (int, float) if kind is float else kind)
            if not right or (isinstance(value, bool) and kind is not bool):
                words = {int: "a whole number", float: "a number", bool: "true or false"}
                raise InputError(
                    f"{self.where(f'settings.{name}')}: is {shown(value)}; "
                    f"{words.get(kind, 'a word')} is needed"
                )
            found[field_name] = value
        with self.at("settings"):
            return Recipe(**found)
