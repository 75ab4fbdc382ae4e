"""Figures that others have published, and what is predicted for the same things.

`REPRODUCTIONS` names what can be held against a prediction; nothing in one is run on a board.
"""

from typing import TYPE_CHECKING

from costsim.base.registry import Entry, Registry

if TYPE_CHECKING:
    from costsim.studies.published.comparison import Reproduction

REPRODUCTIONS: "Registry[Reproduction]" = Registry(
    "reproduction",
    {
        "paper-costs": Entry(
            "costsim.studies.published.paper_costs:PaperCosts",
            "memory, MACs, minutes and joules in TinyTrain's paper (ICML 2024)",
        ),
    },
)
