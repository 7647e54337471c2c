"Rewards: hand-worked values, slow versions of the same definitions, TRL's contract, and a real trainer."

import inspect
import json
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vtg_r1 import rewards
from vtg_r1.core.prompts import completion_text, format_span, response_text
from vtg_r1.core.spans import union_tiou
from vtg_r1.rewards import (
    answer_reward,
    composite,
    format_reward,
    giou_reward,
    group_signal,
    paper_qa_reward,
    paper_reward,
    refusal_reward,
    segment_f1_reward,
    segment_giou_reward,
    set_tiou_reward,
    set_wasserstein_reward,
    tiou_reward,
    tiou_timestamp_reward,
    wasserstein_reward,
    with_options,
)

GROUNDING = [tiou_reward, tiou_timestamp_reward, giou_reward, segment_f1_reward, segment_giou_reward, wasserstein_reward]
EVERY = [
    *GROUNDING,
    format_reward,
    answer_reward,
    paper_reward,
    paper_qa_reward,
    with_options(tiou_reward, multi_gt="union"),
    set_tiou_reward,
    set_wasserstein_reward,
    refusal_reward,
]
COLUMNS = {
    "spans": [[[3.0, 9.0]], [[3.0, 9.0], [20.0, 26.0]], [[0.0, 1.5]]],
    "duration": [30.0, 30.0, 12.0],
    "answer": ["A", "B", "C"],
}
TEXTS = ["<think>a</think><time>[3, 9]</time><answer>A</answer>", "<think>b</think><time>[20, 23]</time>", "<time>never</time>"]


def answer(*spans):
    return f"<think>x</think><time>{', '.join(map(format_span, spans))}</time>"


@pytest.mark.parametrize("reward", EVERY, ids=lambda r: r.__name__)
def test_contract(reward):
    "Strings and messages alike, extra columns ignored, one finite float a completion, the input left alone."
    before = repr(COLUMNS)
    plain = reward(completions=TEXTS, prompts=["?"] * 3, trainer_state=None, **COLUMNS)
    chat = reward(completions=[[{"role": "assistant", "content": s}] for s in TEXTS], prompts=["?"] * 3, **COLUMNS)
    blocks = reward(completions=[[{"role": "assistant", "content": [{"type": "text", "text": s}]}] for s in TEXTS], **COLUMNS)
    assert plain == chat == blocks and repr(COLUMNS) == before
    assert isinstance(plain, list) and len(plain) == 3 and all(type(v) is float and math.isfinite(v) for v in plain)
    assert isinstance(reward.__name__, str) and any(p.kind is p.VAR_KEYWORD for p in inspect.signature(reward).parameters.values())


@pytest.mark.parametrize("reward", GROUNDING, ids=lambda r: r.__name__)
def test_exact_is_most_and_unreadable_least(reward):
    "1 for the truth; nothing pays less than an answer that cannot be read, is inverted or empty."
    texts = [
        answer([3, 9]),
        answer([4, 9]),
        answer([0, 30]),
        answer([20, 22]),
        answer([9, 3]),
        answer([5, 5]),
        "",
        "<think>[3, 9]",
        "<think>3 to 9</think>",
        answer([9e300, 9.1e300]),
    ]
    paid = reward(texts, spans=[[[3.0, 9.0]]] * len(texts), duration=[30.0] * len(texts))
    assert paid[0] == 1 > paid[1] > paid[3] and paid[1] > paid[2]
    assert len({*paid[4:9]}) == 1 and paid[4] == min(paid)
    assert reward([texts[0]], spans=[None], duration=[30.0]) == reward([texts[0]], spans=[[]], duration=[30.0]) == [None]
    assert reward([], spans=[], duration=[]) == []


@pytest.mark.parametrize(
    "reward, spans, truth, value",
    [
        (tiou_reward, [[6, 9]], [[3, 9]], 0.5),
        (tiou_reward, [[6, 9], [3, 9]], [[3, 9]], 0.5),  # the first span counts
        (tiou_reward, [[20, 26]], [[3, 9], [20, 26]], 1.0),  # the true span hit best
        (with_options(tiou_reward, multi_gt="union"), [[20, 26]], [[3, 9], [20, 26]], 0.5),
        (with_options(tiou_reward, multi_gt="union"), [[3, 7], [5, 9]], [[3, 9]], 1.0),
        (tiou_timestamp_reward, [[6, 9]], [[3, 9]], 0.5 * (1 - 3 / 30)),
        (tiou_timestamp_reward, [[0, 90]], [[3, 9]], 0.0),  # an end further off than the video is long
        (giou_reward, [[12, 15]], [[3, 9]], -3 / 12),
        (segment_f1_reward, [[3, 9]], [[3, 9], [20, 26]], 2 / 3),  # precision 1, recall 1/2
        (segment_giou_reward, [[3, 9]], [[3, 9], [20, 26]], 0.5),
        (segment_giou_reward, [[20, 26], [3, 9]], [[3, 9], [20, 26]], 1.0),  # paired in order of time
        (segment_f1_reward, [[3, 9], [9, 3]], [[3, 9]], 0.0),
        (tiou_reward, [[0, 0.25]], [[0, 0.5]], 0.5),  # half a second counts as much as half a minute
        (with_options(tiou_reward, multi_gt="union"), [[0, 0.25]], [[0, 0.5]], 0.5),
        (tiou_timestamp_reward, [[0, 0.25]], [[0, 0.5]], 0.5 * (1 - 0.25 / 30)),
        (giou_reward, [[0, 0.25]], [[0.75, 1.0]], -0.5),
        (segment_f1_reward, [[0, 0.25]], [[0, 0.5]], 2 / 3),
        (segment_giou_reward, [[0, 0.25]], [[0, 0.5]], 0.75),
        (segment_giou_reward, [[3, 9], [20, 26]], [[3, 9]], 0.5),  # one too many
        (wasserstein_reward, [[0, 0.25]], [[0, 0.5]], math.exp(-0.125 / 0.5)),
        (with_options(tiou_reward, multi_gt="union"), [[9, 3], [3, 9]], [[3, 9]], 1.0),  # what has no length covers nothing
        (with_options(tiou_reward, multi_gt="union"), [[3, 9]], [[9, 3], [3, 9]], 1.0),
        (segment_f1_reward, [[3, 9], [5, 5]], [[3, 9]], 0.0),  # one span without length makes the whole answer worth 0
        (segment_giou_reward, [[3, 9], [5, 5]], [[3, 9]], 0.0),
        (wasserstein_reward, [[3, 9], [5, 5]], [[3, 9]], 1.0),  # TimeLens2 leaves it out
        (wasserstein_reward, [[9, 3], [5, 5]], [[3, 9]], 0.0),
        (wasserstein_reward, [[0, 60]], [[10, 14]], math.exp(-(100 + 46**2) / 112 / 4)),  # 0.007: a wide answer pays for its width
        (wasserstein_reward, [[0, 150]], [[70, 80]], math.exp(-35 / 10)),  # 0.030
        (wasserstein_reward, [[4, 6]], [[4, 5], [4.5, 6]], 1.0),  # the truth is merged first
        (segment_f1_reward, [[3, 9]], [[5, 5]], 0.0),  # a true span without length pays nothing
        (wasserstein_reward, [[3, 9]], [[5, 5]], 0.0),
        (wasserstein_reward, [], [[5, 5]], 0.0),
        (wasserstein_reward, [[0, 2], [4, 6]], [[4, 8]], math.exp(-3 / 4)),  # 3 = 0.5 + 1 + 1 + 0.5 between the borders 0, 2, 4, 6, 8
        (with_options(wasserstein_reward, beta=3.0), [[0, 2]], [[4, 6]], math.exp(-6)),
        (wasserstein_reward, [[0, 2]], [[4, 6]], math.exp(-2)),  # everything moves 4 s, the truth lasts 2
        (wasserstein_reward, [[0, 8]], [[4, 8]], math.exp(-2 / 4)),  # from [0, 8] to [4, 8]: 2 s on average
    ],
    ids=lambda v: getattr(v, "__name__", None),
)
def test_by_hand(reward, spans, truth, value):
    assert reward([answer(*spans)], spans=[truth], duration=[30.0]) == [pytest.approx(value)]


@pytest.mark.parametrize(
    "reward", [*GROUNDING, with_options(tiou_reward, multi_gt="union")], ids=lambda r: f"{r.__name__}{getattr(r, 'keywords', '')}"
)
def test_rows_do_not_touch_each_other(reward):
    "A batch pays what its rows are paid alone, wherever the unreadable ones, the ones without length and those without truth stand."
    rows = [
        ("", [[3, 9]]),
        (answer([3, 9]), [[4, 9], [20, 26]]),
        (answer([9, 3]), [[3, 9]]),
        (answer([4, 5]), None),
        (answer([0, 2], [4, 6]), [[4, 8]]),
        (answer([3, 9]), [[3, 9]]),
        ("", []),
    ]
    alone = [reward([text], spans=[truth], duration=[30.0])[0] for text, truth in rows]
    assert alone[3] is alone[-1] is None and alone[0] <= 0 < alone[1] < 1 == alone[5]
    for order in (range(7), reversed(range(7)), [3, 6, 5, 2, 0, 1, 4]):
        order = list(order)
        assert reward([rows[i][0] for i in order], spans=[rows[i][1] for i in order], duration=[30] * 7) == [
            alone[i] if alone[i] is None else pytest.approx(alone[i]) for i in order
        ]


@pytest.mark.parametrize(
    "completion, text",
    [
        ("plain", "plain"),
        ("", ""),
        ([], ""),
        ([{"role": "assistant", "content": "chat"}], "chat"),
        (
            [{"role": "assistant", "content": "called a tool"}, {"role": "tool", "content": "result"}, {"role": "assistant", "content": "then"}],
            "then",
        ),
        ([{"role": "assistant", "content": None}], ""),
        ([{"role": "assistant", "content": [{"type": "text", "text": "two "}, {"type": "image"}, {"type": "text", "text": "blocks"}]}], "two blocks"),
    ],
)
def test_completion_text(completion, text):
    assert completion_text(completion) == text


@pytest.mark.parametrize("template", ["qwen3_template", "lfm2_2_5_template"])
@pytest.mark.parametrize("text", ["<think>at 3 s</think><time>[3, 9]</time>", "<think></think><time>[3, 9]</time>", "<time>[3, 9]</time>"])
def test_reasoning_that_a_parser_set_apart_is_put_back(template, text):
    "TRL moves the think block to its own field; `completion_text` puts it back. An empty block is lost."
    from trl import chat_template_utils

    from vtg_r1.models.loading import load_processor

    tokenizer = load_processor("tiny").tokenizer
    tokenizer.response_template = {
        **getattr(chat_template_utils, template),
        "start_anchor": "<|im_start|>a",
    }  # the tiny model's template writes only the first letter of a role
    prompt_ids, ids = (tokenizer(part)["input_ids"] for part in ("<|im_start|>uwhen<|im_end|><|im_start|>a", f"{text}<|im_end|>"))
    parsed = chat_template_utils.parse_response(tokenizer, ids, prefix=prompt_ids)
    assert "think" not in parsed["content"]
    assert completion_text([parsed]) == text.replace("<think></think>", "")


tenth = st.integers(0, 300).map(lambda t: t / 10)
proper = st.tuples(tenth, st.integers(1, 100).map(lambda t: t / 10)).map(lambda p: [p[0], round(p[0] + p[1], 1)])
sets = st.lists(proper, min_size=1, max_size=4)


def covered(spans, grid):
    return np.any([(s <= grid) & (grid < e) for s, e in spans], axis=0)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(sets, sets), min_size=1, max_size=4))
@example([([[0.0, 0.3]], [[0.1, 0.2]])])
def test_multi_span_rewards_against_a_fine_grid(rows):
    "All borders are multiples of 0.1 s, so cells of 0.01 s give coverage exactly."
    texts, truth = [answer(*p) for p, _ in rows], [g for _, g in rows]
    grid = np.arange(0, 41, 0.01) + 0.005
    for k, (p, g) in enumerate(rows):
        a, b = covered(p, grid), covered(g, grid)
        f1, iou = 2 * (a & b).sum() / (a.sum() + b.sum()), (a & b).sum() / (a | b).sum()
        assert segment_f1_reward(texts, truth)[k] == pytest.approx(f1)
        assert tiou_reward(texts, truth, multi_gt="union")[k] == pytest.approx(iou) == pytest.approx(union_tiou(p, g))


def test_unknown_ways_are_errors():
    with pytest.raises(ValueError, match="best"):
        tiou_reward(TEXTS, COLUMNS["spans"], multi_gt="all")
    with pytest.raises(TypeError, match="spans"):
        tiou_reward(TEXTS)
    with pytest.raises(TypeError, match="duration"):
        tiou_timestamp_reward(TEXTS, COLUMNS["spans"])


@pytest.mark.parametrize(
    "reward",
    [*GROUNDING, with_options(tiou_reward, multi_gt="union"), format_reward, answer_reward, paper_reward],
    ids=lambda r: f"{r.__name__}{getattr(r, 'keywords', '')}",
)
@pytest.mark.parametrize("completions, rows", [(3, 2), (2, 3)])
def test_columns_of_another_length_are_errors(reward, completions, rows):
    with pytest.raises(ValueError):
        reward(TEXTS[:completions], **{name: column[:rows] for name, column in COLUMNS.items()})


def test_another_number_of_rows_is_named():
    for reward in (segment_f1_reward, wasserstein_reward):
        with pytest.raises(ValueError, match="^2 completions, 3 rows of true spans: give one row per completion$"):
            reward(TEXTS[:2], COLUMNS["spans"])


def test_a_reward_with_options_is_that_reward_under_its_name():
    union = with_options(tiou_reward, multi_gt="union")
    assert union([answer([20, 26])], spans=[[[3, 9], [20, 26]]]) == [0.5] and union.__name__ == "tiou_reward" and union.__doc__ == tiou_reward.__doc__


def by_quantiles(pred, gt, beta=1.0):
    "exp(−β · W1 / length of the merged truth), W1 by the quantile functions of both sets on a fine grid (TimeLens2's definition)."
    grid = (np.arange(20_000) + 0.5) / 20_000

    def quantiles(spans):
        seconds = sorted({t for span in spans for t in span})
        cells = [(a, b) for a, b in zip(seconds, seconds[1:]) if any(s <= a and b <= e for s, e in spans)]
        mass = np.cumsum([0.0, *(b - a for a, b in cells)])
        place = np.minimum(np.searchsorted(mass, grid * mass[-1], side="right") - 1, len(cells) - 1)
        return np.array([a for a, _ in cells])[place] + grid * mass[-1] - mass[place], mass[-1]

    (p, _), (g, length) = quantiles(pred), quantiles(gt)
    return math.exp(-beta * np.abs(p - g).mean() / length)


@settings(max_examples=200, deadline=None)
@given(sets, sets)
def test_wasserstein_equals_its_quantile_form(pred, gt):
    assert wasserstein_reward([answer(*pred)], [gt]) == [pytest.approx(by_quantiles(pred, gt), abs=2e-3)]


READING_ROWS = {
    "time": "<think>a</think><time>[3, 9]</time>",
    "answer": "<think>from 1 to 2</think><answer>3 to 9</answer>",
    "glue": "<think>at 1</think><answer>A</answer><glue>[(3, 9)]</glue>",
    "sentence": "The event happens in 3.0 - 9.0 seconds.",
    "json": '```json\n[{"start_time": "00:03.00", "end_time": "00:09.00"}]\n```',
    "vtimellm": "From 10 to 30.",
    "tvg_r1": "It is 3, or 9.",
}


@pytest.mark.parametrize("reward", [*GROUNDING, format_reward, paper_reward, with_options(tiou_reward, multi_gt="union")], ids=lambda r: r.__name__)
def test_a_reward_reads_by_the_convention_it_is_given(reward):
    columns = {"spans": [[[3.0, 9.0]]], "duration": [30.0]}
    for reading, text in READING_ROWS.items():
        assert reward([text], reading=reading, **columns) == with_options(reward, reading=reading)([text], **columns) == [1.0], reading
        if reading != "time":
            assert reward([text], **columns)[0] <= 0  # the default is our own
    with pytest.raises(ValueError, match="reading 'auto' guesses"):
        reward([text], reading="auto", **columns)
    with pytest.raises(ValueError, match="'strict' is now called 'time'"):
        reward([text], reading="strict", **columns)


def test_hundredths_need_the_duration():
    for reward in (tiou_reward, format_reward):
        with pytest.raises(ValueError, match="give its duration"):
            reward([READING_ROWS["vtimellm"]], spans=[[[3, 9]]], reading="vtimellm")


def test_the_format_is_paid_for_a_readable_answer_alone():
    "Tags without a readable span inside pay 0."
    unreadable = ["not in the video", "", "frames 10-25", "20% to 40%", "[1, 2, 3]"]
    assert format_reward([f"<think>a</think><time>{text}</time>" for text in unreadable]) == [0] * 5
    assert format_reward([answer([9, 3]), answer([3, 9])]) == [1, 1]  # a span written backwards is read: the overlap says that it is wrong


def test_an_option_is_read_by_the_convention_that_is_given():
    assert answer_reward(["(B) is it", "<answer>B</answer>"], ["B", "B"], reading="tvg_r1") == [1, 0]
    assert answer_reward(["(B) is it", "<answer>B</answer>"], ["B", "B"]) == [0, 1]


def test_format_asks_for_the_option_only_of_questions():
    assert format_reward(TEXTS) == [0, 1, 0] and format_reward(TEXTS, answer=["A", None, None]) == [1, 1, 0]


def test_composite_weighs_and_passes_none():
    mixed = composite({tiou_reward: 0.9, answer_reward: 2.0, format_reward: 0.1}, "mixed")
    paid = mixed(TEXTS, spans=[[[3, 9]], None, None], answer=["A", None, None])
    assert paid == pytest.approx([3.0, 0.1, 0.0]) and mixed.__name__ == "mixed"
    assert composite({tiou_reward: 1.0})(TEXTS, spans=[None] * 3) == [None] * 3 and composite({}).__name__ == "composite"
    assert composite({tiou_reward: 1.0, format_reward: 1.0})(TEXTS, spans=[None] * 3) == [0, 1, 0]


def test_paper_weights():
    assert paper_reward([answer([6, 9])], spans=[[[3, 9]]]) == [pytest.approx(0.9 * 0.5 + 0.1)]
    right = response_text("x", [6, 9], "B")
    assert paper_qa_reward([right], spans=[[[3, 9]]], answer=["B"]) == [pytest.approx(0.7 + 0.1 + 0.2 * 0.5)]


def slow_signal(reward, truth, duration, offset, spread, num_generations, groups, seed):
    "`group_signal` one group at a time."
    noise = np.random.default_rng(seed).standard_normal((groups, num_generations, 2))
    deviations, upward = [], []
    for group in noise:
        spans = [[min(max(t, 0), duration) for t in sorted(x + offset + spread * z for x, z in zip(truth, pair))] for pair in group]
        paid = reward(
            [f"<time>[{s:.2f}, {e:.2f}]</time>" for s, e in spans], spans=[[truth]] * num_generations, duration=[duration] * num_generations
        )
        near = [-abs(s - truth[0]) - abs(e - truth[1]) for s, e in spans]
        deviations.append(np.std(paid))
        upward.append(np.corrcoef(paid, near)[0, 1] if np.std(paid) > 1e-9 else 0)
    return {"deviation": np.mean(deviations), "frac_reward_zero_std": np.mean(np.array(deviations) < 1e-9), "upward": np.mean(upward)}


@pytest.mark.parametrize(
    "reward, truth, duration, offset, spread, num_generations, groups, seed",
    [
        (tiou_reward, [12, 18], 30, 0, 1.5, 8, 20, 0),
        (tiou_reward, [12, 18], 30, -8, 1.5, 4, 20, 0),  # so far off that most groups have zero std
        (tiou_reward, [1, 5], 8, -3, 2.0, 4, 30, 1),  # about half of the answered times are clipped to 0
        (wasserstein_reward, [12, 18], 30, -9, 0.01, 3, 10, 2),
        (tiou_timestamp_reward, [24, 29], 30, 2, 3.0, 2, 10, 3),
    ],
    ids=lambda x: getattr(x, "__name__", str(x)),
)
def test_group_signal_against_a_slow_one(reward, truth, duration, offset, spread, num_generations, groups, seed):
    fast = group_signal(reward, truth, duration, offset, spread, num_generations, groups, seed)
    assert fast == pytest.approx(slow_signal(reward, truth, duration, offset, spread, num_generations, groups, seed), abs=1e-9) and {
        type(v) for v in fast.values()
    } == {float}


def test_group_signal():
    assert 0.5 < group_signal(tiou_reward, [12, 18], 30, -8, num_generations=4, groups=20)["frac_reward_zero_std"] < 1
    near, far = (group_signal(tiou_reward, [12, 18], 30, offset, groups=50) for offset in (0, -12))
    assert near["frac_reward_zero_std"] == 0 and near["upward"] > 0.8 and far["frac_reward_zero_std"] > 0.9
    assert group_signal(tiou_reward, [12, 18], 30, 3) == group_signal(tiou_reward, [12, 18], 30, 3, spread=1.5, num_generations=8, groups=400, seed=0)


@pytest.mark.parametrize("reward", EVERY, ids=lambda r: r.__name__)
def test_fast_enough(reward, quick):
    "The goal is 100,000 in 2 s on one core (`perf/` measures that). Here 5,000 may take 0.2 s, twice as long per text."
    n = 5_000
    thought = "The scene opens on a kitchen. At 3 s a person enters; by 9 s the lamp is on. " * 4
    texts = [f"<think>{thought}</think><time>[{i % 20}, {i % 20 + 5}.5]</time>" for i in range(n)]
    columns = {"spans": [[[3.0, 9.0]]] * n, "duration": [30.0] * n, "answer": ["A"] * n}

    quick(lambda: reward(texts, **columns), 0.2)


@pytest.mark.slow
@pytest.mark.parametrize("conversational", [False, True], ids=["strings", "messages"])
def test_every_reward_in_a_stock_grpo_trainer(tiny_text_model, tmp_path, conversational):
    "TRL's own trainer, unchanged, takes every reward function, with the columns as the dataset has them."
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    ask = "When does she laugh?"
    rows = [
        {
            "prompt": [{"role": "user", "content": ask}] if conversational else ask,
            "spans": [[3.0, 9.0], [20.0, 26.0]],
            "duration": 30.0,
            "answer": "A",
        }
    ] * 4
    config = GRPOConfig(
        output_dir=str(tmp_path),
        max_steps=1,
        per_device_train_batch_size=4,
        num_generations=4,
        max_completion_length=8,
        use_cpu=True,
        report_to="none",
        logging_steps=1,
        save_strategy="no",
        reward_weights=[1.0] * len(EVERY),
        disable_tqdm=True,
    )
    trainer = GRPOTrainer(tiny_text_model, EVERY, config, train_dataset=Dataset.from_list(rows))
    trainer.train()
    log = trainer.state.log_history[0]
    for reward in EVERY:
        assert math.isfinite(log[f"rewards/{reward.__name__}/mean"]), reward.__name__
    assert log["rewards/giou_reward/mean"] == -1  # random letters hold no span


def test_every_public_reward_is_tested():
    public = {name for name in rewards.__all__ if name.endswith("_reward")}
    assert public == {r.__name__ for r in EVERY}
    assert rewards.own_rewards() == {name.removesuffix("_reward"): getattr(rewards, name) for name in public}


@pytest.mark.parametrize("reward", [*GROUNDING, set_tiou_reward, set_wasserstein_reward])
@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_truths_are_lists_arrays_or_tensors(reward, kind):
    texts = ["<think></think><time>[3, 6]</time>"] * 3
    true, more = [[[3.0, 9.0]], [[0.0, 1.0], [3.0, 6.0]], None], {"duration": [10.0] * 3}
    assert reward(texts, spans=[row and kind(row) for row in true], **more) == reward(texts, spans=true, **more)
    assert reward(texts, spans=kind([[[3.0, 9.0]]] * 3), **more) == reward(texts, spans=[[[3.0, 9.0]]] * 3, **more)


@pytest.mark.parametrize("reward", [*GROUNDING, paper_reward, set_tiou_reward, set_wasserstein_reward])
@pytest.mark.parametrize(
    "spans, error",
    [
        ([[[3, 9]], [3, 9]], r"row 1 are \[3, 9\]; give .*: \[\[3, 9\]\]$"),
        (np.array([[3, 9], [1, 2]]), r"row 0 are \[3, 9\]; give .*: \[\[3, 9\]\]$"),
        ([3, 9], "row 0 are 3; give a list"),
        ([[[3, 9]], [[3, 9, 1]]], "row 1 are"),
        ([[[3, 9]], [[None, 9]]], "row 1 are"),
        ([[[3, 9]]], "2 completions, 1 rows of true spans"),
    ],
)
def test_truths_that_are_no_lists_of_spans_are_refused(reward, spans, error):
    with pytest.raises(ValueError, match=error):
        reward(["<time>[3, 9]</time>"] * 2, spans=spans, duration=[10, 10])


@pytest.mark.parametrize("duration", [10, [10], [10, 0], [10, None]])
def test_wrong_durations_are_refused(duration):
    with pytest.raises(ValueError, match=f"^duration is {re.escape(str(duration))}; give one length in seconds > 0 for each of 2 completions$"):
        tiou_timestamp_reward(["<time>[3, 9]</time>"] * 2, spans=[[[3, 9]]] * 2, duration=duration)


def test_a_length_below_a_second_is_one():
    assert tiou_timestamp_reward(["<time>[0.1, 0.5]</time>"], spans=[[[0.1, 0.5]]], duration=[0.5]) == [1.0]


def test_a_truth_without_length_pays_nothing():
    texts, spans = [answer([5, 5]), answer([4, 6])], [[[5, 5]]] * 2
    assert tiou_reward(texts, spans, multi_gt="union") == segment_f1_reward(texts, spans) == [0.0, 0.0]


@pytest.mark.parametrize("reward", [*GROUNDING, format_reward, answer_reward])
def test_one_text_is_not_a_list_of_letters(reward):
    text = "<time>[3, 9]</time>"
    with pytest.raises(TypeError, match="^completions is one text; give a list of them$"):
        reward(text, spans=[[[3, 9]]] * len(text), duration=[10] * len(text), answer=["A"] * len(text))


def test_the_program_saves_the_signals(tmp_path):
    params = rewards.RewardsParams(run_name="r", outputs_dir=str(tmp_path), groups=3)
    folder = rewards.main(params)
    metrics = json.loads((folder / "metrics.json").read_text())
    signal = group_signal(giou_reward, rewards.EVENT, rewards.DURATION, -12.0, groups=3)
    assert (
        (metrics["n"], metrics["seed"]) == (3, 0) and metrics["far_miss/gIoU/upward"] == round(signal["upward"], 4) and len(metrics) == 3 * 6 * 3 + 2
    )  # places × designs × parts, and n and seed
    assert sorted(p.stem for p in (folder / "figs").glob("*.png")) == ["group_signal", "landscapes"]


def test_signals_are_those_of_every_design_at_every_offset(capsys):
    params = rewards.RewardsParams(run_name="r", groups=3, num_generations=4, spread=2.5, seed=7)
    rows = rewards.measure_signals(params, [0.0, 8.0])
    assert capsys.readouterr().err.lstrip("\r").startswith("reward designs:")
    assert [(row["design"], row["offset"]) for row in rows] == [(design, offset) for design in rewards.DESIGNS for offset in (0.0, 8.0)]
    for row in rows:
        signal = group_signal(rewards.DESIGNS[row["design"]], (12, 18), 30, row["offset"], 2.5, 4, 3, 7)
        assert {name: row[name] for name in signal} == signal
    offsets = [row["offset"] for row in rewards.measure_signals(params) if row["design"] == "Time-R1"]
    assert offsets == pytest.approx(list(range(-12, 13)), abs=1e-12)


def test_the_plot_of_signals_shows_each_part_of_each_design():
    rows = [
        {"design": design, "offset": x, "deviation": x + k, "frac_reward_zero_std": 2 * x + k, "upward": 3 * x + k}
        for k, design in enumerate(("tIoU", "gIoU"))
        for x in (0.0, 1.0, 3.0)
    ]
    fig = rewards.plot_signals(rows)
    fig.draw_without_rendering()
    *others, last = fig.axes
    assert len(others) == 2 and [ax.get_legend() for ax in others] == [None, None] and fig.get_size_inches().tolist() == [11, 3.2]
    assert {ax.get_xlabel() for ax in fig.axes} == {"offset of the policy's guess (s)"}
    assert [ax.get_ylabel() for ax in fig.axes] == ["deviation within a group", "share of zero-std groups", "correlation with nearness"]
    for slope, ax in enumerate(fig.axes, 1):
        drawn = [line.get_xydata().tolist() for line in ax.lines if len(line.get_xdata())]
        assert drawn == [[[x, slope * x + k] for x in (0, 1, 3)] for k in (0, 1)]
        assert [line.is_dashed() for line in ax.lines if len(line.get_xdata())] == [False, True]
    legend = last.get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["tIoU", "gIoU"] and not legend.get_title().get_text()
    box, beside = legend.get_window_extent(), last.get_window_extent()
    assert 0 <= box.x0 - beside.x1 < 20 and box.y1 == pytest.approx(beside.y1, abs=10)
    assert others[0].get_position().x1 < others[1].get_position().x0 and others[1].get_position().x1 < last.get_position().x0
    colors = [{line.get_color() for line in ax.lines if len(line.get_xdata())} for ax in fig.axes]
    assert colors[0] == colors[1] == colors[2] and len(colors[0]) == 2
