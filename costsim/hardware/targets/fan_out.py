"""One plan on several targets at once; what each brings is handed over as it comes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from types import MappingProxyType
from typing import TypeAlias

from costsim.base.errors import CostsimError
from costsim.hardware.results.measurement_file import Failure, Run
from costsim.hardware.targets.base import Target, TargetError, Watch
from costsim.hardware.targets.job import PlanJob
from costsim.hardware.targets.parallel import in_parallel

Found: TypeAlias = Run | Failure


def measure_on(
    targets: Sequence[Target],
    job: PlanJob,
    *,
    repeats: int,
    watch: Watch,
    found: Callable[[Found], None],
    done: Mapping[str, int] = MappingProxyType({}),
) -> None:
    """Perform `job` on all `targets` in parallel, `repeats` times each in turn.

    `done` are runs that are there already, by the target's name; they are not run again.
    `found` is called in the calling thread with each run as it ends, and with one failure for a
    target that cannot go on, after the steps it had timed as a partial run. Interrupted (Ctrl-C),
    it asks all to stop and waits until they have cleaned up before it raises again; runs that come
    in meanwhile are still handed over.
    """

    def keep(item: Found) -> None:
        if isinstance(item, Run) or not watch.stopping.is_set():
            found(item)

    left = {target.name: repeats - done.get(target.name, 0) for target in targets}
    in_parallel(
        [partial(_use, one, job, left[one.name], watch) for one in targets if left[one.name] > 0],
        watch,
        keep,
    )


def _use(
    target: Target, job: PlanJob, repeats: int, watch: Watch, found: Callable[[Found], None]
) -> None:
    """All runs on one target; what is there of one that is cut short is a run too."""
    started = _now()

    def report(what: str, done: int, total: int) -> None:
        watch.report(f"{target.name}: {what}", done, total)

    try:
        with target.session(replace(watch, report=report)) as session:
            for _ in range(repeats):
                started = _now()
                found(Run(started=started, outcome=session.perform(job)))
    except TargetError as error:
        message = error.message
        if (partial := error.partial) is not None and partial.measurement is not None:
            found(Run(started=started, outcome=partial))
            steps = len(partial.measurement.step_s)
            message += f"; {steps} of the {job.options.steps} steps it was at are kept"
        found(
            Failure(
                target=target.name,
                reason=error.reason,
                message=message,
                predicted=error.predicted,
            )
        )
    except CostsimError as error:
        found(Failure(target=target.name, reason="failed", message=str(error)))
    except Exception as error:  # a target of somebody else's: the others go on
        told = " ".join(str(error).split())
        message = f"{type(error).__name__}: {told}"
        found(Failure(target=target.name, reason="failed", message=message))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
