"""The columns of a comparison's rows, as they are kept."""

from collections.abc import Mapping

SCHEMA = "costsim.comparison/2"

COLUMNS: Mapping[str, str] = {
    "key": "TEXT PRIMARY KEY",
    "problem": "TEXT NOT NULL",
    "solver": "TEXT NOT NULL",
    "model": "TEXT NOT NULL",
    "device": "TEXT NOT NULL",
    "budget": "TEXT NOT NULL",
    "domain": "TEXT NOT NULL",
    "seed": "INTEGER NOT NULL",
    "settings": "TEXT NOT NULL",
    "status": "TEXT NOT NULL",
    "gain": "REAL",
    "bound": "REAL",
    "total_gain": "REAL",
    "seconds": "REAL",
    "layers": "INTEGER",
    "channels": "INTEGER",
    "memory_bytes": "INTEGER",
    "memory_limit_bytes": "INTEGER",
    "accounting": "TEXT",
    "backward_macs": "INTEGER",
    "macs_limit": "INTEGER",
    "latency_s": "REAL",
    "fullest": "REAL",
    "accuracy_before": "REAL",
    "accuracy": "REAL",
    "training_s": "REAL",
    "plan": "TEXT",
    "reason": "TEXT",
    "note": "TEXT",
}
"""`status` is the solver's, or `error`; `fullest` is the share used of the fullest budget; `gain`
and `bound` are sums of scores, `total_gain` that of all inspected channels; the accuracies are
shares of the query images, before and after training by the plan, where a study asks for that.
`note` has what to know before believing an answer, a sentence a line."""
