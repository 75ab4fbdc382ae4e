"""Meta-training of a backbone as a prototypical network: `costsim pretrain`."""

from costsim.pretraining.evaluation import Accuracy, evaluate
from costsim.pretraining.pool import Pool, load_pool
from costsim.pretraining.run import Diverged, Pretraining, StepResult, train
from costsim.pretraining.settings import PretrainSettings, Stage
from costsim.pretraining.state import Record

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
