"""Drawing episodes: the numbers of Meta-Dataset, the seed, and tracks that stay on one side."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from costsim.base.errors import InputError
from costsim.data import (
    Episode,
    FixedEpisode,
    MetaDatasetEpisode,
    decode_all,
    digits,
    find_tracks,
    open_images,
    sample_episode,
    sample_task,
)

Classes = Mapping[str, tuple[str, ...]]


def classes_of(*sizes: int) -> Classes:
    return {
        f"c{i:03d}": tuple(f"c{i:03d}/{j:04d}.png" for j in range(n)) for i, n in enumerate(sizes)
    }


def tracked(*classes: Sequence[int]) -> Classes:
    """For each class the sizes of its tracks."""
    return {
        f"c{i:03d}": tuple(
            f"c{i:03d}/{t:05d}_{f:05d}.png" for t, size in enumerate(sizes) for f in range(size)
        )
        for i, sizes in enumerate(classes)
    }


def draw(rule: FixedEpisode | MetaDatasetEpisode, classes: Classes, seed: int = 0) -> Episode:
    return rule.draw(classes, np.random.default_rng(seed), find_tracks(classes), "somewhere")


def check_sound(episode: Episode, classes: Classes) -> None:
    tracks = find_tracks(classes)
    assert list(episode.class_names) == sorted(set(episode.class_names))
    for name, support, query in zip(
        episode.class_names, episode.support, episode.query, strict=True
    ):
        assert set(support) | set(query) <= set(classes[name])
        assert len(set(support) | set(query)) == len(support) + len(query)
        assert support == tuple(sorted(support))
        assert query == tuple(sorted(query))
        if tracks is not None:
            assert not {tracks[n] for n in support} & {tracks[n] for n in query}


@given(
    st.lists(st.integers(0, 300), min_size=5, max_size=70),
    st.integers(0, 2**32),
)
def test_the_limits_of_meta_dataset_hold(sizes: list[int], seed: int) -> None:
    classes = classes_of(*sizes)
    able = [n for n in sizes if n >= 2]
    rule = MetaDatasetEpisode()
    if len(able) < 5:
        with pytest.raises(InputError, match=f"{len(able)} of its {len(sizes)} classes"):
            draw(rule, classes, seed)
        return
    episode = draw(rule, classes, seed)
    check_sound(episode, classes)
    assert 5 <= episode.ways <= min(50, len(able))
    images = [len(classes[name]) for name in episode.class_names]
    queries = min(10, min(n // 2 for n in images))
    assert {len(q) for q in episode.query} == {queries}
    assert sum(episode.shots) <= 500
    for shots, n in zip(episode.shots, images, strict=True):
        assert 1 <= shots <= min(100, n - queries)


def test_the_formulas_of_meta_dataset() -> None:
    """Shots as the paper has them, computed from the same draws of the generator."""
    classes = classes_of(*range(20, 80, 3))
    for seed in range(20):
        rng = np.random.default_rng(seed)
        episode = MetaDatasetEpisode().draw(classes, rng)
        again = np.random.default_rng(seed)
        ways = 5 + math.floor(again.random() * (20 - 5 + 1))
        again.random(len(classes))
        for name in episode.class_names:
            again.random(len(classes[name]))
        beta = 1 - again.random()
        alpha = np.log(0.5) + again.random(ways) * (np.log(2) - np.log(0.5))
        images = np.array([len(classes[name]) for name in episode.class_names])
        total = min(500, np.ceil(beta * np.minimum(100, images - 10)).sum())
        shares = np.exp(alpha) * images / (np.exp(alpha) * images).sum()
        shots = np.minimum(np.floor(shares * (total - ways)) + 1, images - 10)
        assert episode.shots == tuple(shots.astype(int))
        assert rng.random() == again.random()


def test_ways_and_support_vary_over_their_whole_range() -> None:
    classes = classes_of(*[120] * 12)
    episodes = [draw(MetaDatasetEpisode(), classes, seed) for seed in range(300)]
    assert {e.ways for e in episodes} == set(range(5, 13))
    totals = [sum(e.shots) for e in episodes]
    assert min(totals) < 60
    assert max(totals) > 490
    ratios = [max(e.shots) / min(e.shots) for e in episodes if min(e.shots) > 5]
    assert 1.5 < np.median(ratios) < 4  # exp(α) spans a factor of 4


def test_a_fixed_episode_is_what_sample_task_draws() -> None:
    for seed in range(3):
        task = sample_task(digits(), ways=4, shots=3, queries=2, seed=seed, resolution=8)
        other = sample_episode(digits(), FixedEpisode(4, 3, 2), seed=seed, resolution=8)
        assert task.paths == other.paths
        assert task.query_paths == other.query_paths
        np.testing.assert_array_equal(task.images, other.images)
        np.testing.assert_array_equal(task.query_images, other.query_images)
        assert task.description == other.description


def test_a_task_of_varying_shots_knows_them() -> None:
    task = sample_episode(digits(), MetaDatasetEpisode(), seed=1, resolution=8)
    assert sum(task.shots_by_class) == len(task.labels) == len(task.images)
    assert set(task.queries_by_class) == {10}
    assert len(set(task.shots_by_class)) > 1
    assert task.shots is None
    low, high = min(task.shots_by_class), max(task.shots_by_class)
    assert f"{low} to {high} shots, seed 1" in task.description
    for label, path in zip(task.labels, task.paths, strict=True):
        assert path.startswith(f"{task.class_names[label]}/")
    again = sample_episode(digits(), MetaDatasetEpisode(), seed=1, resolution=8)
    assert again.paths == task.paths
    np.testing.assert_array_equal(again.images, task.images)


def test_decoding_all_once_gives_the_same_images() -> None:
    decoded = decode_all(digits(), 8)
    task = sample_episode(digits(), MetaDatasetEpisode(), seed=2, resolution=8)
    assert decoded.pixels.dtype == np.uint8
    np.testing.assert_array_equal(decoded.images(task.paths), task.images)


# Tracks.


@given(
    st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=9), min_size=6, max_size=12),
    st.integers(0, 2**32),
)
def test_no_track_is_on_both_sides(sizes: list[list[int]], seed: int) -> None:
    classes = tracked(*sizes)
    if find_tracks(classes) is None:
        return
    able = [s for s in sizes if len(s) > 1]
    if len(able) >= 5:
        episode = draw(MetaDatasetEpisode(), classes, seed)
        check_sound(episode, classes)
        assert min(len(q) for q in episode.query) >= 1

    def feasible(tracks: list[int]) -> bool:  # by trying every subset
        sums = {0}
        for size in tracks:
            sums |= {s + size for s in sums}
        return any(4 <= s <= sum(tracks) - 3 for s in sums)

    count = sum(map(feasible, sizes))
    rule = FixedEpisode(max(count, 1), 3, 4)
    if not count:
        with pytest.raises(InputError, match="images of separate tracks that 3 shots and 4"):
            draw(rule, classes, seed)
        return
    episode = draw(rule, classes, seed)
    check_sound(episode, classes)
    assert {*episode.shots} == {3}
    assert {len(q) for q in episode.query} == {4}
    with pytest.raises(InputError, match=f"somewhere: {count} of its {len(sizes)} classes"):
        draw(FixedEpisode(count + 1, 3, 4), classes, seed)


@pytest.mark.parametrize(
    ("classes", "why"),
    [
        (classes_of(5, 5), "one number alone"),
        ({"a": ("a/0108_01.png", "a/0108_02.png"), "b": ("b/0109_01.png",)}, "a class a number"),
        (tracked([1, 1, 1], [1, 1]), "no two images of one track"),
        ({"a": ("a/1_1.png", "a/1_2.png", "a/2_1.png"), "b": ("b/x_1.png",)}, "another name"),
    ],
)
def test_names_that_are_no_tracks(classes: Classes, why: str) -> None:
    assert find_tracks(classes) is None, why


def test_traffic_signs_are_divided_by_track(shared: Path) -> None:
    source = open_images(shared / "data" / "traffic_sign.tar.gz")
    tracks = find_tracks(source.classes)
    assert tracks is not None
    assert len(tracks) == sum(map(len, source.classes.values()))
    for seed in range(20):
        episode = MetaDatasetEpisode().draw(source.classes, np.random.default_rng(seed), tracks)
        check_sound(episode, source.classes)
        assert {len(q) for q in episode.query} == {10}  # of 30 images a class, in many tracks
    leaking = MetaDatasetEpisode().draw(source.classes, np.random.default_rng(0))
    shares = [
        {tracks[n] for n in s} & {tracks[n] for n in q}
        for s, q in zip(leaking.support, leaking.query, strict=True)
    ]
    assert any(shares)  # which is what the tracks are for


@pytest.mark.parametrize("name", ["omniglot", "quickdraw", "dtd", "vgg_flower"])
def test_other_domains_have_no_tracks(shared: Path, name: str) -> None:
    source = open_images(shared / "data" / f"{name}.tar.gz")
    assert find_tracks(source.classes) is None
    episode = MetaDatasetEpisode().draw(source.classes, np.random.default_rng(0))
    check_sound(episode, source.classes)


# What cannot be used.


@pytest.mark.parametrize(
    ("rule", "sizes", "message"),
    [
        (FixedEpisode(3, 2, 2), (4, 4, 3), "2 of its 3 classes have the 4 images that 2 shots"),
        (MetaDatasetEpisode(), (9, 9, 9, 9, 1), "4 of its 5 classes have at least 2 images"),
    ],
)
def test_too_few(rule: FixedEpisode, sizes: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        draw(rule, classes_of(*sizes))


def test_numbers_that_make_no_rule() -> None:
    with pytest.raises(InputError, match="ways is 0; at least 1 is needed"):
        FixedEpisode(0, 1)
    with pytest.raises(InputError, match="most ways is 4; at least 5"):
        MetaDatasetEpisode(most_ways=4)
    with pytest.raises(InputError, match="seed is -1"):
        sample_episode(digits(), FixedEpisode(2, 1), seed=-1, resolution=8)


def test_threads_keep_the_order_and_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from costsim.data import threads

    monkeypatch.setattr(threads, "usable_cores", lambda: 4)

    def items() -> Iterator[int]:
        yield from range(200)

    assert list(threads.threaded_map(lambda n: n * n, items())) == [n * n for n in range(200)]

    def fails(n: int) -> int:
        if n == 7:
            raise InputError("seven")
        return n

    mapped = threads.threaded_map(fails, items())
    assert [next(mapped) for _ in range(7)] == list(range(7))
    with pytest.raises(InputError, match="seven"):
        next(mapped)


def test_sizes_and_colours_may_differ_within_a_domain(tmp_path: Path) -> None:
    for c in range(2):
        for i in range(3):
            (tmp_path / f"c{c}").mkdir(exist_ok=True)
            mode = ("L", "RGB", "RGBA")[i]
            Image.new(mode, (5 + i, 9 - i), 40).save(tmp_path / f"c{c}" / f"{i}.png")
    task = sample_episode(open_images(tmp_path), FixedEpisode(2, 2, 1), seed=0, resolution=6)
    assert task.images.shape == (4, 3, 6, 6)
    assert task.query_images.shape == (2, 3, 6, 6)
