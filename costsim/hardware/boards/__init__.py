"""Microcontrollers: real ones on a line, and emulated ones."""
