"Annotation files of every format, whole and broken: spans are read right, lost queries are counted, and a row that cannot be trained on is named."

import csv
import gzip
import json
import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vtg_r1.cli import main
from vtg_r1.core.samples import Sample, SampleError, load_samples, read_samples, target_span, write_jsonl
from vtg_r1.curation import CurationParams, answered, check_videos, collect, iter_samples, read_source, to_sft_sample
from vtg_r1.data.conversations import quoted_query, read_times
from vtg_r1.data.official_benchmarks import load_benchmark, trivial_predictions
from vtg_r1.data.readers import READERS, VIDEO_ENDINGS, read_dataset, read_rows
from vtg_r1.data.sources import find_videos, read_annotations
from vtg_r1.data.toyworld import write_video
from vtg_r1.data.validation import check, overlap_guard, source_id, video_file, video_files
from vtg_r1.sft import TARGETS
from vtg_r1.train.stage_data import STRATA
from vtg_r1.video.decoders import VideoError
from vtg_r1.video.reader import probe, video_path


def read(folder: Path, dataset: str, name: str, content: Any, **options: Any):
    "The samples and the report of a file with this content: text, lines of JSON, or JSON."
    if isinstance(content, str):
        text = content
    elif name.endswith(".jsonl"):
        text = "".join(json.dumps(row) + "\n" for row in content)
    else:
        text = json.dumps(content)
    (folder / name).write_text(text, encoding="utf-8")
    return read_dataset(dataset, folder / name, **options)


# ---- every query is counted, and a broken one costs no other ----

BROKEN: list[Any] = [[], [3.0], [None, 4.0], ["a", 4.0], [4.0, 1.0], [4.0, 4.0], [150.0, 160.0], "x", 7, None, {}]
TOKENS = dict(zip("0123456789.", "ZERO ONE TWO THREE FOUR FIVE SIX SEVEN EIGHT NINE DOT".split()))


# Each function down to `plain` writes one format. `videos` is [(video, events)], `events` is [(query, span)]; a span may be broken.


def in_words(span: Any, form: str = "{} - {} seconds") -> str:
    "A span as a text; for what is not two floats, a text that holds a number and no span."
    if isinstance(span, list) and len(span) == 2 and all(isinstance(t, float) for t in span):
        return form.format(*span)
    return f"I saw it {len(str(span))} times"


def in_tokens(span: Any) -> str:
    return "".join(f"<TIME_{TOKENS[c]}>" if c in TOKENS else c for c in in_words(span, "{:06.1f} - {:06.1f}")) + " seconds"


def captions(videos: list, spans: str, queries: str, **more: Any) -> dict:
    return {vid: {"duration": 100.0, spans: [s for _, s in events], queries: [q for q, _ in events], **more} for vid, events in videos}


def rows(videos: list, make: Any) -> list:
    return [make(vid, query, span) for vid, events in videos for query, span in events]


def turns(vid: str, events: list) -> dict:
    video = {"type": "video_url", "video_url": {"url": f"c/{vid}/", "processed_video_length": 400, "processed_fps": 4.0}}
    messages = []
    for i, (query, span) in enumerate(events):
        content: Any = f"{query}\nAnswer with numbers such as: '[start] - [end]'."
        if i == 0:
            content = [video, {"type": "text", "text": f"<VIDEO_CONTEXT>\n{content}"}]
        messages += [{"role": "user", "content": content}, {"role": "assistant", "content": in_words(span, "Between {} and {} seconds.")}]
    return {"id": vid, "messages": messages}


def grounded(vid: str, query: str, span: Any) -> dict:
    says = [{"from": "human", "value": f"<image>\n{query}"}, {"from": "gpt", "value": in_words(span, "From <{}> to <{}>.")}]
    return {"question_id": f"{vid} {query}", "video_id": vid, "video_file": f"{vid}.mp4", "duration": 100.0, "conversation": says}


def timeit(vid: str, events: list) -> dict:
    return {"video": f"x/{vid}.mp4", "QA": [{"q": f"When is '{q}' seen?", "a": f"The event happens in {in_words(s)}."} for q, s in events]}


def vtg_it(vid: str, events: list) -> dict:
    return {"video": f"x/{vid}.mp4", "QA": [{"q": "Localize the steps.", "a": f"{in_tokens(s)}, {q}."} for q, s in events]}


def table(videos: list) -> str:
    cells = [(vid, span, query, 100.0) for vid, events in videos for query, span in events]
    lines = [
        f"{vid}.mp4,{json.dumps(str(query))},{json.dumps(json.dumps(span)).replace(chr(92) + chr(34), chr(34) * 2)},{d}"
        for vid, span, query, d in cells
    ]
    return "\n".join(["video,query,spans,duration", *lines]) + "\n"


def charades(vid: str, query: str, span: Any) -> str:
    start, end = span if isinstance(span, list) and len(span) == 2 else ("no", "time")
    return f"{vid} {start} {end}##{query}\n"


def timelens_1(vid: str, events: list) -> dict:
    return {"video_path": f"c/{vid}.mp4", "duration": 100.0, "events": [{"query": q, "span": s} for q, s in events]}


def timelens_2(vid: str, events: list) -> dict:
    return {"video_id": vid, "duration": 100.0, "annotations": [{"text": q, "timestamps": s} for q, s in events]}


def windows(vid: str, query: str, span: Any) -> dict:
    return {"qid": f"{vid} {query}", "vid": vid, "query": query, "duration": 100.0, "relevant_windows": span}


def nextgqa(vid: str, query: str, span: Any) -> dict:
    fields = {"id": f"{vid} {query}", "video": f"{vid}.mp4", "question": query, "options": ["(A) x", "(B) y"], "answer": "(A)"}
    return {**fields, "glue": span, "duration": 100.0}


def rextime(vid: str, query: str, span: Any) -> dict:
    return {"qid": f"{vid} {query}", "vid": vid, "duration": 100.0, "question": query, "options": ["x", "y"], "span": span, "ans": "A"}


def tvg_r1(vid: str, query: str, span: Any) -> dict:
    return {"dataset": "d", "video": f"{vid}.mp4", "problem": query, "gt_frame": span, "video_length": 100.0}


def timer1(vid: str, query: str, span: Any) -> dict:
    return {"video": f"x/{vid}.mp4", "duration": 100.0, "timestamp": span, "sentence": query, "qid": f"charades_{vid}{query}"}


def tvgbench(vid: str, query: str, span: Any) -> dict:
    return {"path": f"x/{vid}.mp4", "question": query, "answer": in_words(span, "{}-{}"), "start": None, "end": None, "duration": 100.0}


def didemo(vid: str, query: str, span: Any) -> dict:
    segments = [int(span[0] // 5), int(span[1] // 5)] if in_words(span).endswith("seconds") and span[0] < span[1] < 100 else span
    return {"video": f"{vid}.mp4", "description": query, "times": [segments], "num_segments": 20, "annotation_id": f"{vid} {query}"}


def hirest(videos: list) -> dict:
    return {
        f"{query} of {vid}": {f"{vid}.mp4": {"clip": True, "v_duration": 100.0, "bounds": span}} for vid, events in videos for query, span in events
    }


def hirest_steps(videos: list) -> dict:
    steps = {vid: [{"heading": q, "absolute_bounds": s} for q, s in events] for vid, events in videos}
    return {"make tea": {f"{vid}.mp4": {"v_duration": 100.0, "steps": found} for vid, found in steps.items()}}


def frames(videos: list) -> dict:
    def in_frames(span: Any) -> Any:
        return [10 * t for t in span] if in_words(span).endswith("seconds") else span

    found = captions([(vid, [(q, in_frames(s)) for q, s in events]) for vid, events in videos], "timestamps", "sentences", num_frames=1000, fps=10)
    return {vid: {key: value for key, value in video.items() if key != "duration"} for vid, video in found.items()}


def plain(vid: str, query: str, span: Any) -> dict:
    return {"video": f"{vid}.mp4", "query": query, "spans": span, "duration": 100.0}


def per_video(make: Any) -> Any:
    return lambda videos: [make(vid, events) for vid, events in videos]


def per_query(make: Any) -> Any:
    return lambda videos: rows(videos, make)


FORMS = {  # reader, file, content of [(video, [(sentence, span)])]; between them all readers
    "charades text": ("charades_sta", "a.txt", lambda v: "".join(rows(v, charades)) + "\n\n"),
    "charades dict": ("charades_sta", "a.json", lambda v: captions(v, "timestamps", "sentences")),
    "charades windows": ("charades_sta", "a.jsonl", per_query(windows)),
    "activitynet": ("activitynet", "a.json", lambda v: captions(v, "timestamps", "sentences")),
    "tacos": ("tacos", "a.jsonl", per_query(windows)),
    "tacos in frames": ("tacos", "a.json", frames),
    "qvhighlights as a list": ("qvhighlights", "a.json", per_query(windows)),
    "nextgqa": ("nextgqa", "a.json", per_query(nextgqa)),
    "rextime": ("rextime", "a.json", per_query(rextime)),
    "tvgbench": ("tvgbench", "a.json", per_query(tvgbench)),
    "didemo": ("didemo", "a.json", per_query(didemo)),
    "hirest": ("hirest", "a.json", hirest),
    "hirest steps": ("hirest", "a.json", hirest_steps),
    "timeit": ("timeit", "a.json", per_video(timeit)),
    "vtg-it": ("timeit", "a.json", per_video(vtg_it)),
    "queryd": ("queryd", "a.json", lambda v: captions(v, "timestamps", "sentences")),
    "internvid": ("internvid_vtime", "a.jsonl", per_query(lambda vid, q, s: {"vid": vid, "duration": 100.0, "query": q, "span": s})),
    "grounded": ("grounded_videollm", "a.json", per_query(grounded)),
    "timer1": ("timer1", "a.json", per_query(timer1)),
    "timer1 lines": ("timer1", "a.jsonl", per_query(timer1)),
    "timelens dict": ("charades_timelens", "a.json", lambda v: captions(v, "spans", "queries")),
    "timelens events": ("timelens", "a.jsonl", per_video(timelens_1)),
    "timelens 2": ("activitynet_timelens", "a.jsonl", per_video(timelens_2)),
    "timelens turns": ("qvhighlights_timelens", "a.jsonl", per_video(turns)),
    "tvg_r1": ("tvg_r1", "a.jsonl", per_query(tvg_r1)),
    "csv": ("csv", "a.csv", table),
    "jsonl": ("jsonl", "a.jsonl", per_query(plain)),
}
assert {reader for reader, _, _ in FORMS.values()} == set(READERS)

good_span = st.tuples(st.integers(0, 8), st.integers(1, 9)).map(lambda t: [5.0 * t[0], 5.0 * (t[0] + t[1])])
events = st.lists(good_span | st.sampled_from(BROKEN), min_size=1, max_size=5)
policies = st.fixed_dictionaries({"past_end": st.sampled_from(["keep", "clip", "drop"]), "repeated_query": st.sampled_from(["keep", "join"])})


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(spans=st.lists(events, min_size=1, max_size=3), policy=policies)
def test_every_query_is_kept_or_counted(form, spans, policy, tmp_path):
    "kept + excluded + joined = read, counted in queries. A query with a good span is kept with that span, whatever is beside it."
    reader, name, make = FORMS[form]
    words = iter("abcdefghijklmnopqrstuvwxyz")
    videos = [(f"v{i}", [(f"a dog barks at {next(words)}", span) for span in found]) for i, found in enumerate(spans)]
    n = sum(map(len, spans))
    options = {**policy, "steps": form == "hirest steps", "durations": {vid: 100.0 for vid, _ in videos}}  # files of TimeIT have none
    # in HiREST's sentences " of v…" is added to the query
    whole = {query for _, found in videos for query, span in found if span not in BROKEN}
    try:
        samples, report = read(tmp_path, reader, name, make(videos), **options)
    except SampleError as e:
        assert not whole and "no record reads as" in str(e)  # none of the file's records has the form
        return
    assert report.read == n and report.kept == len(samples)
    assert report.read == report.kept + len(report.excluded) + report.counts().get("repeated_query/joined", 0)
    assert whole <= {s.query.partition(" of v")[0] for s in samples}
    spans_of = {query: [span] for _, found in videos for query, span in found if query in whole}
    for s in samples:
        query = s.query.partition(" of v")[0]
        assert reader == "didemo" or query not in whole or s.spans == spans_of[query]  # DiDeMo's spans are made of whole segments


def test_a_folder_of_several_files_counts_per_query(tmp_path):
    (tmp_path / "train_list.txt").write_text("video-a\nvideo-b\n")
    (tmp_path / "durations.json").write_text('{"a": 30.0, "b": 30.0}')
    queries = {"video-a": [["a", "dog"], None, ["a", "cat"]], "video-b": ["rain", "snow"]}
    spans = {"video-a": [[1.0, 4.0], [2.0, 3.0], [7.0, 9.0]], "video-b": [[1.0, 2.0]]}
    for kind, content in (("raw", queries), ("times", spans)):
        (tmp_path / f"{kind}_captions_combined_filtered-v2.pkl").write_bytes(pickle.dumps(content))
    samples, report = read_dataset("queryd", tmp_path)
    assert [s.query for s in samples] == ["a dog", "a cat"] and (report.read, len(report.excluded)) == (5, 3)
    assert "1 spans and 2 sentences: it is open which belong together" in report.excluded[-1].detail


def test_a_broken_event_costs_no_other_event_of_its_video(tmp_path):
    found = [{"query": "q1", "span": [[1, 4]]}, {"query": "q2", "span": []}, {"query": "q3", "span": [[7, 9]]}]
    record = {"source": "c", "video_path": "c/a.mp4", "duration": 60, "events": found}
    samples, report = read(tmp_path, "timelens", "a.jsonl", [record])
    assert [(s.query, s.spans) for s in samples] == [("q1", [[1, 4]]), ("q3", [[7, 9]])]
    assert (report.read, report.kept, [f.reason for f in report.excluded]) == (3, 2, ["no_span"])
    samples, report = read(
        tmp_path, "timelens", "b.jsonl", [{**record, "events": [*found, {"span": [[1, 2]]}, None, {"query": "q4", "span": [1, 2]}]}]
    )
    assert [s.query for s in samples] == ["q1", "q3", "q4"] and (report.read, len(report.excluded)) == (6, 3)


def test_a_query_that_loses_a_span_keeps_the_others(tmp_path):
    samples, report = read(tmp_path, "qvhighlights", "a.jsonl", [windows("v", "q", [[1, 4], [9, 7], [3]])])
    assert [s.spans for s in samples] == [[[1, 4]]] and not report.excluded
    assert report.counts() == {"malformed_span/span_dropped": 1, "inverted/span_dropped": 1} and len(report.dropped) == 2


def test_a_key_that_an_object_has_twice_is_an_error(tmp_path):
    text = '{"a": {"duration": 9, "timestamps": [[1, 2]], "sentences": ["x"]}, "a": {"duration": 9, "timestamps": [[3, 4]], "sentences": ["y"]}}'
    with pytest.raises(SampleError, match="key 'a' is twice"):
        read(tmp_path, "activitynet", "a.json", text)


def conversation(*content: Any, **more: Any) -> dict:
    turns = [{"role": "user", "content": part} for part in content]
    return {"messages": [m for turn in turns for m in (turn, {"role": "assistant", "content": "From 5 to 9 seconds."})], **more}


TEXT = {"type": "text", "text": "Given the query 'a dog'"}


@pytest.mark.parametrize(
    "content, more",
    [
        ([{"type": "video", "video": "c/a.mp4"}, TEXT], {"duration": 30}),
        ([{"type": "video", "video": "file://c/a.mp4", "fps": 2}, TEXT], {"duration": 30}),
        ([TEXT, {"type": "video_url", "video_url": {"url": "c/a.mp4/", "processed_video_length": 60, "processed_fps": 2}}], {}),
        ([{"type": "video_url", "video_url": "c/a.mp4"}, "and", TEXT], {"duration": 30}),
    ],
)
def test_a_conversation_may_name_its_video_in_any_of_these_shapes(content, more, tmp_path):
    (sample,), _ = read(tmp_path, "timelens", "a.jsonl", [conversation(content, **more)])
    assert (sample.video, sample.duration, sample.query, sample.spans) == ("c/a.mp4", 30, "a dog", [[5, 9]])
    after_system = conversation(content, **more)
    after_system["messages"].insert(0, {"role": "system", "content": "You help."})
    assert read(tmp_path, "timelens", "b.jsonl", [after_system])[0] == [sample]


@pytest.mark.parametrize(
    "content, said",
    [
        ([{"type": "video_url", "video_url": {"url": "a.mp4", "processed_video_length": 60, "processed_fps": 0}}, TEXT], "processed_fps is 0: give"),
        (
            [{"type": "video_url", "video_url": {"url": "a.mp4", "origin_video_length": None, "origin_fps": 2}}, TEXT],
            "origin_video_length is None and",
        ),
        ([{"type": "video", "video": ["1.jpg", "2.jpg"]}, TEXT], "video ['1.jpg', '2.jpg'] names no file"),
        ([TEXT], "no video is named: give a part"),
        ([{"type": "video", "video": "a.mp4"}], "has no text: give a text"),
        (None, "no video is named"),
    ],
)
def test_a_conversation_that_lacks_something_is_excluded_with_its_reason(content, said, tmp_path):
    good = conversation([{"type": "video", "video": "b.mp4"}, TEXT], duration=30)
    samples, report = read(tmp_path, "timelens", "a.jsonl", [conversation(content), good])
    assert [s.video for s in samples] == ["b.mp4"] and said in report.excluded[0].detail and (report.read, len(report.excluded)) == (2, 1)


def test_grounded_videollm_writes_seconds_or_clock_times(tmp_path):
    records = [grounded("v", f"q{i}", [0, 1]) for i in range(3)]
    for record, answer in zip(records, ["From <0:01> to <0:04>.", "<1.0s> to < 4 s>, as <image> has it", "<1.0> to <1:99>"]):
        record["conversation"][1]["value"] = answer
    samples, report = read(tmp_path, "grounded_videollm", "a.json", records)
    assert [s.spans for s in samples] == [[[1, 4]]] * 2 and "a time is '1:99': write seconds" in report.excluded[0].detail


def test_only_newlines_end_the_lines_of_a_text_file_and_blank_ones_count_as_nothing(tmp_path):
    text = "\ufeffAO8RW 0.0 6.9##a person\u2028puts a book\x85away.\r\n\n \t\nY6R7T 20.8 30.0##person plays\n\n\n"
    samples, report = read(tmp_path, "charades_sta", "a.txt", text)
    assert [s.query for s in samples] == ["a person puts a book away.", "person plays"] and report.read == 2 and not report.excluded


# ---- conversations ----


@pytest.mark.parametrize(
    "query", ["two men enter", "Repair a Broken Key While It's in the Lock", "the dogs' owner laughs", "a sign says 'stop' in red"]
)
@pytest.mark.parametrize(
    "question",
    [
        "Locate '{}'",
        "The given natural language query '{}' is semantically  aligned with a video moment, please give the start time.",
        "Please find the visual event described by the sentence '{}', determining its starting and ending times. "
        "The format should be: 'The event happens in <start time> - <end time> seconds'.",
        'Find the video segment that answer: "{}".\nFormat your answer exactly as `[[start, end]]`.',
    ],
)
def test_the_quoted_query_is_read_whole_and_no_further(question, query, tmp_path):
    samples, _ = read(
        tmp_path, "timeit", "a.json", [{"video": "v/ab.mp4", "QA": [{"q": question.format(query), "a": "5.0 - 19.0 seconds"}]}], durations={"ab": 30}
    )
    assert [(s.query, s.spans) for s in samples] == [(query, [[5, 19]])]


@pytest.mark.parametrize(
    "answer, others",
    [
        ("5.0 - 19.0 seconds, 2 men enter room 3.", ["2", "3"]),
        ("2 men enter room 3 between 5.0 and 19.0 seconds.", ["2", "3"]),
        ("In scene 4: 5.0 - 19.0 seconds", ["4"]),
        ("Players 7 - 9 run from 5.0 to 19.0 seconds.", ["7", "9"]),
        ("2 to 3 men enter from 5.0 to 19.0, all in 1080p", ["2", "3", "1080"]),
        ("It starts at 00:05 and ends at 00:19, 24 of them", ["24"]),
        ("<TIME_ZERO><TIME_ZERO><TIME_FIVE><TIME_DOT><TIME_ZERO> - <TIME_ONE><TIME_NINE><TIME_DOT><TIME_ZERO> seconds, 2 men", ["2"]),
    ],
)
@pytest.mark.parametrize("reader", ["timeit", "hirest", "timelens"])  # the reader hirest reads TimeIT's file of HiREST too
def test_numbers_that_are_no_times_are_reported_and_no_spans(answer, others, reader, tmp_path):
    if reader != "timelens":
        samples, report = read(
            tmp_path, reader, "a.json", [{"video": "v/ab.mp4", "QA": [{"q": "Locate 'two men enter'", "a": answer}]}], durations={"ab": 30}
        )
    else:
        record = turns("ab", [("two men enter", [1.0, 2.0])])
        record["messages"][1]["content"] = answer
        samples, report = read(tmp_path, reader, "a.jsonl", [record])
    assert [(s.query, s.spans) for s in samples] == [("two men enter", [[5, 19]])]
    (finding,) = [f for f in report.findings if f.reason == "other_numbers"]
    assert finding.detail.startswith(", ".join(others) + " in ")


@pytest.mark.parametrize(
    "answer", ["2 men enter room 3", "frames 10 - 20", "from 5 % to 19 %", "the score is 3 - 2", "at 5.0 seconds", "", "from 1,005 to 1,019 seconds"]
)
def test_an_answer_without_a_span_of_seconds_is_counted(answer, tmp_path):
    found = [{"q": "'a'", "a": answer}, {"q": "'b'", "a": "5 - 19 s"}]
    samples, report = read(tmp_path, "timeit", "a.json", [{"video": "ab.mp4", "QA": found}], durations={"ab": 30})
    assert [s.query for s in samples] == ["b"] and (report.read, len(report.excluded)) == (2, 1) and "no span of seconds" in report.excluded[0].detail


def test_steps_are_queries_of_their_own(tmp_path):
    answer = "0.0 - 6.0 seconds, peel 2 potatoes.  6.0 - 20.0 seconds, steam it for 20-25 minutes.  20.0 - 80.0 seconds, fry onion in oil. "
    samples, _ = read(
        tmp_path, "timeit", "a.json", [{"video": "a.mp4", "QA": [{"q": "Localize a series of action steps.", "a": answer}]}], durations={"a": 90}
    )
    assert [(s.query, s.spans) for s in samples] == [
        ("peel 2 potatoes", [[0, 6]]),
        ("steam it for 20-25 minutes", [[6, 20]]),
        ("fry onion in oil", [[20, 80]]),
    ]


@settings(max_examples=300, deadline=None)
@given(
    st.text(max_size=60)
    | st.lists(st.sampled_from(["5", "19.0", " - ", " to ", "s", ":", ",", "[", "]", "'", "from ", "<TIME_ONE>", "é"]), max_size=14).map("".join)
)
def test_any_question_is_read_and_any_answer_is_read_or_refused(text):
    quoted_query(text, True)
    try:
        times = read_times(text)
    except ValueError:
        return
    assert times.spans and len(times.spans) == len(times.descriptions) and all(len(span) == 2 for span in times.spans)


# ---- truths, units, names, shapes ----


def test_the_target_of_several_annotators_is_the_span_that_most_gave(tmp_path):
    record = {
        "num_segments": 6,
        "description": "x",
        "times": [[4, 4], [4, 4], [0, 0], [4, 4], [0, 0], [0, 0], [4, 4]],
        "video": "a.m4v",
        "annotation_id": 1,
    }
    (sample,), report = read(tmp_path, "didemo", "a.json", [record])
    assert len(sample.spans) == 7 and target_span(sample.spans) == [20, 25] and "most annotators gave" in report.notes[-1]
    assert TARGETS["exact_span"](sample).endswith("<time>[20, 25]</time>")
    answer = replace(sample, teacher={"model": "m", "response": "<think>w</think><time>[0, 5]</time>", "span": [0, 5], "iou": 1.0, "usage": None})
    assert to_sft_sample(answer, "ground_truth").teacher["response"] == "<think>w</think><time>[20, 25]</time>"
    assert trivial_predictions([sample], [sample])["dataset prior"]["1"].spans == [[20, 25]]
    assert STRATA["span"](replace(sample, spans=[[0.0, 30.0], [4.0, 5.0], [4.0, 5.0]])) == 0  # eighths of the agreed span, not of the first
    assert target_span([[9, 12], [1, 3]]) == [1, 3]  # no agreement: the earliest


def test_didemos_segments_become_seconds_and_inverted_ones_follow_the_policy(tmp_path):
    record = {"num_segments": 6, "description": "x", "video": "a.mov"}
    records = [{**record, "times": t, "annotation_id": i} for i, t in enumerate(([0, 1], [[4, 2]], [[3, 2]], [[1, 1], [2, 4]]))]
    samples, report = read(tmp_path, "didemo", "a.json", records, inverted="swap")
    assert [s.spans for s in samples] == [[[0, 10]], [[10, 25]], [[10, 20]], [[5, 10], [10, 25]]] and report.before["inverted"] == 2
    samples, report = read(tmp_path, "didemo", "a.json", records)
    assert [s.qid for s in samples] == ["0", "3"] and [f.reason for f in report.excluded] == ["inverted"] * 2


LETTERS = [
    ("c", "C"),
    (" c ", "C"),
    ("C", "C"),
    ("(C)", "C"),
    ("C.", "C"),
    ("(C) c", "C"),
    ("C: c", "C"),
    ("(C) d", None),
    ("A dog", None),
    ("f", None),
]


@pytest.mark.parametrize("answer, letter", [*LETTERS, ("2", "C"), ("5", None), ("", None)])
def test_the_answer_of_nextgqa_is_read_as_a_letter(answer, letter, tmp_path):
    "Its table holds the text of an option. The number and the letter of an option are read too; any other answer is reported."
    with open(tmp_path / "test.csv", "w", newline="") as f:
        csv.writer(f).writerows(
            [["video_id", "question", "answer", "qid", *(f"a{i}" for i in range(5))], ["1", "why", answer, "0", *"ab", "c ", "d", "e"]]
        )
    (tmp_path / "gsub_test.json").write_text('{"1": {"duration": 30, "location": {"0": [[1, 4]]}}}')
    (sample,), report = read_dataset("nextgqa", tmp_path)
    assert sample.answer == letter and report.counts() == ({} if letter else {"unknown_answer/kept": 1})
    assert all(repr(answer) in f.detail for f in report.findings)
    (tmp_path / "test.csv").write_text("video_id,question,answer,qid,a0,a1,a2,a3,a4\n1,how many,2,0,0,1,3,2,C\n")
    assert read_dataset("nextgqa", tmp_path)[0][0].answer == "D"  # the text of option D, although 2 is also the number of option C


@pytest.mark.parametrize("answer, letter", [*LETTERS[:-1], ("b", "B"), ("2", None), (2, None), ("E", None)])
def test_the_answer_of_the_other_formats_is_read_as_a_letter(answer, letter, tmp_path):
    options = ["x", "y", "c", "d"]
    event = {"vid": "a", "video": "a.mp4", "duration": 30, "question": "why", "query": "why"}
    files = [
        ("jsonl", {"spans": [[1, 4]], "options": options, "answer": answer}),
        ("rextime", {"qid": "a", "options": options, "span": [1, 4], "ans": answer}),
        ("nextgqa", {"id": "a", "options": [f"({x}) {o}" for x, o in zip("ABCD", options)], "glue": [[1, 4]], "answer": answer}),
        ("tvg_r1", {"problem": "why", "choices": options, "gt_frame": [1, 4], "video_length": 30, "ground_truth": answer}),
    ]
    for dataset, more in files:
        samples, report = read(tmp_path, dataset, "a.json", [{**event, **more}])
        assert [s.answer for s in samples] == [letter] * bool(letter), dataset
        # the number 2 has no quotation marks in the message
        assert letter or (report.excluded[0].reason == "bad_answer" and f"is {str(answer)!r}" in report.excluded[0].detail.replace("is 2", "is '2'"))


def test_an_answer_may_be_a_letter_or_the_text_of_an_option():
    "A capital letter is the letter. A small one is an option's text first, and refused if two options have that text."
    row = {"video": "a.mp4", "query": "q", "spans": [[1, 4]], "duration": 9}
    given = [("A", ["B", "A"]), ("a", ["b", "a"]), ("a", ["a ", "a"]), ("b", ["x", "y"])]
    samples, report = read_rows([{**row, "query": f"q{i}", "answer": a, "options": o} for i, (a, o) in enumerate(given)])
    assert [(s.query, s.answer) for s in samples] == [("q0", "A"), ("q1", "B"), ("q3", "B")] and report.excluded[0].reason == "bad_answer"


@pytest.mark.parametrize(
    "dataset, content, said",
    [
        ("tvgbench", [{"path": "a.mp4", "question": "q", "answer": 5, "duration": 9}], "answer is 5: give 'start-end' in seconds"),
        ("tvgbench", [{"path": "a.mp4", "question": "q", "answer": "1.5", "duration": 9}], "answer is '1.5': give 'start-end' in seconds"),
        (
            "activitynet",
            {"database": {"a": {"duration": 9}}, "version": "1.3"},
            "'version' is '1.3', and no video's {duration, timestamps, sentences}",
        ),
        (
            "timer1",
            [{"video": "a", "duration": 9, "timestamp": [1, 4], "sentence": "x", "difficulty": "easy"}],
            "difficulty is 'easy': give the policy's",
        ),
        (
            "timer1",
            [{"video": "a", "duration": 9, "timestamp": [1, 4], "sentence": "x", "difficulty": 150}],
            "IoU in percent, from 0 to 100, or null",
        ),
    ],
)
def test_a_field_of_another_kind_is_named(dataset, content, said, tmp_path):
    if dataset == "activitynet":  # the bad content and beside it a good record
        mixed: Any = {**content, "a": {"duration": 9, "timestamps": [[1, 4]], "sentences": ["x"]}}
    else:
        mixed = [*content, {**content[0], "answer": [1, 4], "difficulty": None}]
    samples, report = read(tmp_path, dataset, "a.json", mixed)
    assert [s.spans for s in samples] == [[[1, 4]]] and any(said in f.detail for f in report.excluded)


@pytest.mark.shared
def test_in_28_percent_of_didemo_the_agreed_span_is_not_the_earliest(shared):
    samples, _ = read_dataset("didemo", shared / "data/annotations/didemo/val_data.json")
    differ = sum(target_span(s.spans) != s.spans[0] for s in samples)
    assert round(100 * differ / len(samples)) == 28


def test_spans_in_frames_become_seconds_or_are_excluded(tmp_path):
    video = {"timestamps": [[252, 686]], "sentences": ["x"], "num_frames": 5000, "fps": 29.4}
    (sample,), _ = read(tmp_path, "tacos", "a.json", {"s13-d21.avi": video})
    assert sample.video == "s13-d21.avi" and sample.duration == pytest.approx(170.07, abs=0.01)
    assert sample.spans == [pytest.approx([8.57, 23.33], abs=0.01)]
    samples, report = read(
        tmp_path, "tacos", "b.json", {"a": {**video, "duration": 170.0}, "b": {**video, "timestamps": [[2, 6]], "duration": 170.0}}
    )
    assert [s.spans for s in samples] == [[[2, 6]]] and "within 5000 frames" in report.excluded[0].detail
    both = {**video, "timestamps": [[25, 68], [252, 686]], "sentences": ["x", "y"], "duration": 170.0}
    samples, report = read(tmp_path, "tacos", "d.json", {"a": both, "b": {**video, "timestamps": [[2, 6]], "duration": 170.0}})
    assert [s.video for s in samples] == ["b.mp4"] and len(report.excluded) == 2, "if one span of a video is in frames, so are its others"
    bench = {"spans": [[[294, 588], [882, 1176]]], "queries": ["x"], "num_frames": 5000, "fps": 29.4}
    assert read(tmp_path, "timelens", "e.json", {"a": bench})[0][0].spans == [pytest.approx([10, 20]), pytest.approx([30, 40])]
    assert "within 5000 frames" in read(tmp_path, "timelens", "f.json", {"a": {**bench, "duration": 170.0}, "b": {**bench}})[1].excluded[0].detail
    text = "video,start_frame,end_frame,fps,sentence,duration\na.mp4,50,100,25,x,30\na.mp4,50,100,,y,30\n"
    columns = {"start": "start_frame", "end": "end_frame"}
    samples, report = read(tmp_path, "csv", "c.csv", text, columns=columns)
    assert [s.spans for s in samples] == [[[2, 4]]] and "holds frames" in report.excluded[0].detail


@pytest.mark.parametrize(
    "named, file",
    [
        ("v_AbCdEfGhIjK.mp4", "v_AbCdEfGhIjK.mkv"),
        ("a.avi", "a.mp4"),
        ("a.avi", "a.avi.mp4"),
        ("a", "a.webm"),
        ("x/a.mp4", "a.MOV"),
        ("x/a.mp4", "x/a.m4v"),
        ("v_AbCdEfGhIjK.mp4", "AbCdEfGhIjK.webm"),
        ("AbCdEfGhIjK.mp4", "v_AbCdEfGhIjK.mp4"),
        ("NUsG9BgSes0_210.0_360.0", "NUsG9BgSes0_210.0_360.0.mp4"),
    ],
)
def test_a_video_is_found_under_any_usual_name(named, file, tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / file).touch()
    assert video_file(tmp_path, named) == file
    for other in ("b.mp4", "v_a.txt", "aa.mp4"):  # another video is not taken for it
        (tmp_path / other).touch()
    (tmp_path / file).unlink()
    assert video_file(tmp_path, named) is None


def test_many_videos_are_found_at_once_as_they_are_one_by_one(tmp_path, monkeypatch):
    "`video_files` gives what `video_file` gives for each name, with one look at the disk for each absent video."
    for file in (
        "a.avi.mp4",
        "b.webm",
        "B2.MOV",
        "x/c.m4v",
        "AbCdEfGhIjK.webm",
        "v_abcdefghijk.mp4",
        "e\u0301te\u0301.mp4",
        "n.d.mp4",
        ".mp4",
        "no video.txt",
    ):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    there = ["a.avi", "b", "b.mp4", "B2.mp4", "x/c.mp4", "y/b.mp4", "v_AbCdEfGhIjK.mp4", "abcdefghijk", "\u00e9t\u00e9", "n.d", "x/b.avi", "x/b.avi"]
    named = [*there, "gone.mp4", "x/gone.mp4", "no video", "c.mp4", "n", "b.webm/a.mp4", "/", "x/", "../gone", "nul\0", "\udc80", "z" * 300]
    files = video_files(tmp_path, named)
    assert files == {video: video_file(tmp_path, video) for video in named} and all(files[video] for video in there) and not files["gone.mp4"]
    looks, isfile = [], os.path.isfile
    monkeypatch.setattr(os.path, "isfile", lambda path: looks.append(path) or isfile(path))
    absent = [f"absent{i}.mp4" for i in range(100)]
    assert set(video_files(tmp_path, absent).values()) == {None} and len(looks) == 100
    assert video_file(tmp_path, absent[0]) is None and len(looks) > 150  # one by one, a single absent video costs more than 50 looks


def test_a_file_of_exactly_that_name_goes_before_one_of_another_ending(tmp_path):
    for name in ("a.avi", "a.mp4"):
        (tmp_path / name).touch()
    assert (video_file(tmp_path, "a.avi"), video_file(tmp_path, "a.mp4")) == ("a.avi", "a.mp4")


def test_a_video_of_any_usual_ending_is_found_and_opened(tmp_path):
    "The decoder goes by a file's content, whatever its ending. A name without an ending, or with another one, finds each of these files."
    write_video(tmp_path / "film.mp4", np.zeros((3, 28, 28, 3), np.uint8), 1)
    usual = "3gp asf avi f4v flv gif m2ts m4v mkv mov mp4 mpe mpeg mpg mts mxf ogg ogv qt ts vob webm wmv".split()
    assert set(usual) <= set(VIDEO_ENDINGS) and len(set(VIDEO_ENDINGS)) == len(VIDEO_ENDINGS)
    for ending in [*VIDEO_ENDINGS, "OGV"]:
        (tmp_path / "film.mp4").rename(tmp_path / f"abc.{ending}")
        content = {f"abc.{ending}": {"duration": 3, "timestamps": [[1, 2]], "sentences": ["x"]}}
        (sample,), _ = read(tmp_path, "activitynet", "a.json", content)
        assert (sample.qid, sample.video) == ("abc_0", f"abc.{ending}") and video_file(tmp_path, "abc") == video_file(
            tmp_path, "abc.mp4"
        ) == sample.video
        assert probe(video_path(tmp_path, sample.video)).duration == 3
        (tmp_path / sample.video).rename(tmp_path / "film.mp4")


NAMED_BY_ID = ("charades text", "charades dict", "charades windows", "activitynet", "tacos", "tacos in frames", "qvhighlights as a list", "rextime")


@pytest.mark.parametrize("form", [*NAMED_BY_ID, "queryd", "internvid", "timelens dict", "timelens 2"])
def test_an_ending_in_the_id_is_not_doubled(form, tmp_path):
    reader, name, make = FORMS[form]
    samples, _ = read(tmp_path, reader, name, make([("abc.mp4", [("a dog", [5.0, 10.0])])]))
    assert [s.video for s in samples] == ["abc.mp4"]


def test_rows_of_usual_shapes_are_read(tmp_path):
    row = {"video": "a.mp4", "duration": 30, "sentence": "x", "timestamp": [1, 4]}
    assert read(tmp_path, "jsonl", "a.jsonl", [row], columns={"spans": "timestamp"})[0][0].spans == [[1, 4]]
    assert read(tmp_path, "jsonl", "a.json", [row, row], columns={"spans": "timestamp"})[1].kept == 2  # an array where lines are usual
    assert read_rows([{**row, "spans": [[1, 4], [6, 9]]}])[0][0].spans == [[1, 4], [6, 9]]
    (sample,), _ = read(tmp_path, "timer1", "t.json", [{**row, "qid": "charades_0"}])
    assert (sample.qid, sample.source, sample.clip, sample.difficulty) == ("charades_0", "charades", None, None)
    rows = [{**row, "qid": "my|cosmo|a|x", "difficulty": d, "pred": [1, 4]} for d in (100.0, 50.0)]
    samples, report = read(tmp_path, "timer1", "d.json", rows)
    assert [s.difficulty["mean_iou"] for s in samples] == [1.0] and "difficulty is 50.0 %, and the IoU" in report.excluded[0].detail
    (sample,), _ = read(
        tmp_path, "timelens", "2.jsonl", [{"video_id": "a", "annotations": [{"text": "x", "timestamps": [[1, 4], [6, 9]]}]}], durations={"a.mp4": 30}
    )
    assert (sample.video, sample.duration, sample.spans) == ("a.mp4", 30, [[1, 4], [6, 9]])


def test_a_column_that_has_a_name_of_ours_and_another_content_is_ignored_or_refused(tmp_path, capsys):
    text = "video,start,end,sentence,answer,duration\na.mp4,1,4,x,the dog barks,30\n"
    samples, report = read(tmp_path, "csv", "a.csv", text)
    assert [(s.query, s.answer) for s in samples] == [("x", None)] and report.counts() == {"foreign_column/ignored": 1}
    given = ["data", "convert", "--dataset", "csv", "--annotations", str(tmp_path / "b.csv"), "--out", str(tmp_path / "out.jsonl"), "--replace"]
    (tmp_path / "b.csv").write_text("video,start,end,sentence,difficulty,duration\na.mp4,1,4,[music] plays,hard,30\n")
    assert main(given) == 2 and "field 'difficulty'" in capsys.readouterr().err
    assert main([*given, "--columns", "difficulty="]) == 0 and load_samples(tmp_path / "out.jsonl")[0].query == "[music] plays"
    assert main([*given, "--columns", "query="]) == 2 and "needs a column for query" in capsys.readouterr().err


def test_one_query_in_several_rows_is_reported_and_joined_on_request(tmp_path, capsys):
    text = "video,start,end,sentence,duration\na.mp4,1,4,a dog barks,60\na.mp4,30,34, A dog  barks.,60\nb.mp4,1,4,a dog barks,60\na.mp4,1,4,a dog barks,60\n"
    samples, report = read(tmp_path, "csv", "a.csv", text)
    assert len(samples) == 4 and report.before["repeated_query"] == report.before["duplicates"] == 1
    given = ["data", "validate", "--dataset", "csv", "--annotations", str(tmp_path / "a.csv")]
    assert main(given) == 0 and "repeated_query='join' makes one sample" in capsys.readouterr().out
    samples, report = read(tmp_path, "csv", "a.csv", text, repeated_query="join")
    assert [(s.qid, s.spans) for s in samples] == [("a_0", [[1, 4], [30, 34]]), ("b_2", [[1, 4]])]
    assert report.read == 4 == report.kept + report.counts()["repeated_query/joined"]
    assert main([*given, "--repeated-query", "join", "--json"]) == 0 and json.loads(capsys.readouterr().out)["kept"] == 2
    different = [{"video": "a.mp4", "query": "q", "spans": [[i, i + 1]], "duration": d} for i, d in enumerate((60, 60, 61))]
    assert [s.spans for s in read_rows(different, repeated_query="join")[0]] == [[[0, 1], [1, 2]], [[2, 3]]]  # another length is another video


def test_a_video_of_no_length_is_dropped_with_its_reason(tmp_path):
    text = "video,start,end,sentence,duration\na.mp4,1,4,a dog barks,0\nb.mp4,1,4,a cat sleeps,9\n"
    samples, report = read(tmp_path, "csv", "a.csv", text)
    assert [s.video for s in samples] == ["b.mp4"] and report.excluded[0].reason == "missing_duration"
    assert check("csv", tmp_path / "a.csv")[1]["kept"] == 1
    write_jsonl(tmp_path / "s.jsonl", [replace(samples[0], duration=0.0)])
    with pytest.raises(SampleError, match="field 'duration': is 0.0"):
        load_benchmark("samples", tmp_path / "s.jsonl", videos=tmp_path)


@pytest.mark.parametrize("past_end", ["clip", "drop"])
def test_a_query_whose_span_is_behind_the_end_is_excluded_when_spans_are_cut_or_dropped(past_end, tmp_path):
    (tmp_path / "a.csv").write_text("video,start,end,sentence,duration\na.mp4,12,14,a dog barks,10\nb.mp4,1,4,a cat sleeps,9\n")
    assert [s.video for s in load_benchmark("csv", tmp_path / "a.csv", policies={"past_end": past_end})[0]] == ["b.mp4"]


def test_joining_keeps_the_votes_of_annotators(tmp_path):
    "Equal spans within one row are votes of annotators, and all stay. A span that two rows have is kept once."
    votes = {"a": [[2, 2], [2, 2], [0, 0], [2, 2]], "b": [[1, 1], [1, 1]], "c": [[1, 1], [3, 3]]}
    queries = {"a": "a dog barks", "b": "a cat sleeps", "c": "A cat sleeps."}
    records = [{"video": "v.mp4", "description": queries[i], "times": times, "num_segments": 6, "annotation_id": i} for i, times in votes.items()]
    kept, _ = read(tmp_path, "didemo", "a.json", records)
    joined, report = read(tmp_path, "didemo", "a.json", records, repeated_query="join")
    assert joined[0] == kept[0] and target_span(joined[0].spans) == [10, 15]
    assert joined[1].spans == [[5, 10], [5, 10], [15, 20]] and report.counts()["repeated_query/joined"] == 1


@pytest.mark.parametrize(
    "dataset, name, content, said",
    [
        ("samples", "a.jsonl", '[{"qid": "a"}, {"qid": "b"}]', "is one JSON array; write one object per line"),
        ("samples", "a.jsonl", '[\n {"qid": "a"},\n {"qid": "b"}\n]\n', "is one JSON array"),
        ("samples", "a.jsonl.gz", gzip.compress(b'{"qid": "a"}\n', mtime=0), "is a gzip file; unpack it with gunzip"),
        ("tacos", "a.jsonl.gz", gzip.compress(b'{"qid": "a"}\n', mtime=0), "is a gzip file; unpack it with gunzip"),
        ("csv", "a.parquet", b"PAR1xx", "is a parquet file"),
        ("jsonl", "a.jsonl", '{"video": "a.mp4"}\n{"video": "b.mp4"}\n'.encode("utf-16"), "is text in UTF-16, or no text; convert it: iconv"),
        ("samples", "a.jsonl", '{"video": "a.mp4"}\n{"video": "b.mp4"}\n'.encode("utf-16-be"), "is text in UTF-16"),
        ("activitynet", "a.json", '{"a": {"duration": 9}}'.encode("utf-16"), "is text in UTF-16"),
    ],
)
def test_a_file_of_another_kind_is_named(dataset, name, content, said, tmp_path):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    readers = [lambda: read_annotations(tmp_path / name, dataset)]
    if dataset == "samples":
        readers += [lambda: read_samples(tmp_path / name), lambda: read_source(tmp_path / name)]
    for reader in readers:
        with pytest.raises(SampleError) as e:
            reader()
        assert said in str(e.value) and str(tmp_path / name) in str(e.value)


# ---- own paths, and rows that cannot be trained on ----


@pytest.fixture
def root(tmp_path, world) -> Path:
    "A folder of videos with a.mp4 and sub/b.mp4."
    source = sorted((world / "videos").iterdir())
    for name, video in zip(("a.mp4", "sub/b.mp4"), source):
        (tmp_path / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "videos" / name).write_bytes(video.read_bytes())
    return tmp_path / "videos"


@pytest.mark.parametrize(
    "bad, said",
    [
        ("sub\\b.mp4,30,2,5,y,", "is a Windows path"),
        ("C:/sub/b.mp4,30,2,5,y,", "is a Windows path"),
        ("a.mp4,30,2,5,,", "empty_query"),
        ("/abs/b.mp4,30,2,5,y,", "absolute path that is not below the video root"),
        ("../b.mp4,30,2,5,y,", "leaves the video root"),
        ("a.mp4,30,2,5,y,hard", "field 'difficulty'"),
        ("a.mp4,30,2,noon,y,", "end is 'noon'"),
    ],
)
@pytest.mark.parametrize("with_duration", [True, False])
def test_training_stops_at_a_row_it_cannot_use_and_names_it(bad, said, with_duration, root):
    lines = ["video,duration,start,end,sentence,difficulty", "a.mp4,30,1,4,x,", bad]
    if not with_duration:  # then durations come from the videos; the bad row must not count as one whose video is missing
        lines = [",".join(cell for i, cell in enumerate(line.split(",")) if i != 1) for line in lines]
    (root.parent / "mine.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(SampleError) as e:
        read_annotations(root.parent / "mine.csv", "csv", root)
    assert "1 of 2 rows cannot be used (row 3)" in str(e.value) and said in str(e.value) and len(str(e.value).splitlines()) == 1


def test_absolute_paths_below_the_video_root_become_relative(root, tmp_path):
    (tmp_path / "alias").symlink_to(root)
    table = "\n".join(["video,start,end,sentence", f"{root}/a.mp4,1,4,x", f"{tmp_path}/alias/sub/b.mp4,2,5,y", f"{root}/sub/../a.mp4,2,5,z"])
    (tmp_path / "mine.csv").write_text(table + "\n")
    for folder in (root, tmp_path / "alias"):
        found = find_videos(read_annotations(tmp_path / "mine.csv", "csv", folder), folder)
        assert [s.video for s in found] == ["a.mp4", "sub/b.mp4", "a.mp4"] and all(s.duration > 5 for s in found)
    write_jsonl(tmp_path / "own.jsonl", [{"qid": "q", "video": f"{root}/a.mp4", "duration": 9.0, "query": "x", "spans": [[1, 4]]}])
    assert read_annotations(tmp_path / "own.jsonl", video_root=root)[0].video == "a.mp4"
    with pytest.raises(SampleError, match="absolute path that is not below the video root"):
        read_annotations(tmp_path / "own.jsonl", video_root=tmp_path / "elsewhere")
    assert next(iter(read_source(tmp_path / "own.jsonl", video_root=root)[0])).video == "a.mp4"
    assert (
        main(
            [
                "data",
                "convert",
                "--dataset",
                "csv",
                "--annotations",
                str(tmp_path / "mine.csv"),
                "--videos",
                str(root),
                "--out",
                str(tmp_path / "o.jsonl"),
            ]
        )
        == 0
    )
    assert [s.video for s in load_samples(tmp_path / "o.jsonl")] == ["a.mp4", "sub/b.mp4", "a.mp4"]


def test_curation_finds_videos_under_other_names(root, tmp_path):
    (root / "a.mp4").rename(root / "v_AbCdEfGhIjK.mkv")
    content = {"AbCdEfGhIjK": {"timestamps": [[1, 4]], "sentences": ["x"]}, "gone": {"timestamps": [[1, 4]], "sentences": ["y"]}}
    (tmp_path / "train.json").write_text(json.dumps(content))
    (tmp_path / "mine.csv").write_text(f"video,start,end,sentence\n{root}/sub/b.mp4,1,4,z\n")
    entries = [{"path": tmp_path / "train.json", "dataset": "activitynet"}, {"path": tmp_path / "mine.csv", "dataset": "csv"}]
    (tmp_path / "work").mkdir()
    videos = check_videos(entries, root, tmp_path / "work", progress=False)
    collect(entries, tmp_path / "work", None, videos, root)
    assert [s.video for s in iter_samples(tmp_path / "work/candidates.jsonl")] == ["v_AbCdEfGhIjK.mkv", "sub/b.mp4"]


def test_links_of_hugging_faces_cache_are_followed_into_its_own_blobs_only(tmp_path):
    hub = tmp_path / "hub"
    blobs, snapshot = hub / "datasets--a--b/blobs", hub / "datasets--a--b/snapshots/9e1/videos"
    for folder in (blobs, snapshot, hub / "datasets--c--d/blobs", tmp_path / "evil/snapshots/1"):
        folder.mkdir(parents=True)
    for file in (blobs / "5f3c", hub / "datasets--c--d/blobs/77", tmp_path / "secret"):
        file.write_bytes(b"x")
    (snapshot / "v.mp4").symlink_to("../../../blobs/5f3c")
    for folder in (snapshot, snapshot.parent):
        name = os.path.relpath(snapshot / "v.mp4", folder)
        assert video_path(folder, name) == folder / name and video_file(folder, name) == name
    (tmp_path / "alias").symlink_to(snapshot)  # the root may be a link into the cache
    assert video_path(tmp_path / "alias", "v.mp4")
    (blobs / "out").symlink_to(tmp_path / "secret")
    (tmp_path / "evil/blobs").symlink_to(tmp_path)
    refused = {
        snapshot / "other.mp4": "../../../../datasets--c--d/blobs/77",  # of another repository
        snapshot / "file.mp4": tmp_path / "secret",
        snapshot / "chain.mp4": "../../../blobs/out",  # a blob that is a link itself
        tmp_path / "evil/snapshots/1/v.mp4": "../../blobs/secret",  # `blobs` is a link
    }
    for link, target in refused.items():
        link.symlink_to(target)
        with pytest.raises(VideoError, match="outside the video root"):
            video_path(link.parent, link.name)


# ---- precomputed answers ----


def precomputed(folder: Path, **teacher: Any) -> list[Sample]:
    write_jsonl(folder / "pool.jsonl", [Sample("row 7", "a.mp4", 30.0, "x", [[2.0, 8.0]], "mine", teacher=teacher)])
    return list(answered(folder / "pool.jsonl", CurationParams(teacher="precomputed")))


def test_the_span_and_iou_of_a_precomputed_answer_come_from_its_response(tmp_path):
    (sample,) = precomputed(tmp_path, response="<think>w</think><time>2 to 8</time>")
    assert sample.teacher == {"model": "", "response": "<think>w</think><time>2 to 8</time>", "span": [2.0, 8.0], "iou": 1.0, "usage": None}
    (sample,) = precomputed(tmp_path, model="x", response="<think>w</think><time>[2, 6]</time>", span=[2, 6], iou=0.67, usage=None)
    assert sample.teacher["iou"] == pytest.approx(2 / 3)
    (sample,) = precomputed(tmp_path, response="no idea", span=None, iou=0)
    assert sample.teacher["span"] is None and sample.teacher["iou"] == 0


@pytest.mark.parametrize(
    "teacher, said",
    [
        (dict(response="<think>w</think><time>11 to 13</time>", span=[11, 13], iou=0.95), "iou is 0.95, and that of the response"),
        (dict(response="<think>w</think><time>2 to 8</time>", iou=95), "iou is 95, a tIoU is between 0 and 1 and not in percent"),
        (dict(response="<think>w</think><time>2 to 8</time>", iou=100.0), "not in percent"),
        (dict(response="<think>w</think><time>2 to 8</time>", iou="0.9"), "iou is '0.9'"),
        (dict(response="<think>w</think><time>2 to 8</time>", span=[2, 9]), "span is [2, 9], and the response says [2.0, 8.0]"),
        (dict(response="no idea", span=[2, 8]), "the response says None"),
        (dict(span=[2, 8], iou=1.0), "response is None; give the teacher's text"),
    ],
)
def test_a_stored_value_that_disagrees_is_an_error_that_names_the_row(teacher, said, tmp_path):
    with pytest.raises(SampleError) as e:
        precomputed(tmp_path, **teacher)
    assert "sample 'row 7' of mine, field 'teacher'" in str(e.value) and said in str(e.value)


# ---- the overlap guard: training videos that are also test videos, under any name ----


def test_the_guard_catches_a_cut_a_prefix_and_a_camera(tmp_path):
    (tmp_path / "test.json").write_text(
        json.dumps({vid: {"duration": 9, "timestamps": [[1, 2]], "sentences": ["x"]} for vid in ("AbCdEfGhIjK.mp4", "s13-d21")})
    )
    guard = overlap_guard([("activitynet", tmp_path / "test.json", None)])
    caught = ["AbCdEfGhIjK_35_79.mp4", "video-AbCdEfGhIjK.mp4", "v_AbCdEfGhIjK.mkv", "s13-d21-cam-002.mp4", "A title-AbCdEfGhIjK.mp4"]
    caught += ["AbCdEfGhIjK.f137.mp4", "AbCdEfGhIjK.f137-1.mp4", "AbCdEfGhIjK_360p.mkv", "AbCdEfGhIjK-1080p.webm", "v_AbCdEfGhIjK_360p.mp4"]
    caught += ["A title [AbCdEfGhIjK].f248.webm", "A title-AbCdEfGhIjK.f137.mp4", "a-b-AbCdEfGhIjK_720p.ogv"]
    free = ["AbCdEfGhIjL_35_79.mp4", "video-2.mp4", "s13-d22-cam-002.mp4", "s13-d2.mp4", "AbCdEfGhIjK2.mp4", "A titleAbCdEfGhIjK.mp4"]
    free += ["AbCdEfGhIjK.f.mp4", "AbCdEfGhIjK_36p0.mp4", "AbCdEfGhIjK_7p.mp4"]
    assert [guard(Sample("q", video, 9.0, "y", [[1.0, 2.0]])) for video in caught] == ["same source as activitynet"] * len(caught)
    assert [guard(Sample("q", video, 9.0, "y", [[1.0, 2.0]])) for video in free] == [""] * len(free)
    assert {guard(Sample("q", f"AbCdEfGhIjK.{ending}", 9.0, "y", [[1.0, 2.0]])) for ending in VIDEO_ENDINGS} == {"same video as activitynet"}
    for words in ("home-recording01", "kitchen_001_720p", "a-very-longer-words"):
        assert source_id(f"{words}.mp4") == words


PUBLISHED = [
    ("charades_sta", "charades_sta/charades_sta_train.txt", ""),
    ("charades_sta", "charades_sta/charades_sta_test.txt", ""),
    ("activitynet", "activitynet_captions/val_1.json", ""),
    ("rextime", "rextime/rextime_test_release.json", ""),
    ("qvhighlights", "qvhighlights/highlight_val_release.jsonl", ""),
    ("qvhighlights", "qvhighlights/highlight_test_release.jsonl", ""),
    ("tacos", "tacos/tacos_val_release.jsonl", ""),
    ("tacos", "tacos/tacos_test_release.jsonl", ""),
    ("didemo", "didemo/val_data.json", ""),
    ("didemo", "didemo/test_data.json", ""),
    ("hirest", "hirest/all_data_train.json", ""),
    ("hirest", "hirest/all_data_test.json", ""),
    ("timer1", "timer1/train_2k5.json", ""),
    ("tvgbench", "tvgbench/tvgbench.json", ""),
    ("timelens", "timelens_100k/timelens-100k_over180_1137_format2.jsonl", ""),
]


@pytest.mark.shared
def test_published_names_merge_only_where_they_are_one_video(shared):
    "899 groups of names become one source each: cuts of one YouTube video, `v_`, and Flickr photos that DiDeMo and VidOR share."
    from vtg_r1.data.readers import dataset_rows, video_id

    annotations = shared / "data/annotations"
    names = set(json.loads((annotations / "nextgqa/map_vid_vidorID.json").read_text()))
    for reader, file, split in PUBLISHED:
        names |= {video_id(row["video"]) for row in dataset_rows(reader, annotations / file, split) if "problem" not in row}
    groups: dict[str, set[str]] = {}
    for name in names:
        groups.setdefault(source_id(name), set()).add(name)
    merged = {source: found for source, found in groups.items() if len(found) > 1}
    flickr = {source for source in merged if source.isdigit()}
    assert len(flickr) == 38
    for source, found in merged.items():
        if source in flickr:  # the photo's number is the middle of DiDeMo's name, and the whole of VidOR's
            assert all(source in name.split("_") for name in found)
        else:  # the first eleven characters are the YouTube id
            assert len(source) == 11 and {name.removeprefix("v_")[:11] for name in found} == {source}
    assert len(merged) == 899
    assert all(source_id(name) == name for name in names if len(name) == 5)  # Charades
