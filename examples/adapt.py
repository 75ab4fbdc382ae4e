"""Adapt a network to one user's handwriting by several methods, within the budgets of a board.

The digits inside scikit-learn stand in for the user's samples. Without `weights` the network is
what ships or what a seed gives, so look at the costs; give your own weights for accuracies.
"""

from costsim import (
    FixedEpisode,
    Place,
    Recipe,
    Situation,
    adapt,
    digits,
    load_backbone,
    load_device,
    make_guard,
    make_method,
    sample_episode,
)

backbone = load_backbone("mcunet-5fps", resolution=48)  # weights=Path("mcunet.safetensors")
task = sample_episode(digits(), FixedEpisode(ways=5, shots=3, queries=10), seed=0, resolution=48)
place = Place(load_device("jetson-nano"))  # its recommended budgets
situation = Situation(backbone, task, place, Recipe(iterations=8))

print(f"{task.description}: {situation.base_accuracy:.1%} before")
for name in ("LastLayer", "TinyTrain", "TinyTrain (exact)"):
    adapted = adapt(situation, make_method(name))
    step = adapted.cost.step
    print(
        f"{adapted.method:18s} {adapted.accuracy_after:.1%}, peak {step.memory.peak_bytes:,} B, "
        f"{adapted.cost.backward_macs_a_sample / 1e6:.2f} MMAC backward a sample"
    )

# What keeps it from doing harm: part of the samples is held out to judge the change.
guarded = adapt(situation, make_method("TinyTrain"), guard=make_guard("2-fold"))
print(f"with a guard       {guarded.accuracy_after:.1%}, {guarded.kept:.0%} of the change kept")
