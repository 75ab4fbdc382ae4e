"""Several targets at once: everything is handed over, and whoever stops it waits for all."""

import threading
import time
from collections.abc import Callable

import pytest

from costsim.hardware.targets.base import Watch
from costsim.hardware.targets.parallel import in_parallel


def test_what_each_finds_comes_in_the_calling_thread_in_its_order() -> None:
    def work(name: str) -> Callable[[Callable[[str], None]], None]:
        def go(found: Callable[[str], None]) -> None:
            for number in range(3):
                found(f"{name}{number}")

        return go

    seen: list[str] = []
    here = threading.current_thread()

    def keep(item: str) -> None:
        assert threading.current_thread() is here
        seen.append(item)

    in_parallel([work("a"), work("b")], Watch(), keep)
    assert [one for one in seen if one[0] == "a"] == ["a0", "a1", "a2"]
    assert [one for one in seen if one[0] == "b"] == ["b0", "b1", "b2"]


def test_they_run_at_once() -> None:
    together = threading.Barrier(3, timeout=20)
    in_parallel([lambda found: found(together.wait())] * 3, Watch(), lambda _item: None)


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_whoever_stops_it_waits_until_all_have_cleaned_up(error: BaseException) -> None:
    """After Ctrl-C what still comes in is kept; after an error of the keeper nothing more is."""
    watch = Watch()
    cleaned, kept = [], []

    def busy(found: Callable[[str], None]) -> None:
        assert watch.stopping.wait(20)
        time.sleep(0.05)
        found("late")
        cleaned.append(1)

    def keep(item: str) -> None:
        kept.append(item)
        if item == "first":
            raise error

    with pytest.raises(type(error)):
        in_parallel([lambda found: found("first"), busy, busy], watch, keep)
    assert cleaned == [1, 1]
    assert kept == ["first"] + ["late", "late"] * isinstance(error, KeyboardInterrupt)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_one_that_breaks_does_not_hang_the_others() -> None:
    """It must not raise; if it does all the same, the rest is still waited for and told."""
    kept: list[str] = []

    def breaks(_: Callable[[str], None]) -> None:
        raise SystemExit

    in_parallel([breaks, lambda found: found("fine")], Watch(), kept.append)
    assert kept == ["fine"]
