"""Solvers: one algorithm per file, each sees a `Problem` and returns a plan with its status."""
