"""The training program: compiled once at plan time, read by everything else."""

from costsim.ir.program.arena import Arena, plan_arena
from costsim.ir.program.backward import build_schedule
from costsim.ir.program.compile import compile_program, plan_atoms
from costsim.ir.program.guards import gradient_guards
from costsim.ir.program.program import Buffer, Operand, Operation, TrainingProgram
from costsim.ir.program.schedule import (
    AXES,
    Atom,
    Category,
    Direction,
    Guard,
    Schedule,
    Step,
)
from costsim.ir.program.scoring import FISHER_WORK, ScoringWork, compile_scoring
from costsim.ir.program.segments import cut_calls, even_cuts
from costsim.ir.program.timeline import MemoryTimeline, memory_timeline

__all__ = [
    "AXES",
    "FISHER_WORK",
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
    "ScoringWork",
    "Step",
    "TrainingProgram",
    "build_schedule",
    "compile_program",
    "compile_scoring",
    "cut_calls",
    "even_cuts",
    "gradient_guards",
    "memory_timeline",
    "plan_arena",
    "plan_atoms",
]
