"Prompts to the letter, and the parser on responses that are written by hand, generated or hostile."

import math
import random
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vtg_r1.core.prompts import (
    QA_SYSTEM_PROMPT,
    READINGS,
    SYSTEM_PROMPT,
    _question_text,
    answer_text,
    auto_readings,
    count_readings,
    format_answer,
    format_span,
    format_time,
    grounding_prompt,
    is_refusal,
    is_well_formed,
    parse_answer,
    parse_set,
    parse_span,
    parse_spans,
    qa_prompt,
    response_text,
    system_prompt,
    tag_text,
    think_text,
    with_system_prompt,
    without_thinking,
)

seconds = st.integers(0, 360_000).map(lambda tenths: tenths / 10)


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


@settings(max_examples=3000, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.sampled_from(
                [
                    "<think>",
                    "</think>",
                    "<time>",
                    "</time>",
                    "<answer>",
                    "</answer>",
                    "<TIME>",
                    "[",
                    "]",
                    ",",
                    "-",
                    "–",
                    ":",
                    ".",
                    " to ",
                    "s",
                    "%",
                    "(B)",
                    r"\boxed{",
                    "\n",
                    "İ",
                    "٣",
                    "<",
                ]
            ),
            st.integers(-10, 10**6).map(str),
            st.floats().map(str),
            st.text(max_size=5),
        ),
        max_size=14,
    ).map("".join)
)
def test_never_raises_and_never_invents(response):
    "3,000 generated responses: a list of finite pairs, never an exception, whatever the reading; in our own reading a response without a block has no span."
    spans = parse_spans(response)
    assert (parse_span(response) is not None) == bool(spans)
    if tag_text(response) is None:
        assert spans == []
    for reading in READINGS:
        found = parse_spans(response, reading, 30.0)
        assert all(len(span) == 2 and all(map(math.isfinite, span)) for span in found)
        assert is_well_formed(response, reading=reading) in (True, False)
        letter = parse_answer(response, reading)
        assert letter is None or (len(letter) == 1 and "A" <= letter <= "Z")


@settings(max_examples=2000, deadline=None)
@given(s=seconds, e=seconds, thought=st.text(max_size=60))
def test_what_we_write_we_read(s, e, thought):
    tags = [f"<{slash}{tag}>" for tag in ("think", "time") for slash in ("", "/")]
    response = response_text(thought, [s, e])
    if not any(tag in thought.lower() for tag in tags):
        assert is_well_formed(response) and parse_span(response) == pytest.approx([s, e])


@pytest.mark.parametrize(
    "response, span",
    [
        ("<think>a</think><time>[3, 9]</time>", [3, 9]),
        ("<think>a</think><time>[3, 9]</time> or rather <time>[4, 8]</time>", [4, 8]),  # the last block
        ("<time>[1, 2]</time><think>a</think>", None),  # an answer before the thinking is none
        ("<think><time>[1, 2]</time></think>", None),  # nor inside it
        ("<think>a <time>[1, 2]</time>", None),  # the thinking never ended
        ("a</think><time>[3, 9]</time>", [3, 9]),  # the template opened the thinking
        ("<think>a</think><time>[3, 9]", None),  # cut off
        ("<think>a</think><TIME>[3, 9]</Time>", [3, 9]),
        ("<think>İİİİİİİİ</think><time>[3, 9]</time>", [3, 9]),  # lower() changes the length of this text
        ("<time>[9, 3]</time>", [9, 3]),  # inverted: returned as written
        ("<time>[5, 5]</time>", [5, 5]),
        ("<time>[-2, 5]</time>", [-2, 5]),
        ("<time>[1, 2], [5, 8]</time>", [1, 2]),  # several: the first is the top-1
        ("<time>[1, 2, 3]</time>", None),
        ("<time>12,5 to 30,0</time>", [12.5, 30]),
        ("<time>10% - 20%</time>", None),
        ("<time>1e2, 1e3</time>", None),
        ("<time>nan, inf</time>", None),
        ("<time></time>", None),
        ("<time>[3, <b>9</b>]</time>", None),
        ("<time>{'start': '3', 'end': '9'}</time>", [3, 9]),
        ('<time>"3" to "9"</time>', [3, 9]),
        ("<time>-1:05 to 1:00:05.5</time>", [-65, 3605.5]),  # clock times have a sign too
        ("<time>0:-5 to 9</time>", None),
        ("<time>3 to end at 9</time>", [3, 9]),
        ("<time>3 seconds and 9 seconds</time>", [3, 9]),
        ("<time>3 minutes to 9 minutes</time>", [180, 540]),
        ("<time>frame 3 to 9 frames</time>", None),
        ("<time>[" + "9" * 400 + ", 5]</time>", None),  # no float holds it
        ("<time>[5, " + "9" * 400 + "]</time>", None),
        ("", None),
        (None, None),
        (17, None),
    ],
)
def test_our_own_reading_takes_the_first_span_of_the_last_block_after_the_thinking(response, span):
    assert parse_span(response) == span


def released_rule(response):
    "TVG-R1's evaluator, for NExT-GQA and ReXTime: the first two numbers of the time block, else of everything."
    try:
        numbers = re.findall(r"\d+\.?\d*", re.search(r"<time>(.*?)</time>", response).group(1))
    except AttributeError:
        numbers = re.findall(r"\d+\.?\d*", response)
    return [list(map(float, numbers[:2]))] if len(numbers) > 1 else []


@pytest.mark.parametrize(
    "response, span",
    [
        ("<think>from 3 to 9</think> I cannot tell", [3, 9]),  # it takes numbers of the thinking: therefore no reward uses this rule
        ("<time>20% to 40%</time>", [20, 40]),
        ("<think>it is 7</think><time>[1, 2, 3]</time>", [1, 2]),
        ("<time>0:12 - 0:30</time>", [0, 12]),  # wrong, and what was published
        ("<time>1, 2</time> or <time>3, 4</time>", [1, 2]),
        ("<time>1,\n2</time> or 3", [1, 2]),  # its pattern does not cross lines: the whole response
        ("<time>3</time> or 4", None),  # a block has too few numbers: nothing else is read
        ("<time><time>3, 4</time></time>", [3, 4]),
        ("٣ to 4", [3, 4]),
        ("9" * 400 + " to 5", None),
        ("5 to " + "9" * 400, None),
        ("only 3", None),
        ("", None),
        (None, None),
    ],
)
def test_the_released_rule_is_read_with_its_faults(response, span):
    assert parse_span(response, reading="tvg_r1") == span
    if response and span:
        assert parse_spans(response, "tvg_r1") == released_rule(response)


@pytest.mark.parametrize(
    "response, reading, spans",
    [
        ("<think>Between 2.0 and 4.0 s he walks.</think><answer>12.5 to 17.0</answer>", "answer", [[12.5, 17.0]]),
        ("<think>a</think><answer>12.5 to 17.0</answer>", "time", []),
        ("<answer>1 to 2</answer><think>a</think><answer>3 to 4</answer><answer>5 to 6</answer>", "answer", [[5, 6]]),
        ("<think>at 1.0</think><answer>A</answer><glue>[(12.0, 15.5), (20, 23)]</glue>", "glue", [[12.0, 15.5], [20, 23]]),
        ("<think>at 1.0</think><answer>A</answer><glue>[12.0, 15.5]</glue>", "glue", [[12.0, 15.5]]),
        ("The event happens from 00:12 to 00:19.", "sentence", [[12, 19]]),
        ("It begins at 00:00:18 and ends at 00:00:23", "sentence", [[18, 23]]),
        ("The event 'person in car 2' happens in the 24.3 - 30.4 seconds.", "sentence", [[24.3, 30.4]]),
        ("In the 30-second video, the dog runs from 3.2s to 5s.", "sentence", [[3.2, 5.0]]),
        ("From 3 to 5. No, it is from 7 to 9.", "sentence", [[7, 9]]),  # the last
        ("<think>from 3 to 5</think> I cannot tell.", "sentence", []),
        ("<think>from 3 to 5", "sentence", []),
        ("He walks from 2.0 to 4.0 s. " * 20 + "It is from 7 to 9 s.", "sentence", [[7, 9]]),
        ("it is 1 to 2 " * 40 + "from 7 to 9", "sentence", []),  # 300 characters without the end of a sentence: a number might be cut
        ("x" * 289 + " from 3 to 9", "sentence", []),  # 301 characters
        ("x" * 288 + " from 3 to 9", "sentence", [[3, 9]]),
        ("it goes on " * 24 + "still. It is 7 to 9 s, yes, 7 to 9 s.", "sentence", [[7, 9]]),
        ("<answer>12.5 to 17.0</answer>", "sentence", [[12.5, 17.0]]),
        ('[{"start_time": "00:12.50", "end_time": "00:19.00"}]', "json", [[12.5, 19.0]]),
        ('```json\n[{"start_time": "00:12.50", "end_time": "00:19.00", "event": "2 men"}]\n```', "json", [[12.5, 19.0]]),
        ('```\n{"start": 3.2, "end": 5}\n```\nIn 30 s.', "json", [[3.2, 5]]),
        ("{'begin': 3.2, 'end': 5}", "json", [[3.2, 5]]),
        ('{"end": 5, "start": 3.2}', "json", [[3.2, 5]]),
        ('{"startTime": 3.2, "endTime": 5, "score": 0.9}', "json", [[3.2, 5]]),
        ('{"from": "3.2s", "to": "1 min 5 s"}', "json", [[3.2, 65]]),
        ("[[1, 2], [3, 4]]", "json", [[1, 2], [3, 4]]),
        ("[3.2, 5.0]", "json", [[3.2, 5]]),
        ('["0:03", "0:09"]', "json", [[3, 9]]),
        ('["0:03 - 0:09", "0:12 - 0:15"]', "json", [[3, 9], [12, 15]]),
        ('{"answer": {"timestamps": [[1e1, 2E1]]}}', "json", [[10, 20]]),
        ('{"scores": [0.9, 0.1], "moment": {"start": 3.2, "end": 5}}', "json", [[3.2, 5]]),  # the object stands first, and its key is known
        ('{"label": "a man", "span": "0:03 - 0:09"}', "json", [[3, 9]]),
        ('{"label": "a man\'s dog", "start": 3, "end": 9}', "json", [[3, 9]]),
        ('{"result": [[1, 2]]}', "json", [[1, 2]]),  # of unknown keys: the list in it
        ('{"frames": [10, 25]}', "json", []),  # two bare numbers under a key that names no span
        ('{"frames": [[10, 25]]}', "json", []),
        ('{"answer": {"frame_range": [{"start": 10, "end": 25}]}}', "json", []),
        ('{"result": [[10, 25]]}', "json", [[10.0, 25.0]]),
        ('{"start": "soon", "end": 4, "size": [640, 480]}', "json", []),
        ('{"answer": "B", "time": [3, 9]}', "json", [[3, 9]]),
        ('{"data": {"time_span" : [3, 9]}}', "json", [[3, 9]]),
        ('{"note": "x"} [3, 9]', "json", [[3, 9]]),  # behind the object
        ('so {x}: [1, 2] and {"start": 3, "end": 9}', "json", [[1, 2]]),
        ('I saw [them]: {"start": 3, "end": 9}', "json", [[3, 9]]),
        ("not [1, 2]: ```json [3, 4]``` nor [5, 6]", "json", [[3, 4]]),
        ("not [1, 2]: ```so: [3, 4]``` nor ```[5, 6]```", "json", [[3, 4]]),
        ("```[3, 4]``` and ```[5, 6]```", "json", [[3, 4]]),
        ("[1e12, 1e12]", "json", [[1e12, 1e12]]),
        ("[1, 1.1e12]", "json", []),
        ("[" + ", ".join(["[1, 2]"] * 50) + "]", "json", [[1, 2]] * 50),
        ('{"start_frame": 10, "end_frame": 25}', "json", []),
        ('{"start": 10}', "json", []),
        ('{"start": "frame 10", "end": "frame 25"}', "json", []),
        ('[{"start": 1, "end": 2}, {"start": "soon", "end": 4}]', "json", []),  # one unreadable span
        ("[1,234.5, 1,240.0]", "json", []),
        ('{"start": 3.2, "end": 5.0, "unit": "frames"}', "json", []),
        ('{"unit": "frames", "spans": [[3, 5]]}', "json", []),
        ('[{"start": 3, "end": 5, "unit": "s"}, {"start": 7, "end": 9, "unit": "frames"}]', "json", []),
        ("{'start': 3, 'end': 5, 'TimeUnit'   :   'ms'}", "json", []),
        ('{"start": 3, "end": 5, "time_units":"minutes"}', "json", []),
        ('{"start": 3, "end": 5, "unit"\n\t\t  :\n\t\t  "number of the sampled picture, counted from zero"}', "json", []),
        ('{"start": 3.2, "end": 5.0, "unit": " Seconds "}', "json", [[3.2, 5]]),
        ('{"start": 3.2, "end": 5.0, "units": "s"}', "json", [[3.2, 5]]),
        ('{"start": 3.2, "end": 5.0, "unit": null}', "json", [[3.2, 5]]),
        ('{"start": 3.2, "end": 5.0, "label": "unit: frames", "unity": "frames"}', "json", [[3.2, 5]]),
        ('{"unit": "frames"} [1, 2]', "json", []),
        ('[1, 2] {"unit": "frames"}', "json", []),
        ('{"start": "12,500", "end": "19,250"}', "json", []),
        ('{"start": 1, "end": 2, "start": 3, "end": 4}', "json", []),
        ('{"spans": [[1, 2]], "spans": [[3, 4]]}', "json", []),
        ("[true, false]", "json", []),
        ("[1e400, 5]", "json", []),
        ("[[1, 2, 3]]", "json", []),
        ("[]", "json", []),
        ("[" * 5000, "json", []),
        ("[[1, 2]" + ", [1, 2]" * 50 + "]", "json", []),
        ("<think>[1, 2]</think> [3, 4]", "json", [[3, 4]]),
        ("From 23 to 64, a man walks.", "vtimellm", [[46, 128]]),
        ("from 05 to 100.", "vtimellm", [[10, 200]]),
        ("between 23 and 64", "vtimellm", [[46, 128]]),
        ("from 2.5 to 6", "vtimellm", []),  # digits are not split
        ("from 123 to 164", "vtimellm", []),
        ("from 23 to 64 seconds", "vtimellm", []),
        ("from 3 to 64.5", "vtimellm", []),
    ],
)
def test_each_reading_reads_its_own_convention(response, reading, spans):
    assert parse_spans(response, reading, 200.0) == spans


@pytest.mark.parametrize(
    "response, spans, rules",
    [
        ("<think>at 1.0</think><answer>A</answer><glue>[(12.0, 15.5), (20, 23)]</glue>", [[12.0, 15.5], [20, 23]], {"glue": 1}),
        ("<time>[3, 9]</time>", [[3, 9]], {"time": 1}),
        ("<time>[3, 9]</time><answer>3 to 9</answer>", [[3, 9]], {"time": 1, "answer": 1}),
        ("<time>[3, 9]</time><answer>4 to 8</answer>", [], {"time": 1, "answer": 1, "ambiguous": 1}),
        ("<time>unsure</time> from 3 to 9", [], {"unreadable": 1}),  # it has our tag, so it is no sentence
        ("<answer>B</answer> It is from 3 to 9.", [[3, 9]], {"sentence": 1}),
        ("from 3 to 9, or 4 to 8", [], {"sentence": 1, "another sentence": 1, "ambiguous": 1}),
        ("from 3 to 9. Yes, from 3 to 9.", [[3, 9]], {"sentence": 1}),
        ('[{"start": 1, "end": 2}, {"start": 3, "end": 4}]', [[1, 2], [3, 4]], {"json": 1}),
        ("I cannot tell.", [], {"unreadable": 1}),
        (None, [], {"unreadable": 1}),
        ("<time>none</time>", [], {"refusal": 1}),
        ("**not in the video**", [], {"refusal": 1}),
    ],
)
def test_reading_a_log_of_unknown_convention(response, spans, rules):
    assert parse_spans(response, "auto") == spans and count_readings([response]) == rules
    assert count_readings([response, response]) == {rule: 2 * count for rule, count in rules.items()}
    if isinstance(response, str):
        assert set(auto_readings(response)) == set(rules) - {"ambiguous", "refusal", "unreadable"}


def test_unknown_readings_are_errors():
    for parse in (parse_span, parse_spans, parse_answer, is_well_formed):
        with pytest.raises(ValueError, match="reading must be one of time, answer, .*, auto, got 'loose'$"):
            parse("", reading="loose")
        with pytest.raises(ValueError, match="^reading 'strict' is now called 'time'$"):
            parse("", reading="strict")
        with pytest.raises(ValueError, match="^reading 'lenient' is now called 'tvg_r1'$"):
            parse(None, reading="lenient")
    for duration in (None, 0.0):
        with pytest.raises(ValueError, match="^reading 'vtimellm' is in hundredths of the video: give its duration$"):
            parse_spans("from 23 to 64", "vtimellm", duration)


@pytest.mark.parametrize(
    "response, tag, text",
    [
        ("<time> [3, 9]\n</time>", "time", "[3, 9]"),  # no thinking: the block may be the very first thing
        ("<think>a</think><time>1</time><time>2</time><time>3</time>", "time", "3"),
        ("<think>a</think><time>1</time><answer> B </answer>", "answer", "B"),
        ("<think>a</think><time>1</time><answer>B</answer>", "time", "1"),
        ("<think>a</think><time></time>", "time", ""),
        ("<think>a</think><answer>B</answer>", "time", None),
        ("<think>a</think> again <think>b <time>1</time>", "time", None),
    ],
)
def test_the_last_block_behind_the_thinking_is_the_answer(response, tag, text):
    assert tag_text(response, tag) == text and (tag != "time" or tag_text(response) == text)


@pytest.mark.parametrize(
    "response, reasoning",
    [
        ("<think>it enters at 3</think><time>[3, 9]</time>", "it enters at 3"),
        ("so <think>\n it enters \n</think>", "it enters"),
        ("<think>first</think> <think>second</think>", "first"),
        ("<think>a <think>b</think> c</think>", "a <think>b"),  # from the first <think> to the first </think>
        ("<think> </think><time>[3, 9]</time>", ""),
        ("<think>never closed", ""),
        ("never opened</think>", ""),
        ("</think>closed before it opens<think>so", ""),
        ("<THINK>the format is in small letters</THINK>", ""),
        ("", ""),
        (None, ""),
        (17, ""),
    ],
)
def test_the_thought_of_a_response(response, reasoning):
    assert think_text(response) == reasoning


def test_an_answer_may_be_a_thousand_characters_long():
    longest = "[1, 2]".ljust(1000, ".")
    assert parse_spans(f"<time>{longest}</time>") == [[1, 2]] and parse_spans(f"<time>{longest}.</time>") == []


@pytest.mark.parametrize(
    "response, ours, released",
    [
        ("<answer>B</answer>", "B", None),
        ("<answer>b</answer>", "B", None),
        ("<answer>(C)</answer>", "C", "C"),
        ("<answer>D. because it rains</answer>", "D", None),
        ("<answer>E: the last</answer>", "E", None),
        ("<answer>A) the first</answer>", "A", None),
        ("<answer>B</answer> not (C)", "B", "C"),
        ("<think>it is (C)</think>", None, "C"),
        (r"so \boxed{d}", None, "D"),
        (r"(A) is wrong, \boxed{B}", None, "B"),  # boxed before bracketed
        (r"(A) is wrong, \boxed{}", None, None),  # an empty box is an answer
        ("<answer>Because (B)</answer>", None, "B"),
        ("<answer>12</answer>", None, None),
        ("<answer></answer>", None, None),
        ("the second (2)", None, None),
        ("", None, None),
        (None, None, None),
    ],
)
def test_the_letter_of_an_option_is_read(response, ours, released):
    assert parse_answer(response) == parse_answer(response, "time") == ours and parse_answer(response, "tvg_r1") == released


def test_hostile_text_is_read_in_linear_time():
    n = 100_000
    for evil in [
        "1" * n,
        "1:" * n,
        "1 " * n,
        "1" + " " * n + "x",
        "1-" * n,
        "-" * n,
        "1.1." * n,
        "1s" * n,
        "1 to " * n,
        "<time>" * n,
        "<think>" * n,
        "1 - end " * n,
    ]:
        for text in (evil, f"<time>{evil}</time>", f"<answer>{evil}</answer>"):
            for reading in READINGS:
                start = time.process_time()
                parse_spans(text, reading, 30.0), parse_answer(text, reading), is_well_formed(text, reading=reading)
                assert time.process_time() - start < 2, (
                    evil[:10],
                    reading,
                )  # 0.2 s at most; a pattern in quadratic time, such as ` +y`, would take 6 s or more


@pytest.mark.parametrize(
    "response, ok",
    [
        ("<think>a</think><time>[1, 2]</time>", True),
        ("\n<think>3 < 5</think>\n\n<time>[1, 2]</time>\n", True),
        ("<think></think><time></time>", True),  # the format, not the content
        ("<think>a</think>", False),
        ("<time>[1, 2]</time>", False),
        ("<time>[1, 2]</time><think>a</think>", False),
        ("<think>a</think> so <time>[1, 2]</time>", False),
        ("<think>a</think><time>[1, 2]</time> done", False),
        ("<think>a</think><time>[1, 2]</time><time>[1, 2]</time>", False),
        ("<think><think>a</think></think><time>[1, 2]</time>", False),
        ("<think>a<time>[1, 2]</time></think>", False),
        ("<think>a</think><time><time>[1, 2]</time></time>", False),
        ("<think>a</think><time>[1, 2]<answer>B</answer></time>", False),  # a span that cannot be read earns no reward
        ("<think>an <answer>x</answer></think><time>[1, 2]</time>", True),  # the reasoning may hold other tags
        ("", False),
        (None, False),
    ],
)
def test_the_format_is_thinking_then_one_answer_and_nothing_else(response, ok):
    assert is_well_formed(response) is ok


def test_the_format_in_other_readings():
    assert is_well_formed("<think>a</think><answer>1 to 2</answer>", reading="answer") and not is_well_formed(
        "<answer>1 to 2</answer>", reading="answer"
    )
    glue = "<think>a</think><answer>B</answer><glue>[1, 2]</glue>"
    assert is_well_formed(glue, reading="glue") and is_well_formed(glue, True, "glue") and not is_well_formed(glue + "x", reading="glue")
    assert not is_well_formed("<think>a</think><glue>[1, 2]</glue>", reading="glue")
    assert not is_well_formed("<think>a</think><answer>B <b>well</b></answer><glue>[1, 2]</glue>", reading="glue")
    for reading in ("sentence", "json", "vtimellm", "tvg_r1", "auto"):
        assert is_well_formed("<think>a</think>From 1 to 2.", reading=reading) and is_well_formed("From 1 to 2.", reading=reading)
        assert not is_well_formed("<think>a</think> ", reading=reading) and not is_well_formed("<think>From 1 to 2.", reading=reading)


def test_the_format_with_an_option():
    assert is_well_formed("<think>a</think><time>[1, 2]</time><answer>B</answer>", answer=True)
    assert not is_well_formed("<think>a</think><answer>B</answer><time>[1, 2]</time>", answer=True)
    assert not is_well_formed("<think>a</think><time>[1, 2]</time><answer>B</answer>")
    for broken in (
        "x<think>a</think><time>[1, 2]</time><answer>B</answer>",
        "<think>a</think>x<time>[1, 2]</time><answer>B</answer>",
        "<think>a</think><time>[1, 2]</time>x<answer>B</answer>",
        "<think>a</think><time>[1, 2]</time><answer>B</answer>x",
        "<think>a</think><time>[1, 2]</time><answer>B</answer><answer>B</answer>",
        "<think>a</think><time>[1, 2]</time>",
    ):
        assert not is_well_formed(broken, answer=True), broken


def test_prompts_ask_in_their_own_format():
    "The example in each system message is read by the parser, and the frames stand where the images go."
    assert parse_span(SYSTEM_PROMPT.split("example ")[1]) == [12.5, 30.0]
    assert parse_answer(QA_SYSTEM_PROMPT.split("example ")[-1]) == "B"
    for messages in (grounding_prompt("a dog", [0, 0.5, 1]), qa_prompt("why?", ["x", "y"], [0, 0.5, 1])):
        content = messages[-1]["content"]
        assert [b["text"] for b in content if b["type"] == "text"][:3] == ["0", "0.5", "1"] and sum(b["type"] == "image" for b in content) == 3
    with pytest.raises(ValueError, match="^style must be one of full, direct, short, short_direct, got 'long'$"):
        grounding_prompt("a dog", [0], style="long")
    assert format_span([3, 9.25]) == "[3, 9.25]"


@pytest.mark.parametrize(
    "seconds, decimals, text",
    [
        (3, 1, "3"),
        (3.0, 1, "3"),
        (12.5, 1, "12.5"),
        (0.25, 1, "0.2"),
        (9.96, 1, "10"),
        (100, 1, "100"),
        (0, 1, "0"),
        (3.141, 2, "3.14"),
        (30, 2, "30"),
        (0.5, 2, "0.5"),
        (10, 0, "10"),
        (7.6, 0, "8"),
    ],
)
def test_times_are_short(seconds, decimals, text):
    assert format_time(seconds, decimals) == text and (decimals != 1 or format_time(seconds) == text)
    assert format_span([seconds, 9.256]) == f"[{format_time(seconds, 2)}, 9.26]"


def text_block(text):
    return {"type": "text", "text": text}


def test_messages_to_the_letter():
    "What is sent decides what comes back: the system message, the frames in turn with their times, and the request, in the order of each style."
    image, frames = {"type": "image"}, [text_block("0"), {"type": "image"}, text_block("0.5"), {"type": "image"}]
    system, question = {"role": "system", "content": [text_block(SYSTEM_PROMPT)]}, "why?\n(A) x\n(B) y"
    assert (
        grounding_prompt("a dog", [0, 0.5])
        == grounding_prompt("a dog", [0, 0.5], "full")
        == [system, {"role": "user", "content": [*frames, text_block("a dog")]}]
    )
    assert grounding_prompt("a dog", [0.5], "short") == [{"role": "user", "content": [text_block("a dog"), text_block("0.5"), image]}]
    assert grounding_prompt("a dog", None) == [system, {"role": "user", "content": [{"type": "video"}, text_block("a dog")]}]
    assert _question_text("why?", ["x", "y"]) == question
    qa_system = {"role": "system", "content": [text_block(QA_SYSTEM_PROMPT)]}
    assert qa_prompt("why?", ["x", "y"], [0, 0.5]) == [qa_system, {"role": "user", "content": [*frames, text_block(question)]}]
    assert qa_prompt("why?", ["x", "y"], None, "short") == [{"role": "user", "content": [text_block(question), {"type": "video"}]}]


def test_responses_to_the_letter():
    assert response_text("hm", [3, 9]) == "<think>hm</think><time>[3, 9]</time>"
    assert response_text("", [3.456, 9], "B") == "<think></think><time>[3.46, 9]</time><answer>B</answer>"


def test_a_system_prompt_of_one_s_own_takes_the_place_of_the_style_s():
    asked = {"role": "user", "content": [{"type": "text", "text": "when?"}]}
    own = {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}
    styled = [{"role": "system", "content": [{"type": "text", "text": SYSTEM_PROMPT}]}, asked]
    assert with_system_prompt(styled, "Be brief.") == with_system_prompt([asked], "Be brief.") == [own, asked]
    assert with_system_prompt(styled, "") is styled


def test_the_system_prompt_without_thinking_asks_the_same():
    assert system_prompt() == system_prompt("full", "span") == SYSTEM_PROMPT
    opening, ask = SYSTEM_PROMPT.partition("First reason")[0], SYSTEM_PROMPT.partition("Then ")[2]
    assert system_prompt("direct") == f"{opening}{ask[0].upper()}{ask[1:]} Write nothing else."
    with pytest.raises(ValueError, match=r"^answers must be one of span, set, got 'many'$"):
        system_prompt("full", "many")


def test_an_answer_of_no_span_is_the_word_for_it():
    assert format_answer([]) == "none" and format_answer([], "gone") == "gone"
    assert format_answer([[1, 2], [3.5, 4]]) == "[1, 2], [3.5, 4]"
    assert response_text("x", []).endswith("<time>none</time>") and response_text("x", [], refusal="gone").endswith("<time>gone</time>")


def test_the_released_rule_finds_what_its_pattern_finds():
    "Beside the pattern itself, on texts of the pieces that matter to it."
    draw, pieces = random.Random(0), ["<time>", "</time>", "\n", " ", "[1, 2]", "3 and 4", "x", "<time", "time>"]
    for _ in range(3000):
        text = "".join(draw.choices(pieces, k=draw.randrange(1, 12)))
        assert parse_spans(text, "tvg_r1") == released_rule(text), text


def test_arguments_that_are_left_out_have_their_defaults():
    assert answer_text("<answer>1</answer><time>[3, 9]</time>") == "[3, 9]"
    assert parse_span("From 23 to 64", "vtimellm", 200.0) == [46, 128]
    asked = qa_prompt("What?", ["a", "b"], [0.0], answers="set")
    assert asked[0]["content"][0]["text"] == system_prompt("full", "set", options=True)


def test_without_thinking_gives_what_stands_behind_it():
    assert without_thinking("<think>so: [1, 2]</think>\n <time>[3, 9]</time> ") == "<time>[3, 9]</time>" and without_thinking("<think>so") == ""


def test_the_released_rule_takes_the_first_letter_in_brackets_and_a_block_may_have_lines():
    assert [parse_answer(text, "tvg_r1") for text in ("(Bold)", "(B)", "(7)")] == ["B", "B", None]
    assert is_well_formed("<think>a\nb</think>\n<time>[3,\n9]</time>")


def test_a_refusal_has_at_most_100_characters():
    assert is_refusal("<think>x</think>" + "." * 96 + "none", "sentence") and not is_refusal("<think>x</think>" + "." * 97 + "none", "sentence")


@pytest.mark.parametrize("text", ['{"spans": []}', "{'relevant_windows': []}", '```json\n{"moments": []}\n```', "[]"])
def test_an_empty_list_in_json_is_a_refusal(text):
    assert parse_set(text, "json") == [] == parse_set(text, "auto") == parse_set(f"<time>{text}</time>")
    assert parse_set('{"objects": []}', "json") is None and parse_set('{"spans": [], "objects": []}', "json") is None
