"""Machines and boards: what runs a step there, what is measured, and devices calibrated by it."""
