"""Why a plan is what it is: what more of a budget would bring, why a layer was left out."""

from costsim.solving.explain.questions import explain, little
from costsim.solving.explain.sentences import Explanation, LeftOut, LimitPrice, Relaxation

__all__ = ["Explanation", "LeftOut", "LimitPrice", "Relaxation", "explain", "little"]
