"""Meta-training of a backbone as a prototypical network: `costsim pretrain`."""

from costsim.learning.pretraining.evaluation import Accuracy, evaluate
from costsim.learning.pretraining.pool import Pool, load_pool
from costsim.learning.pretraining.run import Diverged, Pretraining, StepResult, train
from costsim.learning.pretraining.settings import PretrainSettings, Stage
from costsim.learning.pretraining.state import Record

__all__ = [
    "Accuracy",
    "Diverged",
    "Pool",
    "PretrainSettings",
    "Pretraining",
    "Record",
    "Stage",
    "StepResult",
    "evaluate",
    "load_pool",
    "train",
]
