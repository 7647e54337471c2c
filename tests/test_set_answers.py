"Answers as sets of none, one or many spans: how they are compared, asked for, read and rewarded."

import itertools

import numpy as np
import pytest

from vtg_r1.core.metrics import set_metrics
from vtg_r1.core.prompts import (
    READINGS,
    STYLES,
    grounding_prompt,
    is_refusal,
    is_well_formed,
    parse_set,
    parse_spans,
    qa_prompt,
    response_text,
    system_prompt,
)
from vtg_r1.core.spans import matched_tious, set_tiou, tiou
from vtg_r1.rewards import format_reward, refusal_reward, set_tiou_reward, set_wasserstein_reward, tiou_reward, wasserstein_reward


def random_sets(rng, count):
    "Lists of up to four spans on a grid of seconds, so that equal borders and exact thresholds are frequent."
    rows = []
    for _ in range(count):
        starts, lengths = rng.integers(0, 12, rng.integers(0, 5)), rng.integers(1, 6, 4)
        rows.append([[float(s), float(s + n)] for s, n in zip(starts, lengths)])
    return rows


def best_by_trying(preds, gts, value):
    "The largest sum of a value over one-to-one pairs, by trying every pairing."
    few, many = sorted((preds, gts), key=len)
    return max(sum(value(a, b) for a, b in zip(few, chosen)) for chosen in itertools.permutations(many, len(few)))


# ---- similarity and metrics, against a search through all pairings ----


def test_sets_are_compared_by_the_best_of_all_pairings():
    rng = np.random.default_rng(0)
    for preds, gts in zip(random_sets(rng, 300), random_sets(rng, 300)):
        expected = best_by_trying(preds, gts, tiou)
        assert sum(matched_tious(preds, gts)) == pytest.approx(expected)
        larger = max(len(preds), len(gts))
        assert set_tiou(preds, gts) == pytest.approx(expected / larger if larger else 1.0)
        assert set_tiou(preds, gts) == pytest.approx(set_tiou(gts, preds[::-1]))
        pairs = matched_tious(preds, gts)
        assert pairs == sorted(pairs, reverse=True) and 0 not in pairs
    assert set_tiou([[3, 3]], [[3, 3]]) == set_tiou([[3, 3]], [[2, 4]]) == set_tiou([[2, 4]], [[4, 2]]) == 0  # an empty span overlaps nothing


def test_set_metrics_by_counting():
    rng = np.random.default_rng(1)
    preds, gts = random_sets(rng, 120), random_sets(rng, 120)
    preds = [None if rng.random() < 0.1 else row for row in preds]
    metrics = set_metrics(preds, gts)
    for m in (0.3, 0.5, 0.7):
        found = sum(best_by_trying(p or [], g, lambda a, b: float(tiou(a, b) >= m)) for p, g in zip(preds, gts))
        total = sum(len(p or []) for p in preds) + sum(map(len, gts))
        assert metrics[f"F1@{m}"] == pytest.approx(200 * found / total)
    right = sum(p == [] and g == [] for p, g in zip(preds, gts))
    refused, absent = sum(p == [] for p in preds), sum(g == [] for g in gts)
    assert right > 0 and None in preds
    assert metrics["refusal precision"] == pytest.approx(100 * right / refused) and metrics["refusal recall"] == pytest.approx(100 * right / absent)
    assert metrics["refusal F1"] == pytest.approx(200 * right / (refused + absent))
    assert metrics["count accuracy"] == pytest.approx(100 * np.mean([p is not None and len(p) == len(g) for p, g in zip(preds, gts)]))
    assert metrics["set tIoU"] == pytest.approx(100 * np.mean([0 if p is None else set_tiou(p, g) for p, g in zip(preds, gts)]))
    both_reach = set_metrics([[[0, 10], [0, 3.5]]], [[[0, 9.5], [6, 10]]], (0.3,))  # 0.37 and 0.4, though 0.95 and 0 have the larger sum
    assert both_reach["F1@0.3"] == 100 and both_reach["set tIoU"] == pytest.approx(47.5)
    nobody_refuses = set_metrics([[[0, 1]]], [[[0, 1]]])
    assert [nobody_refuses[f"refusal {name}"] for name in ("precision", "recall", "F1")] == [0, 0, 0]


def test_set_metrics_refuse_what_they_cannot_score():
    with pytest.raises(ValueError, match="1 predictions, 2 rows of true spans"):
        set_metrics([[]], [[], []])
    with pytest.raises(ValueError, match="^no queries to score$"):
        set_metrics([], [])
    with pytest.raises(ValueError, match=r"predictions of row 0 are \[3, 9\]"):
        set_metrics([[3, 9]], [[[3, 9]]])


# ---- what is asked, and how it is read ----


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("answers", ["span", "set"])
def test_a_prompt_asks_for_the_format_that_is_rewarded(style, answers):
    text = system_prompt(style, answers)
    assert ("<think>" in text) == STYLES[style].thinking and "<time>" in text and "<answer>" not in text
    assert (f"<time>{STYLES[style].refusal}</time>" in text) == (answers == "set")
    assert ("the one period" in text) == (answers == "span")
    with_options = system_prompt(style, answers, options=True)
    assert "<answer>B</answer>" in with_options and "answers the question" in with_options
    for messages in (grounding_prompt("a dog", [0, 1], style, answers), qa_prompt("why?", ["x", "y"], [0, 1], style, answers)):
        assert (messages[0]["role"] == "system") == STYLES[style].system
    grounding = grounding_prompt("a dog", [0, 1], style, answers)
    asked = "".join(block["text"] for message in grounding for block in message["content"] if block["type"] == "text")
    assert STYLES[style].system <= (text in asked)
    assert parse_set(f"<time>{STYLES[style].refusal}</time>") == []


@pytest.mark.parametrize(
    "text", ["none", "None.", " not in the video ", "[]", "[ ]", "null", "It is not in this video", "the event does not occur", "No such moment"]
)
def test_a_refusal_is_read_in_a_block_and_alone_but_not_in_the_thinking(text):
    assert is_refusal(f"<think>I look.</think><time>{text}</time>") and parse_set(f"<time>{text}</time>") == []
    assert is_refusal(f"<answer>{text}</answer>", "answer") and is_refusal(f"<think>x</think>{text}", "sentence")
    assert (
        not is_refusal(f"<think>{text}</think>")
        and not is_refusal(f"<think>{text}</think>", "sentence")
        and not is_refusal(f"<think><time>{text}</time>")
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "none of them, 3 to 9",
        "not in the video before 3",
        "[3, 9]",
        "nonesuch",
        "no",
        "later",
        "0",
        "none " * 40,
        "never, or 3-9",
        "[[]]",
        "the first",
    ],
)
def test_other_answers_are_no_refusal(text):
    assert not is_refusal(f"<think>x</think><time>{text}</time>")
    assert parse_set(f"<time>{text}</time>") != []


def test_a_refusal_never_hides_a_span_and_no_reading_raises():
    rng = np.random.default_rng(2)
    pieces = [
        "<time>",
        "</time>",
        "<think>",
        "</think>",
        "none",
        "not in the video",
        "[3, 9]",
        "[]",
        " ",
        "\n",
        "<answer>",
        "</answer>",
        "```json",
        "```",
        "8 to 9",
        "null",
    ]
    for _ in range(500):
        text = "".join(rng.choice(pieces, rng.integers(0, 9)))
        for reading in READINGS:
            spans = parse_spans(text, reading, 30.0)
            assert not (spans and is_refusal(text, reading)), (reading, text)
            assert parse_set(text, reading, 30.0) == (spans or ([] if is_refusal(text, reading) else None))


def test_a_direct_answer_is_in_the_format_only_without_thinking():
    for spans in ([], [[2, 5]], [[2, 5], [8, 9]]):
        direct, thought = response_text(None, spans), response_text("seen", spans)
        assert (
            is_well_formed(direct, thinking=False)
            and not is_well_formed(direct)
            and is_well_formed(thought)
            and not is_well_formed(thought, thinking=False)
        )
        assert format_reward([direct, thought], thinking=False, refusals=True) == [1, 0] and format_reward([direct, thought], refusals=True) == [0, 1]
        assert parse_set(direct) == parse_set(thought) == spans
    assert is_well_formed("<think>\n</think>\n<time>[2, 5]</time>", thinking=False)  # a chat template may write an empty thought
    for broken in (
        "<time>[2, 5]</time></think>",
        "so: <time>[2, 5]</time>",
        "<think></think><think></think><time>[2, 5]</time>",
        "<time><think></think>[2, 5]</time>",
    ):
        assert not is_well_formed(broken, thinking=False), broken
    assert is_well_formed(response_text(None, [2, 5], "B"), answer=True, thinking=False)


# ---- rewards ----


def test_set_rewards_are_those_worked_out_by_hand():
    def paid(reward, spans, truth):
        return reward([response_text("x", spans)], [truth])[0]

    two = [[2.0, 4.0], [8.0, 12.0]]
    assert paid(set_tiou_reward, two, two) == paid(set_wasserstein_reward, two, two) == 1
    assert paid(set_tiou_reward, [[8, 12], [2, 4]], two) == 1  # the order is free
    assert paid(set_tiou_reward, [[2, 12]], two) == pytest.approx(0.2)  # one of two, tIoU 4/10
    assert paid(set_tiou_reward, [*two, *two], two) == 0.5 and paid(tiou_reward, [*two, *two], two) == 1
    assert [paid(set_tiou_reward, [], truth) for truth in ([], two, None)] == [1, -0.5, None]
    assert [paid(refusal_reward, [], truth) for truth in ([], two, None)] == [1, -1, None]
    assert [paid(set_tiou_reward, two, truth) for truth in ([], None)] == [0, None] and paid(refusal_reward, two, two) == 0
    assert set_tiou_reward(["<time>?</time>"] * 3, [[], two, None]) == [0, 0, None]  # what cannot be read is no refusal
    assert set_tiou_reward([response_text("", [])], [two], false_refusal=0.0) == [0]


def test_set_rewards_of_one_span_are_the_rewards_for_one_span():
    rng = np.random.default_rng(3)
    spans = np.sort(rng.uniform(0, 30, (200, 2)).round(2), 1)
    texts, truths = [response_text("", span.tolist()) for span in spans], [[span.tolist()] for span in np.roll(spans, 1, 0)]
    assert np.allclose(set_tiou_reward(texts, truths), tiou_reward(texts, truths))
    assert np.allclose(set_wasserstein_reward(texts, truths), wasserstein_reward(texts, truths))


def test_auto_reads_a_refusal_in_a_block_or_alone():
    refused = ("none", "<answer>none</answer>", "<think>3 to 5</think>not in the video", "<time>```json [] ```</time>", "<time> 'None.' </time>")
    assert all(is_refusal(text, "auto") for text in refused)
    others = (
        "<answer>[3, 5]</answer> none",
        "<time>none</time><answer>[3, 5]</answer>",
        "<answer>red</answer> none",
        "it is there",
        "<time>none ```json</time>",
    )
    assert not any(is_refusal(text, "auto") for text in others)
    assert not is_refusal("<time>Xnone</time>") and not is_refusal(None, "auto") and is_refusal("<time>none</time>") and not is_refusal("none")


@pytest.mark.parametrize("reward, values", [(set_tiou_reward, [1, 1, -0.5]), (set_wasserstein_reward, [1, 1, -0.5]), (refusal_reward, [0, 1, -1])])
def test_set_rewards_read_by_the_convention_they_are_given(reward, values):
    truths = [[[2.0, 4.0]], [], [[2.0, 4.0]]]
    for reading, texts in {
        "answer": ["<answer>2 to 4</answer>", "<answer>none</answer>", "<answer>none</answer>"],
        "vtimellm": ["From 20 to 40.", "none", "none"],  # hundredths of ten seconds
    }.items():
        assert reward(texts, truths, reading=reading, duration=[10.0] * 3) == values
        assert format_reward(texts, reading=reading, duration=[10.0] * 3, refusals=True) == ([1, 1, 1] if reading == "vtimellm" else [0, 0, 0])
    thought = [f"<think>x</think>{text}" for text in ("<answer>2 to 4</answer>", "<answer>none</answer>")]
    assert format_reward(thought, reading="answer", refusals=True) == [1, 1] and format_reward(thought, reading="answer") == [1, 0]
