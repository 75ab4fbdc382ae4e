"""One plan on several targets at once; what each brings is handed over as it comes."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from queue import Queue
from typing import TypeAlias

from costsim.errors import CostsimError
from costsim.targets.base import Target, TargetError, Watch
from costsim.targets.job import PlanJob
from costsim.targets.measured import Failure, Run

Found: TypeAlias = Run | Failure


def measure_on(
    targets: Sequence[Target],
    job: PlanJob,
    *,
    repeats: int,
    watch: Watch,
    found: Callable[[Found], None],
) -> None:
    """Perform `job` on all `targets` in parallel, `repeats` times each in turn.

    `found` is called in the calling thread with each run as it ends, and with one failure for a
    target that cannot go on. Interrupted (Ctrl-C), it asks all to stop and waits until they have
    cleaned up before it raises again; what comes in meanwhile is still handed over.
    """
    queue: Queue[Found | None] = Queue()
    threads = [
        threading.Thread(target=_use, args=(target, job, repeats, watch, queue))
        for target in targets
    ]
    for thread in threads:
        thread.start()
    waiting = len(threads)
    interrupted: KeyboardInterrupt | None = None
    while waiting:
        try:
            item = queue.get()
            if item is None:
                waiting -= 1
            elif interrupted is None or isinstance(item, Run):
                found(item)
        except KeyboardInterrupt as error:
            interrupted = error
            watch.stopping.set()
    for thread in threads:
        thread.join()
    if interrupted is not None:
        raise interrupted


def _use(
    target: Target, job: PlanJob, repeats: int, watch: Watch, queue: "Queue[Found | None]"
) -> None:
    """All runs on one target; ends with None, whatever happens."""

    def report(what: str, done: int, total: int) -> None:
        watch.report(f"{target.name}: {what}", done, total)

    try:
        with target.session(replace(watch, report=report)) as session:
            for _ in range(repeats):
                started = datetime.now(UTC).isoformat(timespec="seconds")
                queue.put(Run(started=started, outcome=session.perform(job)))
    except TargetError as error:
        queue.put(
            Failure(
                target=target.name,
                reason=error.reason,
                message=error.message,
                predicted=error.predicted,
            )
        )
    except CostsimError as error:
        queue.put(Failure(target=target.name, reason="failed", message=str(error)))
    except Exception as error:  # a target of somebody else's: the others go on
        told = " ".join(str(error).split())
        message = f"{type(error).__name__}: {told}"
        queue.put(Failure(target=target.name, reason="failed", message=message))
    finally:
        queue.put(None)
