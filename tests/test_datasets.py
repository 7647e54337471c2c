"Readers, policies and `vtg-r1 data check`: the published files with their measured quirks, and small hostile ones."

import csv
import json
import os
import pickle
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vtg_r1.cli import main
from vtg_r1.core.samples import Report, Sample, SampleError, from_dict, load_samples, read_samples, write_jsonl
from vtg_r1.curation import read_source
from vtg_r1.data.readers import READERS, iter_rows, read_dataset, read_rows
from vtg_r1.data.sources import find_videos, read_annotations
from vtg_r1.data.toyworld import write_video
from vtg_r1.data.validation import read_with_videos, video_file
from vtg_r1.runs.run import read_manifest, start_run
from vtg_r1.train.stage_data import stage_samples

SHARED = os.environ.get("VTG_R1_SHARED")
shared = pytest.mark.skipif(not SHARED, reason="set VTG_R1_SHARED to the folder that holds data/annotations and data/videos")
FILES = Path(SHARED or ".") / "data" / "annotations"

# name, file, split, read, kept under the default policies, counts as published; the numbers of ../shared/data/README.md where it gives them
REAL = [
    ("charades_sta", "charades_sta/charades_sta_train.txt", None, 12408, 12404, dict(inverted=4, double_space=33)),
    ("charades_sta", "charades_sta/charades_sta_test.txt", None, 3720, 3720, dict(past_end=562, inverted=0, duplicates=0, double_space=9)),
    ("charades_sta", "charades_sta/charades_test.json", None, 3720, 3720, dict(past_end=562)),
    ("charades_sta", "charades_sta/charades_test_release.jsonl", None, 3720, 3720, dict(past_end=0)),
    ("charades_sta", "charades_sta/charades_train_release.jsonl", None, 12404, 12404, dict(past_end=0, inverted=0)),
    ("charades_sta", "charades_sta/timechat_example_gt_file.json", None, 3720, 3720, dict(past_end=562)),
    ("activitynet", "activitynet_captions/val_1.json", None, 17505, 17505, dict(past_end=134, outer_space=11639, newline=2)),
    ("activitynet", "activitynet_captions/val_2.json", None, 17031, 17031, dict(past_end=111, outer_space=11483, newline=3)),
    ("activitynet", "activitynet_captions/test.json", None, 17031, 17031, dict(past_end=111)),
    ("nextgqa", "nextgqa", "test", 5553, 5553, dict(multi_span=591, past_end=0, negative_start=36)),
    ("nextgqa", "nextgqa", "val", 3358, 3358, dict(multi_span=339, past_end=3)),
    ("nextgqa", "nextgqa/nextgqa_test.json", None, 5553, 5553, dict(multi_span=591, past_end=0)),
    ("rextime", "rextime/rextime_val.json", None, 921, 919, dict(zero_length=2, past_end=4)),
    ("rextime", "rextime/rextime_val.jsonl", None, 921, 919, dict(zero_length=2, past_end=4)),
    ("rextime", "rextime/rextime_test_release.json", None, 2143, 0, dict(zero_length=2143)),
    ("qvhighlights", "qvhighlights/highlight_val_release.jsonl", None, 1550, 1550, dict(multi_span=530)),
    ("qvhighlights", "qvhighlights/highlight_test_release.jsonl", None, 1542, 0, {}),
    ("tacos", "tacos/tacos_val_release.jsonl", None, 4436, 4436, dict(multi_span=0)),
    ("tacos", "tacos/tacos_test_release.jsonl", None, 4001, 4001, dict(multi_span=0)),
    ("didemo", "didemo/val_data.json", None, 4180, 4180, {}),
    ("didemo", "didemo/test_data.json", None, 4021, 4021, {}),
    ("hirest", "hirest/all_data_train.json", None, 1507, 864, dict(zero_length=1)),  # 865 moments, one of no length
    ("hirest", "hirest/all_data_val.json", None, 477, 193, {}),
    ("hirest", "hirest/all_data_test.json", None, 1391, 0, {}),
    ("hirest", "hirest/all_data_test_negative_samples.json", None, 2891, 0, {}),
    ("hirest", "timeit/instruct_tvg_0.5k_hirest.json", None, 459, 0, dict(missing_duration=459)),
    ("timer1", "timer1/train_2k5.json", None, 2500, 2500, dict(past_end=48)),
    ("tvgbench", "tvgbench/tvgbench.json", None, 800, 789, dict(zero_length=11, past_end=27)),
    ("timelens", "timelens_100k/timelens-100k_over180_1137_format2.jsonl", None, 5679, 5679, dict(multi_span=0)),
]
FIRST = {name: (file, split) for name, file, split, *_ in reversed(REAL)}  # the first file of each format


def marked(row: tuple) -> tuple:
    "The row; a format's files after the first are tested only in the `long` run."
    return row if FIRST[row[0]] == row[1:3] else pytest.param(*row, marks=pytest.mark.long)


@shared
@pytest.mark.shared
@pytest.mark.parametrize("name, file, split, read, kept, before", REAL, ids=[f"{n}-{f}-{s or ''}" for n, f, s, *_ in REAL])
def test_a_published_file_has_its_known_counts(name, file, split, read, kept, before):
    samples, report = read_dataset(name, FILES / file, split)
    assert (report.read, report.kept, len(samples)) == (read, kept, kept)
    assert {k: report.before[k] for k in before} == before
    assert len({s.qid for s in samples}) == kept
    assert report.read == kept + len(report.excluded)


@shared
@pytest.mark.shared
@pytest.mark.parametrize("name, file, split", [marked((n, f, s)) for n, f, s, _, kept, _ in REAL if kept], ids=lambda v: str(v))
def test_training_policies_give_valid_samples(name, file, split, tmp_path):
    samples, _ = read_dataset(name, FILES / file, split, past_end="clip", missing_duration="drop")
    samples = samples[:: max(1, len(samples) // 2000)]  # about two thousand, over the whole file
    write_jsonl(tmp_path / "s.jsonl", samples)
    assert load_samples(tmp_path / "s.jsonl") == samples


@shared
@pytest.mark.shared
def test_charades_forms_agree():
    text = read_dataset("charades_sta", FILES / "charades_sta/charades_sta_test.txt")[0]
    nested = read_dataset("charades_sta", FILES / "charades_sta/charades_test.json")[0]
    timechat = read_dataset("charades_sta", FILES / "charades_sta/timechat_example_gt_file.json")[0]
    clipped = read_dataset("charades_sta", FILES / "charades_sta/charades_sta_test.txt", past_end="clip")[0]
    lighthouse = read_dataset("charades_sta", FILES / "charades_sta/charades_test_release.jsonl")[0]
    assert text == nested and text[1663].qid.endswith("_1663")
    same = [(s.video, s.query, s.spans, s.duration) for s in text]
    assert [(s.video, s.query, s.spans, s.duration) for s in timechat] == same and timechat[7].qid == "7"
    assert [(s.video, s.query, s.spans) for s in clipped] == [(s.video, s.query, s.spans) for s in lighthouse]


@shared
@pytest.mark.shared
def test_nextgqa_forms_agree():
    folder = {s.qid: s for s in read_dataset("nextgqa", FILES / "nextgqa")[0]}
    single = {s.qid: s for s in read_dataset("nextgqa", FILES / "nextgqa/nextgqa_test.json")[0]}
    assert folder.keys() == single.keys()
    differ = [q for q in folder if (folder[q].spans, folder[q].video, folder[q].query) != (single[q].spans, single[q].video, single[q].query)]
    letters = [q for q in folder if folder[q].answer != single[q].answer]
    assert differ == [] and set(letters) <= {"3842638015_4"}  # the one question whose answer stands in two options


@shared
@pytest.mark.shared
def test_published_files_of_the_less_regular_formats_have_these_details():
    didemo = {s.qid: s for s in read_dataset("didemo", FILES / "didemo/val_data.json")[0]}
    assert didemo["49152"].spans == [[0.0, 5.0], [5.0, 10.0], [5.0, 10.0], [5.0, 10.0]] and didemo["49152"].duration == 30.0
    tvgbench = read_dataset("tvgbench", FILES / "tvgbench/tvgbench.json")[0]
    assert sum(s.clip is not None for s in tvgbench) == 252 - 11  # 11 of the queries on clips have no length and are dropped
    steps = read_dataset("hirest", FILES / "hirest/all_data_train.json", steps=True)[1]
    assert steps.read == 4145
    timer1 = read_dataset("timer1", FILES / "timer1/train_2k5.json")[0]
    sources = [s.source for s in timer1]
    assert {n: sources.count(n) for n in set(sources)} == {
        "cosmo": 801,
        "yt-temporal": 764,
        "internvid-vtime": 571,
        "didemo": 237,
        "howto100m": 94,
        "queryd": 33,
    }
    assert all(0 < s.difficulty["mean_iou"] <= 1 for s in timer1)
    timeit = read_dataset("hirest", FILES / "timeit/instruct_tvg_0.5k_hirest.json", durations=FILES / "hirest/all_data_train.json")
    assert timeit[1].kept == 459 and timeit[0][0].query == "Make a Plaster Mask" and timeit[0][0].spans == [[35.0, 79.0]]


@shared
@pytest.mark.shared
@pytest.mark.parametrize("name, file, split, read, kept, before", [marked(row) for row in REAL], ids=[f"{n}-{f}-{s or ''}" for n, f, s, *_ in REAL])
def test_data_check_prints_these_counts_as_json(name, file, split, read, kept, before, capsys):
    assert main(["data", "check", "--dataset", name, "--annotations", str(FILES / file), "--json", *(["--split", split] if split else [])]) == 0
    found = json.loads(capsys.readouterr().out)
    keys = ("read", "kept", "past_end", "inverted", "zero_length", "multi_span", "empty_query", "duplicates")
    assert all(type(found[k]) is int for k in keys) and (found["read"], found["kept"]) == (read, kept)
    assert {k: found.get(k, 0) for k in before} == before
    samples = read_dataset(name, FILES / file, split)[0]
    spans = sorted(end - start for s in samples for start, end in s.spans)
    assert found["span_s"]["n"] == len(spans) == found["span_share"]["n"]
    assert found["duration_s"]["n"] == len({(s.video, tuple(s.clip or ())) for s in samples})
    if spans:
        assert [found["span_s"][k] for k in ("min", "max")] == pytest.approx([spans[0], spans[-1]], abs=6e-4)
        assert (
            sum(span <= found["span_s"]["median"] + 6e-4 for span in spans)
            >= len(spans) / 2
            <= sum(span >= found["span_s"]["median"] - 6e-4 for span in spans)
        )


@shared
@pytest.mark.shared
def test_data_check_opens_the_videos(capsys):
    assert (
        main(
            [
                "data",
                "check",
                "--dataset",
                "charades_sta",
                "--annotations",
                str(FILES / "charades_sta/charades_sta_test.txt"),
                "--videos",
                str(FILES.parent / "videos"),
                "--json",
            ]
        )
        == 0
    )
    videos = json.loads(capsys.readouterr().out)["videos"]
    assert (videos["named"], videos["readable"], len(videos["missing"]), videos["unreadable"]) == (1334, 2, 1332, {})


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe\x00rubbish", b"{}", b"[]", b"[1, 2]", b'{"a": 3}', b"hello\nworld\n", b'{"a": {"duration": "long"}}\n', b"[" * 20000]
)
def test_a_wrong_file_is_one_clear_error(name, content, tmp_path, capsys):
    for ending in ("jsonl", "json", "txt"):
        file = tmp_path / f"x.{ending}"
        file.write_bytes(content)
        assert main(["data", "check", "--dataset", name, "--annotations", str(file)]) == 2
        err = capsys.readouterr().err
        assert str(file) in err and len(err.splitlines()) == 1


@pytest.mark.parametrize(
    "dataset, name, options, problem",
    [
        ("tacos", "none.jsonl", (), "none.jsonl: no such file"),
        ("tacos", ".", (), "is a folder, tacos is read from a file"),
        ("nextgqa", ".", (), "has no test.csv; give the folder"),
        ("csv", "a.csv", ("--columns", "queri=q"), "'queri' is no column of a sample"),
        ("csv", "a.csv", ("--columns", "query"), "--columns 'query': write FIELD=COLUMN"),
        ("csv", "a.csv", ("--columns", "query=caption"), "no column 'caption' for query"),
    ],
)
def test_a_missing_file_a_wrong_folder_or_a_wrong_column_is_one_clear_error(dataset, name, options, problem, tmp_path, capsys):
    (tmp_path / "a.csv").write_text("video,query,start,end,duration\na.mp4,q,1,2,9\n")
    assert main(["data", "check", "--dataset", dataset, "--annotations", str(tmp_path / name), *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert problem in line


def rows(**changes):
    return [{"qid": "a", "video": "v.mp4", "duration": 10.0, "query": "a dog barks", "start": 1.0, "end": 4.0, **changes}]


@pytest.mark.parametrize(
    "change, policy, spans, finding",
    [
        (dict(end=12.0), {}, [[1.0, 12.0]], "past_end/kept"),
        (dict(end=12.0), dict(past_end="clip"), [[1.0, 10.0]], "past_end/clipped"),
        (dict(end=12.0), dict(past_end="drop"), None, "past_end/dropped"),
        (dict(start=11.0, end=12.0), dict(past_end="clip"), None, "start_past_end/dropped"),
        (dict(start=4.0, end=1.0), {}, None, "inverted/dropped"),
        (dict(start=4.0, end=1.0), dict(inverted="swap"), [[1.0, 4.0]], "inverted/swapped"),
        (dict(start=12.0, end=1.0), dict(inverted="swap", past_end="clip"), [[1.0, 10.0]], "past_end/clipped"),
        (dict(start=4.0), {}, None, "zero_length/dropped"),
        (dict(start=4.0), dict(zero_length="keep"), [[4.0, 4.0]], "zero_length/kept"),
        (dict(start=-0.5), {}, [[-0.5, 4.0]], "negative_start/kept"),
        (dict(start=-0.5), dict(past_end="clip"), [[0.0, 4.0]], "negative_start/clipped"),
        (dict(start=-0.5), dict(past_end="drop"), [[0.0, 4.0]], "negative_start/clipped"),
        (dict(duration=None), {}, None, "missing_duration/dropped"),
        (dict(duration=None), dict(missing_duration="last_end"), [[1.0, 4.0]], "missing_duration/guessed"),
        (dict(query="  "), {}, None, "empty_query/dropped"),
        (dict(query=None), {}, None, "empty_query/dropped"),
        (dict(query=" a dog\nbarks "), {}, [[1.0, 4.0]], "untidy_query/tidied"),
        (dict(video="../../etc/passwd"), {}, None, "unsafe_video/dropped"),
        (dict(start=None), {}, None, "malformed_span/dropped"),
        (dict(end=float("nan")), {}, None, "malformed_span/dropped"),
        (dict(end=10**400), {}, None, "malformed_span/dropped"),
        (dict(start=-5.0, end=-1.0), dict(past_end="clip"), None, "before_start/dropped"),
        (dict(start=-5.0, end=0.0), dict(zero_length="keep"), None, "before_start/dropped"),
        (dict(start=0.0, end=0.0), dict(zero_length="keep"), [[0.0, 0.0]], "zero_length/kept"),
        (dict(query="a dog \ud83d"), {}, None, "bad_text/dropped"),
    ],
)
def test_a_policy_keeps_changes_or_drops_a_row_and_is_counted(change, policy, spans, finding):
    samples, report = read_rows(rows(**change), **policy)
    assert [s.spans for s in samples] == ([spans] if spans else [])
    assert finding in report.counts()
    assert report.kept == len(samples) and report.read == 1
    assert {f.qid for f in report.findings} == {"a"}


def test_lists_in_csv_cells_byte_order_marks_and_durations_as_text_are_read(tmp_path):
    (tmp_path / "a.csv").write_text(
        '\ufeffvideo,query,spans,duration,options,answer\na.mp4,q,"[[1, 2], [3, 4]]",9,"[""x"", ""y""]",B\n', encoding="utf-8"
    )
    (sample,) = read_dataset("csv", tmp_path / "a.csv")[0]
    assert sample.spans == [[1, 2], [3, 4]] and sample.options == ["x", "y"] and sample.answer == "B"
    (tmp_path / "b.txt").write_text("\ufeffAO8RW 0.0 6.9##a person is putting a book on a shelf.\n", encoding="utf-8")
    (tmp_path / "d.json").write_text('{"AO8RW": "33.67"}')
    (sample,) = read_dataset("charades_sta", tmp_path / "b.txt", durations=tmp_path / "d.json")[0]
    assert sample.video == "AO8RW.mp4" and sample.duration == 33.67


def test_a_row_with_a_lone_surrogate_is_excluded_and_reported(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"qid": "\\ud800", "video": "a.mp4", "duration": 9, "query": "q", "spans": [[1, 2]]}\n')
    samples, report = read_samples(tmp_path / "a.jsonl")
    assert samples == [] and report.dropped[0].reason == "bad_text"
    assert main(["data", "check", "--dataset", "jsonl", "--annotations", str(tmp_path / "a.jsonl"), "--json"]) == 0


def test_own_rows_have_paths_below_the_video_root(tmp_path):
    "`read_rows` also takes repeated_query='join', which needs all rows at once; `iter_rows`, which gives one after the other, refuses it and names `read_rows`."
    given = dict(columns=None, video_root=tmp_path, repeated_query="join")
    absolute = rows(video=str(tmp_path / "kitchen/a.mp4"))
    assert [s.video for s in read_rows(absolute, **given)[0]] == ["kitchen/a.mp4"]
    with pytest.raises(SampleError, match="read them with read_rows"):
        iter_rows(absolute, Report(""), **given)


def test_a_qid_made_unique_is_not_one_that_the_file_has_itself():
    found, report = read_rows([row for qid in ("a", "a#2", "a", "a#2", "a") for row in rows(qid=qid)])
    assert [s.qid for s in found] == ["a", "a#2", "a#3", "a#2#2", "a#4"] and report.counts()["duplicate_qid/renamed"] == 3


def test_policy_names_are_checked():
    with pytest.raises(ValueError, match="past_end"):
        read_rows(rows(), past_end="crop")


def test_a_bad_record_costs_no_other_record(tmp_path, capsys):
    (tmp_path / "tacos_test.jsonl").write_text(
        '{"qid": "a", "query": "q", "duration": 9, "vid": "v", "relevant_windows": [[1, 2]]}\n{"qid": "b", broken\n\n{"qid": "c", "query": "q"}\n'
        '{"qid": "a", "query": "r", "duration": 9, "vid": "v", "relevant_windows": [[1, 2]]}\n'
    )
    samples, report = read_dataset("tacos", tmp_path / "tacos_test.jsonl")
    assert [s.qid for s in samples] == ["a", "a#2"] and report.read == 4
    assert sorted((f.line, f.reason) for f in report.findings) == [(2, "malformed"), (4, "malformed"), (5, "duplicate_qid")]
    assert str(tmp_path / "tacos_test.jsonl") + ", record 2" in report.dropped[0].detail
    assert main(["data", "check", "--dataset", "tacos", "--annotations", str(tmp_path / "tacos_test.jsonl")]) == 0
    assert "record 4" in capsys.readouterr().out


def test_columns_are_named_as_the_table_writes_them(tmp_path, capsys):
    "A heading may differ from a field of ours only in its case (Clip, Query). A heading that no option names is found in any case."
    table = tmp_path / "mine.csv"
    table.write_text("Clip;From;To;Query;Duration\na.mp4;22,3;33,0;she eats;40\n", encoding="utf-8-sig")
    sample = read_dataset("csv", table, columns={"video": "Clip", "start": "From", "end": "To"})[0][0]
    assert (sample.video, sample.spans, sample.query, sample.clip) == ("a.mp4", [[22.3, 33.0]], "she eats", None)
    sample = read_dataset("csv", table, columns={"video": "clip", "start": "From", "end": "To", "query": "Query"})[0][0]
    assert (sample.video, sample.query) == ("a.mp4", "she eats")
    assert main(["data", "validate", "--dataset", "csv", "--annotations", str(table)]) == 2
    error = capsys.readouterr().err
    assert "['Clip', 'From', 'To', 'Query', 'Duration']" in error and "--columns video=" in error, (
        "the message must show the table's own headings and the option"
    )


def test_own_columns_of_a_csv_and_of_a_hugging_face_dataset_give_the_same_sample(tmp_path):
    datasets = pytest.importorskip("datasets")
    table = [{"clip": "a/b.mp4", "text": "a dog barks", "from": 1.0, "to": 4.0, "len": 10.0}]
    names = dict(video="clip", query="text", start="from", end="to", duration="len")
    with open(tmp_path / "t.csv", "w", newline="") as f:
        writer = csv.DictWriter(f, table[0])
        writer.writeheader()
        writer.writerows(table)
    from_csv = read_dataset("csv", tmp_path / "t.csv", columns=names)[0]
    from_hub = read_rows(datasets.Dataset.from_list(table), names, source="csv")[0]
    assert from_csv == from_hub == [Sample("b_0", "a/b.mp4", 10.0, "a dog barks", [[1.0, 4.0]], "csv")]


@pytest.mark.parametrize(
    "text",
    [
        "video,start,end,sentence\nkitchen/a.mp4,3.5,65,she cracks an egg\n",
        "\ufeffVideo; Start;END ;Sentence\r\nkitchen/a.mp4;0:03.5; 1:05 ;she cracks an egg\r\n",
        'start\tend\tvideo\tcaption\n3.5\t00:01:05\tkitchen/a.mp4\t"she cracks\n an egg"\n',
        "video|start|end|sentence||\nkitchen/a.mp4|3.5|1:05|she cracks an egg||\n",
        "sentence, video , start, end\nshe cracks an egg, kitchen/a.mp4 , 3.5, 65\n",
        ',video,start,end,sentence\n0,kitchen/a.mp4,3.5,65,"she cracks\nan egg"\n',
    ],
)
def test_a_table_is_read_with_any_separator_heading_and_time_format(text, tmp_path):
    (tmp_path / "mine.csv").write_text(text, newline="")
    assert read_dataset("csv", tmp_path / "mine.csv", durations={"kitchen/a.mp4": 70.0})[0] == [
        Sample("a_0", "kitchen/a.mp4", 70.0, "she cracks an egg", [[3.5, 65.0]], "csv")
    ]


OWN = "video,start,end,sentence,duration\n"


@pytest.mark.parametrize(
    "content, said",
    [
        (
            OWN + "a.mp4,1,4,she cracks an egg, then whisks it,9\n",
            "line 2: 6 cells, 5 columns; a text that holds ',' has to be in quotation marks",
        ),
        (OWN + '\na.mp4,1,4,"two\nlines",9\na.mp4,1,4,one, two,9\n', "line 5: 6 cells"),
        (OWN + 'a.mp4,1,2,"she whisks,9\nb.mp4,1,2,he,9\n', "after line 1"),
        ("video,start,end,start,sentence\na.mp4,1,4,2,she\n", "column 'start' is twice"),
        ("a.mp4,1,4,she cracks an egg\nb.mp4,2,3,she whisks it\n", "its first line, which names the columns, is ['a.mp4'"),
        ("video,Start (s),end,sentence\na.mp4,1,4,she\n", "no column 'start' for start"),
        (OWN + 'a.mp4,1,2,"she,9\nb.mp4,1,2,he,9\n"c.mp4,1,2,they,9\n', "after line 1"),
        (OWN + 'a.mp4,1,2,"she whisks,9\nb.mp4,1,2,he",9\nc.mp4,1,2,they,9\n', "line 2: a cell holds what looks like another row, 'b.mp4,1,2,he"),
        ('video,start,end,sentence\n\na.mp4,1,2,"x\nb.mp4,1,2,y\nc.mp4,1,2,z"\n', "line 3: a cell holds what looks like another row"),
        ("video,start,end,sentence,,\na.mp4,1,4,x,,\nb.mp4,1,4,a dog, running,\n", "line 3: 6 cells, 4 columns"),
        ('video,sentence,start,end\na.mp4,"x,1,4\nb.mp4,y",2,5\n', "line 2: a cell holds what looks like another row, 'b.mp4,y"),
        ("", "the file is empty"),
        ((OWN + "a.mp4,1,2,caf\u00e9,9\n").encode("cp1252"), "save it as CSV UTF-8"),
        ((OWN + "a.mp4,1,2,caf\u00e9,9\n").encode("utf-16-le"), "no UTF-8 text"),
        (b"PK\x03\x04\x14\x00", "is a workbook (xlsx) or zip file"),
    ],
)
def test_a_table_that_reads_wrong_is_one_error(content, said, tmp_path, capsys):
    (tmp_path / "mine.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert main(["data", "check", "--dataset", "csv", "--annotations", str(tmp_path / "mine.csv")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(tmp_path / "mine.csv") in line and said in line


@pytest.mark.parametrize(
    "columns, cells, seconds",
    [
        (("start_ms", "end_ms", "duration"), (1500, 3500, 30), (1.5, 3.5, 30)),
        (("startMs", "endms", "duration_ms"), (1500, 3500, 30000), (1.5, 3.5, 30)),
        (("start_us", "endUs", "duration_ns"), (1_500_000, 3_500_000, 30 * 10**9), (1.5, 3.5, 30)),
        (("Start (min)", "End (min)", "length in hours"), (1.5, 2, 0.5), (90, 120, 1800)),
        (("start_frame", "end_frame", "num_frames"), (60, 90, 900), (2, 3, 30)),
        (("start_idx", "end_idx", "duration_sec"), (60, 90, 30), (2, 3, 30)),
        (("t_min", "t_max", "duration"), (2, 3, 30), (2, 3, 30)),
        (("timeframe_start", "timeframe_end", "seconds"), (2, 3, 30), (2, 3, 30)),
    ],
)
def test_the_name_of_a_column_may_give_the_unit(columns, cells, seconds, tmp_path):
    given = dict(zip(("start", "end", "duration"), columns))
    row = {"video": "a.mp4", "sentence": "x", "fps": 30, **dict(zip(columns, cells))}
    (tmp_path / "mine.csv").write_text(",".join(row) + "\n" + ",".join(map(str, row.values())) + "\n")
    spans = {"video": "a.mp4", "sentence": "x", "fps": 30, columns[0].replace("tart", "pans"): [list(cells[:2])], columns[2]: cells[2]}
    of_spans = {"spans": columns[0].replace("tart", "pans"), "duration": columns[2]}
    found = [read_dataset("csv", tmp_path / "mine.csv", columns=given), read_rows([row], given)]
    if "max" not in columns[1]:  # beside t_max, t_min is no unit; a column t_min alone would be in minutes
        found.append(read_rows([spans], of_spans))
    for (sample,), _ in found:
        assert [*sample.spans[0], sample.duration] == list(seconds)


@pytest.mark.parametrize(
    "name, cell, said",
    [
        ("start_ms", "0:05", "start is '0:05', a clock time, and column 'start_ms' names another unit"),
        ("start_pct", 10, "column 'start_pct' holds shares of the video"),
        ("start_norm", 0.1, "column 'start_norm' holds shares of the video"),
        ("start_idx", 10, "column 'start_idx' holds frames, and fps is None: give a column fps"),
    ],
)
def test_a_unit_that_cannot_be_read_costs_the_row(name, cell, said):
    rows = [{"video": "a.mp4", "query": q, name: c, "start": 1, "end": 4, "duration": 9} for q, c in (("x", cell), ("y", None))]
    report = read_rows([*rows, {**rows[0], name: 1, "fps": 1}], {"start": name})[1]
    assert said in report.dropped[0].detail


def test_rows_as_pandas_gives_them_are_read(tmp_path):
    "In them a missing value is NaN, and numbers are NumPy's."
    nan = float("nan")
    rows = [
        {"qid": nan, "video": "a.mp4", "duration": np.float32(30), "query": "x", "spans": np.array([[1.0, 4.0]]), "source": nan, "answer": nan},
        {"qid": "b", "video": "a.mp4", "duration": 30, "query": "y", "spans": [np.array([1, 4])], "split": nan, "options": nan},
        {"qid": "c", "video": "a.mp4", "duration": np.int64(30), "query": "z", "spans": nan, "start": np.int64(1), "end": np.float64(4), "clip": nan},
    ]
    samples, report = read_rows(rows)
    assert [s.qid for s in samples] == ["a_0", "b", "c"] and not report.findings
    assert all(s.spans == [[1, 4]] and s.duration == 30 and (s.source, s.split, s.clip, s.options) == ("own", "", None, None) for s in samples)
    write_jsonl(tmp_path / "s.jsonl", samples)
    assert load_samples(tmp_path / "s.jsonl") == samples
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(rows).convert_dtypes().to_dict("records")  # pandas' own NA
    assert read_rows(table)[0] == samples


def test_spans_of_an_own_table_are_read_in_any_usual_form(tmp_path):
    forms = [[["0:05", "0:10"]], ["5", "10,0"], [{"start": 5, "end": "0:10"}], {"start": 5, "end": 10}, '[["0:05", 10]]', " [5, 10] "]
    samples, report = read_rows([{"video": "a.mp4", "query": f"q{i}", "spans": spans, "duration": 30} for i, spans in enumerate(forms)])
    assert [s.spans for s in samples] == [[[5, 10]]] * len(forms) and not report.findings
    report = read_rows([{"video": "a.mp4", "query": "q", "spans": [[1, 4], ["noon", 9]], "duration": 30}])[1]
    assert "[[1, 4], ['noon', 9]]; give each span as [start, end] in seconds" in report.dropped[0].detail and report.kept == 1
    text = '{"video": "a.mp4", "query": "q", "spans": "{\\"start\\": 5, \\"start\\": 6, \\"end\\": 10}", "duration": 30}\n'
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(SampleError, match="key 'start' is twice in one object"):
        read_dataset("jsonl", tmp_path / "a.jsonl")


def test_a_sentence_of_several_lines_with_commas_is_not_taken_for_rows(tmp_path):
    sentence = "she cracks an egg,\n1, 2, or 3\nwhisks, fries, eats, it\na, 1, b, c"
    for names in (("video", "start", "end", "sentence", "duration"), ("video", "sentence", "start", "end", "duration")):
        row = {"video": "a.mp4", "start": 1, "end": 4, "sentence": sentence, "duration": 9}
        with open(tmp_path / "mine.csv", "w", newline="") as f:
            csv.writer(f).writerows([names, [row[name] for name in names]])
        assert [s.query for s in read_dataset("csv", tmp_path / "mine.csv")[0]] == [" ".join(sentence.split())]


def test_a_short_row_of_a_table_says_what_it_lacks(tmp_path):
    (tmp_path / "mine.csv").write_text("video,start,end,sentence,duration\na.mp4,1,4,x,30\nb.mp4,1\n")
    samples, report = read_dataset("csv", tmp_path / "mine.csv")
    assert len(samples) == 1
    assert "the row has no 'query' or 'sentence' or 'caption' for query, only ['video', 'start']: fill it" in report.dropped[0].detail


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_table_is_read_as_spreadsheets_write_it(encoding, tmp_path):
    "Excel's first line, decimal commas, empty rows and a last empty column, in the encodings that say what they are."
    text = "sep=;\r\n\r\nvideo;start;end;sentence;duration;\r\na.mp4;3,5;0:01:02,5;caf\u00e9, then tea;70;\r\n;;;;;\r\n"
    (tmp_path / "mine.csv").write_bytes(text.encode(encoding))
    samples, report = read_dataset("csv", tmp_path / "mine.csv")
    assert samples == [Sample("a_0", "a.mp4", 70.0, "caf\u00e9, then tea", [[3.5, 62.5]], "csv")] and not report.findings


@pytest.mark.parametrize("cell", ["1,234", "0:99", "00:00:01:15", "4 s", "4.500,0", "noon"])
def test_a_cell_that_is_no_time_costs_its_row_and_says_so(cell, tmp_path):
    (tmp_path / "mine.csv").write_text(f'{OWN}a.mp4,1,"{cell}",she,2000\na.mp4,1,2,he,2000\n')
    samples, report = read_dataset("csv", tmp_path / "mine.csv")
    assert [s.query for s in samples] == ["he"] and f"record 2: ValueError: end is {cell!r}: write seconds" in report.dropped[0].detail


def test_an_option_that_names_a_missing_column_is_an_error(tmp_path):
    (tmp_path / "mine.csv").write_text("video,start,end,sentence\na.mp4,1,2,she whisks it\n")
    with pytest.raises(SampleError, match="no column 'what' for query"):
        read_dataset("csv", tmp_path / "mine.csv", columns={"query": "what"})


@pytest.fixture
def two_kitchens(tmp_path):
    "A table without durations; its two videos have one name in two folders, and different lengths."
    for name, n in (("a/v", 5), ("b/v", 9)):
        (tmp_path / "videos" / name).parent.mkdir(parents=True)
        write_video(tmp_path / "videos" / f"{name}.mp4", np.zeros((n, 28, 28, 3), np.uint8), 1)
    (tmp_path / "mine.csv").write_text("video,start,end,sentence\na/v.mp4,1,2,one\nb/v,3,99,two\n")
    return tmp_path


def test_durations_come_from_the_videos(two_kitchens, capsys):
    samples, report, probed = read_with_videos("csv", two_kitchens / "mine.csv", two_kitchens / "videos", workers=1, past_end="clip")
    assert [(s.duration, s.spans) for s in samples] == [(5.0, [[1.0, 2.0]]), (9.0, [[3.0, 9.0]])] and not probed["missing"]
    assert main(["data", "check", "--dataset", "csv", "--annotations", str(two_kitchens / "mine.csv"), "--videos", str(two_kitchens / "videos")]) == 0
    assert "2 named, 2 readable, 0 missing, 0 unreadable, 0 off by" in capsys.readouterr().out
    assert main(["data", "check", "--dataset", "csv", "--annotations", str(two_kitchens / "mine.csv"), "--videos", str(two_kitchens / "none")]) == 2
    assert "no such folder of videos" in capsys.readouterr().err


def test_check_names_videos_that_are_missing_or_of_another_length(two_kitchens, capsys):
    (two_kitchens / "said.csv").write_text(
        "video,start,end,sentence,duration\na/v.mp4,1,2,one,50\n" + "".join(f"gone{i}.mp4,1,2,x,9\n" for i in range(6))
    )
    assert main(["data", "check", "--dataset", "csv", "--annotations", str(two_kitchens / "said.csv"), "--videos", str(two_kitchens / "videos")]) == 0
    out = capsys.readouterr().out
    assert (
        "  gone0.mp4: no such file\n" in out
        and "gone5" not in out
        and "… and 1 more" in out
        and "  a/v.mp4: is 50 s long in the file, 5 s in fact" in out
    )


def test_a_video_is_found_however_its_accents_are_written(tmp_path):
    "A spreadsheet writes é as one character, a folder copied from macOS as two."
    for form, other in (("NFC", "NFD"), ("NFD", "NFC")):
        root = tmp_path / form
        root.mkdir()
        (root / unicodedata.normalize(form, "\u00e9t\u00e9.mp4")).touch()
        found = video_file(root, unicodedata.normalize(other, "\u00e9t\u00e9"))
        assert found == unicodedata.normalize(form, "\u00e9t\u00e9.mp4") and (root / found).is_file()


def test_a_stage_measures_the_durations_that_a_table_lacks(two_kitchens):
    found = find_videos(read_annotations(str(two_kitchens / "mine.csv"), "csv", two_kitchens / "videos"), two_kitchens / "videos")
    assert [(s.video, s.duration) for s in found] == [("a/v.mp4", 5.0), ("b/v.mp4", 9.0)]
    with pytest.raises(SampleError, match="none of its 2 records"):
        read_annotations(str(two_kitchens / "mine.csv"), "csv")


@pytest.mark.parametrize("start, said", [("noon", "start is 'noon': write seconds"), ("", r"\[\[None, 2.0\]\]")])
def test_a_row_of_an_own_table_that_cannot_be_read_stops_training(start, said, tmp_path):
    (tmp_path / "mine.csv").write_text(f"{OWN}a.mp4,1,2,she,9\nb.mp4,{start},2,he,9\nc.mp4,3,2,backwards,9\n")
    with pytest.raises(SampleError, match=rf"1 of 3 rows cannot be used \(row 3\), e.g. record 3: .*{said}"):
        read_annotations(str(tmp_path / "mine.csv"), "csv")
    (tmp_path / "mine.csv").write_text(f"{OWN}a.mp4,1,2,she,9\nc.mp4,3,2,backwards,9\n")
    # an inverted span can be read: a policy drops the row, and training does not stop
    assert [s.query for s in read_annotations(str(tmp_path / "mine.csv"), "csv")] == ["she"]


def test_a_row_that_cannot_be_measured_is_an_error_or_is_counted(two_kitchens, capsys):
    "A row has no duration, and no video in which to measure it. It must not leave the training set without a word."
    (two_kitchens / "videos/broken.mp4").write_bytes(b"no video")
    with open(two_kitchens / "mine.csv", "a") as f:
        f.write("c/gone.mp4,1,2,three\nbroken.mp4,1,2,four\n")
    given = {"annotations": str(two_kitchens / "mine.csv"), "dataset": "csv", "video_root": two_kitchens / "videos"}
    with pytest.raises(SampleError, match=r"2 of 4 rows have no duration.*c/gone\.mp4; unreadable: broken\.mp4.*video_root.*missing_videos='skip'"):
        read_annotations(**given)
    assert [s.query for s in read_annotations(**given, missing_videos="skip")] == ["one", "two"]
    assert "2  missing_duration/dropped" in capsys.readouterr().out
    run = start_run("sft", "", {}, two_kitchens / "outputs")
    samples, _ = stage_samples(run, given["annotations"], "", "csv", str(given["video_root"]), "skip")
    assert len(samples) == 2 and read_manifest(run.path)["excluded"] == {"missing_videos 'skip'": 2}
    held_out = start_run("sft", "held out", {}, two_kitchens / "outputs")
    stage_samples(held_out, given["annotations"], "", "csv", str(given["video_root"]), "skip", role="eval_annotations")
    manifest = read_manifest(held_out.path)
    assert manifest["eval_excluded"] == {"missing_videos 'skip'": 2} and "excluded" not in manifest


def video(path, n):
    "A video of so many seconds."
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, np.zeros((n, 28, 28, 3), np.uint8), 1)


def test_the_video_of_a_query_without_spans_is_measured_too(tmp_path):
    "HiREST's negatives: no spans, so no last end to guess from, and no duration in the file."
    (tmp_path / "all_data_test.json").write_text(json.dumps({"Make Soup": {}}))
    negatives = tmp_path / "all_data_test_negative_samples.json"
    negatives.write_text(json.dumps({f"negative video_{i}": {f"n{i}.mp4": {}} for i in range(2)}))
    video(tmp_path / "videos/n0.mp4", 7)
    samples, report, probed = read_with_videos("hirest", negatives, tmp_path / "videos", workers=1, absent="keep")
    assert [(s.video, s.duration, s.spans) for s in samples] == [("n0.mp4", 7.0, [])] and probed["missing"] == ["n1.mp4"]
    assert "1 queries have no duration in the file; theirs were measured in the videos" in report.notes
    given = {"annotations": [{"path": str(negatives), "dataset": "hirest", "absent": "keep"}], "video_root": tmp_path / "videos"}
    assert [s.duration for s in read_annotations(**given, missing_videos="skip")] == [7.0]
    assert read_with_videos("hirest", negatives, tmp_path / "videos", workers=1)[2]["named"] == 0, "a query that is dropped anyway opens no video"


@pytest.mark.parametrize("durations", [(9.0, 30.0, 12.0), (30.0, 9.5), (9.0, 9.9)], ids=str)
def test_of_several_durations_of_a_video_the_one_furthest_off_is_reported(durations, two_kitchens):
    "Whichever row has it."
    rows = [{"video": "b/v.mp4", "query": f"q{i}", "spans": [[1, 2]], "duration": d} for i, d in enumerate(durations)]
    (two_kitchens / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    probed = read_with_videos("jsonl", two_kitchens / "rows.jsonl", two_kitchens / "videos", workers=1)[2]
    assert probed["off_by_more_than_1s"] == ({"b/v.mp4": [30.0, 9.0]} if 30.0 in durations else {})


def test_the_duration_of_a_query_on_a_clip_is_the_clips(two_kitchens):
    "Times of a clip count from its start, so its duration is end minus start, not the file's length. A clip that ends after its file is cut to the file."
    rows = [
        {"video": "b/v.mp4", "query": "inside", "spans": [[1, 2]], "clip": [2, 6]},
        {"video": "b/v.mp4", "query": "to the end", "spans": [[1, 9]], "clip": [5, 20]},
        {"video": "b/v.mp4", "query": "the whole file", "spans": [[1, 9]]},
        {"video": "b/v.mp4", "query": "behind the end", "spans": [[1, 2]], "clip": [10, 12]},
        {"video": "a/v.mp4", "query": "another", "spans": [[1, 2]], "clip": [1, 3], "duration": 2},
    ]
    table = two_kitchens / "clips.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows[:3] + rows[4:]))
    expected = [(4.0, [[1, 2]]), (4.0, [[1, 4.0]]), (9.0, [[1, 9]]), (2, [[1, 2]])]
    samples, _, probed = read_with_videos("jsonl", table, two_kitchens / "videos", workers=1, past_end="clip")
    assert [(s.duration, s.spans) for s in samples] == expected and not probed["off_by_more_than_1s"]
    samples, _ = read_dataset("jsonl", table, past_end="clip", durations={"b/v.mp4": 9.0})
    assert [(s.duration, s.spans) for s in samples] == expected
    samples, _ = read_dataset("jsonl", table, missing_duration="last_end")
    assert [s.duration for s in samples] == [2, 9, 9, 2], "a guess is the last end in the same clip"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = read_dataset("jsonl", table, durations={"b/v.mp4": 9.0})[1]
    assert [(f.reason, f.detail) for f in report.excluded] == [("clip_past_end", "clip [10, 12] begins after the end of the video, 9 s")]
    with pytest.raises(SampleError, match=r"1 of 5 rows cannot be used \(row 4\).*clip \[10, 12\] begins after the end"):
        read_annotations(str(table), "jsonl", two_kitchens / "videos")


def test_training_measures_or_guesses_durations_that_a_format_never_has(tmp_path, capsys):
    "Charades-STA's text has no durations. They are measured in the videos that are there; the others are guessed, and the output says how many."
    text = tmp_path / "charades_sta_train.txt"
    text.write_text(
        "AAAAA 1.0 2.0##a person eats.\nAAAAA 2.0 4.0##a person drinks.\nGONE1 1.0 3.0##a person leaves.\nAAAAA 9.0 12.0##a person sits.\n"
    )
    video(tmp_path / "videos/AAAAA.mp4", 10)
    samples = read_annotations(str(text), "charades_sta", tmp_path / "videos", "skip")
    assert [(s.duration, s.spans[0][1]) for s in samples] == [(10.0, 2.0), (10.0, 4.0), (3.0, 3.0), (10.0, 10.0)]
    assert "1 durations are guessed: the last published end in the video" in capsys.readouterr().out
    assert [s.duration for s in read_annotations(str(text), "charades_sta")] == [12.0, 12.0, 3.0, 12.0]
    assert "4 durations are guessed" in capsys.readouterr().out
    (tmp_path / "charades_train.json").write_text(json.dumps({"AAAAA": {"duration": 10.4}}))  # a published duration is preferred
    samples = read_annotations(str(text), "charades_sta", tmp_path / "videos", "skip")
    assert [s.duration for s in samples] == [10.4, 10.4, 3.0, 10.4]
    samples, report, _ = read_with_videos("charades_sta", text, tmp_path / "videos", workers=1)
    assert [s.duration for s in samples] == [10.4, 10.4, 3.0, 10.4] and report.counts()["missing_duration/guessed"] == 1


def test_durations_that_a_file_of_durations_lacks_are_measured(tmp_path):
    (tmp_path / "mine.csv").write_text("video,start,end,sentence\na.mp4,1,2,one\nb.mp4,3,4,two\n")
    (tmp_path / "d.json").write_text('{"a.mp4": 5.5}')
    for name in ("a", "b"):
        video(tmp_path / f"videos/{name}.mp4", 9)
    samples, report, _ = read_with_videos("csv", tmp_path / "mine.csv", tmp_path / "videos", workers=1, durations=tmp_path / "d.json")
    assert [s.duration for s in samples] == [5.5, 9.0]
    assert [note.rpartition("theirs ")[2] for note in report.notes] == [f"come from {tmp_path / 'd.json'}", "were measured in the videos"]


@pytest.mark.parametrize(
    "name, content",
    [
        ("d.json", '{"a.mp4": "30.5", "b": "0:30"}'),
        ("d.json", '{"version": "1.3 of 2016", "database": {"a": {"duration": "30.5", "url": "x"}, "b": {"duration": 30}}}'),
        ("d.jsonl", '{"video": "a.mp4", "duration": "30,5"}\n{"vid": "b", "duration": 30}\n'),
    ],
)
def test_a_file_of_durations_may_write_them_as_text(name, content, tmp_path):
    (tmp_path / "mine.csv").write_text("video,start,end,sentence\na.mp4,1,2,one\nb.mp4,3,4,two\n")
    (tmp_path / name).write_text(content)
    assert [s.duration for s in read_dataset("csv", tmp_path / "mine.csv", durations=tmp_path / name)[0]] == [30.5, 30]


@pytest.mark.parametrize(
    "content, said",
    [
        ('{"a.mp4": 9, "b.mp4": "half a minute"}', "the duration of 'b.mp4' is 'half a minute': write seconds such as 3.5"),
        ('{"a.mp4": {"duration": "30 s"}}', "the duration of 'a.mp4' is '30 s': write seconds"),
        ('{"a.mp4": [9]}', "no duration can be read; give a JSON dict"),
        ("{}", "no duration can be read"),
    ],
)
def test_a_file_of_durations_that_cannot_be_read_is_an_error(content, said, tmp_path):
    (tmp_path / "mine.csv").write_text("video,start,end,sentence\na.mp4,1,2,one\nb.mp4,3,4,two\n")
    (tmp_path / "d.json").write_text(content)
    with pytest.raises(SampleError) as e:
        read_dataset("csv", tmp_path / "mine.csv", durations=tmp_path / "d.json")
    assert str(tmp_path / "d.json") in str(e.value) and said in str(e.value)


def test_a_file_of_durations_may_name_two_videos_of_one_name(two_kitchens):
    (two_kitchens / "d.json").write_text('{"a/v.mp4": 5, "b/v.mp4": 9}')
    (two_kitchens / "full.csv").write_text("video,start,end,sentence\na/v.mp4,1,2,one\nb/v.mp4,3,4,two\nc/v.mp4,3,4,three\n")
    samples, report = read_dataset("csv", two_kitchens / "full.csv", durations=two_kitchens / "d.json")
    # the length of c/v.mp4 is unknown: the file has two videos named v.mp4
    assert [(s.video, s.duration) for s in samples] == [("a/v.mp4", 5), ("b/v.mp4", 9)]
    assert [f.reason for f in report.excluded] == ["missing_duration"]


def test_an_option_that_our_own_samples_have_no_use_for_is_refused(tmp_path):
    write_jsonl(tmp_path / "s.jsonl", [Sample("a", "a.mp4", 9.0, "she", [[1.0, 2.0]])])
    entry = {"path": str(tmp_path / "s.jsonl"), "dataset": "samples", "inverted": "swap"}
    for read in (lambda: read_annotations([entry]), lambda: read_source(**entry)):
        with pytest.raises(SampleError, match="s.jsonl: our own samples are read as they are, and inverted would change nothing"):
            read()


def test_a_stream_of_rows_cannot_guess_a_duration_from_the_last_end():
    with pytest.raises(SampleError, match="missing_duration='last_end' needs all rows at once"):
        iter_rows([], Report("rows"), missing_duration="last_end")


def test_formats_of_which_no_published_file_is_at_hand_are_read_as_described(tmp_path):
    (tmp_path / "iv.jsonl").write_text('{"vid": "abc", "duration": 30.0, "query": "a dog barks", "span": [1.0, 4.0]}\n')
    assert read_dataset("internvid_vtime", tmp_path / "iv.jsonl")[0][0].spans == [[1.0, 4.0]]
    turns = [
        {"from": "human", "value": "<image>\nWhen does the dog bark?"},
        {"from": "gpt", "value": "From <1.0> to <4.0>."},
        {"from": "human", "value": "Why?"},
        {"from": "gpt", "value": "It is hungry."},
    ]
    (tmp_path / "g.json").write_text(
        json.dumps([{"question_id": "7", "video_id": "abc", "video_file": "x/abc.mp4", "dataset_name": "d", "conversation": turns}])
    )
    samples, report = read_dataset("grounded_videollm", tmp_path / "g.json", durations={"abc": 30.0})
    assert (samples[0].query, samples[0].spans, samples[0].video, report.read) == ("When does the dog bark?", [[1.0, 4.0]], "x/abc.mp4", 2)
    # the answer to "Why?" has no time: the query is counted as dropped
    assert [(f.reason, f.action) for f in report.excluded] == [("no_span", "dropped")]
    (tmp_path / "t.json").write_text(
        json.dumps(
            [
                {
                    "dataset": "tacos",
                    "video": "tacos/s1.mp4",
                    "problem": "When does she cut?",
                    "choices": [],
                    "ground_truth": "",
                    "gt_frame": [2, 5],
                    "video_length": 9.0,
                }
            ]
        )
    )
    assert read_dataset("tvg_r1", tmp_path / "t.json")[0] == [Sample("s1_0", "tacos/s1.mp4", 9.0, "When does she cut?", [[2, 5]], "tacos")]
    (tmp_path / "b.json").write_text(json.dumps({"abc": {"duration": 9.0, "spans": [[1, 2]], "queries": ["a dog barks"]}}))
    assert read_dataset("timelens", tmp_path / "b.json")[0][0].qid == "abc_0"
    (tmp_path / "k.jsonl").write_text(
        json.dumps(
            {
                "source": "cosmo",
                "video_path": "cosmo/abc.mp4",
                "duration": 9.0,
                "events": [{"query": "q", "span": [[1, 2]]}, {"query": "r", "span": [[3, 4]]}],
            }
        )
        + "\n"
    )
    assert [s.qid for s in read_dataset("timelens", tmp_path / "k.jsonl")[0]] == ["abc_0", "abc_1"]


class _Bomb:
    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def test_a_folder_of_queryd_is_read_and_a_pickle_that_runs_code_is_refused(tmp_path):
    (tmp_path / "train_list.txt").write_text("video-abc\n")
    (tmp_path / "durations.json").write_text('{"abc": 30.0}')
    (tmp_path / "raw_captions_combined_filtered-v2.pkl").write_bytes(pickle.dumps({"video-abc": [["a", "dog", "barks"]]}))
    (tmp_path / "times_captions_combined_filtered-v2.pkl").write_bytes(pickle.dumps({"video-abc": [[1.0, 4.0]]}))
    assert read_dataset("queryd", tmp_path)[0][0] == Sample("abc_0", "abc.mp4", 30.0, "a dog barks", [[1.0, 4.0]], "queryd")
    (tmp_path / "times_captions_combined_filtered-v2.pkl").write_bytes(pickle.dumps(_Bomb(str(tmp_path / "went off"))))
    with pytest.raises(SampleError, match="is refused"):
        read_dataset("queryd", tmp_path)
    assert not (tmp_path / "went off").exists()


text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=30).filter(str.strip)
name = st.from_regex(r"[A-Za-z0-9_é]{1,12}(/[A-Za-z0-9_ ]{1,8})?\.mp4", fullmatch=True)


@st.composite
def any_sample(draw):
    duration = draw(st.floats(1, 1e5))
    cuts = sorted(draw(st.lists(st.floats(0, 1), min_size=2, max_size=6, unique=True)))
    spans = [[a * duration, b * duration] for a, b in zip(cuts, cuts[1:]) if a * duration < b * duration] or [[0.0, duration]]
    options = draw(st.none() | st.lists(text, min_size=2, max_size=5))
    teacher = draw(
        st.none()
        | st.fixed_dictionaries(
            {"model": text, "response": text, "span": st.none() | st.just([1.0, 2.0]), "iou": st.floats(0, 1), "usage": st.none()}
        )
    )
    return Sample(
        draw(text),
        draw(name),
        duration,
        draw(text),
        spans,
        draw(text),
        draw(text),
        draw(st.none() | st.just([0.0, 5.5])),
        draw(st.none() | text),
        options,
        options and "A",
        teacher,
    )


@settings(max_examples=150, deadline=None)
@given(st.lists(any_sample(), min_size=1, max_size=4, unique_by=lambda s: s.qid))
def test_samples_are_read_as_they_were_written(tmp_path_factory, samples):
    path = tmp_path_factory.mktemp("rt") / "s.jsonl"
    write_jsonl(path, samples)
    assert read_samples(path)[0] == samples and [from_dict(s.to_dict()) for s in samples] == samples


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["qid", "video", "duration", "query", "start", "end", "spans"]),
            st.none()
            | st.booleans()
            | st.integers(-5, 30)
            | st.floats()
            | st.text(max_size=5)
            | st.lists(st.lists(st.floats(-5, 30), max_size=3), max_size=3),
        ),
        max_size=5,
    )
)
def test_any_rows_are_read_or_reported(raw):
    good = rows(qid="good")
    samples, report = read_rows(good + raw, past_end="clip", zero_length="drop")
    assert report.read == 1 + len(raw) and "good" in {s.qid for s in samples}
    for s in samples:
        assert from_dict(s.to_dict()) == s
    assert len(samples) + len(report.excluded) == report.read
