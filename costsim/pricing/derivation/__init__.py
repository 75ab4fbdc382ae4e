"""Deriving the cost table from a schedule: which buffers are live when, under which updates.

A buffer of the schedule is live at a position if one of the steps that still read it is active, so
its bytes there are multiplied by a clause: the union of those steps' guards. Compiling a plan finds
the same lifetimes by scanning its operations; that the two agree is a test.
"""

from costsim.pricing.derivation.build import build_table

__all__ = ["build_table"]
