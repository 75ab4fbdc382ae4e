"""Asking solvers: answers checked and priced again, frontiers, explanations, plan files."""
