"""The training program on the machine that plans it: vector kernels, and the list that they run.

The third target beside C for a Cortex-M in float32 and in 8 bits. Kernels are compiled once for a
machine (`build`); a program is lowered to records (`lowering`) that they run one after another, in
one arena, so that a new plan costs no compiler.
"""
