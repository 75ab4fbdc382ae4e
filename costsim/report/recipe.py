"""A recipe in one line."""

from costsim.base.units import counted
from costsim.ir.recipe import Recipe


def recipe_line(recipe: Recipe, samples: int) -> str:
    """How a task of so many images is adapted to, for a person."""
    shown = recipe.images_a_step(samples)
    parts = [counted(recipe.iterations, "iteration"), f"{counted(shown, 'image')} in each"]
    if shown < samples:
        parts[-1] += f" of {samples}"
    if recipe.augment and recipe.copies:
        parts.append(f"one of {counted(recipe.copies, 'copy', 'copies')} of each")
    elif recipe.augment:
        parts.append("a new copy of each")
    if recipe.loss == "prototype":
        every = recipe.means_interval
        parts.append(f"class means anew in {'each' if every == 1 else f'1 of {every}'}")
    return ", ".join(parts)
