"""The columns of the rows of a study of methods, as they are kept."""

from collections.abc import Mapping

SCHEMA = "costsim.study/1"

COLUMNS: Mapping[str, str] = {
    "key": "TEXT PRIMARY KEY",
    "status": "TEXT NOT NULL",
    "model": "TEXT NOT NULL",
    "method": "TEXT NOT NULL",
    "domain": "TEXT NOT NULL",
    "seed": "INTEGER NOT NULL",
    "device": "TEXT NOT NULL",
    "task": "TEXT NOT NULL",
    "episode": "TEXT NOT NULL",
    "ways": "INTEGER",
    "support": "INTEGER",
    "queries": "INTEGER",
    "accuracy_before": "REAL",
    "accuracy": "REAL",
    "learning_rate": "REAL",
    "kept_share": "REAL",
    "diverged": "INTEGER",
    "layers": "INTEGER",
    "channels": "INTEGER",
    "peak_bytes": "INTEGER",
    "arena_bytes": "INTEGER",
    "paper_bytes": "INTEGER",
    "tiny_training_bytes": "INTEGER",
    "autograd_bytes": "INTEGER",
    "forward_macs": "INTEGER",
    "backward_macs": "INTEGER",
    "exceeds": "TEXT",
    "fits": "INTEGER",
    "task_s": "REAL",
    "task_low_s": "REAL",
    "task_high_s": "REAL",
    "task_j": "REAL",
    "task_low_j": "REAL",
    "task_high_j": "REAL",
    "selection_here_s": "REAL",
    "training_here_s": "REAL",
    "weights": "TEXT",
    "predictions": "TEXT",
    "plan": "TEXT",
    "reason": "TEXT",
    "note": "TEXT",
}
"""`status` is `done`, `refused` (the method has no plan there: an answer) or `failed` (to be tried
again). MACs are of one sample in one step. `exceeds` names the limits of the budget that a step
breaks. `task_s` and `task_j` are predictions for the whole adaptation on the device, `..._here_s`
measurements on the machine that ran the cell. `note` has what to know before believing an answer, a
sentence a line."""
