"Answers that are sets of none, one or many spans, options beside the span, prompts without thinking, and a budget of tokens for the frames."

import hashlib
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import yaml

from vtg_r1.core.prompts import (
    grounding_prompt,
    is_well_formed,
    parse_set,
    response_text,
    tag_text,
)
from vtg_r1.core.runtime import UserError, project_root
from vtg_r1.core.samples import Sample, SampleError, load_samples, require_spans, write_jsonl
from vtg_r1.core.spans import set_tiou
from vtg_r1.curation import CurationParams, assign_split, collect, iter_samples, to_sft_sample
from vtg_r1.data.model_inputs import VideoInputConfig, build_messages, build_prompt, frame_budget, training_set
from vtg_r1.data.official_benchmarks import load_benchmark, score
from vtg_r1.data.predictions import Prediction, read_predictions
from vtg_r1.data.readers import read_dataset, read_rows
from vtg_r1.data.toyworld import ToyWorldConfig, make_world, read_scripts, toy_teacher, true_spans
from vtg_r1.difficulty import DifficultyParams, difficulty
from vtg_r1.grpo import GRPOParams, grpo_trainer, rewards_of
from vtg_r1.models.generation import model_inputs
from vtg_r1.models.loading import load_model, load_processor
from vtg_r1.pages.review import read_review, review_rows
from vtg_r1.rewards import set_tiou_reward
from vtg_r1.runs.parameters import from_mapping, parameter_fields, read_parameters
from vtg_r1.sft import TARGETS
from vtg_r1.train.callbacks import CompletionLogger
from vtg_r1.train.checks import check_token_budget, refuse_toy_values
from vtg_r1.train.evaluation import scores
from vtg_r1.video.reader import read_frames

QA_REWARDS = [dict(name="answer", weight=0.7), dict(name="format", weight=0.1), dict(name="tiou", weight=0.2)]  # of the released code


@pytest.fixture(scope="module")
def sets_world(tmp_path_factory):
    "A toy world of sixteen videos with all kinds of queries: of one span, of several, of none, and questions with options."
    config = ToyWorldConfig(levels=("direct", "ordinal", "repeated", "absent", "question"), size=56)
    return make_world(tmp_path_factory.mktemp("sets") / "world", videos=16, seed=3, world=config)


@pytest.fixture(scope="module")
def sets_samples(sets_world):
    return load_samples(sets_world / "samples.jsonl")


# ---- the toy world ----


def test_the_default_toy_world_has_not_changed_by_a_byte(world):
    digest = hashlib.sha256((world / "samples.jsonl").read_bytes() + (world / "scripts.jsonl").read_bytes()).hexdigest()
    assert digest == "35f988b8206d7e5c86da0179dca3a9417e99f7bc69cb1bdb469d2cbc333f45ce"


def test_queries_of_the_toy_world_have_the_spans_and_options_of_their_script(sets_world, sets_samples):
    plays = {json.loads(line)["video"]: json.loads(line) for line in open(sets_world / "scripts.jsonl")}
    by_level = {
        level: [s for s in sets_samples if s.source == f"toyworld-{level}"] for level in ("direct", "ordinal", "repeated", "absent", "question")
    }
    assert all(len(samples) > 8 for samples in by_level.values())
    for s in sets_samples:
        events = {event["name"]: event["spans"] for event in plays[s.video]["events"]}
        name = s.query.removeprefix("the ")
        if s.source == "toyworld-absent":
            assert s.spans == [] and name not in events
        if s.source in ("toyworld-repeated", "toyworld-direct"):
            assert s.spans == events[name] and len(s.spans) == 1 + (s.source == "toyworld-repeated")
        if s.source == "toyworld-question":
            colour, shape = s.question.split()[-1], s.options["ABCD".index(s.answer)]
            assert [n for n in events if n.startswith(colour)] == [f"{colour} {shape}"]
            times = events[f"{colour} {shape}"]
            assert s.spans == times[len(times) > 1 and "second" in s.question :][:1] and ("first" in s.question or "second" in s.question) == (
                len(times) == 2
            )
    assert {s.answer for s in by_level["question"]} == set("ABCD")
    shared = [s for s in by_level["absent"] if any(set(s.query.split()[1:]) & set(e["name"].split()) for e in plays[s.video]["events"])]
    assert len(shared) > len(by_level["absent"]) / 2  # the video has its colour or its shape: one word alone does not give it away


def test_a_colour_that_is_absent_from_the_script_is_in_no_frame(sets_world, sets_samples):
    "The frames agree with the script: if no object has the colour of the query, no pixel has it."
    colours = {
        "red": (225, 50, 45),
        "green": (60, 180, 75),
        "blue": (60, 110, 240),
        "yellow": (250, 215, 50),
        "purple": (170, 70, 200),
        "white": (240, 240, 240),
    }
    checked = 0
    for s in [s for s in sets_samples if s.source == "toyworld-absent"]:
        frames, _ = read_frames(sets_world / "videos" / s.video, 16, 56 * 56)
        of_video = [e["name"].split()[0] for e in json.loads(next(line for line in open(sets_world / "scripts.jsonl") if s.video in line))["events"]]

        def share(colour, frames=frames):
            return (np.abs(frames.astype(int) - colours[colour]).max(-1) < 40).mean()

        asked = s.query.split()[1]
        if asked not in of_video:
            checked += 1
            assert share(asked) < 0.002 < share(of_video[0]), s.query
    assert checked > 2


def test_the_toy_teacher_answers_sets_with_errors_and_is_scored_as_a_set(sets_world, sets_samples):
    scripts = read_scripts(sets_world)
    for s in sets_samples:
        teachers = [toy_teacher(s, scripts, seed) for seed in range(6)]
        spans = [parse_set(t["response"]) for t in teachers]
        assert None not in spans and all(t["iou"] == pytest.approx(set_tiou(p, s.spans)) for t, p in zip(teachers, spans))
        if s.source == "toyworld-question":
            assert all(is_well_formed(t["response"], answer=True) for t in teachers)
    ious = [toy_teacher(s, scripts, seed)["iou"] for s in sets_samples if s.source == "toyworld-absent" for seed in range(12)]
    assert 0.7 < np.mean(ious) < 0.95 and set(ious) == {0.0, 1.0}


def test_a_chosen_kind_of_teacher_error_applies_to_sets_and_questions(sets_world, sets_samples):
    "The kind and share of `teacher_errors` apply to queries of none, one and many spans, and to the letter; there are no errors of another kind."
    scripts = read_scripts(sets_world)
    for s in sets_samples:
        query, play = scripts[s.qid]
        truth, step = true_spans(query), play["step"]
        exact, random, swap, near = (
            toy_teacher(s, scripts, 0, errors=errors, share=share)
            for errors, share in (("random", 0.0), ("random", 1.0), ("swap", 1.0), ("near_miss", 1.0))
        )
        spans = {name: parse_set(t["response"]) for name, t in dict(exact=exact, random=random, swap=swap, near=near).items()}
        assert spans["exact"] == truth and spans["random"] != truth and len(spans["random"]) == max(1, len(truth))
        first = query["named"][0]["spans"][:1]
        assert spans["swap"] == (first if query["level"] in ("ordinal", "question") else truth)
        moved = [abs(a[0] - b[0]) for a, b in zip(spans["near"], truth, strict=True) if a != b]
        assert moved == [step] * bool(truth)
        if query["level"] == "question":
            assert {tag_text(t["response"], "answer") for t in (exact, swap, near)} == {query["answer"]}
    questions = [s for s in sets_samples if s.source == "toyworld-question"]
    letters = [tag_text(toy_teacher(s, scripts, seed, errors="random", share=1.0)["response"], "answer") for s in questions for seed in range(20)]
    right = [scripts[s.qid][0]["answer"] for s in questions for _ in range(20)]
    assert 0.15 < np.mean([a == b for a, b in zip(letters, right)]) < 0.35  # a random letter of four


@pytest.mark.parametrize("errors", ["whole", "moment"])
def test_a_chosen_kind_of_label_error_applies_to_sets(errors, tmp_path):
    config = ToyWorldConfig(levels=("repeated", "absent"), size=28, label_noise=1.0, label_errors=errors)
    world = make_world(tmp_path / "w", videos=6, seed=3, world=config)
    scripts = read_scripts(world)
    for s in load_samples(world / "samples.jsonl"):
        play = scripts[s.qid][1]
        moments = [[0, play["seconds"]]] if errors == "whole" else [span for event in play["events"] for span in event["spans"]]
        assert len(s.spans) == 1 and s.spans[0] in moments


# ---- samples, readers, curation ----


def test_a_sample_without_spans_is_read_but_refused_where_one_span_is_asked_for(tmp_path):
    absent = Sample("q", "v.mp4", 15.0, "the white cross", [])
    write_jsonl(tmp_path / "s.jsonl", [absent])
    assert load_samples(tmp_path / "s.jsonl") == [absent]
    require_spans([absent], "set")
    with pytest.raises(
        SampleError, match=r"sample 'q', field 'spans': is \[\] \(not in the video\), as in 1 samples, and one span is asked for; ask for sets"
    ):
        require_spans([absent], "span")
    write_jsonl(tmp_path / "bad.jsonl", [replace(absent, spans=None)])
    with pytest.raises(SampleError, match="give a list of"):
        load_samples(tmp_path / "bad.jsonl")


def test_queries_without_a_window_are_kept_as_absent_only_on_request(tmp_path):
    windows = [
        dict(qid=1, query="a dog", duration=20, vid="v", relevant_windows=[[2, 4], [8, 12]]),
        dict(qid=2, query="a cat", duration=20, vid="v", relevant_windows=[]),
        dict(qid=3, query="a bird", duration=20, vid="v"),  # a test file: the label is withheld
    ]
    (tmp_path / "val.jsonl").write_text("".join(json.dumps(row) + "\n" for row in windows))
    kept, report = read_dataset("qvhighlights", tmp_path / "val.jsonl", absent="keep")
    assert [s.spans for s in kept] == [[[2, 4], [8, 12]], []] and [f.reason for f in report.excluded] == ["no_span"]
    dropped, report = read_dataset("qvhighlights", tmp_path / "val.jsonl")
    assert len(dropped) == 1 and len(report.excluded) == 2 and "absent='keep'" in report.excluded[0].detail
    rows = [dict(video="v.mp4", query="a cat", duration=20, spans=[]), dict(video="v.mp4", query="a dog", duration=20, spans=None)]
    assert [s.spans for s in read_rows(rows, absent="keep")[0]] == [[]]
    with pytest.raises(ValueError, match="absent must be one of"):
        read_rows(rows, absent="yes")


def test_negatives_of_hirest_get_the_prompts_of_their_split(tmp_path):
    prompts = {"Make Soup": {"a.mp4": dict(relevant=True, clip=True, v_duration=60, bounds=[3, 9])}, "Fix a Bike": {}}
    (tmp_path / "all_data_test.json").write_text(json.dumps(prompts))
    negatives = tmp_path / "all_data_test_negative_samples.json"
    negatives.write_text(json.dumps({f"negative video_{i}": {f"n{i}.mp4": {}} for i in range(3)}))
    samples, report = read_dataset("hirest", negatives, absent="keep", durations={f"n{i}.mp4": 30.0 for i in range(3)})
    assert [(s.video, s.query, s.spans) for s in samples] == [("n0.mp4", "Make Soup", []), ("n1.mp4", "Fix a Bike", []), ("n2.mp4", "Make Soup", [])]
    assert read_dataset("hirest", negatives)[1].read == 3 and not read_dataset("hirest", negatives)[0]
    (tmp_path / "all_data_test.json").unlink()
    with pytest.raises(SampleError, match="negative for the prompts of all_data_test.json, which is not beside it"):
        read_dataset("hirest", negatives, absent="keep")


@pytest.mark.shared
def test_published_files_are_read_as_sets(shared):
    root = shared / "data/annotations"
    samples, _ = read_dataset("qvhighlights", root / "qvhighlights/highlight_val_release.jsonl", past_end="clip", absent="keep")
    assert len(samples) == 1550 and sum(len(s.spans) > 1 for s in samples) == 530
    hidden, report = read_dataset("qvhighlights", root / "qvhighlights/highlight_test_release.jsonl", absent="keep")
    assert not hidden and len(report.excluded) == 1542  # a withheld label does not mean an absent query
    samples, _ = read_dataset("nextgqa", root / "nextgqa", past_end="clip", zero_length="keep")
    assert sum(len(s.spans) > 1 for s in samples) == 591 and all(s.options and s.answer for s in samples)
    negatives, _ = read_dataset("hirest", root / "hirest/all_data_test_negative_samples.json", absent="keep", durations={})
    assert not negatives  # no duration in the file: the videos are needed
    names = list(json.loads((root / "hirest/all_data_test_negative_samples.json").read_text()).values())
    durations = {video: 60.0 for entry in names for video in entry}
    negatives, _ = read_dataset("hirest", root / "hirest/all_data_test_negative_samples.json", absent="keep", durations=durations)
    assert len(negatives) == 2891 and not any(s.spans for s in negatives) and len({s.query for s in negatives}) == 546


def test_curation_of_sets_keeps_absent_queries_and_their_refusals(tmp_path):
    absent, shown = Sample("a", "v.mp4", 15.0, "the white cross", []), Sample("b", "v.mp4", 15.0, "the red circle", [[2.0, 4.0], [8.0, 12.0]])
    write_jsonl(tmp_path / "s.jsonl", [absent, shown])
    for answers, kept in (("span", ["b"]), ("set", ["a", "b"])):
        folder = tmp_path / answers
        folder.mkdir()
        collect([{"path": tmp_path / "s.jsonl"}], folder, answers=answers)
        assert [s.qid for s in iter_samples(folder / "candidates.jsonl")] == kept
        assert [json.loads(line)["reason"] for line in open(folder / "excluded.jsonl")] == ["no_span"] * (answers == "span")
    refusing = dict(model="t", response=response_text("no cross", []), span=None, iou=1.0, usage=None)
    params = CurationParams(answers="set")
    assert assign_split(replace(absent, teacher=refusing), params) == (True, True, "")
    assert assign_split(replace(absent, teacher=refusing), CurationParams())[2] == "unreadable_response"
    seen = dict(model="t", response=response_text("once", [[2, 4]]), span=[2, 4], iou=0.5, usage=None)
    assert to_sft_sample(replace(shown, teacher=seen), "ground_truth", "set").teacher["response"] == "<think>once</think><time>[2, 4], [8, 12]</time>"
    for style, word in (("full", "not in the video"), ("short", "none")):
        written = to_sft_sample(replace(absent, teacher=refusing), "ground_truth", "set", prompt_style=style).teacher["response"]
        assert written == f"<think>no cross</think><time>{word}</time>"
    direct = dict(seen, response="<time>[2, 4], [8, 12]</time>", iou=1.0)
    assert assign_split(replace(shown, teacher=direct), CurationParams(answers="set", prompt_style="direct"))[0]
    assert not assign_split(replace(shown, teacher=direct), params)[0]


# ---- inputs and targets ----


def test_sft_targets_have_the_parts_that_the_prompt_asks_for():
    question = Sample("q", "v.mp4", 15.0, "what red", [[2.0, 4.0], [8.0, 12.0]], question="what red", options=["circle", "cross"], answer="B")
    question.teacher = {"response": response_text("red cross: 2-5", [[2, 5], [8, 12]], "B"), "span": [2, 5], "iou": 0.8}

    def targets(**asked):
        return [make(question, VideoInputConfig("", **asked)) for make in TARGETS.values()]

    assert targets(answers="set", options=True) == [
        "<think>red cross: 2-5</think><time>[2, 5], [8, 12]</time><answer>B</answer>",
        "<think></think><time>[2, 5], [8, 12]</time><answer>B</answer>",
        "<think></think><time>[2, 4], [8, 12]</time><answer>B</answer>",
    ]
    assert targets(options=True, style="direct") == [
        "<time>[2, 5], [8, 12]</time><answer>B</answer>",
        "<time>[2, 5]</time><answer>B</answer>",
        "<time>[2, 4]</time><answer>B</answer>",
    ]
    with pytest.raises(SampleError, match="is not <think>…</think><time>…</time>; curate"):
        targets()  # the response has a letter, and the prompt does not ask for one
    absent = replace(question, spans=[], options=None, teacher={"response": "<think>no</think><time>none</time>"})
    assert TARGETS["exact_span"](absent, VideoInputConfig("", answers="set")) == "<think></think><time>not in the video</time>"
    with pytest.raises(SampleError, match="no readable span"):
        TARGETS["teacher_span"](absent, VideoInputConfig(""))


def test_a_training_row_has_a_letter_only_if_the_prompt_asks_for_one(sets_world, sets_samples):
    question = next(s for s in sets_samples if s.options)
    direct = next(s for s in sets_samples if not s.options)
    view = VideoInputConfig(str(sets_world / "videos"), 16, 784, "short", options=True, answers="set")
    rows = training_set([question, direct], view)[0:2]
    assert rows["answer"] == [question.answer, None] and f"(A) {question.options[0]}" in rows["prompt"][0][0]["content"][0]["text"]
    assert "answer" not in training_set([question], replace(view, options=False))[0]
    assert build_messages(question, [0.0], replace(view, options=False)) == grounding_prompt(question.query, [0.0], "short")


@pytest.mark.parametrize("encoding", ["interleaved", "native"])
@pytest.mark.parametrize("frames", [16, 15, 5])
@pytest.mark.parametrize("budget", [9, 30, 64, 1000])
def test_the_frames_of_a_video_fit_into_the_budget_of_tokens(encoding, frames, budget, world, toy_samples):
    processor, sample = load_processor("tiny"), toy_samples[0]
    view = VideoInputConfig(str(world / "videos"), frames, 16 * 784, "short", encoding, cache="", max_tokens_per_video=budget)
    free = build_prompt(sample, replace(view, max_tokens_per_video=0))
    prompt = build_prompt(sample, view)
    ids = model_inputs(processor, [prompt], "cpu")["input_ids"][0].tolist()
    placeholder = processor.tokenizer.convert_tokens_to_ids("<|image_pad|>" if encoding == "interleaved" else "<|video_pad|>")
    key = "images" if encoding == "interleaved" else "video"
    assert 0 < ids.count(placeholder) <= budget
    assert len(prompt[key]) == min(
        len(free[key]), budget * (1 + (encoding == "native"))
    )  # the frames get smaller first; some are dropped only when each takes one token
    assert frame_budget(sample, replace(view, max_tokens_per_video=0)) == (frames, 16 * 784)
    if budget == 1000:
        assert [image.size for image in prompt[key]] == [image.size for image in free[key]]


@pytest.mark.parametrize("encoding", ["interleaved", "native"])
def test_a_wrong_pixels_per_token_is_found_by_counting_tokens(encoding, world, toy_samples):
    view = VideoInputConfig(str(world / "videos"), 16, 16 * 784, "short", encoding, cache="", max_tokens_per_video=32)
    check_token_budget(load_processor("tiny"), toy_samples, view)
    message = r"take (\d+) tokens, and max_tokens_per_video is 32: set pixels_per_token \(now 1568\) to .*, at most about (\d+)"
    with pytest.raises(UserError, match=message) as error:
        check_token_budget(load_processor("tiny"), toy_samples, replace(view, pixels_per_token=1568))
    tokens, most = map(int, re.search(message, str(error.value)).groups())
    assert tokens > 32 and 784 <= most < 1568


def test_a_budget_that_holds_no_frame_is_refused(world, toy_samples):
    view = VideoInputConfig(str(world / "videos"), 16, 784 * 64, "short", max_tokens_per_video=9, min_pixels=784 * 10)
    with pytest.raises(ValueError, match="max_tokens_per_video 9 holds no frame of 7840 pixels"):
        build_prompt(toy_samples[0], view)


# ---- scores ----


def test_absent_queries_count_in_the_scores_of_sets_and_not_in_mIoU(tmp_path):
    samples = [
        Sample("a", "v.mp4", 15.0, "x", [[2.0, 4.0], [8.0, 12.0]]),
        Sample("b", "v.mp4", 15.0, "y", []),
        Sample("c", "w.mp4", 15.0, "z", [[1.0, 3.0]]),
    ]
    write_jsonl(tmp_path / "s.jsonl", samples)
    loaded, _ = load_benchmark("samples", tmp_path / "s.jsonl")
    rows = [dict(qid="a", pred=[[2, 4]]), dict(qid="b", pred=[]), dict(qid="c", pred=None, response="<time>soon</time>")]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    predictions = read_predictions(tmp_path / "p.jsonl", loaded)
    assert [p.as_set for p in predictions.values()] == [[[2, 4]], [], None]
    metrics = score("samples", loaded, predictions)
    assert metrics["mIoU"] == 50 and metrics["n"] == 3 and metrics["refusal F1"] == 100 and metrics["count accuracy"] == pytest.approx(33.3333)
    only_shown = [loaded[0], loaded[2]]
    assert "refusal F1" not in score("samples", only_shown, predictions) and score("samples", only_shown, predictions)["mIoU"] == 50
    assert score("samples", only_shown, predictions, sets=True)["F1@0.5"] == 50
    assert "mIoU" not in score("samples", loaded[1:2], predictions) and score("samples", loaded[1:2], {})["set tIoU"] == 0
    assert Prediction([[1.0, 2.0]], refused=False).as_set == [[1.0, 2.0]]
    by_file = scores([dict(qid="b", pred=[], response="x")], [loaded[1]], len, VideoInputConfig("", answers="set"))
    assert by_file["refusal recall"] == 100 and "mIoU" not in by_file


def test_questions_are_scored_by_letter_and_by_letter_with_span():
    samples = [Sample(f"q{i}", "v.mp4", 15.0, "what red", [[2.0, 6.0]], options=["a", "b"], answer="A") for i in range(4)]
    answered = [("A", [2, 6]), ("A", [3, 5]), ("A", [9, 12]), ("B", [2, 6])]
    rows = [dict(qid=f"q{i}", pred=[span], answer=letter, response="x") for i, (letter, span) in enumerate(answered)]
    metrics = scores(rows, samples, len, VideoInputConfig("", options=True))
    assert metrics["Acc@QA"] == 75 and metrics["Acc@GQA"] == 50 and metrics["Acc@IoU"] == 50
    assert "Acc@QA" not in scores(rows, samples, len)
    complete = "<think>x</think><time>[2, 6]</time><answer>A</answer>"
    rows = [dict(row, response=response) for row, response in zip(rows, [complete, complete, complete.removesuffix("<answer>A</answer>"), "x"])]
    assert (
        scores(rows, samples, len, VideoInputConfig("", options=True))["format_rate"] == 50
    )  # the format includes a letter only if an option is asked for
    assert scores(rows, samples, len)["format_rate"] == 25


def test_the_difficulty_of_a_set_is_measured_by_the_iou_of_sets():
    sample = Sample("q", "v.mp4", 15.0, "x", [[2.0, 4.0], [8.0, 12.0]])
    responses = [response_text("", spans) for spans in ([[2, 4], [8, 12]], [[2, 4]], [])] + ["?"]
    assert difficulty(sample, responses, "p", answers="set")["ious"] == [1, 0.5, 0, 0]
    assert difficulty(replace(sample, spans=[]), responses, "p", answers="set")["ious"] == [0, 0, 1, 0]
    assert difficulty(sample, responses, "p")["ious"] == [1, 1, 0, 0]


def test_the_review_scores_a_refusal_and_not_a_withheld_answer_as_not_in_the_video(tmp_path):
    "`vtg-r1 calibrate` withholds spans when the sampled answers disagree: that is not the answer *not in the video*."
    write_jsonl(tmp_path / "samples.jsonl", [Sample("q", "v.mp4", 15.0, "x", [])])
    row = {"qid": "q", "response": "", "pred": [[1, 2]]}
    lanes = {"right": {**row, "pred": []}, "wrong": row, "withheld": {**row, "agreement": 0.2, "refused": True}}
    for name, prediction in lanes.items():
        write_jsonl(tmp_path / f"{name}.jsonl", [prediction])
    (shown,) = review_rows(*read_review([tmp_path / f"{name}.jsonl" for name in ("samples", *lanes)]))
    assert shown["ious"] == {"right": 1.0, "wrong": 0.0, "withheld": 0.0} and shown["answers"]["withheld"]["withheld"] is True


def test_the_demo_shows_none_one_and_many_spans(tmp_path):
    pytest.importorskip("gradio", reason="gradio is not installed: pip install 'vtg_r1[demo]'")
    from vtg_r1.pages.demo import answers_html, make_examples

    truths = [spans for example in make_examples(tmp_path / "sets", sets=True) for spans in example.truths.values()]
    assert {len(spans) for spans in truths} == {0, 1, 2}
    facts = dict(model="m", response="<time></time>", agreement=None, refused=None)
    shown = {}
    for spans, value in (([], 0.0), ([[2, 4]], 0.5), ([[2, 4], [8, 12]], 1.0)):
        answers = [dict(facts, spans=spans, span=None, tiou=value)]
        shown[len(spans)] = answers_html([dict(query="x", truth=[[2, 4], [8, 12]], answers=answers)], 16.0, [])
    assert [shown[n].count('class="span"') for n in (0, 1, 2)] == [0, 1, 2] and "2–4 s, 8–12 s</b>" in shown[2]
    assert all('<i class="truth" style="left:50.00%;width:25.00%">' in page and page.count('<i class="truth"') == 2 for page in shown.values())
    assert "<b>Not in the video</b>" in shown[0] and "truth 2–4 s, 8–12 s, IoU 0.50" in shown[1]
    overlapping = answers_html([dict(query="x", truth=None, answers=[dict(facts, spans=[[4, 7], [0, 7]], span=None, tiou=None)])], 16.0, [])
    assert overlapping.index('data-start="0"') < overlapping.index('data-start="4"'), "the longer span must be drawn first, behind the shorter one"
    unsure = answers_html([dict(query="x", truth=[[2, 4]], answers=[dict(facts, spans=None, refused=[[2, 4]], span=None, tiou=None)])], 16.0, [])
    assert "<b>Not sure</b>" in unsure and "truth 2–4 s</span>" in unsure and "IoU" not in unsure
    answers = [dict(facts, spans=[], span=None, tiou=1.0)]
    absent = answers_html([dict(query="x", truth=[], answers=answers)], 16.0, [])
    assert "truth not in the video, IoU 1.00" in absent and 'class="truth"' not in absent
    assert "truth" not in answers_html([dict(query="x", truth=None, answers=answers)], 16.0, [])


# ---- presets ----


@pytest.mark.parametrize("preset", ["toy_sets", "toy_qa", "timelens_7b", "timelens2_8b", "paper_qa"])
def test_presets_hold_parameters_of_their_stage(preset):
    path = project_root() / f"configs/{preset}.yaml"
    content = yaml.safe_load(path.read_text())
    params = from_mapping(GRPOParams, read_parameters(GRPOParams, [path], []))
    if preset in ("toy_sets", "toy_qa"):  # papermill takes each line as a variable: no sections, and YAML 1.1 must read 1e-4 as a number, not as text
        assert set(content) <= set(parameter_fields(GRPOParams)) and content["learning_rate"] == params.learning_rate == 1e-4
    if preset == "toy_sets":
        assert params.answers == "set"
    elif preset in ("paper_qa", "toy_qa"):
        assert params.rewards == QA_REWARDS and params.options
    else:
        assert params.fps == 2 and not params.view("videos").thinking and params.max_tokens_per_video in (14_336, 16_384)
        assert params.frames * params.pixels > params.max_tokens_per_video * params.pixels_per_token > params.min_pixels  # the budget binds
        refuse_toy_values(params)
    for stage, params_class in (("difficulty", DifficultyParams), ("grpo", GRPOParams)):
        if stage in content:
            from_mapping(params_class, read_parameters(params_class, [path], []))
            assert all("#" in line for line in path.read_text().splitlines() if re.match(r"  \w+:", line))


# ---- RL ----


def test_the_parameters_choose_the_rewards_and_their_weights():
    def paid(**given):
        return [(reward.function.__name__, reward.entry.weight) for reward in rewards_of(GRPOParams(**given))]

    assert paid() == [("tiou_reward", 0.9), ("format_reward", 0.1)] and paid(answers="set") == [("set_tiou_reward", 0.9), ("format_reward", 0.1)]
    sets = [reward.function for reward in rewards_of(GRPOParams(answers="set", prompt_style="short_direct"))]
    text, refusal = [response_text(None, [[2, 4]])], [response_text(None, [])]
    assert sets[0](text, spans=[[[2, 4], [8, 12]]]) == [0.5] and sets[0](refusal, spans=[[]]) == [1]
    assert sets[1](text) == sets[1](refusal) == [1] and sets[1]([response_text("seen", [[2, 4]])]) == [0]
    wasserstein = [dict(name="set_wasserstein", weight=1.0)]
    assert paid(answers="set", rewards=wasserstein) == [("set_tiou_reward", 0.0), ("set_wasserstein_reward", 1.0)]
    with pytest.raises(UserError, match="reward 'answer' pays for an option, and none is asked for: set options"):
        GRPOParams(rewards=QA_REWARDS)
    assert paid(options=True, rewards=QA_REWARDS) == [("answer_reward", 0.7), ("format_reward", 0.1), ("tiou_reward", 0.2)]


@pytest.mark.slow
def test_a_step_of_grpo_pays_sets_and_options(sets_world, sets_samples, tmp_path):
    "One update on an absent, a repeated and a direct query and a question; the logged rewards of sets are computed here again."
    chosen = [next(s for s in sets_samples if s.source == f"toyworld-{level}") for level in ("absent", "repeated", "question", "direct")]
    params = GRPOParams(answers="set", options=True, rewards=QA_REWARDS, num_generations=4, prompts_per_step=4, per_device_batch_size=16, steps=1)
    trainer = grpo_trainer(load_model("tiny"), load_processor("tiny"), chosen, params.view(str(sets_world / "videos")), tmp_path, params)
    next(callback for callback in trainer.callback_handler.callbacks if isinstance(callback, CompletionLogger)).keep = 16  # all of the step
    trainer.train()
    rows = [json.loads(line) for line in open(tmp_path / "completions.jsonl")]
    log, by_qid = trainer.state.log_history[0], {s.qid: s for s in chosen}
    paid = set_tiou_reward([row["response"] for row in rows], [by_qid[row["qid"]].spans for row in rows])
    assert (
        [row["tiou"] for row in rows] == paid
        and len(rows) == 16
        and len(set(paid)) > 1
        and {len(by_qid[row["qid"]].spans) for row in rows} == {0, 1, 2}
    )
    assert log["rewards/set_tiou_reward/mean"] == pytest.approx(np.mean(paid)) and {
        "rewards/format_reward/mean",
        "rewards/answer_reward/mean",
    } <= set(log)
