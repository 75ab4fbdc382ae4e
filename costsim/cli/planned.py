"""The plan that a command is given."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from costsim.cli.model_options import check_named_models
from costsim.cli.overwriting import check_not_named

if TYPE_CHECKING:
    from costsim.solving.planfile import PlanFile


def given_plan(path: Path, named_models: Sequence[str]) -> "PlanFile":
    """The plan in a file; says on stderr where the device file of its device is another now.

    Raises `InputError` for what is no plan, for one of other models than those named, and where the
    command would write over what the plan was made with.
    """
    from costsim.solving.planfile import changed_device, read_plan

    plan = read_plan(path)
    check_not_named((plan.model.spec, plan.model.weights, plan.task.data), path)
    check_named_models(named_models, plan.model.spec, path)
    if told := changed_device(plan):
        print(f"costsim: note: {path}: {told}", file=sys.stderr)
    return plan
