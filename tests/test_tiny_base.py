"The questions from which the embedded model learned, and a few real steps of the two experiments that train it."

import numpy as np
import pytest

from vtg_r1.core.prompts import is_well_formed, parse_span
from vtg_r1.data.toyworld import LEVELS, make_world, queries
from vtg_r1.experiments.thinking import by_level, lesson, lessons, teach
from vtg_r1.experiments.tiny_base import (
    BASE_WORLD,
    Clip,
    batches,
    encoded,
    examine,
    frames_shown,
    list_appearances,
    list_seconds,
    load_clips,
    opening,
    pick,
    pretrain,
    question,
    what_at,
    when_loosely,
)
from vtg_r1.models.loading import load_model, load_processor
from vtg_r1.models.tiny import build_tiny

CIRCLE, CROSS = {"name": "red circle", "spans": [[3, 6], [9, 12]], "quarter": 0}, {"name": "blue cross", "spans": [[5, 9]], "quarter": 1}
PLAY = {"seconds": 15, "step": 1, "events": [CIRCLE, CROSS]}


def clip(play=PLAY) -> Clip:
    return Clip(np.zeros((4 * 16, 1)), list(range(16)), play, play["events"], queries(play))


@pytest.mark.parametrize(
    "found, asked, answered",
    [
        # the end of an appearance is the first second at which the object is gone
        (what_at(PLAY, [2, 5, 6]), "what at 2", "2 none, 5 red circle and blue cross, 6 blue cross"),
        (list_seconds(CIRCLE, range(16)), "list red circle", "3, 4, 5, 9, 10, 11"),
        (list_seconds(CIRCLE, [0, 7]), "list red circle", "none"),
        (list_appearances(CIRCLE), "when red circle", "first 3-6, second 9-12"),
        (pick(CIRCLE, 0), "first of first 3-6, second 9-12", "3-6"),
        (pick(CIRCLE, 1), "second of first 3-6, second 9-12", "9-12"),
    ],
)
def test_questions_and_answers_are_those_written_by_hand(found, asked, answered):
    assert found == (asked, answered)


def test_loose_answers_contain_the_span_and_stay_within_the_video():
    rng, query = np.random.default_rng(0), {"query": "the blue cross", "span": [5, 9]}
    said = [when_loosely(rng, query, list(range(16))) for _ in range(200)]
    spans = [parse_span(answer) for _, answer in said]
    assert {q for q, _ in said} == {"the blue cross"} and {s for s, _ in spans} == {2, 3, 4, 5} and {e for _, e in spans} == {9, 10, 11, 12}
    assert {parse_span(when_loosely(rng, query, list(range(4, 11)))[1])[0] for _ in range(50)} == {4, 5}
    assert {a.startswith("<think></think>") for _, a in said} == {True, False}


def test_an_opening_asks_only_about_what_it_shows_whole():
    shown = opening(clip(), 8)  # frames at 0 … 7: the circle's first appearance is whole and its second not begun, the cross is cut off
    assert shown.times == list(range(8)) and len(shown.patches) == 32
    assert [(e["name"], e["spans"]) for e in shown.whole] == [("red circle", [[3, 6]])] and all(q["span"] == [3, 6] for q in shown.queries)
    assert opening(clip(), 16).whole == PLAY["events"] and opening(clip(), 3).whole == opening(clip(), 3).queries == []


def test_every_kind_of_question_is_asked_and_one_that_cannot_be_is_replaced():
    asked = {
        kind: {question(np.random.default_rng(i), clip(), mix=tuple(float(k == kind) for k in range(5)))[0].split()[0] for i in range(20)}
        for kind in range(5)
    }
    assert [asked[k] for k in range(4)] == [{"what"}, {"list"}, {"when"}, {"first", "second"}] and asked[4].isdisjoint({"what", "list", "when"})
    assert question(np.random.default_rng(0), opening(clip(), 3), mix=(0, 0, 1.0, 0, 0))[0].startswith("list")
    assert [frames_shown(np.random.default_rng(1), step) for step in (0, 300, 10_000)] == [4, 10, 16]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return load_clips(make_world(tmp_path_factory.mktemp("base") / "w", videos=6, seed=3, world=BASE_WORLD), load_processor("tiny"))


def test_a_batch_is_graded_on_its_answers_alone(clips):
    processor = load_processor("tiny")
    pairs = [question(np.random.default_rng(i), c) for i, c in enumerate(clips[:3])]
    batch = encoded(processor, clips[:3], pairs)
    graded = [processor.tokenizer.decode(row[row != -100]) for row in batch["labels"]]
    assert graded == [answer + processor.tokenizer.eos_token for _, answer in pairs]
    assert batch["mm_token_type_ids"].sum() == len(batch["image_grid_thw"]) == sum(len(c.times) for c in clips[:3])


@pytest.mark.slow
def test_pretraining_lowers_the_loss_and_the_examination_knows_every_kind(clips):
    model, processor = build_tiny(0)
    losses = pretrain(model, batches(clips, processor, 4, np.random.default_rng(0)), steps=12, warmup=4)
    assert len(losses) == 12 and np.isfinite(losses).all() and np.mean(losses[-3:]) < losses[0] - 1 and not model.training
    marks = examine(model, processor, clips)
    assert list(marks) == ["what", "list", "appearances", "pick", *(f"when, {level}" for level in LEVELS)] and all(
        0 <= v <= 100 for v in marks.values()
    )


@pytest.mark.slow
def test_thinking_is_taught_in_steps_and_measured_by_level(clips):
    model, processor = load_model("tiny"), load_processor("tiny")
    before = [lesson(np.random.default_rng(i), clips[0], "medium") for i in range(8)]
    assert all(is_well_formed(response) and len(response) > 60 for _, response in before)
    looked = list(teach(model, lessons(clips, processor, 4, 0, "medium"), until=(1, 3)))
    rows = by_level(model, processor, clips, n=2, batch=2)
    assert looked == [1, 3] and not model.training and [r["level"] for r in rows] == list(LEVELS)
    assert all(0 < r["n"] <= 2 and 0 <= r["mIoU"] <= 100 and r["thinks"] in (0, 50, 100) for r in rows)
