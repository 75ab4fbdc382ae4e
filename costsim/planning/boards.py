"""One model on several boards, one plan each: which of them to buy.

The boards are planned for one by one, each by its own recommended budget and usual recipe; channels
are scored once for all that run the same network.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from costsim.base.errors import InputError
from costsim.base.progress import Progress
from costsim.base.units import format_bytes, format_joules, format_percent, format_seconds
from costsim.planning.finished_plan import Planned, conclude
from costsim.planning.joint import choose_jointly
from costsim.planning.joint_question import joint_question
from costsim.planning.posed_problem import Scored, prepare
from costsim.planning.request import PlanRequest


@dataclass(frozen=True)
class BoardRow:
    """What a model takes on one board; what does not apply, or is not known, is None.

    `peak_bytes` of a step, `flash_bytes` of frozen weights where they are kept there; `share` of
    the gain of updating everything that was inspected. `reason` says why it does not fit.
    """

    device: str
    fits: bool
    peak_bytes: int | None = None
    flash_bytes: int | None = None
    step_s: float | None = None
    task_s: float | None = None
    task_j: float | None = None
    share: float | None = None
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """Its fields."""
        return dict(vars(self))

    def cells(self) -> tuple[str, ...]:
        """A row of a table for a person."""
        return (
            self.device,
            "yes" if self.fits else "no",
            _told(self.peak_bytes, format_bytes),
            _told(self.flash_bytes, format_bytes),
            _told(self.step_s, format_seconds),
            _told(self.task_s, format_seconds),
            _told(self.task_j, format_joules),
            _told(self.share, format_percent),
        )


def _told(value: Any, form: Any) -> str:
    return "-" if value is None else str(form(value))


def compare_boards(
    requests: Sequence[PlanRequest], progress: Progress | None = None
) -> list[BoardRow]:
    """A row for each request, which differ in the device alone, in their order.

    A board for which the model cannot be planned at all has the reason in its row. Raises
    `InputError` where that is so of every board.
    """
    rows, refused = [], list[InputError]()
    scored: dict[bool, Scored] = {}
    for request in requests:
        try:
            rows.append(_row(request, scored, progress))
        except InputError as error:
            refused.append(error)
            rows.append(BoardRow(request.device.name, fits=False, reason=str(error)))
    if refused and len(refused) == len(rows):
        raise refused[0]
    return rows


def _row(request: PlanRequest, scored: dict[bool, Scored], progress: Progress | None) -> BoardRow:
    # A folded network has other layers, but for the built-in ones.
    folds = request.folds_batch_norm and not request.built_in
    prepared = prepare(request, progress, scored.get(folds))
    scored[folds] = prepared.scored
    answer = choose_jointly(joint_question(prepared), request.solver, progress)
    chosen = replace(prepared, problem=answer.problem)
    return board_row(request, conclude(chosen, answer.solution, progress, priced=answer.priced))


def board_row(request: PlanRequest, planned: Planned) -> BoardRow:
    """The row of one plan."""
    name, predicted = request.device.name, planned.file.predicted
    if predicted is None:
        return BoardRow(name, fits=False, reason=planned.solution.reason or "nothing fits")
    task, latency = predicted.adaptation, predicted.latency_s
    weights = predicted.memory.frozen_weight_bytes
    in_flash = request.device.placement.frozen_weights == "flash"
    reason = planned.too_large or planned.no_room
    return BoardRow(
        name,
        fits=not reason,
        peak_bytes=predicted.memory.peak_bytes,
        flash_bytes=weights if in_flash else None,
        step_s=None if latency is None else latency.step,
        task_s=None if task is None or task.latency_s is None else task.latency_s.value,
        task_j=None if task is None or task.energy_j is None else task.energy_j.value,
        share=planned.file.solver.share,
        reason=reason,
    )
