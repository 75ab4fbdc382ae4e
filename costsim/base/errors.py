"""What can go wrong, and what the command line makes of it.

CostsimError                    exit status 2, one line
├── InputError                  a file, key, value or option that cannot be used
│   └── UnsupportedOperator     a model with an operator nobody described
└── InvalidSolution             a solver returned a plan that its own problem forbids
"""


class CostsimError(Exception):
    """Base of every error this library raises on purpose; its text is one complete line."""


class InputError(CostsimError):
    """Something a person gave is unusable: says what it was, where, and what is allowed."""


class UnsupportedOperator(InputError):
    """The model calls an operator that no file of `costsim.ir.operators` describes."""


class InvalidSolution(CostsimError):
    """A solver's answer, priced again, breaks a budget or a rule of its problem."""
