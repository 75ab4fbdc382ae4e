"""What a target is asked to do: a small value that travels as JSON, with its tensors beside it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from costsim.base.errors import InputError, shown
from costsim.ir.graph import LayerGraph
from costsim.solving.planfile import PlanFile

SCHEMA = "costsim.job/1"
WEIGHTS_NAME = "weights.safetensors"
"""What the tensors are called beside a shipped job."""


@dataclass(frozen=True)
class RunOptions:
    """How a job is run, wherever that is.

    steps: steps that are timed. threads: of PyTorch (None: as many as the system gives it; ignored
    where there is one core). memory_limit_bytes: what the process may have beyond what it takes to
    start, None for no limit. energy: whether the machine's counters are read.
    """

    steps: int = 10
    threads: int | None = 1
    memory_limit_bytes: int | None = None
    energy: bool = True

    def __post_init__(self) -> None:
        for name in ("steps", "threads", "memory_limit_bytes"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise InputError(f"{name} is {value!r}; a whole number of at least 1 is needed")
        if type(self.energy) is not bool:
            raise InputError(f"energy is {self.energy!r}; true or false is needed")


@dataclass(frozen=True)
class PlanJob:
    """Run the training step of a plan and measure it.

    The layer graph and the tensors by the graph's names go along, so that a device needs neither
    the model's code nor its tracing. `weights` is a safetensors file on this machine, `origin`
    what the weights were read from, which stays here.
    """

    plan: PlanFile
    graph: LayerGraph
    weights: Path
    options: RunOptions = field(default_factory=RunOptions)
    origin: Path | None = None

    kind = "plan"

    @property
    def files(self) -> Mapping[str, Path]:
        """Files that go along, by the names they have beside the job."""
        return {WEIGHTS_NAME: self.weights}

    def to_json(self) -> dict[str, Any]:
        """One JSON document; the tensors are beside it as `WEIGHTS_NAME`."""
        return {
            "schema": SCHEMA,
            "kind": self.kind,
            "plan": self.plan.to_json(),
            "graph": self.graph.to_json(),
            "options": asdict(self.options),
        }


@dataclass(frozen=True)
class KernelJob:
    """Hand `batch` to a function of costsim on the device and bring back what it returns.

    `runner` is `costsim.module:function`, called there as `function(batch, options, report)` with
    the JSON document, the `RunOptions` and a progress callback; it returns a JSON document.
    Targets that run no Python read `batch` themselves or refuse the job.
    """

    runner: str
    batch: Mapping[str, Any]
    options: RunOptions = field(default_factory=RunOptions)

    kind = "kernels"

    def __post_init__(self) -> None:
        module, colon, function = self.runner.partition(":")
        named = f"{module}.{function}".split(".")
        if module.split(".")[0] != "costsim" or not colon or not all(map(str.isidentifier, named)):
            raise InputError(f"runner {self.runner!r}: costsim.module:function is needed")

    @property
    def files(self) -> Mapping[str, Path]:
        """Files that go along: none."""
        return {}

    def to_json(self) -> dict[str, Any]:
        """One JSON document."""
        return {
            "schema": SCHEMA,
            "kind": self.kind,
            "runner": self.runner,
            "batch": dict(self.batch),
            "options": asdict(self.options),
        }


Job: TypeAlias = PlanJob | KernelJob


def job_from_json(document: object, folder: Path, source: str = "job") -> Job:
    """The job that `to_json` wrote, its files in `folder`.

    Raises `InputError` naming `source` and the key for anything else.
    """
    if not isinstance(document, Mapping) or document.get("schema") != SCHEMA:
        found = document.get("schema") if isinstance(document, Mapping) else None
        raise InputError(f"{source}: schema: {shown(found)}; allowed is {SCHEMA}")
    kind = document.get("kind")
    needed = {"plan": ("plan", "graph"), "kernels": ("runner", "batch")}
    if kind not in needed:
        raise InputError(f"{source}: kind: {shown(kind)}; allowed are {', '.join(needed)}")
    wanted = {"schema", "kind", "options", *needed[kind]}
    if wrong := sorted(wanted ^ document.keys()):
        told = "is missing" if wrong[0] in wanted else "is unknown"
        raise InputError(f"{source}: {wrong[0]}: {told}; needed are {', '.join(sorted(wanted))}")
    try:
        options = RunOptions(**document["options"])
        if kind == "kernels":
            return KernelJob(document["runner"], document["batch"], options)
        return PlanJob(
            PlanFile.from_json(document["plan"]),
            LayerGraph.from_json(document["graph"]),
            folder / WEIGHTS_NAME,
            options,
        )
    except (InputError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{source}: {error}") from error
