"""Adapting a network to one user's task, by any method, on the budgets of a device."""
