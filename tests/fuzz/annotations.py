"""Every reader on damaged annotation files: mutated records and mutated bytes. A file must give valid samples and a report, or a `SampleError`."""

import copy
import csv
import io
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path

from vtg_r1.core.samples import SampleError, from_dict, load_samples, read_samples, write_jsonl
from vtg_r1.data.readers import READERS, read_dataset
from vtg_r1.data.validation import quality, quality_text

LINE = {"qid": "a", "query": "a dog barks", "duration": 9.0, "vid": "v1", "relevant_windows": [[1, 2], [3, 4]]}
CAPTIONS = {
    "v1": {"duration": 9.0, "timestamps": [[1, 2], [3, 4]], "sentences": ["a dog barks", "a cat sits"]},
    "v2": {"duration": 5.0, "timestamps": [[0, 5]], "sentences": ["rain"]},
}
SAMPLE = {
    "qid": "a",
    "video": "a/v.mp4",
    "duration": 9.0,
    "query": "a dog barks",
    "spans": [[1.0, 2.0]],
    "options": ["x", "y"],
    "answer": "A",
    "clip": [0, 5],
}
TALK = {
    "question_id": "7",
    "video_id": "v1",
    "video_file": "x/v1.mp4",
    "duration": 9,
    "conversation": [{"from": "human", "value": "<image>\nWhen?"}, {"from": "gpt", "value": "From <1.0> to <4.0>."}],
}
URL = {"video_url": {"url": "/a/v1.mp4", "processed_video_length": 90, "processed_fps": 10}}
TURNS = {"messages": [{"role": "user", "content": [URL, {"text": "find it\nplease"}]}, {"role": "assistant", "content": "1.0 - 2.0"}]}
FORMS = [  # reader, file name, content: an excerpt of every published form
    ("charades_sta", "charades_sta_test.txt", "v1 0.0 6.9##a person is putting a book on a shelf.\nv2 1.0 2.5##a dog barks.\n"),
    ("charades_sta", "a.json", CAPTIONS),
    ("charades_sta", "a.jsonl", [LINE]),
    ("charades_sta", "b.json", {"annotations": [{"image_id": "x/v1.mp4", "caption": "a dog", "timestamp": [1, 2], "id": 3}]}),
    ("activitynet", "a.json", CAPTIONS),
    ("queryd", "a.json", CAPTIONS),
    ("qvhighlights", "a.jsonl", [LINE, {**LINE, "qid": "b"}]),
    ("tacos", "a.jsonl", [LINE]),
    ("rextime", "a.jsonl", [LINE]),
    (
        "nextgqa",
        "a.json",
        [{"id": "1", "video": "x/v1.mp4", "question": "why?", "options": ["(A) x", "(B) y"], "answer": "(A)", "glue": [[1, 2]], "duration": 9}],
    ),
    ("rextime", "a.json", [{"qid": 1, "vid": "v1", "duration": 9, "question": "why?", "options": ["x", "y"], "span": [1, 2], "ans": "A"}]),
    ("didemo", "a.json", [{"video": "v1.mp4", "description": "a dog", "times": [[0, 1], [1, 1]], "num_segments": 6, "annotation_id": 4}]),
    (
        "hirest",
        "a.json",
        {"make tea": {"v1.mp4": {"clip": True, "v_duration": 9, "bounds": [1, 4], "steps": [{"heading": "boil", "absolute_bounds": [1, 2]}]}}},
    ),
    ("hirest", "b.json", [{"video": "x/v1.mp4", "QA": [{"q": "When is 'a dog' seen?", "a": "From 1.0 to 2.0 seconds"}]}]),
    ("timeit", "a.json", [{"video": "x/v1.mp4", "QA": [{"q": "Localize the steps.", "a": "1.0 - 2.0 seconds, a dog.  3.0 - 4.0 seconds, 2 cats."}]}]),
    ("charades_timelens", "a.json", {"v1": {"duration": 9.0, "spans": [[1, 2]], "queries": ["a dog"]}}),
    ("activitynet_timelens", "a.jsonl", [{"video_id": "v1", "duration": 9, "annotations": [{"text": "q", "timestamps": [[1, 2]]}]}]),
    ("qvhighlights_timelens", "a.jsonl", [{"video_path": "c/v1.mp4", "duration": 9, "query": "q", "span": [1, 2]}]),
    ("tacos", "a.json", {"s1-d1.avi": {"timestamps": [[10, 20]], "sentences": ["a dog"], "num_frames": 90, "fps": 10.0}}),
    ("internvid_vtime", "a.jsonl", [{"vid": "v1", "duration": 9, "query": "a dog", "span": [1, 2]}]),
    ("grounded_videollm", "a.json", [TALK]),
    (
        "timer1",
        "a.json",
        [
            {
                "video": "x/v1.mp4",
                "duration": 9,
                "timestamp": [1, 2],
                "sentence": "a dog",
                "qid": "a|cosmo|1",
                "video_start": 0,
                "video_end": 9,
                "difficulty": 30,
            }
        ],
    ),
    ("tvgbench", "a.json", [{"path": "x/v1.mp4", "question": "a dog", "answer": "1.0-2.0", "start": 0, "end": 9, "duration": 9}]),
    ("timelens", "a.json", {"v1": {"duration": 9.0, "spans": [[1, 2]], "queries": ["a dog"]}}),
    ("timelens", "a.jsonl", [{"video_path": "c/v1.mp4", "duration": 9, "events": [{"query": "q", "span": [[1, 2]]}]}]),
    ("timelens", "b.jsonl", [TURNS]),
    (
        "tvg_r1",
        "a.json",
        [
            {
                "dataset": "tacos",
                "video": "./t/s1.mp4",
                "problem": "When?",
                "choices": ["A. x", "B. y"],
                "ground_truth": "(A)",
                "gt_frame": [2, 5],
                "video_length": 9.0,
            }
        ],
    ),
    ("tvg_r1", "a.jsonl", [{"dataset": "tacos", "video": "t/s1.mp4", "problem": "When?", "gt_frame": [2, 5], "video_length": 9.0}]),
    ("jsonl", "a.jsonl", [SAMPLE]),
    (
        "csv",
        "a.csv",
        [{"video": "v.mp4", "query": "a dog", "start": 1, "end": 2, "duration": 9, "spans": "", "options": '["x", "y"]', "answer": "A"}],
    ),
]
EVIL = [
    None,
    True,
    -1,
    0,
    1e308,
    5e-324,
    float("nan"),
    float("inf"),
    10**400,
    -(10**30),
    "",
    " ",
    "x" * 20_000,
    "../../etc/passwd",
    "/etc/passwd",
    "http://127.0.0.1:9/y.mp4",
    "file:///etc/passwd",
    "a\0b",
    "\ud800",
    "a\nb\r",
    "c:\\windows",
    "~/x",
    "$(touch pwned)",
    "'; rm -rf x; '",
    "1e5",
    "٣",
    "<script>alert(1)</script>",
    "__import__('os')",
    "{0.__class__}",
    "%s%n",
    [],
    {},
    [[]],
    [[1]],
    [[1, 2, 3]],
    [["1", "2"]],
    {"a": {"b": []}},
    [[[[[[[[[1]]]]]]]]],
    list(range(1000)),
    [None, None],
    [float("nan"), 1],
    [5, 1],
    [1, 1],
    [-3, 2],
    [1, 10**400],
]


def nodes(tree, path=()) -> Iterator[tuple]:
    "Paths to every node of a JSON tree."
    yield path
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        yield from nodes(value, (*path, key))


def mutated(tree, rng: random.Random):
    "A JSON tree with one to three nodes replaced, removed, renamed, repeated or put into a list."
    tree = [copy.deepcopy(tree)]  # so that the top may be replaced too
    for _ in range(rng.choice((1, 1, 2, 3))):
        *way, key = rng.choice([p for p in nodes(tree) if p])
        at = tree
        for step in way:
            at = at[step]
        what = rng.randrange(6)
        if what == 0:
            del at[key]
        elif what == 1 and isinstance(at, dict):
            at[rng.choice(("", "a\0", "qid", "x" * 3000, "../up"))] = at.pop(key)
        elif what == 2 and isinstance(at, list):
            at.insert(key, copy.deepcopy(at[key]))
        elif what == 3:
            at[key] = [at[key]]
        else:
            at[key] = copy.deepcopy(rng.choice(EVIL))
        if not tree:
            tree = [None]
    return tree[0]


def as_file(name: str, tree) -> bytes:
    "A tree in the format of its file name's ending."
    if isinstance(tree, str):
        return tree.encode("utf-8", "surrogatepass")
    if name.endswith(".jsonl"):
        return "\n".join(json.dumps(row) for row in (tree if isinstance(tree, list) else [tree])).encode()
    if not name.endswith(".csv"):
        return json.dumps(tree).encode()
    out, rows = io.StringIO(), [r for r in (tree if isinstance(tree, list) else [tree]) if isinstance(r, dict)] or [{"": ""}]
    writer = csv.DictWriter(out, list(dict.fromkeys(map(str, (k for r in rows for k in r)))), extrasaction="ignore")
    writer.writeheader()
    for row in rows:
        writer.writerow({str(k): v for k, v in row.items()})
    return out.getvalue().encode("utf-8", "surrogatepass")


def garbled(data: bytes, rng: random.Random) -> bytes:
    "Bytes flipped, cut, doubled, or peppered with what parsers stumble over."
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 3, 10))):
        at = rng.randrange(len(out) + 1)
        what = rng.randrange(4)
        if what == 0 and out:
            out[at % len(out)] = rng.randrange(256)
        elif what == 1:
            del out[at : at + rng.randrange(1, 20)]
        elif what == 2:
            out[at:at] = rng.choice(
                (
                    b"\0",
                    b"\xff\xfe",
                    b"\n",
                    b'"',
                    b"[" * 2000,
                    b"{",
                    b",",
                    b"##",
                    b"1e999",
                    b"NaN",
                    b"\\ud800",
                    b"\xe2\x80\xa8",
                    b"-",
                    b"9" * 5000,
                    b"\r",
                )
            )
        else:
            out[at:at] = out[at : at + rng.randrange(1, 60)]
    return bytes(out)


def cases(rounds: int, seed: int = 0) -> Iterator[tuple[str, str, bytes]]:
    "(reader, file name, content): each excerpt as published, then `rounds` mutations of its tree and of its bytes."
    rng = random.Random(seed)
    for name, file, tree in FORMS:
        yield name, file, as_file(file, tree)
        for _ in range(rounds):
            yield (
                name,
                file,
                as_file(
                    file,
                    mutated(tree, rng)
                    if not isinstance(tree, str)
                    else tree.replace(rng.choice(("v1", "0.0", "6.9", "##", " ", ".")), str(rng.choice(EVIL))[:3000]),
                ),
            )
            yield name, file, garbled(as_file(file, tree), rng)


def examine(name: str, path: Path, seconds: float = 2.0) -> str:
    "What a reader makes of a file; an AssertionError where it breaks its promises."
    start = time.process_time()
    try:
        samples, report = read_dataset(name, path, past_end="clip", zero_length="drop")
    except SampleError as e:
        assert len(str(e)) < 3000, f"a message of {len(str(e))} characters"
        assert time.process_time() - start < seconds, "slow"
        return "refused"
    for s in samples:
        assert from_dict(s.to_dict()) == s and not Path(s.video).is_absolute() and ".." not in Path(s.video).parts and "://" not in s.video, s.video
    assert report.read == report.kept + len(report.excluded) and report.kept == len(samples), "lost a query, or counted one twice"
    found = quality(samples, report)
    assert len(json.dumps(found)) < 10**6 and len(quality_text(found, report)) < 10**5 and json.loads(json.dumps(found))
    write_jsonl(path.with_suffix(".kept"), samples)
    assert not samples or load_samples(path.with_suffix(".kept")) == samples
    assert time.process_time() - start < seconds, "slow"
    return "read" if samples else "nothing kept"


def examine_samples(path: Path) -> str:
    "The same for this project's own form."
    try:
        samples, report = read_samples(path)
    except SampleError:
        return "refused"
    assert report.read == len(samples) + len(report.dropped) and all(len(f.detail) < 3000 for f in report.dropped)
    return "read" if samples else "nothing kept"


assert {name for name, *_ in FORMS} == set(READERS), "FORMS needs an excerpt for each reader"
