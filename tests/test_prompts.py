"The parser against hostile and generated responses."
import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vtg_r1.prompts import (
    QA_SYSTEM_PROMPT,
    SYSTEM_PROMPT,
    answer_block,
    format_span,
    grounding_prompt,
    is_well_formed,
    parse_answer,
    parse_span,
    parse_spans,
    qa_prompt,
    response_text,
)

seconds = st.integers(0, 36_000_0).map(lambda tenths: tenths / 10)


def clock(t, hours):
    "`t` seconds as m:ss.s or hh:mm:ss.s."
    minutes, rest = divmod(round(t * 10), 600)
    tail = f"{rest // 10:02d}.{rest % 10}"
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{tail}" if hours else f"{minutes}:{tail}"


FORMS = {
    "list": lambda s, e: f"[{s}, {e}]",
    "nested list": lambda s, e: f"[[{s}, {e}]]",
    "words": lambda s, e: f"From {s} to {e} seconds.",
    "between": lambda s, e: f"Between {s} and {e} seconds.",
    "hyphen": lambda s, e: f"{s}-{e}",
    "en dash": lambda s, e: f"{s} – {e}",
    "units": lambda s, e: f"{s}s to {e} sec",
    "named": lambda s, e: f"Start: {s}s, End: {e}s",
    "json": lambda s, e: f'{{"start": {s}, "end": {e}}}',
    "m:ss": lambda s, e: f"{clock(s, False)} - {clock(e, False)}",
    "hh:mm:ss": lambda s, e: f"{clock(s, True)} to {clock(e, True)}",
    "lines": lambda s, e: f"\n {s},\n\t{e}\n",
}


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=300, deadline=None)
@given(s=seconds, e=seconds, thought=st.text(max_size=40).filter(lambda t: "<" not in t))
def test_every_form_is_read_to_the_digit(form, s, e, thought):
    "12 forms × 300 generated responses: what was written is what is read, whatever the thinking says."
    response = f"<think>{thought} [1, 2]</think>\n<time>{FORMS[form](s, e)}</time>"
    assert parse_span(response) == pytest.approx([s, e], abs=1e-9)


@settings(max_examples=10_000, deadline=None)
@given(st.lists(st.one_of(
    st.sampled_from(["<think>", "</think>", "<time>", "</time>", "<answer>", "</answer>", "<TIME>", "[", "]", ",", "-", "–", ":", ".", " to ", "s", "%", "(B)", r"\boxed{", "\n", "İ", "٣", "<"]),
    st.integers(-10, 10**6).map(str), st.floats().map(str), st.text(max_size=5)), max_size=14).map("".join))
def test_never_raises_and_never_invents(response):
    "10,000 generated responses: a list of finite pairs, never an exception; lenient keeps whatever strict reads."
    strict, lenient = parse_spans(response), parse_spans(response, "lenient")
    assert all(len(span) == 2 and all(map(math.isfinite, span)) for span in strict + lenient)
    assert strict == [] or lenient == strict
    assert (parse_span(response) is not None) == bool(strict)
    if answer_block(response) is None: assert strict == []
    for reading in ("strict", "lenient"):
        letter = parse_answer(response, reading)
        assert letter is None or (len(letter) == 1 and "A" <= letter <= "Z")
    assert is_well_formed(response) in (True, False)


@settings(max_examples=2000, deadline=None)
@given(s=seconds, e=seconds, thought=st.text(max_size=60))
def test_what_we_write_we_read(s, e, thought):
    tags = [f"<{slash}{tag}>" for tag in ("think", "time") for slash in ("", "/")]
    response = response_text(thought, [s, e])
    if not any(tag in thought.lower() for tag in tags):
        assert is_well_formed(response) and parse_span(response) == pytest.approx([s, e])


@pytest.mark.parametrize("response, span", [
    ("<think>a</think><time>[3, 9]</time>", [3, 9]),
    ("<think>a</think><time>[3, 9]</time> or rather <time>[4, 8]</time>", [4, 8]),      # the last block
    ("<time>[1, 2]</time><think>a</think>", None),                                       # an answer before the thinking is none
    ("<think><time>[1, 2]</time></think>", None),                                        # nor inside it
    ("<think>a <time>[1, 2]</time>", None),                                              # the thinking never ended
    ("a</think><time>[3, 9]</time>", [3, 9]),                                            # the template opened the thinking
    ("<think>a</think><time>[3, 9]", None),                                              # cut off
    ("<think>a</think><TIME>[3, 9]</Time>", [3, 9]),
    ("<think>İİİİİİİİ</think><time>[3, 9]</time>", [3, 9]),                              # lower() changes the length of this text
    ("<time>[9, 3]</time>", [9, 3]),                                                     # inverted: returned as written
    ("<time>[5, 5]</time>", [5, 5]),
    ("<time>[-2, 5]</time>", [-2, 5]),
    ("<time>[1, 2], [5, 8]</time>", [1, 2]),                                             # several: the first is the top-1
    ("<time>[1, 2, 3]</time>", None),
    ("<time>12,5 to 30,0</time>", [12, 5]),                                             # a decimal comma is not known: two inverted spans, which score 0
    ("<time>10% - 20%</time>", None),
    ("<time>1e2, 1e3</time>", None),
    ("<time>nan, inf</time>", None),
    ("<time></time>", None),
    ("<time>[3, <b>9</b>]</time>", None),
    ("", None), (None, None), (17, None),
])
def test_strict_reading(response, span):
    assert parse_span(response) == span


@pytest.mark.parametrize("response, span", [
    ("<think>from 3 to 9</think> I cannot tell", [3, 9]),   # numbers of the thinking: why this reading is not the default
    ("<time>20% to 40%</time>", [20, 40]),
    ("<think>it is 7</think><time>[1, 2, 3]</time>", [1, 2]),
    ("<time>0:12 - 0:30</time>", [12, 30]),                 # what strict reads stays
    ("only 3", None), ("", None),
])
def test_lenient_reading(response, span):
    assert parse_span(response, reading="lenient") == span


def test_unknown_reading_is_an_error():
    with pytest.raises(ValueError, match="strict"): parse_span("", reading="loose")


def test_hostile_text_is_read_in_linear_time():
    n = 20_000
    for evil in ["1" * n, "1:" * n, "1 " * n, "1" + " " * n + "x", "1-" * n, "-" * n, "1.1." * n, "1s" * n, "1 to " * n, "<time>" * n, "<think>" * n, "1 - end " * n]:
        start = time.perf_counter()
        for text in (evil, f"<time>{evil}</time>", f"<answer>{evil}</answer>"):
            parse_spans(text, "lenient"), parse_answer(text, "lenient"), is_well_formed(text)
        assert time.perf_counter() - start < 2, evil[:10]


@pytest.mark.parametrize("response, ok", [
    ("<think>a</think><time>[1, 2]</time>", True),
    ("\n<think>3 < 5</think>\n\n<time>[1, 2]</time>\n", True),
    ("<think></think><time></time>", True),                   # the format, not the content
    ("<think>a</think>", False), ("<time>[1, 2]</time>", False),
    ("<time>[1, 2]</time><think>a</think>", False),
    ("<think>a</think> so <time>[1, 2]</time>", False),
    ("<think>a</think><time>[1, 2]</time> done", False),
    ("<think>a</think><time>[1, 2]</time><time>[1, 2]</time>", False),
    ("<think><think>a</think></think><time>[1, 2]</time>", False),
    ("<think>a<time>[1, 2]</time></think>", False),
    ("<think>a</think><time><time>[1, 2]</time></time>", False),
    ("", False), (None, False),
])
def test_format(response, ok):
    assert is_well_formed(response) is ok


def test_format_with_an_option():
    assert is_well_formed("<think>a</think><time>[1, 2]</time><answer>B</answer>", answer=True)
    assert not is_well_formed("<think>a</think><answer>B</answer><time>[1, 2]</time>", answer=True)
    assert not is_well_formed("<think>a</think><time>[1, 2]</time><answer>B</answer>")


def test_prompts_ask_in_their_own_format():
    "The example in each system message is read by the parser, and the frames stand where the images go."
    assert parse_span(SYSTEM_PROMPT.split("example ")[1]) == [12.5, 30.0]
    assert parse_answer(QA_SYSTEM_PROMPT.split("example ")[-1]) == "B"
    for messages in (grounding_prompt("a dog", [0, 0.5, 1]), qa_prompt("why?", ["x", "y"], [0, 0.5, 1])):
        content = messages[-1]["content"]
        assert [b["text"] for b in content if b["type"] == "text"][:3] == ["0", "0.5", "1"] and sum(b["type"] == "image" for b in content) == 3
    with pytest.raises(ValueError, match="style"): grounding_prompt("a dog", [0], style="long")
    assert format_span([3, 9.25]) == "[3, 9.25]"
