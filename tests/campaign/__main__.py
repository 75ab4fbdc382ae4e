"""`python -m campaign [WORD...]`: the experiments whose names have all words, as a table."""

import argparse
import importlib
import random
import sys
import time
from pathlib import Path

from .experiment import Experiment, Unavailable
from .stage import Stage

HEAD = "| fault | where | tried | what held | command |\n| --- | --- | ---: | --- | --- |"
KINDS = ("killed", "disks", "damage", "together", "clusters", "peers", "load", "claims")


def experiments() -> list[Experiment]:
    """All of them, in the order of the table."""
    return [
        one for kind in KINDS for one in importlib.import_module(f"campaign.{kind}").EXPERIMENTS
    ]


def row(experiment: Experiment, stage: Stage, times: int, seed: int) -> tuple[bool, str]:
    """Do it, and tell as a row of the table; whether it held."""
    try:
        tried, held = experiment.trial(stage, times, random.Random(seed))
    except AssertionError as error:
        return False, _row(experiment, "-", f"**broke**: {error}")
    except Unavailable as error:
        return True, _row(experiment, "0", f"not tried: {error}")
    return True, _row(experiment, f"{tried:,}", held)


def _row(experiment: Experiment, tried: str, held: str) -> str:
    command = f'`python -m campaign "{experiment.name}"`'
    cells = (experiment.fault, experiment.where, tried, held, command)
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"


def put(page: Path, text: str) -> None:
    """Put a row into the table of a page, in the place of the one for the same experiment."""
    same = "|".join(text.split("|")[:3])
    lines = page.read_text().splitlines()
    page.write_text("".join(f"{text if at.startswith(same) else at}\n" for at in lines))


def main() -> int:
    """Print the table; exit status 1 where something broke."""
    parser = argparse.ArgumentParser(prog="python -m campaign", description=__doc__)
    parser.add_argument("words", nargs="*", help="only experiments whose names have all of these")
    parser.add_argument("--times", type=int, help="how often each is tried")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the rows into its table")
    parser.add_argument("--list", action="store_true", help="only name them")
    asked = parser.parse_args()
    chosen = [e for e in experiments() if all(word in e.name for word in asked.words)]
    if asked.list:
        print("\n".join(experiment.name for experiment in chosen))
        return 0
    print(f"{HEAD}\n", end="", flush=True)
    well = True
    with Stage() as stage:
        for experiment in chosen:
            times = experiment.times if asked.times is None else asked.times
            begun = time.monotonic()
            held, text = row(experiment, stage, times, asked.seed)
            well = well and held
            print(text, flush=True)
            if asked.write is not None:
                put(asked.write, text)
            print(f"{time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
