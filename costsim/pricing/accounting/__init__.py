"""Memory accountings that others have published, as functions of a layer graph and a plan.

Each counts what its source counts, so that its tables can be reproduced; what a step really
needs is read from the training program instead.
"""

ACCOUNTINGS = ("peak", "arena", "paper", "tiny-training")
"""The accountings a memory budget may be in."""

OF_LIVE_BYTES = ("peak", "arena")
"""Those that count what is live at one moment: nothing that is live then is beside them."""
