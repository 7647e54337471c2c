"The toy world: same seed, same world; what is drawn is what is annotated."

import dataclasses
import itertools

import numpy as np
import pytest

from vtg_r1.core.samples import load_samples
from vtg_r1.core.spans import tiou
from vtg_r1.data.toyworld import (
    COLOURS,
    LEVELS,
    NEW_PAIRINGS,
    REASONING_LENGTHS,
    ToyWorldConfig,
    make_world,
    queries,
    read_scripts,
    reasoning,
    script,
    toy_teacher,
)
from vtg_r1.video.reader import read_frames


def test_same_seed_same_annotation_and_same_pictures(tmp_path):
    a, b = (make_world(tmp_path / n, videos=3, seed=9) for n in "ab")
    assert (a / "samples.jsonl").read_bytes() == (b / "samples.jsonl").read_bytes()
    for one, two in zip(sorted((a / "videos").iterdir()), sorted((b / "videos").iterdir())):
        assert np.array_equal(read_frames(one, 16)[0], read_frames(two, 16)[0])
    assert (make_world(tmp_path / "c", videos=3, seed=10) / "samples.jsonl").read_bytes() != (a / "samples.jsonl").read_bytes()


def test_a_colour_is_visible_exactly_when_the_script_says(world):
    for _, play in read_scripts(world).values():
        frames, times = read_frames(world / "videos" / play["video"], 16, 56 * 56)
        for name, rgb in COLOURS.items():
            spans = [span for e in play["events"] for span in e["spans"] if e["name"].split()[0] == name]
            near = np.abs(frames.astype(int) - rgb).max(-1) < 60
            seen = near.sum((1, 2)) > 25
            expected = np.array([any(a <= t < b for a, b in spans) for t in times])
            assert (seen == expected).all(), (play["video"], name)


def visible(play: dict, name: str) -> set[float]:
    "Seconds at which an object is there, counted the slow way."
    return {t for t in range(play["seconds"]) for e in play["events"] if e["name"] == name for a, b in e["spans"] if a <= t < b}


def test_every_sentence_is_true_of_its_span_and_of_no_other():
    rng, seen, levels = np.random.default_rng(0), set(), (*LEVELS, "between")
    for _ in range(200):
        play = script(rng, ToyWorldConfig(objects=(2, 4), spacing=(1, 2)))
        spans = {e["name"]: e["spans"] for e in play["events"]}
        for q in queries(play, levels):
            seen.add(q["level"])
            words, inside = q["query"].removeprefix("the ").split(" "), set(range(*q["span"]))
            if q["level"] == "direct":
                assert visible(play, " ".join(words)) == inside
            if q["level"] == "ordinal":
                assert spans[" ".join(words[1:])][("first", "second").index(words[0])] == q["span"] and len(spans[" ".join(words[1:])]) == 2
            if q["level"] == "overlap":
                assert visible(play, " ".join(words[:2])) & visible(play, " ".join(words[4:])) == inside
            if q["level"] == "relation":
                (other,), mine = spans[" ".join(words[4:])], spans[" ".join(words[:2])]
                assert [s for s in mine if (s[0] < other[0] if words[2] == "before" else s[0] > other[0])] == [q["span"]]
            if q["level"] == "between":
                mine, before, after = (spans[" ".join(words[i : i + 2])] for i in (0, 4, 8))
                assert [s for s in mine if before[0][0] < s[0] < after[0][0]] == [q["span"]] and len(before) == len(after) == 1
        assert len({q["query"] for q in queries(play, levels)}) == len(queries(play, levels))
    assert seen == set(levels)


def test_new_pairings_are_only_where_they_belong():
    for pairings, expected in (("seen", {False}), ("new", {True}), ("all", {True, False})):
        plays = [script(np.random.default_rng(i), ToyWorldConfig(pairings=pairings)) for i in range(30)]
        assert {tuple(e["name"].split()) in NEW_PAIRINGS for p in plays for e in p["events"]} == expected


def test_wrong_labels_are_as_many_as_asked_for_and_really_wrong(tmp_path):
    world = make_world(tmp_path / "w", 60, 2, world=ToyWorldConfig(label_noise=0.3, size=28))
    scripts = read_scripts(world)
    agree = np.array([tiou(s.spans[0], scripts[s.qid][0]["span"]) for s in load_samples(world / "samples.jsonl")])
    assert set(np.unique(agree >= 0.25)) == {False, True} and (agree[agree >= 0.25] == 1).all()
    assert abs((agree < 1).mean() - 0.3) < 3 * (0.3 * 0.7 / len(agree)) ** 0.5


def test_a_folder_with_a_world_of_other_settings_is_refused(tmp_path):
    "Whichever setting differs. With the same settings the world is left as it is."
    settings = ToyWorldConfig(objects=(2, 2), size=28)
    world = make_world(tmp_path / "w", 1, 0, world=settings)
    made = (world / "samples.jsonl").stat()
    assert make_world(tmp_path / "w", 1, 0, world=ToyWorldConfig(objects=(2, 2), size=28)) == world
    others = dict(objects=(3, 3), p_reappear=0.0, event=(2, 3), p_distractor=0.0, noise=1.0, lengths=(9,), spacing=(2,), size=56)
    others |= dict(pairings="new", levels=("direct",), label_noise=0.1, label_errors="whole")
    assert set(others) == {field.name for field in dataclasses.fields(ToyWorldConfig)}
    for name, value in others.items():
        with pytest.raises(FileExistsError, match="another world"):
            make_world(tmp_path / "w", 1, 0, world=dataclasses.replace(settings, **{name: value}))
    assert (world / "samples.jsonl").stat() == made


def test_a_script_follows_its_settings():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        play = script(rng, ToyWorldConfig(objects=(4, 4), p_reappear=0.0, event=(3, 3), lengths=(12,), spacing=(2,)))
        assert (play["seconds"], play["step"], len(play["events"])) == (24, 2, 4)
        assert all([end - start for start, end in event["spans"]] == [6] for event in play["events"])
        again = script(rng, ToyWorldConfig(objects=(2, 2), p_reappear=1.0, p_distractor=0.0))["events"]
        assert [len(event["spans"]) for event in again] == [2, 2]


def test_a_world_of_another_seed_is_not_overwritten(world):
    with pytest.raises(FileExistsError, match="another world"):
        make_world(world, videos=12, seed=6)


def test_the_teacher_is_seeded_and_its_iou_is_that_of_its_span(world, toy_samples):
    scripts = read_scripts(world)
    for s in toy_samples:
        t = toy_teacher(s, scripts, 3)
        assert (
            t == toy_teacher(s, scripts, 3)
            and t["iou"] == pytest.approx(tiou(t["span"], s.spans[0]))
            and 0 <= t["span"][0] < t["span"][1] <= s.duration
        )
    assert any(toy_teacher(s, scripts, 3) != toy_teacher(s, scripts, 4) for s in toy_samples)


def test_reasoning_changes_the_words_and_not_the_answer(world, toy_samples):
    scripts = read_scripts(world)
    for s in toy_samples:
        given = [toy_teacher(s, scripts, 0, length) for length in REASONING_LENGTHS]
        assert len({tuple(t["span"]) for t in given}) == 1
        assert all(len(a["response"]) < len(b["response"]) for a, b in itertools.pairwise(given) if "short" not in a["model"])
        assert all(f"{t['span'][0]:g}-{t['span'][1]:g}" in t["response"] for t in given[2:])
    with pytest.raises(ValueError, match="reasoning length"):
        toy_teacher(toy_samples[0], scripts, 0, "huge")


def test_long_reasoning_about_an_absent_thing_names_no_time():
    never = dict(level="absent", query="the white cross", spans=[], named=[dict(name="white cross", spans=[])])
    assert reasoning(never, [], "long") == reasoning(never, [], "medium") == "white cross: none"
    assert reasoning(never, [[2, 4]], "long") == "white cross at 2, 3: first 2-4"


def test_the_scripts_of_a_folder_that_is_no_toy_world_are_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="toy worlds only"):
        read_scripts(tmp_path)
