"""`costsim train`: fine-tune what a plan chose, and write the outcome as a patch."""

import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from costsim.base.files import to_json_text
from costsim.base.units import counted, format_bytes, format_percent, format_seconds
from costsim.cli.command import Command, typed_words
from costsim.cli.facts import facts_table
from costsim.cli.interruption import stopping
from costsim.cli.model_options import moved_weights_option, named_models_option
from costsim.cli.next_steps import tell_next
from costsim.cli.options import (
    backend_option,
    check_seed,
    checkpoint_file,
    checkpoint_option,
    json_option,
    loss_option,
    path_option,
    plan_argument,
    resume_option,
)
from costsim.cli.planned import given_plan
from costsim.cli.progress import progress_on_stderr
from costsim.cli.signature import taking
from costsim.cli.task_options import data_option, split_option
from costsim.ir.recipe import Loss
from costsim.run.native import Backend

if TYPE_CHECKING:
    from rich.table import Table

    from costsim.base.progress import Progress
    from costsim.learning.training import Run, Trained


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """What was typed of `costsim train`."""

    plan: Path
    data: Path | None
    split: str | None
    weights: Path | None
    named_models: tuple[str, ...]
    ways: int | None
    shots: int | None
    queries: int | None
    iterations: int | None
    learning_rate: float | None
    momentum: float | None
    loss: Loss | None
    augment: bool | None
    seed: int | None
    eval_every: int
    out: Path | None
    checkpoint: Path | None
    checkpoint_every: int
    resume: bool
    backend: Backend
    as_json: bool


@click.command("train", cls=Command)
@plan_argument
@data_option()
@split_option
@moved_weights_option
@named_models_option
@click.option("--ways", type=int, metavar="N", help="Classes of the task.  [default: the plan's]")
@click.option("--shots", type=int, metavar="N", help="Images of each class.  [default: the plan's]")
@click.option(
    "--queries",
    type=int,
    metavar="N",
    help="Other images of each class, to measure the accuracy on.  [default: the plan's; of "
    "other images 10, or as many as there are]",
)
@click.option(
    "--iterations", type=int, metavar="N", help="Passes over the samples.  [default: the plan's]"
)
@click.option(
    "--learning-rate",
    type=float,
    metavar="RATE",
    help="Of the optimizer.  [default: the plan's, else what is usual for its optimizer]",
)
@click.option(
    "--momentum",
    type=float,
    metavar="SHARE",
    help="Of the optimizer momentum.  [default: the plan's]",
)
@loss_option(
    "prototype: for a model that returns features; else for logits.  [default: the plan's]", None
)
@click.option(
    "--augment/--no-augment",
    default=None,
    help="Learn from lightly changed copies of the images.  [default: the plan's]",
)
@click.option(
    "--seed", type=int, metavar="N", help="Of all that is drawn at random.  [default: the plan's]"
)
@click.option(
    "--eval-every",
    type=int,
    default=0,
    metavar="N",
    help="Measure the accuracy every N iterations too; 0: only before and after.  [default: 0]",
)
@path_option("--out", help="Write the patch there.")
@checkpoint_option
@click.option(
    "--checkpoint-every",
    type=int,
    default=1,
    show_default=True,
    metavar="N",
    help="Write the checkpoint every N iterations.",
)
@resume_option
@backend_option
@json_option()
@taking(TrainOptions)
def command(given: TrainOptions) -> int:
    """Fine-tune the channels that PLAN chose, and write the outcome as a patch.

    What is not given of data, ways, shots, seed, loss and iterations is the plan's, and the images
    must then be those that the plan was made for; where others are given, that is said. Ctrl-C
    keeps a checkpoint. The exit status is 1 if the loss or a weight is no longer finite, and 130
    after Ctrl-C. costsim apply puts the patch on the model.

    \b
    Examples
      costsim plan  --device jetson-nano --data signs.zip --optimizer adam --out plan.json
      costsim train plan.json --out signs.safetensors
      costsim train plan.json --out signs.safetensors --resume
    """
    out = given.out
    checkpoint, own_checkpoint = checkpoint_file(out, given.checkpoint)
    check_seed(given.seed)

    from costsim.learning.training import Diverged, TrainRequest, prepare, write_patch
    from costsim.run.criteria.caveats import loss_caveat

    plan = given_plan(given.plan, given.named_models)
    request = TrainRequest(
        plan=plan,
        source=str(given.plan),
        weights=given.weights,
        data=given.data,
        split=given.split,
        ways=given.ways,
        shots=given.shots,
        queries=given.queries,
        iterations=given.iterations,
        learning_rate=given.learning_rate,
        momentum=given.momentum,
        loss=_loss(plan.loss, given.loss),
        augment=given.augment,
        seed=given.seed,
        checkpoint=checkpoint,
        checkpoint_every=given.checkpoint_every,
        evaluate_every=given.eval_every,
        resume=given.resume,
        backend=given.backend,
    )
    with progress_on_stderr() as progress:
        run = prepare(request, progress)
    _notes(run, given.resume, out)
    try:
        with stopping() as stop, progress_on_stderr() as progress:
            done = run.train(lambda: stop.signal is not None, _watcher(progress))
    except Diverged as error:
        print(f"costsim: {error}", file=sys.stderr)
        return 1
    if not done:
        kept = f"{checkpoint} has it; go on with --resume" if checkpoint else "nothing is kept"
        print(f"costsim: stopped {_where(run)}: {kept}", file=sys.stderr)
        return 128 + (stop.signal or signal.SIGINT)
    with progress_on_stderr() as progress:
        progress("measuring the accuracy after", 0, 0)
        trained = run.finish()
    if out is not None:
        write_patch(out, trained.patch)
        if own_checkpoint and checkpoint is not None:
            checkpoint.unlink(missing_ok=True)
    _show(run, trained, out, given.as_json)
    if (told := loss_caveat(trained.losses)) is not None:
        print(f"costsim: note: {told}", file=sys.stderr)
    tell_next(
        (*typed_words(), "--out", given.plan.with_suffix(".safetensors"))
        if out is None
        else ("apply", out, "--out", out.with_name(f"{out.stem}-adapted.safetensors")),
        as_json=given.as_json,
    )
    return 0


def _notes(run: "Run", resume: bool, out: Path | None) -> None:
    """What a person should know before it starts, on stderr."""
    from costsim.models.loading import UNSEEN_GRADIENTS
    from costsim.models.networks import NETWORKS
    from costsim.problem.importance import left_frozen
    from costsim.run.criteria.caveats import data_caveat, output_caveat, weights_caveat

    plan, task = run.request.plan, run.task
    model = plan.model
    given = run.request.data is not None or plan.task.data is not None
    doubts = (
        output_caveat(run.subject.graph, run.recipe.loss, task.ways),
        data_caveat(model.spec, built_in=model.spec in NETWORKS, given=given),
        weights_caveat(model.name, model.provenance),
    )
    found = [told for told in doubts if told is not None]
    if task.digest != plan.task.images_sha256:
        found.append(
            f"the plan was made for {plan.task.source}; this trains on other images of "
            f"{task.description}"
        )
    if plan.step.bits.weights != 32:
        found.append(f"the plan is for {plan.step.bits.weights}-bit weights; this runs in float32")
    if told := left_frozen(run.subject.graph):
        found.append(f"{told}, and are not trained")
    if run.subject.fixed_batch:
        found.append(f"{plan.model.spec}: {UNSEEN_GRADIENTS}")
    if out is None:
        found.append("without --out the outcome is shown and not kept")
    if run.resumed_at is not None:
        found.append(f"going on {_where(run)}")
    elif resume:
        found.append(f"{run.request.checkpoint} is not there yet: starting from the beginning")
    for note in found:
        print(f"costsim: note: {note}", file=sys.stderr)


def _where(run: "Run") -> str:
    trainer = run.trainer
    within = f" and {trainer.batch} of {trainer.batches()} batches" if trainer.batch else ""
    return f"after {trainer.iteration} of {run.recipe.iterations} iterations{within}"


def _loss(planned: str | None, asked: Loss | None) -> Loss | None:
    """What is asked; says where it differs from the plan's."""
    if asked is not None and planned not in (None, asked):
        told = f"the plan was chosen for --loss {planned}; it is trained by --loss {asked}"
        print(f"costsim: note: {told}", file=sys.stderr)
    return asked


def _watcher(progress: "Progress") -> "Callable[[Run, float], None]":
    """A live line on a terminal, a line an iteration elsewhere."""
    live = sys.stderr.isatty()
    started, first = time.perf_counter(), [0]

    def watch(run: "Run", loss: float) -> None:
        trainer, first[0] = run.trainer, first[0] + 1
        samples = first[0] * len(trainer.samples())
        rate = samples / (time.perf_counter() - started)
        done, total = trainer.iteration, run.recipe.iterations
        if live:
            progress(f"training: loss {loss:.4f}, {rate:.1f} samples/s", done, total)
        elif trainer.batch == 0:
            accuracy = run.accuracies.get(done)
            more = "" if accuracy is None else f", accuracy {format_percent(accuracy)}"
            print(
                f"iteration {done}/{total}: loss {trainer.losses[-1]:.4f}, "
                f"{rate:.1f} samples/s{more}",
                file=sys.stderr,
                flush=True,
            )

    return watch


def _show(run: "Run", trained: "Trained", out: Path | None, as_json: bool) -> None:
    from costsim.learning.training.fine_tuning import outcome_json

    if as_json:
        click.echo(to_json_text(outcome_json(run, trained, out)))
        return
    from costsim.cli.console import Console

    Console().print(_table(run, trained, out))


def _table(run: "Run", trained: "Trained", out: Path | None) -> "Table":
    task, patch = run.task, trained.patch
    queries = f"{len(task.query_labels)} query images"

    def share(accuracy: float | None) -> str:
        return "-" if accuracy is None else f"{format_percent(accuracy)} of {queries}"

    losses = trained.losses
    rows = [
        ("task", task.description),
        ("accuracy before", share(trained.accuracy_before)),
        *(
            (f"  after {counted(n, 'iteration')}", share(found))
            for n, found in trained.accuracies.items()
        ),
        ("accuracy after", share(trained.accuracy_after)),
        ("loss", f"{losses[0]:.4f} in the first iteration, {losses[-1]:.4f} in the last"),
        ("steps", f"{trained.steps:,} in {format_seconds(trained.seconds)}"),
        (
            "changed",
            f"{counted(patch.channels, 'channel')}, {counted(len(patch.changes), 'parameter')}",
        ),
    ]
    if out is not None:
        rows.append(("patch", f"{out}, {format_bytes(out.stat().st_size)}"))
    return facts_table("fine-tuned", run.request.plan.model.name, rows)
