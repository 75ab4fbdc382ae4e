"""Two runs in one folder at the same time, and runs that stand still for a while."""

import random
import re
import signal
import time
from functools import partial

from .bench import check_one_line
from .commands import Running
from .experiment import Experiment
from .killed import held
from .stage import Stage
from .workloads import WORKLOADS

STILL_S = 10.0
SHARED = ("study", "compare")
"""Commands of which several may work on one store."""


def two_on_a_store(
    command: str, stage: Stage, times: int, chance: random.Random
) -> tuple[int, str]:
    """Two runs share the cells; every second time one of them is killed."""
    bench = stage.bench(command)
    for number in range(times):
        place = bench.new(stage.new())
        first = bench.start(place)
        time.sleep(chance.uniform(0, 0.5 * bench.seconds))
        second = bench.start(place)
        if number % 2:
            time.sleep(chance.uniform(0, 0.5 * bench.seconds))
            first.kill()
            first.wait()
            first.check_gone()
            bench.check_result(place, second.wait())
            continue
        ended = [first.wait(), second.wait()]
        assert [one.status for one in ended] == [0, 0], [one.err for one in ended]
        computed = [re.search(r"(\d+) of (\d+) cells computed", one.err) for one in ended]
        counts = [int(one[1]) for one in computed if one]
        assert sum(counts) == len(bench.expected["rows"]), f"computed {counts}"
        for one in ended:
            bench.check_result(place, one)
    return times, "each cell computed once, rows as of one run; killed, the other does its part"


def two_in_a_folder(
    command: str, stage: Stage, times: int, chance: random.Random
) -> tuple[int, str]:
    """The same command twice: both end well or in one line, and the result is right."""
    bench = stage.bench(command)
    for _ in range(times):
        place = bench.new(stage.new())
        runs = [bench.start(place)]
        time.sleep(chance.uniform(0, 0.3 * bench.seconds))
        runs.append(bench.start(place))
        ended = [run.wait() for run in runs]
        for one in ended:
            if one.status:
                check_one_line(one)
        well = [one for one in ended if one.status == 0]
        assert well, [one.err for one in ended]
        bench.check_result(place, well[-1])
    return times, "each ends well or in one line; the result is that of one run"


def still(command: str, stage: Stage, times: int, chance: random.Random) -> tuple[int, str]:
    """Stopped with all it has started (SIGSTOP) for ten seconds, at a random moment."""
    bench, stopped, attempt = stage.bench(command), 0, 0
    while stopped < times:
        attempt += 1
        assert attempt < 4 * times + 10, "it is over before it can be stopped"
        place = bench.new(stage.new())
        running = bench.start(place)
        other = bench.start(place) if command in SHARED else None
        time.sleep(chance.uniform(0, 0.9 * bench.seconds))
        stopped += not running.over()
        hold(running, STILL_S)
        for run in filter(None, (running, other)):
            ended = run.wait()
            assert ended.status == 0, f"status {ended.status}: {ended.err}"
            bench.check_result(place, ended)
    beside = "; another run on the store meanwhile takes none of its cells" * (command in SHARED)
    return stopped, f"goes on to {held(command)}{beside}"


def hold(running: Running, seconds: float) -> None:
    """Let a command and all it has started stand still."""

    def tell(number: int) -> None:
        for pid in (running.pid, *running.started()):
            running.tell(pid, number)

    tell(signal.SIGSTOP)
    time.sleep(seconds)
    tell(signal.SIGCONT)


EXPERIMENTS = (
    *(
        Experiment("two at once on a store", f"costsim {name}", partial(two_on_a_store, name), 6, 1)
        for name in SHARED
    ),
    *(
        Experiment(
            "two at once in a folder", f"costsim {name}", partial(two_in_a_folder, name), 3, 1
        )
        for name in WORKLOADS
        if name not in SHARED
    ),
    *(
        Experiment("SIGSTOP for ten seconds", f"costsim {name}", partial(still, name), 3, 1)
        for name in WORKLOADS
    ),
)
