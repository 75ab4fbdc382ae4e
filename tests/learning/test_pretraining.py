"""Meta-training: episodes, augmentation, batch norm, exact resumption, several processes."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import fork_server
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from costsim.base.errors import InputError
from costsim.cli import main
from costsim.data import MetaDatasetEpisode, digits, find_tracks, open_images
from costsim.learning.pretraining.augment import PRESETS, Augmentation, augment
from costsim.learning.pretraining.backbone import inference_tensors, load_backbone
from costsim.learning.pretraining.episodes import draw_episode, generator
from costsim.learning.pretraining.evaluation import evaluate
from costsim.learning.pretraining.objective import Learner, episode_loss
from costsim.learning.pretraining.pool import Domain, Pool, load_pool
from costsim.learning.pretraining.run import Pretraining, train
from costsim.learning.pretraining.settings import PretrainSettings, Stage, parse_range, parse_stages
from costsim.models.networks.build import Network, build
from costsim.models.networks.weights import load_weights

CPU = torch.device("cpu")


class Tiny(nn.Module):
    """Two convolutions with batch norm: features `[N, 16]`."""

    resolution = 32

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.layers(x).mean((2, 3))
        return features


def tiny(seed: int = 0) -> Tiny:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Tiny()


@pytest.fixture(scope="module")
def pool() -> Pool:
    return load_pool([digits()], 16, 0.3, limit=12)


SETTINGS = PretrainSettings(
    steps=6, episodes=2, ways=(4, 4), shots=(2, 2), queries=2, stages=(Stage(16, 1.0),),
    learning_rate=1e-2, augmentation="characters", seed=3,
)  # fmt: skip


def run(pool: Pool, settings: PretrainSettings = SETTINGS) -> Pretraining:
    return Pretraining(tiny(), 16, pool, settings, CPU)


def state(training: Pretraining) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in training.learner.state_dict().items()}


# What is learnt.


def test_the_loss_is_that_of_prototypical_networks_written_out() -> None:
    generator_ = torch.Generator().manual_seed(0)
    features = torch.randn(12, 5, generator=generator_, dtype=torch.float64)
    labels = torch.tensor([0] * 4 + [1] * 4 + [2] * 4)
    is_query = torch.tensor([False, False, False, True] * 3)
    learner = Learner(nn.Identity(), 5, 0, temperature=7.0, seed=0).double()
    loss, right = episode_loss(learner, features, labels, labels, is_query, 3, 1.0)
    means = torch.stack([features[4 * c : 4 * c + 3].mean(0) for c in range(3)])
    queries = features[3::4]
    cosine = functional.cosine_similarity(queries[:, None], means[None], dim=2)
    expected = torch.stack([-(7 * cosine[i]).log_softmax(0)[i] for i in range(3)]).mean()
    torch.testing.assert_close(loss, expected)
    assert int(right) == int((cosine.argmax(1) == torch.arange(3)).sum())


def test_the_temperature_is_learnt(pool: Pool) -> None:
    training = run(pool)
    before = training.learner.log_temperature.item()
    training.step()
    assert training.learner.log_temperature.item() != before


def test_training_learns_classes_that_were_held_out(pool: Pool) -> None:
    settings = replace(SETTINGS, steps=100, learning_rate=3e-2, augmentation="none")
    training = run(pool, settings)
    before = evaluate(training.backbone, training.pixels(16), pool.held_out, CPU)[0]
    while training.steps_done < settings.steps:
        training.step()
    after = evaluate(training.backbone, training.pixels(16), pool.held_out, CPU)[0]
    assert (before.ways, before.episodes) == (3, 600)
    assert after.mean - after.interval > before.mean + before.interval


def test_held_out_classes_are_never_shown(pool: Pool) -> None:
    trained = {name for domain in pool.training for name in domain.class_names}
    apart = {name for domain in pool.held_out for name in domain.class_names}
    assert len(apart) == round(0.3 * 10)
    assert trained | apart == set(map(str, range(10)))
    assert not trained & apart
    hidden = set(np.concatenate([m for domain in pool.held_out for m in domain.members]))
    for step in range(30):
        episode = draw_episode(generator(SETTINGS, step, 0), pool.training, SETTINGS, 8)
        assert not hidden & set(episode.rows)


def test_schedule_rises_then_falls_as_a_cosine_to_zero() -> None:
    settings = PretrainSettings(steps=100, warmup=0.1, learning_rate=1.0)
    rates = [settings.learning_rate_at(step) for step in range(101)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5 * (1 + np.cos(np.pi * 45 / 90)))
    assert rates[100] == pytest.approx(0.0)


def test_resolutions_take_their_share_of_the_steps() -> None:
    settings = PretrainSettings(steps=200, stages=parse_stages("64:60%,96:25%,128:15%"))
    sides = [settings.resolution_at(step) for step in range(200)]
    assert [sides.count(side) for side in (64, 96, 128)] == [120, 50, 30]
    assert sides == sorted(sides)


# Episodes.


def domain_of(
    sizes: Sequence[int], name: str = "one", first: int = 0, a_track: int | None = None
) -> Domain:
    """Classes of so many images, in successive rows; with tracks, of so many images each."""
    classes, rows, row = {}, {}, first
    for label, size in zip("abcdefghij", sizes, strict=False):
        names = [f"{label}/{i // (a_track or 1):05d}_{i:05d}.png" for i in range(size)]
        classes[label] = tuple(names)
        for image in names:
            rows[image] = row
            row += 1
    return Domain(name, classes, rows, find_tracks(classes) if a_track else None)


VARYING = replace(
    SETTINGS, episode="meta-dataset", ways=(2, 4), queries=3, most_support=12, episodes=2
)


@given(seed=st.integers(0, 2**40), step=st.integers(0, 99))
def test_a_meta_dataset_episode_is_that_of_tasks(seed: int, step: int) -> None:
    """Drawn by the rule of `costsim.data`, as it stands, from the same random numbers."""
    sizes = (8, 12, 9, 30, 4, 2)
    domain, settings = domain_of(sizes), replace(VARYING, seed=seed)
    found = draw_episode(generator(settings, step, 1), [domain], settings, 1)
    rng = generator(settings, step, 1)
    rng.random()  # which source
    rule = MetaDatasetEpisode(2, 4, queries=3, most_support=12)
    wanted = rule.draw(domain.classes, rng)
    names = {row: name for name, row in domain.rows.items()}
    for label, (support, query) in enumerate(zip(wanted.support, wanted.query, strict=True)):
        mine = found.labels == label
        assert tuple(names[r] for r in found.rows[mine & ~found.is_query]) == support
        assert tuple(names[r] for r in found.rows[mine & found.is_query]) == query
        numbers = set(found.classes[mine])
        assert numbers == {domain.class_names.index(wanted.class_names[label])}
    assert found.ways == wanted.ways == found.labels.max() + 1
    assert found.ways <= (~found.is_query).sum() <= 12


@pytest.mark.parametrize("settings", [VARYING, replace(SETTINGS, shots=(1, 3), queries=3)])
def test_no_track_is_on_both_sides_of_an_episode(settings: PretrainSettings) -> None:
    domain = domain_of((12, 16, 9, 30), a_track=3)
    assert domain.tracks is not None
    for step in range(40):
        episode = draw_episode(generator(settings, step, 0), [domain], settings, 8)
        names = {row: name for name, row in domain.rows.items()}
        learnt, tested = (
            {domain.tracks[names[row]] for row in episode.rows[episode.is_query == side]}
            for side in (False, True)
        )
        assert learnt
        assert tested
        assert not learnt & tested


def test_accuracy_is_not_that_of_frames_of_what_was_learnt() -> None:
    """Each track shows noise of its own: known from one frame, unknown to the other tracks."""
    domain = domain_of([20] * 5, a_track=4)
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (25, 1, 4, 4), dtype=np.uint8)
    pixels = torch.from_numpy(noise.repeat(4, axis=0))
    (apart,) = evaluate(nn.Identity(), pixels, [domain], CPU, episodes=200)
    (mixed,) = evaluate(nn.Identity(), pixels, [replace(domain, tracks=None)], CPU, episodes=200)
    assert (apart.ways, apart.shots, apart.episodes) == (5, 5, 200)
    assert apart.mean < 0.35  # 1 / 5 by chance, more by these 25 pictures
    assert mixed.mean > 0.6


def test_a_class_with_few_images_sits_out_only_where_it_must() -> None:
    """As many ways as there are classes for one shot: shots give way to ways."""
    domain = domain_of((4, 4, 20, 20))
    settings = replace(SETTINGS, ways=(4, 4), shots=(1, 9), queries=3)
    for step in range(20):
        episode = draw_episode(generator(settings, step, 0), [domain], settings, 1)
        assert (episode.ways, len(episode.rows)) == (4, 4 * (1 + 3))
    two = replace(settings, ways=(2, 2))
    shots = {
        len(draw_episode(generator(two, step, 0), [domain], two, 1).rows) // 2 - 3
        for step in range(60)
    }
    assert shots == set(range(1, 10))


@given(
    seed=st.integers(0, 2**40),
    ways=st.tuples(st.integers(2, 4), st.integers(4, 9)),
    shots=st.tuples(st.integers(1, 3), st.integers(3, 9)),
    symmetries=st.sampled_from([1, 8]),
)
def test_an_episode_is_a_task(
    seed: int, ways: tuple[int, int], shots: tuple[int, int], symmetries: int
) -> None:
    sizes = (8, 12, 9, 30, 8)
    ends = np.cumsum([0, *sizes])
    domain, other = domain_of(sizes, "one"), domain_of(sizes, "two", ends[-1])
    members = domain.members
    settings = PretrainSettings(ways=ways, shots=shots, queries=3, seed=seed)
    episode = draw_episode(generator(settings, 5, 1), [domain, other], settings, symmetries)
    again = draw_episode(generator(settings, 5, 1), [domain, other], settings, symmetries)
    assert np.array_equal(episode.rows, again.rows)
    assert ways[0] <= episode.ways <= min(ways[1], 5)
    assert len(set(episode.rows)) == len(episode.rows)
    assert (episode.rows < ends[-1]).all() or (episode.rows >= ends[-1]).all()
    for label in range(episode.ways):
        mine = episode.labels == label
        assert episode.is_query[mine].sum() == 3
        support = mine.sum() - 3
        assert 1 <= support <= shots[1]
        owner = {next(i for i, m in enumerate(members) if r % ends[-1] in m)
                 for r in episode.rows[mine]}  # fmt: skip
        assert len(owner) == len(set(episode.classes[mine])) == 1
        assert set(episode.symmetries[mine]) <= set(range(symmetries))
    assert len(set(episode.classes)) == episode.ways


# Augmentation.


def test_the_eight_symmetries_are_those_of_the_square() -> None:
    pixels = torch.randint(0, 256, (1, 1, 9, 9), dtype=torch.uint8)
    how = Augmentation(symmetries=8)
    found = set()
    for symmetry in range(8):
        image = augment(pixels, np.array([symmetry]), how, np.random.default_rng(0))
        assert image.shape == (1, 3, 9, 9)
        back = ((image[0, 0] + 1) * 127.5).round().to(torch.uint8)
        found.add(tuple(back.flatten().tolist()))
    base = pixels[0, 0]
    expected = {
        tuple(torch.rot90(side, turns, (0, 1)).flatten().tolist())
        for side in (base, base.flip(1))
        for turns in range(4)
    }
    assert found == expected
    assert len(expected) == 8


def test_no_augmentation_changes_nothing_and_others_stay_in_range() -> None:
    pixels = torch.randint(0, 256, (6, 1, 32, 32), dtype=torch.uint8)
    plain = augment(pixels, np.zeros(6, int), PRESETS["none"], np.random.default_rng(0))
    torch.testing.assert_close(plain, (pixels / 127.5 - 1).expand(-1, 3, -1, -1))
    for name in ("characters", "photographs"):
        for seed in range(5):
            rng = np.random.default_rng(seed)
            changed = augment(pixels, np.arange(6) % 8, PRESETS[name], rng)
            assert changed.shape == (6, 3, 32, 32)
            assert float(changed.abs().max()) <= 1
            assert bool(torch.isfinite(changed).all())
            assert not torch.equal(changed, plain)


# Batch norm.


def test_running_statistics_move_once_a_step_to_the_mean_over_its_episodes(pool: Pool) -> None:
    training = run(pool)
    norm = training.backbone.get_submodule("layers.1")
    assert isinstance(norm, nn.BatchNorm2d)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    norm.register_forward_pre_hook(
        lambda _, inputs: seen.append(
            (inputs[0].mean((0, 2, 3)), inputs[0].var((0, 2, 3), correction=1))
        )
    )
    training.step()
    assert len(seen) == SETTINGS.episodes
    mean = torch.stack([one for one, _ in seen]).mean(0)
    variance = torch.stack([one for _, one in seen]).mean(0)
    torch.testing.assert_close(norm.running_mean, 0.1 * mean)
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * variance)
    assert norm.num_batches_tracked.item() == 1


def test_training_of_folded_weights_begins_with_their_function(tmp_path: Path) -> None:
    """In training mode too: the first step must not see other features than inference does."""
    from costsim.learning.training.tensorfile import write_tensors

    images = torch.rand(2, 3, 64, 64) * 2 - 1
    folded = build("mcunet-5fps", seed=4)
    write_tensors(tmp_path / "folded.safetensors", inference_tensors(folded))
    backbone, _ = load_backbone(
        "mcunet-5fps", weights=tmp_path / "folded.safetensors", seed=0, resolution=64
    )
    assert all(parameter.requires_grad for parameter in backbone.parameters())
    with torch.no_grad():
        torch.testing.assert_close(backbone.train()(images), folded(images))


def test_what_is_written_is_read_by_the_built_in_network(pool: Pool, tmp_path: Path) -> None:
    from costsim.learning.training.tensorfile import write_tensors

    backbone, says = load_backbone("mcunet-5fps", weights=None, seed=1, resolution=32)
    assert says == "from scratch, seed 1"
    settings = replace(SETTINGS, episodes=1, stages=(Stage(32, 1.0),))
    training = Pretraining(backbone, 160, pool, settings, CPU)
    training.step()
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    assert isinstance(backbone, Network)
    with torch.no_grad():
        expected = backbone.eval()(images)
        for half, tolerance in ((False, 1e-4), (True, 2e-2)):
            path = tmp_path / f"{half}.safetensors"
            write_tensors(path, inference_tensors(backbone, half=half))
            loaded, _ = load_weights("mcunet-5fps", path)
            assert not loaded.batch_norm
            error = (loaded(images) - expected).abs().max() / expected.abs().max()
            assert float(error) < tolerance
    assert (tmp_path / "True.safetensors").stat().st_size < 1.1e6


# Going on exactly.


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("episodes", [SETTINGS, VARYING])
def test_a_run_resumed_from_its_checkpoint_is_the_same_to_the_bit(
    pool: Pool, tmp_path: Path, optimizer: str, episodes: PretrainSettings
) -> None:
    settings = replace(episodes, optimizer=optimizer)
    whole = run(pool, settings)
    for _ in range(6):
        whole.step()
    part = run(pool, settings)
    for _ in range(3):
        part.step()
    part.measure(episodes=5)
    part.write(tmp_path / "state", settings.key())
    again = run(pool, settings)
    with torch.no_grad():  # nothing of the start may matter
        for parameter in again.learner.parameters():
            parameter.add_(1)
    again.restore(tmp_path / "state", settings.key())
    assert again.records == part.records
    for _ in range(3):
        again.step()
    expected = state(whole)
    for name, tensor in state(again).items():
        assert torch.equal(tensor, expected[name]), name


def test_a_checkpoint_of_another_run_is_refused(pool: Pool, tmp_path: Path) -> None:
    training = run(pool)
    training.step()
    training.write(tmp_path / "state", SETTINGS.key())
    other = replace(SETTINGS, learning_rate=0.5)
    with pytest.raises(InputError, match=r"learning_rate is 0\.01 there and 0\.5 here"):
        run(pool, other).restore(tmp_path / "state", other.key())
    varying = replace(SETTINGS, episode="meta-dataset")
    with pytest.raises(InputError, match="episode is 'fixed' there and 'meta-dataset' here"):
        run(pool, varying).restore(tmp_path / "state", varying.key())
    longer = replace(SETTINGS, steps=9)
    run(pool, longer).restore(tmp_path / "state", longer.key())  # a longer schedule is allowed
    (tmp_path / "state").write_bytes((tmp_path / "state").read_bytes()[:-100])
    with pytest.raises(InputError, match="cut short"):
        run(pool).restore(tmp_path / "state", SETTINGS.key())


def test_training_stops_when_asked_and_keeps_its_place(pool: Pool) -> None:
    training, saved = run(pool), []
    done = train(
        training,
        stop=lambda: training.steps_done >= 2,
        watch=lambda _result: None,
        measured=lambda _record: None,
        save=lambda: saved.append(training.steps_done),
        measure_every=0,
        save_every=0,
    )
    assert (done, saved) == (False, [2])


def test_bfloat16_learns_nearly_the_same(pool: Pool) -> None:
    exact, coarse = run(pool), run(pool, replace(SETTINGS, precision="bfloat16"))
    first, second = exact.step(), coarse.step()
    assert coarse.autocast
    assert second.loss == pytest.approx(first.loss, rel=0.02)
    assert second.loss != first.loss


# The command.


def images(folder: Path, classes: int = 8, count: int = 6) -> Path:
    """Small pictures of digits, in folders."""
    source = digits()
    for label in list(source.classes)[:classes]:
        (folder / label).mkdir(parents=True)
        for name, image in source.read(source.classes[label][:count]):
            image.save(folder / label / f"{name.partition('/')[2]}.png")
    return folder


@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    (tmp_path / "backbones.py").write_text(
        "from torch import nn\n\n\n"
        "def small():\n"
        "    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8),\n"
        "                         nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())\n"
    )
    monkeypatch.chdir(tmp_path)
    data = images(tmp_path / "data")
    return [
        "pretrain", "--model", "backbones:small", "--data", str(data), "--resolution", "16",
        "--steps", "6", "--ways", "4", "--shots", "2", "--queries", "2", "--eval-every", "3",
        "--held-out", "0.25", "--torch-device", "cpu", "--checkpoint-every", "2",
        "--out", str(tmp_path / "w.safetensors"),
    ]  # fmt: skip


def test_the_command_trains_and_writes_weights(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--json", "--transfer", "digits"]) == 0
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert document["schema"] == "costsim.pretrained/1"
    assert document["steps"] == 6
    assert [one["domain"] for one in document["accuracies"]] == [
        "data", "handwritten digits (scikit-learn)",
    ]  # fmt: skip
    assert "held out 2 classes of data" in err
    assert "step 3: 2 ways × 3 shots of data: " in err
    tensors = load_file(tmp_path / "w.safetensors")
    assert set(tensors) == set(nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8))
                               .state_dict())  # fmt: skip
    assert not (tmp_path / "w.safetensors.checkpoint").exists()


def test_a_killed_command_goes_on_to_the_same_weights(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 0
    expected = (tmp_path / "w.safetensors").read_bytes()
    other = tmp_path / "other.safetensors"
    changed = [*arguments[:-1], str(other)]
    script = (
        "import os, sys, costsim.learning.pretraining.run as r\n"
        "from costsim.cli import main\n"
        "step = r.Pretraining.step\n"
        "def dying(self):\n"
        "    if self.steps_done == 5: os.kill(os.getpid(), 9)\n"
        "    return step(self)\n"
        "r.Pretraining.step = dying\n"
        f"main({changed!r})\n"
    )
    killed = fork_server.run(["-c", script])
    assert killed.returncode == -9, killed.stderr
    assert not other.exists()
    assert Path(f"{other}.checkpoint").exists()
    assert main([*changed, "--resume"]) == 0
    assert "going on after 4 steps" in capsys.readouterr().err
    assert other.read_bytes() == expected


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        (["--ways", "40"], "6 classes to train on; episodes of 40 ways"),
        (["--ways", "x"], "--ways 'x': write a number"),
        (["--shots", "9"], "class '0' has 6 images; 9 shots and 2 queries need 11"),
        (["--support", "9"], "--support is for meta-dataset episodes"),
        (["--episode", "meta-dataset"], "--shots are drawn in a meta-dataset episode"),
        (["--resolution", "16:50%,32"], "give all of them a share, or none"),
        (["--model", "nothing"], "model 'nothing' is unknown"),
        (["--data", "missing.tar"], "missing.tar"),
        (["--held-out", "1"], "held out is 1.0; allowed is 0 to below 1"),
        (["--steps", "0"], "steps is 0"),
        (["--torch-device", "cuda:9"], "torch device 'cuda:9' cannot be used"),
        (["--checkpoint", "w.safetensors"], "name the same file"),
        (["--weights", "missing.safetensors"], "missing.safetensors: cannot be read"),
    ],
)
def test_bad_input_is_one_clear_line(
    arguments: list[str], extra: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, *extra]) == 2
    err = capsys.readouterr().err
    assert says in err
    assert len([line for line in err.splitlines() if line.startswith("costsim: ")]) == 1


def test_a_full_disk_loses_no_checkpoint(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "kept"
    asked = [*arguments, "--checkpoint", str(kept)]
    assert main([*asked, "--out", "/dev/full"]) == 2
    assert "/dev/full: cannot be written: No space left" in capsys.readouterr().err
    assert kept.exists()
    assert main([*asked, "--resume"]) == 0
    assert "going on after 6 steps" in capsys.readouterr().err


@pytest.mark.slow
def test_tensorboard_logs_hold_what_was_measured(arguments: list[str], tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    script = (
        "import sys\nfrom costsim.cli import main\n"
        f"sys.exit(main({[*arguments, '--log', str(tmp_path / 'logs')]!r}))\n"
    )
    done = fork_server.run(["-c", script])
    assert done.returncode == 0, done.stderr
    (log,) = (tmp_path / "logs").iterdir()
    content = log.read_bytes()
    for tag in (b"training/loss", b"training/learning_rate", b"accuracy/data"):
        assert tag in content


def test_without_tensorboard_the_extra_is_named(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert main([*arguments, "--log", "logs"]) == 2
    assert 'pip install "costsim[tensorboard]"' in capsys.readouterr().err


def varying(arguments: list[str]) -> list[str]:
    """The same with meta-dataset episodes."""
    at = arguments.index("--shots")
    return [*arguments[:at], "--episode", "meta-dataset", "--support", "10", *arguments[at + 2 :]]


def test_the_command_trains_on_meta_dataset_episodes(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*varying(arguments), "--ways", "2-5", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["settings"]["episode"] == "meta-dataset"
    assert document["settings"]["most_support"] == 10
    assert document["settings"]["ways"] == "(2, 5)"
    assert load_file(tmp_path / "w.safetensors")
    at = arguments.index("--ways")
    bare = varying([*arguments[:at], *arguments[at + 2 :]])
    for more, says in (
        (["--support", "5", "--ways", "2-6"], "most support is 5; allowed is the most ways"),
        (["--held-out", "0.5", "--support", "50"],
         "4 of its 4 classes have at least 2 images; a meta-dataset episode needs 5 classes"),
    ):  # fmt: skip
        assert main([*bare, *more]) == 2
        assert says in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("episodes", [list, varying])
def test_two_processes_do_what_one_does(
    arguments: list[str], tmp_path: Path, episodes: Callable[[list[str]], list[str]]
) -> None:
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    shared = [*episodes(arguments)[:-2], "--episodes", "2", "--augment", "characters"]
    assert main([*shared, "--out", str(one)]) == 0
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "-m", "costsim", *shared, "--out", str(two),
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    expected, found = load_file(one), load_file(two)
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        # Sums in another order: the last digits differ, and Adam makes that a little more.
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-4)


def test_episodes_must_be_shared_evenly(pool: Pool) -> None:
    from costsim.learning.pretraining.parallel import Group

    with pytest.raises(InputError, match="2 episodes a step cannot be shared by 3 processes"):
        Pretraining(tiny(), 16, pool, SETTINGS, CPU, Group(0, 3))


def test_ranges_and_colour_images(tmp_path: Path) -> None:
    assert parse_range("5-20", "--ways") == (5, 20)
    for label in "ab":
        (tmp_path / "rgb" / label).mkdir(parents=True)
        for number in range(3):
            colour = Image.new("RGB", (10 + number, 12), (10, 200, 30 * number))
            colour.save(tmp_path / "rgb" / label / f"{number}.png")
    found = load_pool([open_images(tmp_path / "rgb")], 8, 0.0)
    assert found.pixels.shape == (6, 3, 8, 8)
    assert found.at(4).shape == (6, 3, 4, 4)
    grey = load_pool([digits()], 8, 0.0, limit=2)
    assert grey.pixels.shape == (20, 1, 8, 8)
