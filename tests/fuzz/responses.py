"""Hostile completions through the parser, every reward and the metrics. There must be no exception, no NaN, no value outside its range, and no response that takes a millisecond to read."""

import gc
import math
import random
import time
from collections.abc import Callable, Iterator

from vtg_r1 import rewards
from vtg_r1.core import prompts
from vtg_r1.core.metrics import grounding_metrics, mean_ap

PIECES = [
    "<think>",
    "</think>",
    "<time>",
    "</time>",
    "<answer>",
    "</answer>",
    "<THINK>",
    "</Time>",
    "<time",
    "/time>",
    "<",
    ">",
    "[",
    "]",
    "(",
    ")",
    ",",
    ";",
    ":",
    "-",
    "–",
    "−",
    "~",
    " to ",
    " and ",
    "until",
    "end ",
    "start=",
    "s",
    "sec",
    "seconds",
    " ",
    "\n",
    "\t",
    "0",
    "1",
    "12.5",
    "30",
    "1:05",
    "00:01:05.5",
    "1e5",
    "1e308",
    "9" * 40,
    "9" * 400,
    ".",
    "..",
    "-1",
    "-0",
    "nan",
    "inf",
    "NaN",
    "%",
    "min",
    "frame 3",
    "٣",
    "Ⅷ",
    "½",
    "é",
    "视频",
    "\0",
    "\ud800",
    "🎬",
    "\u202e",
    "A",
    "B",
    "(C)",
    "\\boxed{",
    "}",
    "A.",
    '"',
    "'",
    "&lt;",
    "<script>",
    "{0}",
    "%s",
    "\\",
    "<|im_end|>",
]
GOOD = "<think>it starts at 3 s.</think><time>[{:.1f}, {:.1f}]</time><answer>{}</answer>"
LONG = 16_384  # characters, about 4,096 tokens: twice what the paper lets a policy say
RANGES = {
    "tiou_reward": (0, 1),
    "format_reward": (0, 1),
    "answer_reward": (0, 1),
    "tiou_timestamp_reward": (0, 1),
    "giou_reward": (-1, 1),
    "segment_f1_reward": (0, 1),
    "segment_giou_reward": (0, 1),
    "wasserstein_reward": (0, 1),
    "set_tiou_reward": (-0.5, 1),
    "set_wasserstein_reward": (-0.5, 1),
    "refusal_reward": (-1, 1),
    "paper_reward": (0, 1),
    "paper_qa_reward": (0, 1),
}


def pathological() -> Iterator[tuple[str, str]]:
    "(name, response) of `LONG` characters, on which a careless regular expression takes quadratic time or more."
    atoms = [
        "1",
        "1 ",
        "1,",
        "1:",
        "1.",
        "1-",
        "-",
        "1:1:1",
        "1 to ",
        "1s ",
        "1 sec",
        "s",
        " ",
        "\n",
        "\t",
        "<",
        "</",
        "<t",
        "<think>",
        "</think>",
        "<time>",
        "</time>",
        "<time></time>",
        "<time>1",
        "[",
        "[1,2]",
        "[1,2],",
        "1.5 to 2.5, ",
        "end ",
        "1 to end ",
        "1 to end=",
        "(A",
        "(A)",
        "\\boxed{",
        "\\boxed{ ",
        '"',
        "'",
        "a ",
        "ab",
        "٣",
        "<answer>A",
        "<answer>A</answer>",
        "1 - ",
        "00:00:01 ",
        "1 and to ",
        "–",
        "0" * 50 + " ",
    ]
    for atom in atoms:
        body = (atom * (LONG // len(atom) + 1))[:LONG]
        yield f"{atom!r} bare", body
        yield f"{atom!r} in time", f"<think>x</think><time>{body}</time>"
        yield f"{atom!r} in time, open", f"<think>x</think><time>{body}"
        yield f"{atom!r} in think", f"<think>{body}</think><time>[1, 2]</time>"
        yield f"{atom!r} in answer", f"<time>[1, 2]</time><answer>{body}</answer>"


def fuzzed(n: int, seed: int = 0) -> Iterator[str]:
    "`n` responses: pieces in random order, or a good response; up to two mutations put a piece in, or take out or double up to seven characters."
    rng = random.Random(seed)
    for i in range(n):
        if i % 3:
            text = "".join(rng.choices(PIECES, k=rng.choice((1, 3, 10, 40))))
        else:
            text = GOOD.format(rng.uniform(-5, 40), rng.uniform(-5, 40), rng.choice("ABCDEZ"))
        if i % 3 == 2:
            text = f"<think></think><time>{text}</time>"
        for _ in range(rng.randrange(3)):
            at, width = rng.randrange(len(text) + 1), rng.randrange(8)
            text = rng.choice(
                (text[:at] + rng.choice(PIECES) + text[at:], text[:at] + text[at + width :], text[:at] + text[at : at + width] + text[at:])
            )
        yield text


TIMES = [
    "{n}",
    "{n}.5",
    "{n}.25",
    ".5",
    "{n},5",
    "{n},250",
    "1,2{k}4.5",
    "1,2{k}4",
    "1.2{k}4,5",
    "1\u20092{k}4",
    "1 2{k}4",
    "0:{k}",
    "0:{k}.5",
    "1:0{k}",
    "1:{n}",
    "00:00:{k},500",
    "1:02:{k}",
    "1:2:3:4",
]
TIMES += [
    "1'0{m}\"",
    "1′0{m}″",
    "{n}'",
    '{n}"',
    "{n}s",
    "{n} sec",
    "{n} seconds",
    "{n}m",
    "{n} min",
    "{n} min {m} s",
    "{n}m{k}s",
    "1h{k}",
    "1 h 0{m} min",
    "{n} ms",
    "{n}秒",
    "1分{m}秒",
    "１{m}．５",
]
TIMES += [
    "٣{k}",
    "३",
    "{n}%",
    "{n}th",
    "{n}x",
    "#{n}",
    "1e{m}",
    "½",
    "{n}½",
    "-{n}",
    "−{n}",
    "{n}/{m}",
    "2024-0{m}-{k}",
    "9" * 40,
    "{n} frames",
    "frame {n}",
    "{n} or {m}",
    "({n})",
    '"{n}"',
    "'{n}'",
    "{n}_000",
    "0x{n}",
    "{n}.{m}.{k}",
    "{n}帧",
]
BETWEEN = [
    " - ",
    "-",
    "–",
    " — ",
    " to ",
    " and ",
    ", ",
    ",",
    "; ",
    " until ",
    " -> ",
    "→",
    " --> ",
    "~",
    "～",
    "至",
    "到",
    " ",
    "\n",
    "",
    "--",
    "..",
    " & ",
    " / ",
    ", end: ",
    '", "end": "',
    " and ends at ",
    ", end_time: ",
    ", start: ",
    " or ",
    " of ",
    "s - ",
]
LEADING = [
    "",
    "",
    "",
    "[",
    "(",
    "[[",
    "from ",
    "between ",
    "Start: ",
    '{"start": ',
    '{"start_time": "',
    "frames ",
    "Frame: [",
    "minutes ",
    "seconds ",
    "second ",
    "Scene 2: ",
    "1. ",
    "at ",
    "lasts ",
    "the dog jumps ",
    "从",
    "t=",
    "in the 30-second video, ",
    "car 2 ",
    "end: ",
    "images ",
    "{'begin': ",
]
TRAILING = [
    "",
    "",
    "",
    "]",
    ")",
    "]]",
    " seconds",
    "s",
    " min",
    ".",
    "}",
    '"}',
    "%",
    " frames",
    " cookies",
    " when he falls",
    " (2.0–5.0 s)",
    ", 7-9",
    "\n2. 7-9",
    "秒",
    "之间",
    " of 30",
    " and 7 to 9",
    "], [7, 9]",
]
AROUND = [
    "<time>{}</time>",
    "<think>at 3 or 4</think><time>{}</time>",
    "<think>1 to 2</think><answer>{}</answer>",
    "<think>x</think><answer>A</answer><glue>{}</glue>",
    "{}",
    "The event happens {}.",
    "<think>1 to 2</think>It is {}",
    "```json\n{}\n```",
    "<time>{}",
    "<think>{}",
]


def fuzzed_answers(n: int, seed: int = 0) -> Iterator[str]:
    "`n` responses with times in many notations, between many joining words, in the tags of all conventions; in one of four a piece is put in or a character taken out."
    rng = random.Random(seed)

    def a_time() -> str:
        return (
            rng.choice(TIMES)
            .replace("{n}", str(rng.randrange(100)))
            .replace("{m}", str(rng.randrange(1, 10)))
            .replace("{k}", str(rng.randrange(10, 60)))
        )

    for i in range(n):
        times = [a_time() for _ in range(rng.choice((1, 2, 2, 2, 2, 3, 4)))]
        text = rng.choice(LEADING) + times[0]
        for time_text in times[1:]:
            text += rng.choice(BETWEEN) + time_text
        text += rng.choice(TRAILING)
        if i % 4 == 0:
            at = rng.randrange(len(text) + 1)
            text = rng.choice((text[:at] + rng.choice(PIECES) + text[at:], text[:at] + text[at + 1 :]))
        yield rng.choice(AROUND).format(text) if "{" not in text else rng.choice(AROUND).replace("{}", text)


def read(response: str, reading: str) -> None:
    "Call every function of the parser on a response in one reading."
    prompts.parse_spans(response, reading, 10.0)
    prompts.parse_answer(response, reading)
    for answer in (False, True):
        prompts.is_well_formed(response, answer, reading)


def milliseconds(work: Callable[[], object], tries: int = 20) -> float:
    "The smallest processor time of up to `tries` calls; the first below a millisecond ends them. Other work on the machine can only add time."
    best = math.inf
    for i in range(tries):
        if i > 2:
            time.sleep(0.05)  # other processes that fill the caches may be gone by then
        gc.disable()  # the call does not pay for earlier garbage
        start = time.thread_time()
        work()
        best = min(best, 1000 * (time.thread_time() - start))
        gc.enable()
        if best < 1:
            break
    return best


def paid(responses: list[str], rng: random.Random) -> None:
    "Compute every reward and metric on a batch; raise an AssertionError if a value is outside its range."
    n = len(responses)
    spans = [rng.choice(([[1.0, 4.0]], [[0.0, 2.0], [5.0, 9.0]], [], None, [[2, 3], [2, 3]])) for _ in range(n)]
    columns = {
        "completions": [
            rng.choice((r, [{"role": "assistant", "content": r}], [{"role": "assistant", "content": [{"type": "text", "text": r}]}]))
            for r in responses
        ],
        "spans": spans,
        "duration": [10.0] * n,
        "answer": [rng.choice(("A", "B", None)) for _ in range(n)],
        "completion_ids": [[0] * min(len(r), 4000) for r in responses],
    }
    for name, (low, high) in RANGES.items():
        values = getattr(rewards, name)(**columns)
        assert len(values) == n, name
        for value, response in zip(values, responses):
            assert value is None or low <= value <= high, f"{name} pays {value} for {response[:200]!r}"  # NaN compares false
    spans = [s or [[1.0, 4.0]] for s in spans]
    for reading in prompts.READINGS:
        answers = [prompts.parse_spans(r, reading, 10.0) for r in responses]
        assert all(len(p) == 2 and all(map(math.isfinite, p)) for a in answers for p in a)
        found = {**grounding_metrics([a[0] if a else None for a in answers], spans), "mAP": mean_ap(answers, spans)}
        assert all(0 <= value <= 100 for name, value in found.items() if name != "n"), found


def timed() -> Iterator[tuple[str, float, str]]:
    "(name, milliseconds, problem) of each long response: the time of the slowest parser call, and what is wrong with its rewards, '' if nothing."
    for name, response in pathological():
        worst, problem = (
            max(
                milliseconds(work)
                for work in (
                    *(lambda r=response, reading=reading: prompts.parse_spans(r, reading, 10.0) for reading in prompts.READINGS),
                    lambda r=response: prompts.parse_answer(r),
                    lambda r=response: prompts.is_well_formed(r, True),
                )
            ),
            "",
        )
        try:
            paid([response] * 2, random.Random(0))
        except AssertionError as e:
            problem = str(e)
        yield name, worst, problem
