"""The cost table against the compiled program, of drawn graphs, steps and plans."""

import numpy as np
from graphs import graphs, plans, steps
from hypothesis import strategies as st

from costsim.ir.program import (
    Category,
    Direction,
    Schedule,
    TrainingProgram,
    build_schedule,
    compile_program,
    memory_timeline,
    plan_atoms,
)
from costsim.pricing.cost import price
from costsim.pricing.derivation import build_table
from costsim.pricing.table import Floats, OperationTimer


class CountingTimer:
    """A device on which every operation takes a whole, distinctive number of seconds."""

    def operation_seconds(
        self,
        work_kind: str,
        direction: str,
        macs: Floats,
        moved_bytes: Floats,
        *,
        kernel: str | None = None,
    ) -> Floats:
        """Seven, and the larger of three a MAC and letter of the direction, and one a byte."""
        return 7.0 + np.maximum(3.0 * np.asarray(macs) * len(direction), np.asarray(moved_bytes))


def program_seconds(program: TrainingProgram, timer: OperationTimer) -> float:
    """What the operations of a program take, summed up."""
    seconds = 0.0
    for op in program.operations:
        macs, moved_bytes = np.array(float(op.macs)), np.array(float(op.moved_bytes))
        once = timer.operation_seconds(op.work_kind, str(op.direction), macs, moved_bytes)
        seconds += program.times(op) * float(once)
    return seconds


def positions(schedule: Schedule, program: TrainingProgram) -> list[int]:
    """Where in the schedule the operations of a program come from."""
    atoms = plan_atoms(program.plan).keys()
    left, found = list(reversed(program.operations)), []
    for position, step in enumerate(schedule.steps):
        active = step.guard is None or step.guard & atoms or step.direction is Direction.KEEP
        if left and left[-1].name == step.name and active:
            left.pop()
            found.append(position)
    assert not left
    return found


def check_table_against_program(
    data: st.DataObject, *, plans_of_each: int, rich: bool = True
) -> None:
    """Draw a graph, a step and so many plans: every number of theirs is the same, to the byte.

    The bytes of each accounting and of each category, the MACs of each cause, the seconds, and
    what is live at every position, so that a difference shows where no peak hides it.
    """
    graph = data.draw(graphs(rich=rich))
    step = data.draw(steps(graph))
    timer = CountingTimer()
    schedule = build_schedule(graph, step)
    table = build_table(graph, step, timer=timer, schedule=schedule)
    whole = build_table(graph, step, schedule=schedule, every_position=True)
    for _ in range(plans_of_each):
        plan = data.draw(plans(graph))
        program = compile_program(graph, plan, step, schedule)
        priced, cost = table.price_plan(plan), price(program)

        timeline = memory_timeline(program)
        live = whole.live_bytes(plan)
        assert np.array_equal(live[positions(schedule, program)], timeline.total_bytes)
        assert priced.peak_bytes[0] == live.max() == timeline.peak_bytes == cost.memory.peak_bytes
        assert priced.peak_bytes[0] <= cost.memory.arena_bytes
        assert priced.paper_bytes[0] == cost.memory.paper_bytes
        assert priced.kept_bytes[0] == sum(buffer.bytes for buffer in program.kept())
        for category, column in (
            (Category.WEIGHT_GRADIENT, priced.gradient_bytes),
            (Category.OPTIMIZER, priced.optimizer_bytes),
            (Category.UPDATED_WEIGHTS, priced.updated_weight_bytes),
        ):
            assert column[0] == sum(b.bytes for b in program.buffers if b.category is category)
        for direction, macs in (
            (Direction.FORWARD, table.forward_macs),
            (Direction.RECOMPUTE, priced.recompute_macs[0]),
            (Direction.INPUT_GRADIENT, priced.input_gradient_macs[0]),
            (Direction.WEIGHT_GRADIENT, priced.weight_gradient_macs[0]),
        ):
            assert macs == sum(
                program.times(op) * op.macs
                for op in program.operations
                if op.direction is direction
            )
        assert priced.backward_macs[0] == cost.macs.backward
        assert priced.step_s is not None
        assert priced.step_s[0] == program_seconds(program, timer)
