"""What the pages that a command writes say of how they came about."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from costsim.cli.command import typed_words

if TYPE_CHECKING:
    from costsim.report.html import Made


def made_now() -> "Made":
    """The command that is running, as it was typed, and the time."""
    from costsim.report.html import Made

    return Made(typed_words(), datetime.now(UTC))
