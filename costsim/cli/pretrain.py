"""`costsim pretrain`: meta-train a backbone, for tasks that nobody trained it for."""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from costsim.base.errors import InputError
from costsim.base.extras import require
from costsim.base.files import to_json_text
from costsim.base.units import counted, format_percent, format_seconds
from costsim.cli import completion
from costsim.cli.command import Command
from costsim.cli.facts import facts_table
from costsim.cli.interruption import stopping
from costsim.cli.model_options import MODELS, naming, weights_option
from costsim.cli.options import (
    checkpoint_file,
    checkpoint_option,
    json_option,
    path_option,
    resume_option,
    seed_option,
)
from costsim.cli.progress import progress_on_stderr
from costsim.cli.signature import taking
from costsim.cli.task_options import IMAGES, check_hub, episode_option
from costsim.learning.pretraining.settings import AUGMENTATIONS, OPTIMIZERS, PRECISIONS

if TYPE_CHECKING:
    from costsim.learning.pretraining.request import PretrainRun
    from costsim.learning.pretraining.run import StepResult
    from costsim.learning.pretraining.state import Record


@dataclass(frozen=True, kw_only=True)
class PretrainOptions:
    """What was typed of `costsim pretrain`."""

    model: str
    weights: Path | None
    data: tuple[str, ...]
    transfer: tuple[str, ...]
    out: Path
    half: bool
    steps: int
    episodes: int
    episode: str
    ways: str | None
    shots: str | None
    queries: int
    support: int | None
    resolution: str
    augmentation: str
    auxiliary: float
    optimizer: str
    learning_rate: float
    weight_decay: float
    momentum: float
    warmup: float
    held_out: float
    precision: str
    torch_device: str | None
    seed: int
    eval_every: int
    checkpoint: Path | None
    checkpoint_every: int
    resume: bool
    log: Path | None
    as_json: bool


@click.command("pretrain", cls=Command)
@click.option(
    "--model",
    required=True,
    metavar="NAME",
    callback=naming,
    shell_complete=completion.models,
    help=f"{MODELS}, that returns features.",
)
@weights_option("Start from these weights.  [default: from scratch]")
@click.option(
    "--data",
    multiple=True,
    required=True,
    metavar="PATH",
    help=f"{IMAGES}. PATH::split for one of several sub-folders. Give it again for more: an "
    "episode stays within one of them.",
)
@click.option(
    "--transfer",
    multiple=True,
    metavar="PATH",
    help="Measure on these images too, never train on them; digits: those inside scikit-learn.",
)
@path_option("--out", required=True, help="Write the weights there, as safetensors.")
@click.option("--half", is_flag=True, help="Write them in half precision.")
@click.option("--steps", type=int, default=2000, show_default=True, metavar="N",
              help="Optimizer steps.")  # fmt: skip
@click.option("--episodes", type=int, default=1, show_default=True, metavar="N",
              help="Few-shot tasks of each step.")  # fmt: skip
@episode_option(
    "fixed: --ways and --shots, the same for all classes; meta-dataset: shots vary by class."
)
@click.option("--ways", metavar="N|FROM-TO",
              help="Classes of an episode.  [default: 20; meta-dataset: 5-50]")  # fmt: skip
@click.option("--shots", metavar="N|FROM-TO",
              help="Images of each class to learn from.  [default: 5]")  # fmt: skip
@click.option("--queries", type=int, default=5, show_default=True, metavar="N",
              help="Other images of each class; meta-dataset: at most.")  # fmt: skip
@click.option(
    "--support",
    type=int,
    metavar="N",
    help="Images to learn from in a meta-dataset episode, at most.  [default: 500]",
)
@click.option(
    "--resolution",
    default="64:60%,96:25%,128:15%",
    show_default=True,
    metavar="SIDE[:SHARE%],...",
    help="Side of the images, in stages of the steps.",
)
@click.option("--augment", "augmentation", default="photographs", show_default=True,
              type=click.Choice(AUGMENTATIONS),
              help="How images are changed when shown; characters turned or mirrored are "
              "classes of their own.")  # fmt: skip
@click.option("--auxiliary", type=float, default=1.0, show_default=True, metavar="WEIGHT",
              help="Of a plain classification among all training classes; 0: none.")  # fmt: skip
@click.option("--optimizer", type=click.Choice(OPTIMIZERS), default="adamw",
              show_default=True, help="How weights are updated.")  # fmt: skip
@click.option("--learning-rate", type=float, default=2e-3, show_default=True, metavar="RATE",
              help="Its highest, after the warm-up; it falls to 0.")  # fmt: skip
@click.option("--weight-decay", type=float, default=0.05, show_default=True, metavar="SHARE",
              help="Of the optimizer.")  # fmt: skip
@click.option("--momentum", type=float, default=0.9, show_default=True, metavar="SHARE",
              help="Of sgd.")  # fmt: skip
@click.option("--warmup", type=float, default=0.05, show_default=True, metavar="SHARE",
              help="Of the steps, in which the learning rate rises.")  # fmt: skip
@click.option("--held-out", type=float, default=0.15, show_default=True, metavar="SHARE",
              help="Of each source's classes, kept to measure the accuracy on.")  # fmt: skip
@click.option("--precision", type=click.Choice(PRECISIONS), default="auto",
              show_default=True, help="auto: bfloat16 on a GPU.")  # fmt: skip
@click.option("--torch-device", metavar="NAME",
              help="Where torch runs, as cuda.  [default: a GPU if there is one]")  # fmt: skip
@seed_option
@click.option("--eval-every", type=int, default=200, show_default=True, metavar="STEPS",
              help="Measure the accuracy so often; 0: only at the end.")  # fmt: skip
@checkpoint_option
@click.option("--checkpoint-every", type=int, default=100, show_default=True, metavar="STEPS",
              help="Keep a checkpoint so often; 0: only when stopped.")  # fmt: skip
@resume_option
@path_option("--log", metavar="DIR", help="Write TensorBoard logs there.")
@json_option()
@taking(PretrainOptions)
def command(given: PretrainOptions) -> int:
    """Meta-train a backbone as a prototypical network.

    Episodes are few-shot tasks drawn from the data: the loss is that of classifying the queries
    by the cosine to the class means of the support, with a learned temperature. The outcome is
    measured on classes that were held out. Ctrl-C keeps a checkpoint. Several processes share a
    step's episodes when torch's launcher starts them:

    \b
      torchrun --nproc-per-node 2 -m costsim pretrain --episodes 2 ...

    \b
    Examples
      costsim pretrain --model mcunet-5fps --data omniglot.tar.gz --data quickdraw.tar.gz \\
          --augment characters --transfer digits --out weights.safetensors
      costsim pretrain --model mcunet-5fps --weights imagenet.pkl --data images.zip::train \\
          --episode meta-dataset --support 200 --learning-rate 1e-4 --out weights.safetensors
    """
    out = given.out
    checkpoint, own_checkpoint = checkpoint_file(out, given.checkpoint)
    assert checkpoint is not None  # --out is required
    for option, every in (
        ("--eval-every", given.eval_every),
        ("--checkpoint-every", given.checkpoint_every),
    ):
        if every < 0:
            raise InputError(f"{option} must be at least 0 (never)")

    if given.log is not None:
        require("tensorboard", "--log")
    for path in (*given.data, *given.transfer):
        check_hub(path)
    from costsim.learning.pretraining.parallel import leads
    from costsim.learning.pretraining.request import PretrainRequest, opened
    from costsim.learning.pretraining.run import Diverged, train
    from costsim.learning.pretraining.settings import PretrainSettings, parse_stages
    from costsim.run.criteria.caveats import loss_caveat

    request = PretrainRequest(
        model=given.model,
        weights=given.weights,
        data=given.data,
        transfer=given.transfer,
        settings=PretrainSettings(
            steps=given.steps,
            episodes=given.episodes,
            **_episode(given),
            queries=given.queries,
            stages=parse_stages(given.resolution),
            optimizer=given.optimizer,
            learning_rate=given.learning_rate,
            weight_decay=given.weight_decay,
            momentum=given.momentum,
            warmup=given.warmup,
            auxiliary=given.auxiliary,
            augmentation=given.augmentation,
            precision=given.precision,
            held_out=given.held_out,
            seed=given.seed,
        ),
        compute=given.torch_device,
        checkpoint=checkpoint,
        resume=given.resume,
        log=given.log,
    )
    writes, document = leads(), None
    with progress_on_stderr() as progress, opened(request, progress if writes else None) as run:
        told = _Teller(run, writes)
        told.opening()
        try:
            with stopping() as stop:
                done = train(
                    run.training,
                    stop=lambda: stop.signal is not None,
                    watch=told.step,
                    measured=told.measured,
                    save=run.save,
                    measure_every=given.eval_every,
                    save_every=given.checkpoint_every,
                )
        except Diverged as error:
            print(f"costsim: {error}", file=sys.stderr)
            return 1
        if not done:
            told.say(
                f"costsim: stopped after {run.training.steps_done} of {request.settings.steps} "
                f"steps: {checkpoint} has it; go on with --resume"
            )
            return 128 + (stop.signal or 2)
        if (still := loss_caveat(told.losses)) is not None:
            told.say(f"costsim: note: {still}")
        if writes:
            run.write(out, half=given.half)
            if own_checkpoint:
                checkpoint.unlink(missing_ok=True)
            document = run.outcome(out)
    if document is not None:
        if given.as_json:
            click.echo(to_json_text(document))
        else:
            _show(document)
    return 0


def _episode(given: PretrainOptions) -> dict[str, Any]:
    """What `PretrainSettings` says of episodes, as far as it was given."""
    from costsim.data import MetaDatasetEpisode
    from costsim.learning.pretraining.settings import parse_range

    varying = given.episode == "meta-dataset"
    if varying and given.shots is not None:
        raise InputError("--shots are drawn in a meta-dataset episode; leave them out")
    if not varying and given.support is not None:
        raise InputError("--support is for meta-dataset episodes; a fixed one has --ways × --shots")
    found: dict[str, Any] = {"episode": given.episode}
    for name, text in (("ways", given.ways), ("shots", given.shots)):
        if text is not None:
            found[name] = parse_range(text, f"--{name}")
    if varying and given.ways is None:
        rule = MetaDatasetEpisode()
        found["ways"] = rule.least_ways, rule.most_ways
    if given.support is not None:
        found["most_support"] = given.support
    return found


class _Teller:
    """Lines on stderr: one every few seconds, one a measurement."""

    def __init__(self, run: "PretrainRun", leads: bool, every_s: float = 10.0) -> None:
        self.run, self.leads, self.every_s = run, leads, every_s
        self.last = time.perf_counter()
        self.losses: list[float] = []
        self.images, self.steps, self.loss, self.right = 0, 0, 0.0, 0.0

    def say(self, text: str) -> None:
        if self.leads:
            print(text, file=sys.stderr, flush=True)

    def opening(self) -> None:
        training = self.run.training
        for note in self.run.notes:
            self.say(f"costsim: note: {note}")
        for domain in training.pool.training:
            images = counted(sum(len(members) for members in domain.members), "image")
            classes = counted(len(domain.members), "class", "classes")
            self.say(f"training on {classes} of {domain.name}, {images}")
        for domain in training.pool.held_out:
            self.say(
                f"held out {counted(len(domain.members), 'class', 'classes')} of {domain.name}"
            )

    def step(self, result: "StepResult") -> None:
        self.run.log_step(result)
        self.losses.append(result.loss)
        self.images += result.images
        self.steps += 1
        self.loss += result.loss
        self.right += result.accuracy
        now = time.perf_counter()
        if now - self.last < self.every_s:
            return
        elapsed, total = now - self.last, self.run.training.settings.steps
        left = (total - result.step) * elapsed / self.steps
        self.say(
            f"step {result.step}/{total}: loss {self.loss / self.steps:.3f}, episodes "
            f"{format_percent(self.right / self.steps)}, {self.images / elapsed:.0f} images/s at "
            f"{result.resolution} px, about {format_seconds(left)} at this rate"
        )
        self.last = now
        self.images, self.steps, self.loss, self.right = 0, 0, 0.0, 0.0

    def measured(self, record: "Record") -> None:
        self.run.log_record(record)
        for accuracy in record.accuracies:
            self.say(
                f"step {record.step}: {accuracy.ways} ways × {accuracy.shots} shots of "
                f"{accuracy.domain}: {accuracy}"
            )


def _show(document: dict[str, Any]) -> None:
    from costsim.base.intervals import Mean
    from costsim.cli.console import Console

    rows = [
        ("start", document["start"]),
        ("data", ", ".join(document["data"])),
        ("steps", f"{document['steps']:,} in {format_seconds(document['seconds'])}"),
    ]
    rows += [
        (
            "accuracy",
            f"{Mean(one['mean'], one['interval'], one['episodes']).told}, "
            f"{one['ways']} ways × {one['shots']} shots "
            f"of {one['domain']}",
        )
        for one in document["accuracies"]
    ]
    rows.append(("weights", f"{document['out']}, {document['out_bytes']:,} bytes"))
    Console().print(facts_table("meta-trained", str(document["model"]), rows))
