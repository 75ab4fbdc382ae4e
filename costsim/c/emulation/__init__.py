"""A Cortex-M7 in the loop: a training step as machine code inside exactly the device's memory.

`toolchain` and `build` turn generated C into an ELF for a memory map; `emulator` runs it in a
worker process (`worker`) under unicorn and watches every access; `counting` and `latency` read the
profile; `frames` and `link` speak with a firmware on a line. What comes out is emulated: accesses,
instructions and values are exact, seconds are a model.
"""
