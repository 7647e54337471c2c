"`vtg-r1 score`: numbers worked out by hand for awkward prediction files, and a named error for each unreadable one."

import contextlib
import io
import json
import random
import re
from pathlib import Path

import numpy as np
import pytest

from vtg_r1.cli import main
from vtg_r1.core.samples import Sample
from vtg_r1.data.official_benchmarks import BENCHMARKS, Prediction, compare, load_benchmark, published, score, trivial_predictions
from vtg_r1.data.toyworld import write_video

HERE = Path(__file__).parent / "score"
ANNOTATIONS = {
    "charades_sta": "charades_sta_test.txt",
    "activitynet": "activitynet.json",
    "nextgqa": "nextgqa",
    "rextime": "rextime_val.json",
    "qvhighlights": "qvhighlights.val.jsonl",
    "tvgbench": "tvgbench.json",
    "tacos": "tacos_test.jsonl",
    "charades_timelens": "timelens.json",
    "activitynet_timelens": "timelens.json",
    "qvhighlights_timelens": "timelens.json",
}


def run(benchmark, *options, annotations=None, predictions=None):
    "What the command prints. With --json it is a dict, here without the protocol and the comparison with blind answers."
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = main(
            [
                "score",
                "--benchmark",
                benchmark,
                "--annotations",
                str(HERE / (annotations or ANNOTATIONS[benchmark])),
                "--predictions",
                str(predictions or HERE / f"{'timelens' if benchmark.endswith('timelens') else benchmark}.jsonl"),
                *options,
            ]
        )
    assert code == 0
    if "--json" not in options:
        return out.getvalue()
    metrics = json.loads(out.getvalue())
    assert re.fullmatch("[0-9a-f]{8}", metrics.pop("protocol")["hash"])
    assert "blind/whole video/mIoU" in metrics.pop("beside_blind")
    return metrics


def recalls(*percent):
    return dict(zip(("R1@0.3", "R1@0.5", "R1@0.7", "mIoU"), percent))


# IoU of each query: 1 exact; 0 inverted; 0.3 on the threshold; 0 zero-length; 16.1/40.1 past the end (pred wins over response); 0 "no span"; 1 clock times; missing
CHARADES = [1, 0, 0.3, 0, 16.1 / 40.1, 0, 1]
HAND = {
    ("charades_sta",): {"n": 8, "missing": 1, **recalls(50, 25, 25, 100 * sum(CHARADES) / 8)},
    ("charades_sta", "--missing", "skip"): {"n": 7, "missing": 1, **recalls(400 / 7, 200 / 7, 200 / 7, 100 * sum(CHARADES) / 7)},
    # [-10, 10] against [0, 10] is 1/2; an answer outside any block is read by the reading tvg_r1 only; an end past the duration stays
    ("activitynet",): {"n": 3, "missing": 0, **recalls(200 / 3, 200 / 3, 100 / 3, 50)},
    ("activitynet", "--reading", "tvg_r1"): {"n": 3, "missing": 0, **recalls(100, 100, 200 / 3, 250 / 3)},
    # zero-length inside a span: IoU 0, IoP 1; inverted: 0, 0; [1, 3]: 1, 1; [4, 8] against [4, 6]: 1/2, 1/2; missing. Options right, right, right, wrong, missing
    ("nextgqa",): {"n": 5, "missing": 1, **recalls(40, 40, 20, 30), "mIoP": 50, "IoP@0.3": 60, "IoP@0.5": 60, "Acc@QA": 60, "Acc@GQA": 40},
    ("nextgqa", "--missing", "skip"): {
        "n": 4,
        "missing": 1,
        **recalls(50, 50, 25, 37.5),
        "mIoP": 62.5,
        "IoP@0.3": 75,
        "IoP@0.5": 75,
        "Acc@QA": 75,
        "Acc@GQA": 50,
    },
    # 1/2 right; 1 wrong; 0 of a zero-length window, right; 1 right
    ("rextime",): {"n": 4, "missing": 0, **recalls(75, 75, 50, 62.5), "Acc@QA": 75, "Acc@IoU": 50},
    # average precisions 1/4 (second of two, at rank 2), 3/10 (IoU 0.6), 1 (written backwards: the official script's 0/0), 0 ("no span")
    # at 0.5 the second of them is a hit, at 0.75 none; the first three queries' windows are of 10 to 30 s, the last query's is longer, none is short
    ("qvhighlights",): {
        "n": 4,
        "missing": 0,
        **recalls(25, 25, 0, 15),
        "mAP": 38.75,
        "mAP@0.5": 56.25,
        "mAP@0.75": 31.25,
        "mAP-middle": 155 / 3,
        "mAP-long": 0,
    },
    # IoU exactly 1/2: TVGBench's own evaluator counts what is above
    ("tvgbench",): {"n": 2, "missing": 0, **recalls(50, 0, 0, 25)},
    ("tacos",): {"n": 2, "missing": 0, **recalls(50, 50, 50, 50 + 50 * 7.2 / 249.86)},
    # 1/2, which counts (≥, TencentARC/TimeLens, evaluation/compute_metrics.py); 1; 8/10
    **{(f"{name}_timelens",): {"n": 3, "missing": 0, **recalls(100, 100, 200 / 3, 230 / 3)} for name in ("charades", "activitynet", "qvhighlights")},
}


@pytest.mark.parametrize("case", HAND, ids=" ".join)
def test_scores_equal_those_worked_out_by_hand(case):
    assert run(*case, "--json") == pytest.approx(HAND[case], abs=1e-3)


def test_every_benchmark_is_checked_by_hand():
    assert {case[0] for case in HAND} == set(BENCHMARKS)


def test_rextimes_own_jsonl_file_gives_the_same_scores():
    "ReXTime's evaluator reads JSON lines without options; the letters in it count all the same."
    assert run("rextime", "--json", annotations="rextime_val.jsonl") == run("rextime", "--json")


def test_the_printed_table_has_the_numbers_of_the_json():
    lines = run("nextgqa").splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("protocol "))
    table, protocol = lines[:at], lines[at]
    assert "The best answer that sees no frame" in lines[-1]
    shown = {name: float(value) for name, value in (line.split() for line in table)}
    assert shown == pytest.approx(run("nextgqa", "--json"), abs=0.006)
    assert re.fullmatch(r"protocol [0-9a-f]{8}: nextgqa, labels [0-9a-f]{12}, 5 queries, IoU ≥ m, parsing: .*, missing: zero, .*", protocol)


def test_notes_count_ends_past_the_video_and_missing_predictions(capsys):
    run("activitynet")
    assert "1 end past their video" in capsys.readouterr().err
    run("charades_sta")
    assert "1 queries have no prediction" in capsys.readouterr().err


BAD = {
    "duplicate": "row 2 (qid 'AAAAA_0'): is already in row 1",
    "unknown_qid": "row 2: qid 'ZZZZZ_1' is not in the annotations",
    "cut_off": "row 3: cannot be read as JSON",
    "no_qid": "row 1: qid is None",
    "neither": "has neither pred nor response",
    "text_pred": "pred holds '1'",
    "nan_pred": "pred holds nan",
    "huge_pred": "pred holds 1000",
    "bool_pred": "pred holds True",
    "list_response": "response is ['<time>[1, 2]</time>']",
    "text_answer": "answer is 'he fell'",
    "not_utf8": "row 2: cannot be read as JSON",
    "empty": "holds no predictions",
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_prediction_file_is_refused_with_its_message(name, capsys):
    file = HERE / "bad" / f"{name}.jsonl"
    assert main(["score", "--benchmark", "charades_sta", "--annotations", str(HERE / ANNOTATIONS["charades_sta"]), "--predictions", str(file)]) == 2
    out, err = capsys.readouterr()
    assert BAD[name] in err and f"{name}.jsonl" in err and not out


def test_every_bad_file_has_its_message():
    assert {f.stem for f in (HERE / "bad").iterdir()} == set(BAD)


@pytest.mark.parametrize(
    "annotations, predictions, message",
    [
        ("nowhere.txt", "charades_sta.jsonl", "no such file"),
        ("charades_sta_test.txt", "nowhere.jsonl", "nowhere.jsonl"),
        ("rextime_val.json", "charades_sta.jsonl", "charades_sta is read from"),
        ("charades_sta_test.txt", "bad", "is a folder; a run's answers are in"),
    ],
)
def test_a_wrong_path_is_named(annotations, predictions, message, capsys):
    assert main(["score", "--benchmark", "charades_sta", "--annotations", str(HERE / annotations), "--predictions", str(HERE / predictions)]) == 2
    assert message in capsys.readouterr().err


def test_withheld_labels_are_an_error(tmp_path, capsys):
    rows = json.loads((HERE / "rextime_val.json").read_text())
    (tmp_path / "rextime_test.json").write_text(json.dumps([{**r, "span": [0, 0], "ans": ""} for r in rows]))
    assert (
        main(["score", "--benchmark", "rextime", "--annotations", str(tmp_path / "rextime_test.json"), "--predictions", str(HERE / "rextime.jsonl")])
        == 2
    )
    assert "4 of 4 queries cannot be scored" in capsys.readouterr().err


OWN_TABLE = "video,start,end,sentence\na.mp4,3,9,she cracks an egg\na.mp4,10,12,she whisks it\nb.mp4,0,4,a dog barks\n"
OWN_SAID = '{"qid": "a_0", "pred": [[3, 9]]}\n{"qid": "b_2", "pred": [[2, 6]]}\n'  # IoU 1, missing, 1/3


def test_an_own_table_and_the_samples_made_of_it_score_the_same(tmp_path):
    "The table of a practitioner, and the samples made of it, score the same: IoU 1, 1/3 and a query without a row."
    (tmp_path / "mine.csv").write_text(OWN_TABLE)
    (tmp_path / "said.jsonl").write_text(OWN_SAID)
    given = {"annotations": tmp_path / "mine.csv", "predictions": tmp_path / "said.jsonl"}
    assert run("csv", "--json", **given) == pytest.approx({"n": 3, "missing": 1, **recalls(200 / 3, 100 / 3, 100 / 3, 400 / 9)}, abs=1e-3)
    assert run("csv", "--json", "--missing", "skip", **given) == pytest.approx({"n": 2, "missing": 1, **recalls(100, 50, 50, 200 / 3)}, abs=1e-3)
    assert (
        main(
            [
                "data",
                "convert",
                "--dataset",
                "csv",
                "--annotations",
                str(given["annotations"]),
                "--missing-duration",
                "last_end",
                "--out",
                str(tmp_path / "s.jsonl"),
            ]
        )
        == 0
    )
    assert run("samples", "--json", **{**given, "annotations": tmp_path / "s.jsonl"}) == run("csv", "--json", **given)


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("samples", '{"qid": "a"}\n', "field 'video'"),
        ("samples", "", "holds no samples"),
        ("csv", OWN_TABLE + "b.mp4,7,5,backwards\n", "b_3: inverted"),
        ("csv", "a,b\n1,2\n", "no column 'video'"),
    ],
)
def test_own_data_that_cannot_be_scored_is_an_error(name, content, said, tmp_path, capsys):
    (tmp_path / "mine").write_text(content)
    (tmp_path / "said.jsonl").write_text(OWN_SAID)
    assert main(["score", "--benchmark", name, "--annotations", str(tmp_path / "mine"), "--predictions", str(tmp_path / "said.jsonl")]) == 2
    assert said in capsys.readouterr().err


def test_rows_that_cannot_score_are_counted(tmp_path, capsys):
    (tmp_path / "mine.csv").write_text(OWN_TABLE)
    rows = ['{"qid": "a_0", "response": "somewhere"}', '{"qid": "a_1", "pred": [[12, 10]]}', '{"qid": "b_2", "pred": null}']
    (tmp_path / "said.jsonl").write_text("\n".join(rows))
    run("csv", annotations=tmp_path / "mine.csv", predictions=tmp_path / "said.jsonl")
    err = capsys.readouterr().err
    assert "2 of 3 rows give no span (null, or a response in which none can be read), and count as misses" in err
    assert "1 of 3 rows give a span that ends at its start or before, and count as misses" in err
    (tmp_path / "said.jsonl").write_text(OWN_SAID)
    run("csv", annotations=tmp_path / "mine.csv", predictions=tmp_path / "said.jsonl")
    assert "count as misses" not in capsys.readouterr().err


def test_a_point_is_not_called_a_miss_of_nextgqas_iop(tmp_path, capsys):
    sample = load_benchmark("nextgqa", HERE / "nextgqa")[0][0]
    (tmp_path / "said.jsonl").write_text(json.dumps(dict(qid=sample.qid, pred=[[sample.spans[0][0]] * 2])))
    assert run("nextgqa", "--missing", "skip", "--json", predictions=tmp_path / "said.jsonl")["mIoP"] == 100
    said = "1 of 1 rows give a span that ends at its start or before (NExT-GQA's IoP counts a point within the truth as 1), and count as misses"
    assert said in capsys.readouterr().err


def test_a_right_refusal_is_no_miss(tmp_path, capsys):
    rows = [
        dict(qid=qid, video=f"{qid}.mp4", duration=10.0, query="x", spans=spans)
        for qid, spans in (("a", [[1.0, 3.0]]), ("b", []), ("c", [[1.0, 3.0]]))
    ]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "answers.jsonl").write_text("\n".join(json.dumps(dict(qid=qid, pred=pred)) for qid, pred in (("a", [[1, 3]]), ("b", []), ("c", []))))
    run("samples", annotations=tmp_path / "mine.jsonl", predictions=tmp_path / "answers.jsonl")
    err = capsys.readouterr().err
    assert "1 of 3 rows say that the video does not show it, which it does, and count as misses" in err and "give no span" not in err


def test_didemo_has_its_own_mean(tmp_path):
    "Rank-1 and the mean of the best three annotators' IoU (LisaAnne/LocalizingMoments); R1@m is of the best annotator."
    rows = [
        {"num_segments": 6, "description": "x", "times": [[4, 4], [4, 4], [0, 0], [4, 4]], "video": "a.m4v", "annotation_id": 1},
        {"num_segments": 6, "description": "y", "times": [[0, 0], [0, 1], [0, 1], [2, 2]], "video": "b.m4v", "annotation_id": 2},
    ]
    (tmp_path / "val_data.json").write_text(json.dumps(rows))
    (tmp_path / "p.jsonl").write_text('{"qid": "1", "pred": [20, 25]}\n{"qid": "2", "pred": [0, 5]}\n')
    scored = run("didemo", "--json", annotations=tmp_path / "val_data.json", predictions=tmp_path / "p.jsonl")
    assert scored == pytest.approx({"n": 2, "missing": 0, **recalls(100, 100, 100, 50 + 50 * (1 + 1 / 2 + 1 / 2) / 3), "rank@1": 50}, abs=1e-3)


def test_an_error_names_the_qid():
    samples = [Sample("a", "v.mp4", 9.0, "q", [[1, 2]])]
    with pytest.raises(ValueError, match=r"query 0 \(qid 'a'\) is 1;"):
        score("csv", samples, {"a": Prediction([1, 2])})


def test_whole_video_is_as_long_as_the_video(tmp_path):
    "Charades-STA's text has no durations. They are measured in the videos; without the video the last published end is taken."
    (tmp_path / "charades_sta_test.txt").write_text(
        "AAAAA 1.0 2.0##a person eats.\nAAAAA 2.0 4.0##a person drinks.\nGONE1 1.0 3.0##a person leaves.\n"
    )
    write_video(tmp_path / "AAAAA.mp4", np.zeros((10, 28, 28, 3), np.uint8), 1)
    guessed, _ = load_benchmark("charades_sta", tmp_path / "charades_sta_test.txt")
    samples, report = load_benchmark("charades_sta", tmp_path / "charades_sta_test.txt", videos=tmp_path)
    assert [s.duration for s in guessed] == [4.0, 4.0, 3.0] and [s.duration for s in samples] == [10.0, 10.0, 3.0]
    assert [s.spans for s in samples] == [s.spans for s in guessed] and report.counts() == {"missing_duration/guessed": 1}
    whole = trivial_predictions(samples)["whole video"]
    assert score("charades_sta", samples, whole)["mIoU"] == pytest.approx(100 * (1 / 10 + 2 / 10 + 2 / 3) / 3, abs=1e-3)


def test_compare_finds_the_better_model():
    samples, _ = load_benchmark("charades_sta", HERE / "charades_sta_test.txt")
    best = {s.qid: Prediction([s.spans[0]]) for s in samples}
    worse = {s.qid: Prediction([[s.spans[0][0], s.spans[0][1] + 9]]) for s in samples}
    test = compare(samples, worse, best)["mIoU"]
    assert test["difference"] > 30 and test["low"] > 0 and test["p"] == pytest.approx(2 / 2**4, abs=0.02)  # four videos have 2⁴ sign patterns
    assert compare(samples, best, best)["mIoU"]["p"] == 1


def test_trivial_predictions_are_valid_spans():
    samples, _ = load_benchmark("qvhighlights", HERE / ANNOTATIONS["qvhighlights"])
    for name, preds in trivial_predictions(samples, train=samples).items():
        assert all(0 <= p.spans[0][0] < p.spans[0][1] <= s.duration for s, p in zip(samples, preds.values())), name
        assert score("qvhighlights", samples, preds)["missing"] == 0


def test_published_rows_are_percentages():
    for benchmark in BENCHMARKS:
        for row in published(benchmark):
            r3, r5, r7, _ = (row[k] for k in ("R1@0.3", "R1@0.5", "R1@0.7", "mIoU"))
            assert row["source"] and row["rule"] in ("IoU ≥ m", "IoU > m")
            assert r5 is None or 100 > r3 > r5 > r7 > 0
            assert r3 is not None or row["mIoU"] is not None


@pytest.mark.shared
def test_perfect_predictions_score_100_on_the_published_files(shared):
    "Every query is scored. Two benchmarks have true spans of no length, and mAP counts at most ten predictions: there the score is below 100."
    root = shared / "data" / "annotations"
    files = {
        "charades_sta": ("charades_sta/charades_sta_test.txt", 3720),
        "activitynet": ("activitynet_captions/val_2.json", 17031),
        "nextgqa": ("nextgqa", 5553),
        "rextime": ("rextime/rextime_val.json", 921),
        "qvhighlights": ("qvhighlights/highlight_val_release.jsonl", 1550),
        "tvgbench": ("tvgbench/tvgbench.json", 800),
        "tacos": ("tacos/tacos_test_release.jsonl", 4001),
    }
    assert set(files) == {name for name in BENCHMARKS if not name.endswith("timelens")}  # no public file of TimeLens-Bench was available
    zero_length = {"rextime": 2, "tvgbench": 11}  # true spans nobody can hit
    for name, (path, n) in files.items():
        samples, _ = load_benchmark(name, root / path)
        found = score(name, samples, {s.qid: Prediction(s.spans, s.answer) for s in samples})
        assert found["n"] == n and found["missing"] == 0
        assert found["mIoU"] == pytest.approx(100 * (1 - zero_length.get(name, 0) / n), abs=1e-3), name
        reachable = 100 * sum(min(1, 10 / len(s.spans)) for s in samples) / n  # at most ten predictions count
        assert found.get("Acc@QA", 100) == 100 and found.get("mAP", reachable) == pytest.approx(reachable, abs=1e-3)


def test_ten_thousand_predictions_in_a_fifth_of_a_second(tmp_path, quick):
    "On one core. The time includes reading the predictions, but not the annotations."
    rng = random.Random(0)
    lines = [f"v{i} {i % 50} {i % 50 + 5}.5##a person sits." for i in range(10_000)]
    (tmp_path / "charades_sta_test.txt").write_text("\n".join(lines))
    from vtg_r1.data.predictions import read_predictions

    samples, _ = load_benchmark("charades_sta", tmp_path / "charades_sta_test.txt")
    with open(tmp_path / "p.jsonl", "w") as f:
        f.writelines(json.dumps({"qid": s.qid, "pred": [sorted([rng.uniform(0, 60), rng.uniform(0, 60)])]}) + "\n" for s in samples)

    def read_and_score():
        assert score("charades_sta", samples, read_predictions(tmp_path / "p.jsonl", samples))["n"] == 10_000

    quick(read_and_score, 0.2)
