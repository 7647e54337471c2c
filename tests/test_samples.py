"The record `Sample`: a bad one is refused with its field and a reason, and costs no other record of its file."

import dataclasses
import json

import pytest

from vtg_r1.core.samples import RepeatedKey, Sample, SampleError, from_dict, iter_jsonl, load_samples, parse_json, read_samples, validate, write_jsonl

GOOD = Sample("q1", "a/v.mp4", 30.0, "a person eats.", [[2.0, 9.5]])

BAD = [
    ({"spans": [[9.5, 2.0]]}, "spans", "inverted"),
    ({"spans": [[2.0, 2.0]]}, "spans", "zero_length"),
    ({"spans": [[-1.0, 2.0]]}, "spans", "negative_start"),
    ({"spans": [[2.0, 31.0]]}, "spans", "past_end"),
    ({"spans": [[5.0, 6.0], [1.0, 2.0]]}, "spans", "unsorted"),
    ({"spans": None}, "spans", "no_span"),
    ({"spans": [[2.0]]}, "spans", "malformed_span"),
    ({"spans": [[2.0, float("nan")]]}, "spans", "malformed_span"),
    ({"spans": [["2", "3"]]}, "spans", "malformed_span"),
    ({"query": "  "}, "query", "empty_query"),
    ({"query": None}, "query", "empty_query"),
    ({"qid": 7}, "qid", "empty_qid"),
    ({"duration": 0}, "duration", "missing_duration"),
    ({"duration": None}, "duration", "missing_duration"),
    ({"duration": True}, "duration", "missing_duration"),
    ({"video": "/etc/passwd"}, "video", "unsafe_video"),
    ({"video": "../v.mp4"}, "video", "unsafe_video"),
    ({"video": "https://x/v.mp4"}, "video", "unsafe_video"),
    ({"clip": [4.0, 1.0]}, "clip", "inverted"),
    ({"options": ["only one"]}, "options", "bad_options"),
    ({"options": ["a", "b"], "answer": "C"}, "answer", "bad_answer"),
    ({"difficulty": {"ious": [50], "mean_iou": 50}}, "difficulty", "bad_difficulty"),
    ({"difficulty": {"mean_iou": 50.0}}, "difficulty", "bad_difficulty"),
    ({"difficulty": {"ious": [0.5, 0.7], "mean_iou": 0.1}}, "difficulty", "bad_difficulty"),
    ({"difficulty": {"mean_iou": "hard"}}, "difficulty", "bad_difficulty"),
    ({"difficulty": {"mean_iou": None, "ious": [0.5]}}, "difficulty", "bad_difficulty"),
    ({"difficulty": {"ious": [], "mean_iou": 0.5}}, "difficulty", "bad_difficulty"),
    ({"difficulty": {"ious": "0.5"}}, "difficulty", "bad_difficulty"),
    ({"difficulty": {"ious": [0.5, True]}}, "difficulty", "bad_difficulty"),
    ({"difficulty": {"ious": [-0.1], "mean_iou": -0.1}}, "difficulty", "bad_difficulty"),
    ({"difficulty": {"pass_rate": 100}}, "difficulty", "bad_difficulty"),
    ({"query": "a" * 100_001}, "query", "too_long"),
    ({"teacher": {"response": "a" * 2**21}}, "record", "too_long"),
]


@pytest.mark.parametrize("change,field,reason", BAD, ids=lambda x: json.dumps(x, default=str)[:40])
def test_a_bad_record_names_sample_field_and_reason(change, field, reason):
    with pytest.raises(SampleError) as e:
        validate(dataclasses.replace(GOOD, **change))
    assert (e.value.field, e.value.reason) == (field, reason) and f"sample {change.get('qid', 'q1')!r}, field '{field}'" in str(e.value)


def test_difficulty_as_the_stage_writes_it_is_valid():
    ious = [1 / 3, 2 / 3, 1.0, 0.12345678]
    stored = {"policy": "p", "ious": [round(t, 4) for t in ious], "mean_iou": sum(ious) / 4, "pass_rate": 0.5, "consensus": None}
    assert validate(dataclasses.replace(GOOD, difficulty=stored)).difficulty == stored
    for other in ({}, {"policy": "p"}, {"mean_iou": 0.3}, {"ious": [0]}, {"note": "hard"}):
        assert validate(dataclasses.replace(GOOD, difficulty=other))


@pytest.mark.parametrize("change,field", [({"span": []}, "span"), ({"Query": "x"}, "Query")])
def test_unknown_keys_are_errors(change, field):
    with pytest.raises(SampleError, match=f"'{field}'.*not a field"):
        from_dict({**GOOD.to_dict(), **change})


@pytest.mark.parametrize("key", ["qid", "video", "duration", "query", "spans"])
def test_missing_keys_are_errors(key):
    with pytest.raises(SampleError, match=f"field '{key}': is missing"):
        from_dict({k: v for k, v in GOOD.to_dict().items() if k != key})


def test_bad_lines_cost_no_other_line(tmp_path):
    path = tmp_path / "s.jsonl"
    good = [json.dumps({**GOOD.to_dict(), "qid": f"g{i}"}).encode() for i in range(6)]
    inverted = json.dumps({**GOOD.to_dict(), "qid": "x", "spans": [[3, 1]]}).encode()
    bad = [b"{", b"[1]", b"\xff\xfe", inverted, good[0]]  # the last one repeats a qid
    path.write_bytes(b"\n".join(line for pair in zip(good, [*bad, b""]) for line in pair))
    samples, report = read_samples(path)
    assert [s.qid for s in samples] == [f"g{i}" for i in range(6)]
    assert [f.line for f in report.dropped] == [2, 4, 6, 8, 10] and all(str(path) in f.detail for f in report.dropped)
    with pytest.raises(SampleError, match="5 of 11 samples are not valid"):
        load_samples(path)


def test_a_key_that_an_object_has_twice_costs_only_its_line(tmp_path):
    path = tmp_path / "a.jsonl"
    row = '{"qid": "QID", "video": "v.mp4", "duration": 9.0, "query": "q", "spans": [[1.0, 2.0]]}'
    inner = row.replace('"q",', '"q", "difficulty": {"mean_iou": 0.5, "mean_iou": 0.1},')
    path.write_text("\n".join([row, row[:-1] + ', "spans": [[3.0, 4.0]]}', inner, row.replace("QID", "r")]))
    samples, report = read_samples(path)
    assert [s.qid for s in samples] == ["QID", "r"] and report.read == 4
    details = [finding.detail for finding in report.dropped]
    assert "a.jsonl, line 2: not JSON: key 'spans' is twice in one object; merge or rename the two" in details[0] and "key 'mean_iou'" in details[1]
    assert [type(value) for _, value in iter_jsonl(path)] == [dict, RepeatedKey, RepeatedKey, dict]


def test_json_is_read_in_every_unicode_encoding_and_broken_json_is_an_error():
    text = '{"a": ["é", {"b": 1e3}], "c": null}'
    assert all(parse_json(text.encode(encoding)) == json.loads(text) for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32"))
    for broken in (b"", b"{", b'{"a": 1} 2', b"\xff\xfe\x00"):
        with pytest.raises(ValueError):
            parse_json(broken)
    keys = ", ".join(f'"{i}": 0' for i in range(50_000))  # comparing each key with all others would take minutes
    with pytest.raises(RepeatedKey, match="key '7' is twice"):
        parse_json(f'{{{keys}, "7": 1}}'.encode())


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "s.jsonl"
    write_jsonl(path, [GOOD])
    before = path.read_bytes()
    with pytest.raises(ValueError):
        write_jsonl(path, [GOOD, {"x": float("nan")}])
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["s.jsonl"]
