"The toy world: same seed, same world; what is drawn is what is annotated."

import numpy as np
import pytest

from vtg_r1.spans import tiou
from vtg_r1.toyworld import COLOURS, World, make_world, toy_teacher
from vtg_r1.video import read_frames


def test_same_seed_same_annotation_and_same_pictures(tmp_path):
    a, b = (make_world(tmp_path / n, videos=3, seed=9) for n in "ab")
    assert (a / "samples.jsonl").read_bytes() == (b / "samples.jsonl").read_bytes()
    for one, two in zip(sorted((a / "videos").iterdir()), sorted((b / "videos").iterdir())):
        assert np.array_equal(read_frames(one, 16)[0], read_frames(two, 16)[0])
    assert (make_world(tmp_path / "c", videos=3, seed=10) / "samples.jsonl").read_bytes() != (a / "samples.jsonl").read_bytes()


def test_a_colour_is_visible_exactly_in_the_union_of_its_spans(world, toy_samples):
    for video in {s.video for s in toy_samples}:
        frames, times = read_frames(world / "videos" / video, 31, 56 * 56)
        for name, rgb in COLOURS.items():
            spans = [s.spans[0] for s in toy_samples if s.video == video and f" {name} " in s.query]
            near = np.abs(frames.astype(int) - rgb).max(-1) < 60
            seen = near.sum((1, 2)) > 25
            expected = np.array([any(a <= t < b for a, b in spans) for t in times])
            assert (seen == expected).all(), (video, name)


def test_dials_are_kept():
    with pytest.raises(TypeError):
        World(colour=3)


def test_another_world_is_not_overwritten(world):
    with pytest.raises(FileExistsError, match="another world"):
        make_world(world, videos=12, seed=6)


def test_teacher_is_seeded_and_scored_honestly(toy_samples):
    for s in toy_samples:
        t = toy_teacher(s, 3)
        assert t == toy_teacher(s, 3) and t["iou"] == pytest.approx(tiou(t["span"], s.spans[0])) and 0 <= t["span"][0] < t["span"][1] <= s.duration
    assert any(toy_teacher(s, 3) != toy_teacher(s, 4) for s in toy_samples)
