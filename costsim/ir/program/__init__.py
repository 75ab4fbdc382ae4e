"""The training program: compiled once at plan time, read by everything else."""

from costsim.program.arena import Arena, plan_arena
from costsim.program.backward import build_schedule
from costsim.program.compile import compile_program, plan_atoms
from costsim.program.guards import gradient_guards
from costsim.program.program import Buffer, Operand, Operation, TrainingProgram
from costsim.program.schedule import (
    AXES,
    Atom,
    Category,
    Direction,
    Guard,
    Schedule,
    Step,
)
from costsim.program.segments import cut_calls, even_cuts
from costsim.program.timeline import MemoryTimeline, memory_timeline

__all__ = [
    "AXES",
    "Arena",
    "Atom",
    "Buffer",
    "Category",
    "Direction",
    "Guard",
    "MemoryTimeline",
    "Operand",
    "Operation",
    "Schedule",
    "Step",
    "TrainingProgram",
    "build_schedule",
    "compile_program",
    "cut_calls",
    "even_cuts",
    "gradient_guards",
    "memory_timeline",
    "plan_arena",
    "plan_atoms",
]
