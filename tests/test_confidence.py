"""How sure a model is of its answers.

Agreement and consensus, the coverage of the threshold for refusals, `calibrate`, `ground --samples`, and what the pages show of them."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtg_r1.cli import main
from vtg_r1.core.confidence import consensus, covered_tiou, refusal_threshold, reliability, selective_scores
from vtg_r1.core.runtime import UserError, project_root
from vtg_r1.core.samples import iter_jsonl, write_jsonl
from vtg_r1.data.model_inputs import VideoInputConfig
from vtg_r1.experiments import coverage as experiment
from vtg_r1.experiments.coverage import VIDEOS, answered_world, covered
from vtg_r1.models.generation import generate, predict
from vtg_r1.models.ground import Sampling, ground, resolve_model
from vtg_r1.models.loading import load_model, load_processor
from vtg_r1.models.sampled_answers import (
    answer_tiou,
    calibrated,
    check_calibration,
    consensus_row,
    consensus_rows,
    read_calibration,
    resumable_consensus,
)
from vtg_r1.runs.run import start_run

times = st.floats(0, 30).map(lambda t: round(t, 1))
answers = st.lists(st.lists(st.tuples(times, times).map(sorted), max_size=3), min_size=2, max_size=6)


def on_grid(spans):
    "The tenths of seconds that an answer covers."
    covered = np.zeros(301, bool)
    for start, end in spans:
        covered[round(10 * start) : round(10 * end)] = True
    return covered


def grid_tiou(a, b):
    "The IoU of two answers, counted in tenths of seconds."
    a, b = on_grid(a), on_grid(b)
    if not a.any() and not b.any():
        return 1.0
    return (a & b).sum() / (a | b).sum()


@given(answers)
def test_agreement_is_the_mean_over_pairs_and_the_consensus_agrees_best(sets):
    n = len(sets)
    pairs = np.array([[grid_tiou(a, b) for b in sets] for a in sets])
    best, agreement = consensus(sets)
    assert agreement == pytest.approx(np.mean([pairs[i, j] for i in range(n) for j in range(i)]), abs=1e-9)
    others = [pairs[i].sum() - pairs[i, i] for i in range(n)]
    assert others[best] == pytest.approx(max(others)) and 0 <= agreement <= 1


def test_a_refusal_agrees_only_with_refusals():
    assert covered_tiou([], []) == 1 and covered_tiou([], [[3, 9]]) == 0 == covered_tiou([[3, 9]], [])
    assert covered_tiou([[9, 3]], []) == 1 and covered_tiou([[9, 3]], [[3, 9]]) == 0  # a span without a length covers nothing
    assert covered_tiou([[3, 5], [20, 22]], [[20, 22], [3, 5]]) == 1
    with pytest.raises(ValueError, match="at least two"):
        consensus([[[3, 9]]])


# ---- coverage ----


def draw(rng, n, ties=0):
    "Agreements and right answers of n made-up queries; right answers agree more; with `ties` the agreements have only that many values."
    right = rng.random(n) < 0.6
    agreements = np.where(right, rng.beta(5, 2, n), rng.beta(2, 4, n))
    return (np.ceil(agreements * ties) / ties if ties else agreements), right


@pytest.mark.parametrize("seed", range(5))
def test_the_threshold_keeps_the_stated_share_of_right_answers_on_new_queries(seed):
    "90 ± 3 % of them are kept. The quantile over all answers, right and wrong, keeps more than 93 %."
    rng = np.random.default_rng(seed)
    (agreements, right), new = draw(rng, 6000), draw(rng, 6000)
    kept = selective_scores(*new, refusal_threshold(agreements[right], 0.9))["kept"]
    assert abs(kept - 0.9) < 0.03
    assert selective_scores(*new, float(np.quantile(agreements, 0.1)))["kept"] > 0.93


def test_the_threshold_keeps_the_stated_share_of_right_answers_on_committed_toy_worlds():
    "A threshold from four worlds keeps 90 ± 3 % of the right answers of the fifth. The share is counted here, and the experiment gives the same."
    worlds = json.loads((project_root() / "outputs/reference/sets/coverage.json").read_text())["worlds"]
    assert len(worlds) == 5
    for world, row in zip(worlds, covered(worlds)):
        others = [pair for other in worlds if other is not world for pair in zip(other["agreements"], other["tious"])]
        right = sorted(agreement for agreement, tiou in others if tiou >= 0.5)
        threshold = right[(len(right) + 1) // 10 - 1]
        kept = np.mean([agreement >= threshold for agreement, tiou in zip(world["agreements"], world["tious"]) if tiou >= 0.5])
        assert abs(kept - 0.9) <= 0.03 and row["kept"] == pytest.approx(kept) and row["n_right"] > 600


@pytest.mark.long
def test_a_committed_toy_world_gets_the_same_answers_again(tmp_path):
    worlds = json.loads((project_root() / "outputs/reference/sets/coverage.json").read_text())["worlds"]
    assert answered_world("tiny", 0, VIDEOS, tmp_path) == worlds[0]


def test_two_models_of_one_name_do_not_share_their_answers(tmp_path, monkeypatch):
    "The experiment keeps answers from call to call, in a folder of the weights."
    folders = []

    def answered(name, seed, videos, folder):
        folders.append(folder)
        return {"agreements": [0.5] * 9, "tious": [1.0] * 9}

    monkeypatch.setattr(experiment, "answered_world", answered)
    monkeypatch.setattr(experiment, "resolve", lambda path: tmp_path / path)
    for stage in ("sft", "grpo"):
        (tmp_path / stage / "a/model").mkdir(parents=True)
        (tmp_path / stage / "a/manifest.json").write_text("{}")
        (tmp_path / stage / "a/model/config.json").write_text(json.dumps(stage))
        monkeypatch.setattr("sys.argv", ["coverage", str(tmp_path / stage / "a"), "--out", str(tmp_path / "out.json")])
        experiment.main()
    assert len(set(folders)) == 2 and len(folders) == 2 * experiment.WORLDS


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.9, 0.95])
@pytest.mark.parametrize("n", [19, 30, 101])
def test_coverage_is_exact_in_finite_samples(n, coverage):
    "On average over calibrations with n right answers: 1 − ⌊(1 − c)(n + 1)⌋ / (n + 1)."
    rng = np.random.default_rng(n)
    kept = [(rng.random(200) >= refusal_threshold(rng.random(n), coverage)).mean() for _ in range(3000)]
    expected = 1 - np.floor((1 - coverage) * (n + 1) + 1e-9) / (n + 1)
    assert np.mean(kept) == pytest.approx(expected, abs=4 * np.std(kept) / np.sqrt(3000)) and coverage <= expected < coverage + 1 / (n + 1)


def test_with_ties_more_than_the_stated_share_is_kept():
    rng = np.random.default_rng(0)
    kept = []
    for _ in range(300):
        agreements, right = draw(rng, 200, ties=4)
        kept.append(selective_scores(*draw(rng, 400, ties=4), refusal_threshold(agreements[right], 0.9))["kept"])
    assert np.mean(kept) > 0.9


def test_too_few_right_answers_and_shares_that_are_none_are_refused():
    with pytest.raises(ValueError, match="8 right answers are too few for a coverage of 0.9: it takes at least 9"):
        refusal_threshold([0.5] * 8, 0.9)
    assert refusal_threshold([0.5] * 9, 0.9) == 0.5
    with pytest.raises(ValueError, match="too few"):
        refusal_threshold([], 0.5)
    for coverage in (0, 1, 90):
        with pytest.raises(ValueError, match="give a share between 0 and 1"):
            refusal_threshold([0.5] * 99, coverage)
    assert selective_scores([0.1, 0.2], [True, False], 0.5) == {"answered": 0.0, "kept": 0.0, "right": None, "right_without_refusal": 0.5}


def test_the_bins_of_reliability_hold_every_query_once_in_order_of_agreement():
    rng = np.random.default_rng(0)
    agreements, tious = rng.random(101), rng.random(101)
    rows = reliability(agreements, tious, 4)
    assert [row["n"] for row in rows] == [26, 25, 25, 25] and sum(row["n"] * row["tiou"] for row in rows) == pytest.approx(tious.sum())
    assert [row["agreement"] for row in rows] == sorted(row["agreement"] for row in rows) and len(reliability([0.5], [1.0])) == 1


# ---- a model ----


@pytest.fixture(scope="module")
def tiny():
    return load_model("tiny"), load_processor("tiny")


@pytest.fixture(scope="module")
def view(world):
    return VideoInputConfig(str(world / "videos"), 16, 784, "short", cache="")


@pytest.fixture(scope="module")
def rows(tiny, toy_samples, view):
    return consensus_rows(partial(generate, *tiny, max_completion_length=40, temperature=1.0, num_completions=8), toy_samples, view)


@pytest.mark.parametrize(
    "responses, pred",
    [
        (["<time>soon</time>"] + ["<time>none</time>"] * 7, []),
        (["<time>[9, 3]</time>"] + ["<time>none</time>"] * 3, []),
        (["<time>none</time>"] + ["<time>soon</time>"] * 7, None),
        (["<time>none</time>"] * 2 + ["<time>[3, 9]</time>"] * 3, [[3, 9]]),
    ],
    ids=str,
)
def test_the_consensus_refuses_answers_or_is_unreadable_as_most_responses_are(toy_samples, view, responses, pred):
    assert consensus_row(toy_samples[0], responses, replace(view, answers="set"))["pred"] == pred


def test_rows_are_the_consensus_of_their_responses(rows, toy_samples):
    from vtg_r1.core.prompts import parse_spans

    for row, sample in zip(rows, toy_samples, strict=True):
        best, agreement = consensus(row["sampled"])
        assert row["qid"] == sample.qid and len(row["sampled"]) == 8 and row["agreement"] == pytest.approx(agreement, abs=1e-4)
        assert (row["pred"] or []) == row["sampled"][best] == parse_spans(row["response"])
    assert len({row["agreement"] for row in rows}) > 3


def test_answers_with_more_agreement_have_more_overlap_with_the_truth(rows, toy_samples):
    tious = np.array([covered_tiou(row["pred"] or [], s.spans) for row, s in zip(rows, toy_samples)])
    agreements = np.array([row["agreement"] for row in rows])
    assert tious[agreements >= np.median(agreements)].mean() > tious[agreements < np.median(agreements)].mean() + 0.1


@pytest.mark.long
def test_a_stopped_pass_is_resumed_and_a_missing_video_is_a_row_with_an_error(tiny, toy_samples, view, tmp_path):
    samples = [*toy_samples[:6], replace(toy_samples[6], video="gone.mp4")]
    ask = partial(generate, *tiny, max_completion_length=40, temperature=1.0, num_completions=4)
    whole = resumable_consensus(tmp_path / "whole.jsonl", ask, samples, view, 2, seed=3)
    assert "gone.mp4" in whole[6]["error"] and whole[6]["pred"] is None and "agreement" not in whole[6]
    write_jsonl(tmp_path / "part.jsonl", whole[:2])
    assert resumable_consensus(tmp_path / "part.jsonl", ask, samples, view, 2, seed=3) == whole


def test_ground_answers_by_consensus(tiny, world, toy_samples):
    video, query = world / "videos" / toy_samples[0].video, toy_samples[0].query
    config = resolve_model("tiny")[1]
    (answer,) = ground(*tiny, video, [query], config, Sampling(8))
    assert answer.agreement is not None and answer.refused is None and ground(*tiny, video, [query], config, Sampling(8)) == [answer]
    (refused,) = ground(*tiny, video, [query], config, Sampling(8, threshold=1.01))
    assert refused.span is None and refused.agreement == answer.agreement and refused.refused[0][0] == pytest.approx(answer.span[0])
    (greedy,) = ground(*tiny, video, [query], config)
    assert greedy.agreement is None and greedy.span is not None


def test_sampled_answers_share_one_pass_of_the_vision_tower(tiny, world, toy_samples, monkeypatch):
    "The vision tower sees each frame once, for eight answers as for one."
    from vtg_r1.models.prefix_cache import base_model

    model, processor = tiny
    visual, counts = base_model(model).model.visual, []
    handle = visual.register_forward_hook(lambda module, args, output: counts.append(len(args[0])))
    try:
        video, config = world / "videos" / toy_samples[0].video, resolve_model("tiny")[1]
        ground(model, processor, video, [toy_samples[0].query], config)
        greedy = list(counts)
        counts.clear()
        ground(model, processor, video, [toy_samples[0].query], config, Sampling(8))
    finally:
        handle.remove()
    assert sum(counts) == sum(greedy) > 0


# ---- the commands ----


@pytest.fixture(scope="module")
def made(world, tmp_path_factory):
    "A calibration of the embedded model on the toy world."
    out = tmp_path_factory.mktemp("calibration") / "calibration.json"
    words = ["calibrate", str(world / "samples.jsonl"), "--videos", str(world / "videos"), "--out", str(out), "--coverage", "0.8"]
    assert main(words) == 0
    return out


def test_calibrate_keeps_the_stated_share_of_right_answers_on_its_own_file(made, toy_samples, world, capsys):
    calibration = read_calibration(made)
    rows = [row for _, row in iter_jsonl(made.with_name("calibration_predictions.jsonl"))]
    assert [row["qid"] for row in rows] == [s.qid for s in toy_samples] and calibration.queries == len(rows)
    right = [row for row, s in zip(rows, toy_samples) if row["pred"] and covered_tiou(row["pred"], s.spans) >= 0.5]
    kept = [row["agreement"] >= calibration.threshold for row in right]
    assert len(right) == calibration.right and np.mean(kept) >= 0.8
    assert [row["refused"] for row in rows] == [bool(row["pred"]) and row["agreement"] < calibration.threshold for row in rows]
    assert calibrated(rows, toy_samples, 0.8)["threshold"] == calibration.threshold and not list(made.parent.glob(".calibration*"))
    assert calibration.annotations["sha256"] and calibration.model == "tiny" and calibration.config["frames"] == 16


def test_ground_takes_a_calibration_and_checks_it(made, world, toy_samples, tmp_path, capsys):
    video, query = str(world / "videos" / toy_samples[0].video), toy_samples[0].query
    code = main(["ground", video, query, "--calibration", str(made), "--json"])
    (answer,) = json.loads(capsys.readouterr().out)["answers"]
    assert (answer["span"] is None) == (answer["agreement"] < read_calibration(made).threshold) == (code == 1)
    assert answer["agreement"] < 1
    strict = json.loads(made.read_text()) | {"threshold": 1.0}
    (tmp_path / "strict.json").write_text(json.dumps(strict))
    code = main(["ground", video, query, "--calibration", str(tmp_path / "strict.json")])
    out = capsys.readouterr().out
    assert code == 1 and out.startswith("not sure  ") and "below 1.00; it would be" in out
    assert main(["ground", video, query, "--samples", "4"]) == 0 and "of 4 answers)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "words", "said"),
    [
        ({"model_key": "another"}, [], "is of another model (tiny)"),
        ({}, ["--frames", "8"], "was made with frames = 16, now it is 8"),
        ({}, ["--samples", "4"], "was made with 8; leave --samples out"),
        ({"threshold": None}, [], "threshold is None"),
        ({"samples": 1}, [], "samples is 1"),
        ({"threshold": 3}, [], "threshold is 3"),
        ({"surprise": 1}, [], "surprise"),
        (None, [], "give a file that vtg-r1 calibrate wrote"),
    ],
)
def test_a_calibration_that_does_not_fit_is_refused_in_one_line(made, world, toy_samples, tmp_path, capsys, change, words, said):
    file = tmp_path / "c.json"
    file.write_text("threshold: 1" if change is None else json.dumps(json.loads(made.read_text()) | change))
    assert main(["ground", str(world / "videos" / toy_samples[0].video), "a cat", "--calibration", str(file), *words]) == 2
    err = capsys.readouterr().err
    assert said in err and len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--coverage", "0.999"], "are too few for a coverage of 0.999: it takes at least 999"),
        (["--out", "calibration.txt"], "name a file that ends in .json"),
        (["--videos", "nowhere"], "no such folder"),
        (["--model", "./nowhere"], "nowhere"),
    ],
)
def test_calibrate_refuses_in_one_line(world, toy_samples, tmp_path, capsys, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    write_jsonl("few.jsonl", [s.to_dict() for s in toy_samples[:3]])
    assert main(["calibrate", "few.jsonl", "--videos", str(world / "videos"), "--out", "c.json", "--samples", "2", *words]) == 2
    err = capsys.readouterr().err
    lines = [line for line in err.splitlines() if line and not line.startswith("sampled answers: ")]  # without the progress bar
    assert len(lines) == 1 and said in lines[0] and not (tmp_path / "c.json").exists()


def test_calibrate_with_other_videos_does_not_go_on_with_the_answers_to_the_first(world, toy_samples, tmp_path, capsys):
    write_jsonl(tmp_path / "few.jsonl", [s.to_dict() for s in toy_samples[:3]])
    broken = tmp_path / "broken"
    broken.mkdir()
    for video in {s.video for s in toy_samples[:3]}:
        (broken / video).write_bytes(b"no video")
    words = [
        "calibrate",
        str(tmp_path / "few.jsonl"),
        "--out",
        str(tmp_path / "c.json"),
        "--samples",
        "2",
        "--coverage",
        "0.01",
        "--right-tiou",
        "0.01",
    ]
    assert main([*words, "--videos", str(broken)]) == 2 and "it counts as not answered" in capsys.readouterr().err
    assert main([*words, "--videos", str(world / "videos")]) == 0 and "not answered" not in capsys.readouterr().err


def test_a_calibration_of_another_prompt_is_refused(made):
    calibration = read_calibration(made)
    check_calibration(calibration, made, calibration.model_key, calibration.config)
    with pytest.raises(UserError, match="style"):
        check_calibration(calibration, made, calibration.model_key, calibration.config | {"style": "full"})


# ---- the pages, and scores without samples ----


def test_the_review_page_has_agreement_and_refusals(made, world, tmp_path):
    from vtg_r1.core.samples import SampleError
    from vtg_r1.pages.review import read_review, review_page, review_rows

    file = made.with_name("calibration_predictions.jsonl")
    rows = review_rows(*read_review([world / "samples.jsonl", file]))
    for row, (_, predicted) in zip(rows, iter_jsonl(file)):
        answer = row["answers"]["calibration_predictions"]
        assert (answer["agreement"], answer["withheld"]) == (predicted["agreement"], predicted["refused"])
    assert '"agreement": ' in review_page(rows) and "agreement, least first" in review_page(rows)
    write_jsonl(tmp_path / "bad.jsonl", [{"qid": "a", "pred": [[3, 9]], "agreement": 3}])
    with pytest.raises(SampleError, match="line 1: agreement is 3; give a number from 0 to 1"):
        read_review([tmp_path / "bad.jsonl"])


@pytest.mark.long
def test_the_demo_says_how_sure_it_is(tiny, world, toy_samples):
    pytest.importorskip("gradio")
    from vtg_r1.pages.demo import LoadedModel, answer, answers_html

    loaded = LoadedModel("tiny", "tiny", *tiny, resolve_model("tiny")[1])
    video = str(world / "videos" / toy_samples[0].video)
    queries = [toy_samples[0].query]
    asked = [answer([loaded], video, queries, {}, sampling) for sampling in (None, Sampling(4), Sampling(4, threshold=1.01))]
    greedy, sure, refused = (answers_html(rows, 16.0, []) for rows in asked)
    assert "agreement" not in greedy and f"agreement {asked[1][0]['answers'][0]['agreement']:.2f}" in sure
    assert "Not sure" in refused and "Not sure" not in sure


def test_sampled_answers_do_not_change_later_greedy_ones(tiny, toy_samples, view):
    before = predict(*tiny, toy_samples[:4], view, max_completion_length=40)
    consensus_rows(partial(generate, *tiny, max_completion_length=40, temperature=1.0, num_completions=2), toy_samples[:4], view)
    assert predict(*tiny, toy_samples[:4], view, max_completion_length=40) == before


def test_an_answer_of_one_span_is_scored_by_its_best_truth_and_a_set_by_all_truths():
    truths = [[0, 5], [0, 5], [0, 15]]  # of three annotators
    assert answer_tiou([[0, 5]], truths, "span") == 1.0 == answer_tiou([[0, 5], [9, 12]], truths, "span")
    assert answer_tiou([[0, 5]], truths, "set") == pytest.approx(1 / 3)
    assert answer_tiou([], [[0, 5]], "span") == 0 and answer_tiou([], [], "set") == 1


def test_a_checkpoint_is_asked_with_the_settings_of_its_run(tmp_path):
    run = start_run("grpo", "mine", {"seed": 0, "frames": 16, "pixels": 784, "answers": "set"}, tmp_path)
    checkpoint = run.path / "checkpoints/checkpoint-5"
    for folder in (run.path / "model", checkpoint):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
    for name in (run.path, run.path / "model", checkpoint):
        weights, config = resolve_model(str(name))
        assert weights == str(checkpoint if name == checkpoint else run.path / "model")
        assert (config.frames, config.pixels, config.answers) == (16, 784, "set")
