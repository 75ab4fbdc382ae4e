"""The step as C: written for a microcontroller, and run on an emulated one."""
