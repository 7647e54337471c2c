"Scores beside those of answers that see no frame: compared with numbers worked out by hand, and the sentence that states them."

import json

import numpy as np
import pytest

from vtg_r1.cli import main
from vtg_r1.core.samples import Sample, write_jsonl
from vtg_r1.core.stats import paired_test
from vtg_r1.data.blind import beside_blind, verdict
from vtg_r1.data.predictions import Prediction

# long truths: the whole video has an IoU of 0.61 to 0.80 with them
LONG = [Sample(f"q{i}", f"v{i // 2}.mp4", 10.0, "she stirs", [[1.0, 9.0 - 0.1 * i]]) for i in range(20)]


def answers(start: float, end: float) -> dict[str, Prediction]:
    return {s.qid: Prediction([[start, end]]) for s in LONG}


def test_the_sentence_says_that_a_policy_is_below_the_best_blind_answer():
    beside = beside_blind(LONG, {"before RL": answers(1, 3), "after RL": answers(1, 4)}, train=LONG)
    truths = np.array([s.spans[0] for s in LONG])
    lengths = truths[:, 1] - truths[:, 0]
    assert beside.blind["whole video"]["mIoU"][0] == pytest.approx(100 * float(np.mean(lengths / 10)))
    assert beside.blind["centre third"]["mIoU"][0] == pytest.approx(100 * float(np.mean(10 / 3 / lengths)))  # it lies inside every truth
    assert beside.policies["after RL"]["mIoU"][0] == pytest.approx(100 * float(np.mean(3 / lengths)))
    best = beside.best_blind
    assert best == "dataset prior" and set(beside.blind) == {"whole video", "centre third", "random", "dataset prior"}
    assert verdict(beside.leads["after RL"]) == "below"
    said = beside.sentence()
    assert (
        "before RL" in said and f"{beside.blind[best]['mIoU'][0]:.1f}" in said and "after RL is below it" in said and "20 queries, 10 videos" in said
    )


def test_the_lead_over_the_best_blind_answer_is_tested_in_pairs_by_video():
    beside = beside_blind(LONG, {"mine": answers(1, 4)})
    lengths = np.array([s.spans[0][1] - s.spans[0][0] for s in LONG])
    best = {"whole video": lengths / 10}[beside.best_blind]
    expected = paired_test(best.tolist(), (3 / lengths).tolist(), [s.video for s in LONG])
    assert beside.leads["mine"]["p"] == expected["p"] and beside.leads["mine"]["low"] == pytest.approx(100 * expected["low"])
    alone = paired_test(best.tolist(), (3 / lengths).tolist())
    assert alone["low"] != expected["low"]  # without the videos, queries are drawn one by one, which gives another interval


def test_a_policy_equal_to_the_best_blind_answer_is_not_surely_above():
    nearly = {s.qid: Prediction([[0.0, 10.0]]) for s in LONG}
    beside = beside_blind(LONG, {"mine": nearly})
    assert verdict(beside.leads["mine"]) == "not surely above" and beside.leads["mine"]["p"] == 1.0
    exact = beside_blind(LONG, {"mine": {s.qid: Prediction(s.spans) for s in LONG}})
    assert verdict(exact.leads["mine"]) == "above" and exact.metrics({"mine": "final/"})["final/above_blind/low"] > 0


def test_absent_queries_are_left_out_and_one_video_has_no_interval():
    absent = [Sample("a", "v.mp4", 10.0, "a whale", [])]
    assert beside_blind(absent, {"mine": {}}) is None
    one = beside_blind([*LONG[:2], *absent], {"mine": answers(1, 4)})
    assert one.queries == 2 and "one video, no interval" in one.sentence() and "final/above_blind/low" not in one.metrics({"mine": "final/"})
    assert "not surely above" in one.sentence()


def test_the_score_command_ends_in_the_sentence_and_names_the_worst_query(tmp_path, capsys):
    table = tmp_path / "mine.csv"
    rows = [f"{s.video},{s.duration},{s.spans[0][0]},{s.spans[0][1]},sentence {i}" for i, s in enumerate(LONG)]
    table.write_text("\n".join(["video,duration,start,end,query", *rows, "v0.mp4,10,8,2,turned round"]))
    samples, out = tmp_path / "all.jsonl", tmp_path / "predictions.jsonl"
    assert main(["data", "convert", "--dataset", "csv", "--annotations", str(table), "--out", str(samples), "--inverted", "swap"]) == 0
    converted = [json.loads(line) for line in samples.read_text().splitlines()]
    write_jsonl(out, [{"qid": s["qid"], "pred": [[1.0, 4.0]] if i else [[9.5, 9.9]]} for i, s in enumerate(converted)])
    capsys.readouterr()
    as_table = ["score", "--benchmark", "csv", "--annotations", str(table), "--predictions", str(out)]
    assert main(as_table) == 2  # without the policy of convert the last row cannot be scored, and so none is
    assert "give inverted (drop or swap)" in capsys.readouterr().err
    short = write_jsonl(tmp_path / "short.jsonl", [{"qid": s["qid"], "pred": [[1.0, 4.0]]} for s in converted[:-1]])
    assert short == 20 and main([*as_table[:-1], str(tmp_path / "short.jsonl"), "--inverted", "drop"]) == 0
    assert "20 queries, 10 videos" in capsys.readouterr().out
    assert main([*as_table, "--inverted", "swap", "--train-annotations", str(table)]) == 0
    said, notes = capsys.readouterr()
    assert "is below it" in said.splitlines()[-1] and "dataset prior" in said
    assert f"worst: {converted[0]['qid']} (v0.mp4) 'sentence 0'" in notes and "predicted [[9.5, 9.9]], IoU 0.00" in notes
    assert main(["score", "--benchmark", "samples", "--annotations", str(samples), "--predictions", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["beside_blind"]["predictions/above_blind/high"] < 0
    assert main(["score", "--benchmark", "samples", "--annotations", str(samples), "--predictions", str(out), "--inverted", "swap"]) == 2
    assert "inverted" in capsys.readouterr().err
