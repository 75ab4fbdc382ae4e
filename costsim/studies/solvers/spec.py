"""What a study compares: solvers, models, devices, budgets and tasks, from YAML or from options.

    solvers: [exact, greedy]
    models: [mcunet-5fps, {model: mbv2-w0.35, weights: mbv2.pkl}]
    devices: [stm32f746, my-board.yaml]
    budgets: [recommended, {memory: 150%, macs: 30%}]
    tasks: [{data: flowers.tar.gz, seeds: [0, 1], ways: 10, shots: 5}]
    settings: {axis: both, inspect: all}

A cell is one of each.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from costsim.base.errors import InputError, shown
from costsim.base.units import format_percent, parse_quantity, parse_seconds
from costsim.ir.step import OPTIMIZER_STATES
from costsim.planning import DEFAULT_SHOTS
from costsim.problem.axes import SCORED_AXES
from costsim.problem.solution import Solver
from costsim.run.criteria import CRITERIA
from costsim.run.criteria.loss import LOSSES
from costsim.studies.engine import LIMITS, FileReader
from costsim.studies.solvers.cells import (
    BudgetChoice,
    Settings,
    SolverStudy,
    TaskChoice,
)

KEYS = ("solvers", "models", "devices", "budgets", "tasks", "settings")

MOST_SCALE = 1e6
"""Of the memory that a device recommends."""

T = TypeVar("T")


@dataclass(frozen=True)
class SolverStudyReader(FileReader):
    """Reads a comparison; `make_solver` raises `InputError` for a solver that is unknown."""

    make_solver: Callable[..., Solver]

    def study(self, document: object) -> SolverStudy:
        """The study of the whole document."""
        given = self.mapping(document, "", KEYS)
        default = SolverStudy()

        def listed(key: str, read: Callable[[Any, str], T], usual: tuple[T, ...]) -> tuple[T, ...]:
            return self.each(given[key], key, read) if key in given else usual

        tasks = listed("tasks", self.tasks, (default.tasks,))
        return SolverStudy(
            solvers=listed("solvers", self.solver, default.solvers),
            models=listed("models", self.model_choice, default.models),
            devices=listed("devices", self.device, default.devices),
            budgets=listed("budgets", self.budget, default.budgets),
            tasks=tuple(task for some in tasks for task in some),
            settings=self.settings(given.get("settings", {})),
        )

    def solver(self, given: object, key: str) -> str:
        """The name of a solver that there is, its options included."""
        name = self.code(self.text(given, key), key)
        with self.at(key):
            self.make_solver(name)
        return name

    def budget(self, given: object, key: str) -> BudgetChoice:
        """Limits by name and value, and what a table calls them."""
        if given == "recommended":
            return BudgetChoice("recommended")
        if isinstance(given, str):
            pairs = [part.partition("=") for part in given.split(",")]
            if bad := [name for name, equals, _ in pairs if not equals]:
                raise InputError(
                    f"{self.where(key)}: cannot read {shown(bad[0])}; give recommended, "
                    f"or NAME=VALUE with NAME one of {', '.join(LIMITS)}"
                )
            given = {name.strip(): value.strip() for name, _, value in pairs}
        texts = self.limits(given, key)
        if not texts:
            raise InputError(f"{self.where(key)}: each limit needs a value")
        label = " ".join(f"{name} {texts[name]}" for name in LIMITS if name in texts)
        found = dict(self.limit(name, text, key) for name, text in texts.items())
        return BudgetChoice(label, **found)

    def limit(self, name: str, text: str, key: str) -> tuple[str, Any]:
        """The field of `BudgetChoice` for a limit, and its value; memory may be a share."""
        if name == "memory" and text.endswith("%"):  # more than all of it is allowed
            where = self.where(f"{key}.{name}")
            scale = parse_quantity(text, {"%": 0.01}, where)
            if scale > MOST_SCALE:
                raise InputError(
                    f"{where}: {shown(text)}; at most {format_percent(MOST_SCALE)} is allowed"
                )
            return "memory_scale", scale
        return super().limit(name, text, key)

    def tasks(self, given: object, key: str) -> tuple[TaskChoice, ...]:
        """A data set as one task for each of its seeds."""
        names = ("data", "split", "seed", "seeds", "ways", "shots")
        if isinstance(given, str):
            given = {"data": given}
        entry = self.mapping(given, key, names)
        if "seed" in entry and "seeds" in entry:
            raise InputError(f"{self.where(key)}: give seed or seeds, not both")
        data, split = self.images(entry.get("data", "digits"), entry.get("split"), key)
        task = TaskChoice(
            data=data,
            split=split,
            ways=self.number(entry["ways"], f"{key}.ways", 1, 10_000) if "ways" in entry else None,
            shots=self.number(entry.get("shots", DEFAULT_SHOTS), f"{key}.shots", 1, 10_000),
        )
        seeds = self.each(entry.get("seeds", [entry.get("seed", 0)]), f"{key}.seeds", self.seed)
        return tuple(replace(task, seed=seed) for seed in seeds)

    def settings(self, given: object) -> Settings:
        """What all cells have in common."""
        names = (
            "criterion", "loss", "axis", "inspect", "layers", "exclude", "bias", "batch",
            "optimizer", "resolution", "time-limit", "accuracy",
        )  # fmt: skip
        entry = self.mapping(given, "settings", names)
        default, found = Settings(), dict[str, Any]()
        for name, value in entry.items():
            key = f"settings.{name}"
            match name:
                case "criterion":
                    found[name] = self.code(self.text(value, key), key)
                    with self.at(key):
                        CRITERIA.make(found[name])
                case "loss":
                    found[name] = self.one_of(value, key, tuple(LOSSES))
                case "axis":
                    found[name] = self.one_of(value, key, tuple(SCORED_AXES))
                case "optimizer":
                    found[name] = self.one_of(value, key, tuple(OPTIMIZER_STATES))
                case "inspect":
                    found[name] = None if value == "all" else self.number(value, key, 1, 10_000)
                case "layers" | "exclude":
                    patterns = [value] if isinstance(value, str) else value
                    found[name] = self.each(patterns, key, self.text)
                case "bias" | "accuracy":
                    if not isinstance(value, bool):
                        raise InputError(
                            f"{self.where(key)}: is {shown(value)}; give true or false"
                        )
                    found[name] = value
                case "time-limit":
                    found["time_limit_s"] = parse_seconds(str(value), self.where(key))
                case _:
                    found[name] = self.number(value, key, 1, 10_000)
        if "layers" in found and "inspect" not in found:
            found["inspect"] = None  # all that were named
        return replace(default, **found)
