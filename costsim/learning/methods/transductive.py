"""Transductive fine-tuning: what the queries look like is learnt from too.

Dhillon et al., "A Baseline for Few-Shot Image Classification", ICLR 2020: all of the network is
trained on the cross entropy of the support images plus the mean entropy of the predictions of the
query images, so that these become confident. No label of a query is used. Here the classifier is
that of all methods, class means taken anew in each iteration, where theirs is a layer that starts
from them.
"""

from dataclasses import dataclass

from costsim.learning.methods.full_train import FullTrain


@dataclass(frozen=True)
class Transductive(FullTrain):
    """FullTrain with the entropy of the queries in its loss; priced with the queries' passes."""

    learning_rate: float = 0.0003
    transductive: bool = True

    @property
    def name(self) -> str:
        """As in the paper."""
        return "Transductive"
