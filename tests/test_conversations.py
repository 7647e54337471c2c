"Times and queries in the answers and questions of conversations."

import json
import time

import pytest

from vtg_r1.data.conversations import quoted_query, read_times
from vtg_r1.data.readers import read_dataset


@pytest.mark.parametrize(
    "answer",
    [
        "Frame: [50, 190]",
        "frames [50, 190]",
        "[50, 190] frames",
        "50-190 (frames)",
        "[[5, 9]] (frame indices)",
        "Frames: [[50, 190], [200, 300]]",
        "[10, 20], [50, 190] (frames)",
        "From frames 10 to 20 and from 50 to 190.",
        "frames from 50 to 190",
        "From 10 to 25 of 300 frames.",
        "From 10 to 25 in frame numbers.",
        "Frame numbers: 50 - 190",
        "Keyframe ids #50 - 190",
        "FRAMES: 50 - 190",
        "percent: 10 - 20",
        "0.1 - 0.25 (normalized)",
        "tokens 5 - 9",
        "Clips: 3 - 5",
        "Segments: 3 - 5",
        "Pages 3 - 5",
        "10帧 - 25帧",
        "3m - 5m",
    ],
)
def test_numbers_of_other_units_are_no_times(answer):
    with pytest.raises(ValueError, match="no span of seconds"):
        read_times(answer)


@pytest.mark.parametrize(
    "answer, spans, descriptions, others",
    [
        ("50-190 (frames), 5.0 - 19.0 seconds", [[5, 19]], [""], ["50", "190"]),
        ("From 5.0 to 19.0 seconds (frames 150 - 570).", [[5, 19]], ["frames 150 - 570"], ["150", "570"]),
        ("5.0 - 19.0 s, [30 - 90 frames]", [[5, 19]], ["30 - 90 frames"], ["30", "90"]),
        ("frames 30 - 90, 5 s - 19 s", [[5, 19]], [""], ["30", "90"]),
        ("frames 30 - 90, seconds 5 - 19", [[5, 19]], [""], ["30", "90"]),
        ("Segments: 3.0s - 5.0s", [[3, 5]], [""], []),
        ("Segments: 5.0 - 19.0, 30.0 - 31.0", [[5, 19], [30, 31]], ["", ""], []),
        ("Segment: [5, 19]", [[5, 19]], [""], []),
        ("He leaves the frame from 5.0s to 19.0s", [[5, 19]], [""], []),
        ("5 - 19, relative to the start", [[5, 19]], ["relative to the start"], []),
        ("pages 3 - 5, 5.0 - 19.0 seconds", [[5, 19]], [""], ["3", "5"]),
        ("then 1 - 2, and 5 - 6 seconds", [[1, 2], [5, 6]], ["and", ""], []),
        ("at 1.5 - 2.5 m from the wall, 5.0 - 19.0 seconds", [[5, 19]], [""], ["1.5", "2.5"]),
        ("at 1.5 m - 2.5 m from the wall, 5.0 - 19.0 seconds", [[5, 19]], [""], ["1.5", "2.5"]),
        ("The wall is 2 m high, 5.0 - 19.0 seconds", [[5, 19]], [""], ["2"]),
        ("1 m 30 s - 2 m", [[90, 120]], [""], []),
        ("2 m - 1 h", [[120, 3600]], [""], []),
        ("2 min - 3 min", [[120, 180]], [""], []),
    ],
)
def test_spans_are_separated_from_descriptions_and_other_numbers(answer, spans, descriptions, others):
    times = read_times(answer)
    assert (times.spans, times.descriptions, times.others) == (spans, descriptions, others)


@pytest.mark.parametrize("answer", ["1 min - 2", "1 h - 2", "2 - 2 min 30 s", "30 - 1 min", "1 min 5 - 2 min", "1:30 - 2"])
def test_a_number_that_may_be_minutes_or_seconds_is_refused(answer):
    with pytest.raises(ValueError, match="has a unit for one number only"):
        read_times(answer)


@pytest.mark.parametrize("answer, span", [("1 - 2 min", [60, 120]), ("2 - 2 min", [120, 120]), ("2 - 1:30", [2, 90]), ("1:30 - 95", [90, 95])])
def test_two_numbers_of_which_one_has_a_unit_are_read_where_they_do_not_descend(answer, span):
    assert read_times(answer).spans == [span]


@pytest.mark.parametrize(
    "answer",
    [
        "1. 5.0 - 19.0 seconds, cut. 2. 20.0 - 30.0 seconds, fry for 2 - 3 minutes.",
        "1. 5.0 - 19.0 seconds, cut\n2. 20.0 - 30.0 seconds, fry for 2 - 3 minutes",
        "(1) 5.0 - 19.0 seconds, cut (2) 20.0 - 30.0 seconds, fry for 2 - 3 minutes",
        "1) 5.0 - 19.0 seconds, cut; 2) 20.0 - 30.0 seconds, fry for 2 - 3 minutes",
        "- 5.0 - 19.0 seconds, cut\n- 20.0 - 30.0 seconds, fry for 2 - 3 minutes",
        "* 1. 5.0 - 19.0 seconds, cut\n* 2. 20.0 - 30.0 seconds, fry for 2 - 3 minutes",
        "Step 1: 5.0 - 19.0 seconds, cut. Step 2: 20.0 - 30.0 seconds, fry for 2 - 3 minutes.",
        "The steps are: 5.0 - 19.0 seconds, cut. 20.0 - 30.0 seconds, fry for 2 - 3 minutes.",
        "1.[5.0 - 19.0], cut.\n2.[20.0 - 30.0], fry for 2 - 3 minutes.",
    ],
)
def test_the_number_of_a_list_item_is_no_time(answer):
    times = read_times(answer)
    assert times.spans == [[5, 19], [20, 30]] and times.descriptions == ["cut", "fry for 2 - 3 minutes"] and times.others == ["2", "3"]


@pytest.mark.parametrize(
    "answer",
    [
        "5.0 - 19.0 seconds and from 30.0 to 31.0 seconds",
        "5.0 - 19.0 seconds, then again between 30.0 and 31.0 seconds",
        "Time: 5.0 - 19.0 seconds, and also from 30.0 to 31.0 seconds",
        "5.0 - 19.0 seconds and later at 30.0 - 31.0 seconds",
        "5.0s to 19.0s and 30.0s to 31.0s",
        "[5.0, 19.0] and [30.0, 31.0]",
        "[5.0, 19.0], or [30.0, 31.0]",
        "[5.0 - 19.0] [30.0 - 31.0]",
        "[5.0, 19.0] where he cuts. Next, 30.0s to 31.0s, a dog runs.",
        "5.0 - 19.0 seconds / 30.0 - 31.0 seconds",
        "(5 - 19)\n(30 - 31)",
        "(5 to 19) (30 to 31)",
        "(between 5 and 19) (between 30 and 31)",
        "Time: 5.0s to 19.0s\n30.0 - 31.0 in the video.",
        "The event happens 5 - 19, 30 - 31 seconds",
        "A dog runs 5.0 - 19.0, 30.0 - 31.0 seconds",
        "Spans: [5.0, 19.0], [30.0, 31.0]",
    ],
)
def test_a_second_span_after_the_first_is_read(answer):
    times = read_times(answer)
    assert times.spans == [[5, 19], [30, 31]] and times.others == []


@pytest.mark.parametrize(
    "question, query",
    [
        (r'Find "he says \"go\""', 'he says "go"'),
        (r"Find 'he says \'go\' twice'", "he says 'go' twice"),
        (r"Find \"a dog\" in it", "a dog"),
        (r"Find \'a dog\' in it", "a dog"),
        ("Find “he says “go”” now", "he says “go”"),
        ("Find “a dog” or “a cat”", "a dog"),
        ('Find “a dog" now', "a dog"),
        ("Find “a dog", ""),
    ],
)
def test_nested_escaped_and_unclosed_quotations_are_read(question, query):
    assert quoted_query(question, any_quotation=True) == query


def test_quotations_take_time_in_proportion_to_the_text():
    for text in ("“" * 20_000, r"\"" * 10_000, '"“' * 10_000):
        start = time.process_time()
        quoted_query(text, any_quotation=True)
        assert time.process_time() - start < 1


# ---- turns ----

Q1, A1, Q2, A2 = ("human", "When does a dog bark?"), ("gpt", "From <1.0> to <4.0>."), ("human", "When does it stop?"), ("gpt", "From <7.0> to <9.0>.")
HI, SYSTEM, TOOL = ("gpt", "Hi"), ("system", "Be brief."), ("tool", "<3.0>")
TURNS = {  # turns → queries with spans, and what is wrong with the others
    (Q1, A1, Q2, A2): ([Q1[1], Q2[1]], []),
    (SYSTEM, Q1, A1, SYSTEM, Q2, A2): ([Q1[1], Q2[1]], []),
    (HI, Q1, A1): ([Q1[1]], ["an answer has no question before it"]),
    (Q1, A1, Q2): ([Q1[1]], ["a question has no answer"]),
    (Q1, A1, A2): ([], ["1 questions in a row and 2 answers: it is open which belong together"] * 2),
    (Q1, Q2, A1, A2): ([], ["2 questions in a row and 2 answers"] * 2),
    (Q1, Q2, A2, Q1, A1): ([Q1[1]], ["2 questions in a row and 1 answers"] * 2),
    (TOOL, Q1, A1): ([Q1[1]], ["a turn has the role 'tool': give user and assistant, or human and gpt"]),
    (Q1, TOOL, A1): ([], ["a question has no answer", "a turn has the role 'tool'", "an answer has no question before it"]),
    ((None, "Hi"), Q1, A1): ([Q1[1]], ["a turn has the role None"]),
}


@pytest.mark.parametrize("turns", TURNS)
def test_turns_are_paired_by_their_roles(turns, tmp_path):
    queries, problems = TURNS[turns]
    conversation = [{"from": role, "value": text} for role, text in turns]
    other = {
        "question_id": "8",
        "video_id": "o",
        "video_file": "o.mp4",
        "conversation": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "<1> <2>"}],
    }
    (tmp_path / "g.json").write_text(json.dumps([{**other, "question_id": "7", "video_id": "a", "conversation": conversation}, other]))
    samples, report = read_dataset("grounded_videollm", tmp_path / "g.json", durations={"a": 30.0, "o": 9.0})
    assert [s.query for s in samples] == [*queries, "q"]
    assert [s.spans for s in samples[:-1]] == [{Q1[1]: [[1, 4]], Q2[1]: [[7, 9]]}[query] for query in queries]
    assert len(report.excluded) == len(problems) and all(
        finding.reason == "malformed" and problem in finding.detail for finding, problem in zip(report.excluded, problems)
    )


def test_turns_are_paired_under_other_names_of_the_roles(tmp_path):
    messages = [("system", "Be brief."), ("user", "Find 'a dog'"), ("model", "From 5 to 9 seconds."), ("assistant", "And from 1 to 2 seconds.")]
    for n, kept in ((3, ["Find 'a dog'"]), (4, [])):  # with the fourth turn one question has two answers
        row = {"id": "1", "video_id": "a", "duration": 30.0, "messages": [{"role": role, "content": text} for role, text in messages[:n]]}
        other = {**row, "messages": [{"role": role, "content": text} for role, text in messages[1:3]]}
        (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(other) + "\n")
        samples, _ = read_dataset("timelens", tmp_path / "a.jsonl")
        assert [s.query for s in samples] == [*kept, "Find 'a dog'"] and samples[-1].spans == [[5, 9]]
