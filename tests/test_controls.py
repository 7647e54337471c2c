"Prompts that show less than the video, and the report on a model that scores no better with the video than with them."

import numpy as np
import pytest
import torch

from vtg_r1.benchmarks import BenchmarkData, BenchmarksParams, Scoring, control_table, no_better_than, predict_controls, print_controls
from vtg_r1.core.prompts import response_text
from vtg_r1.data.controls import CONTROLS, shuffled_frames, text_only
from vtg_r1.data.model_inputs import VideoInputConfig, build_prompt
from vtg_r1.data.official_benchmarks import score, trivial_predictions
from vtg_r1.data.predictions import Prediction
from vtg_r1.models.generation import generate, generation_kwargs
from vtg_r1.models.loading import load_model, load_processor
from vtg_r1.models.templates import prompt_text
from vtg_r1.runs.run import start_run


@pytest.fixture(scope="module")
def tiny():
    return load_model("tiny"), load_processor("tiny")


def view_of(world, **changes):
    return VideoInputConfig(str(world / "videos"), 16, 784, **{"style": "short", "cache": "", **changes})


@pytest.mark.parametrize("style", ["short", "full"])
@pytest.mark.parametrize("encoding", ["interleaved", "native"])
def test_controls_take_away_what_they_say_and_nothing_else(world, toy_samples, style, encoding):
    prompt = build_prompt(toy_samples[0], view_of(world, style=style, time_encoding=encoding))
    key = "images" if encoding == "interleaved" else "video"
    pictures = [np.asarray(frame) for frame in prompt[key]]
    black, shuffled, text = (change(prompt) for change in CONTROLS.values())
    for changed in (black, shuffled):
        assert changed.keys() == prompt.keys() and all(changed[name] == prompt[name] for name in prompt if name != key)
    assert [frame.size for frame in black[key]] == [frame.size for frame in prompt[key]] and not any(np.asarray(f).any() for f in black[key])
    moved = [np.asarray(frame) for frame in shuffled[key]]
    assert any((a != b).any() for a, b in zip(moved, pictures)) and sorted(x.tobytes() for x in moved) == sorted(x.tobytes() for x in pictures)
    assert text.keys() == {"prompt"} and toy_samples[0].query in str(text) and "image" not in str(text) and "'video'" not in str(text)
    assert [m["role"] for m in text["prompt"]] == [m["role"] for m in prompt["prompt"]] and text["prompt"][-1]["content"] == [
        {"type": "text", "text": toy_samples[0].query}
    ]
    assert all((np.asarray(frame) == picture).all() for frame, picture in zip(prompt[key], pictures))  # the prompt itself is as it was


@pytest.mark.parametrize("n", range(1, 65))
def test_every_number_of_frames_is_shuffled(n):
    frames = list(range(n))
    shuffled = shuffled_frames({"prompt": [], "images": frames})["images"]
    assert sorted(shuffled) == frames and (shuffled != frames or n == 1)  # a single frame has one order


def test_text_alone_is_answered_as_transformers_does(tiny, world, toy_samples):
    model, processor = tiny
    prompts = [text_only(build_prompt(s, view_of(world))) for s in toy_samples[:3]]
    one_by_one = []
    for prompt in prompts:
        inputs = processor.tokenizer(prompt_text(processor, prompt), return_tensors="pt")
        with torch.no_grad():
            tokens = model.generate(**inputs, max_new_tokens=40, **generation_kwargs())[0, inputs["input_ids"].shape[1] :]
        one_by_one.append(processor.tokenizer.decode(tokens, skip_special_tokens=True))
    assert generate(model, processor, prompts, 40) == one_by_one
    assert len(set(one_by_one)) > 1  # the answers depend on the text


def stage(world, toy_samples, tmp_path, answer, count=0):
    "Runs the controls on `answer`, a function from prompts to completions; returns the parameters, the data, the controls' predictions and their table."
    params = BenchmarksParams(model="tiny", control_limit=count or len(toy_samples), outputs_dir=str(tmp_path))
    data = BenchmarkData("toyworld", world / "samples.jsonl", list(toy_samples), None, view_of(world))
    run = start_run("benchmarks", "controls", {}, str(tmp_path))
    from vtg_r1.core.prompts import parse_spans

    completions = answer([build_prompt(s, data.view) for s in toy_samples])
    own = {s.qid: Prediction(parse_spans(text)) for s, text in zip(toy_samples, completions)}
    predictions = {"tiny": own, **trivial_predictions(toy_samples, None, 0)}
    scores = {name: score(data.name, data.samples, of_all) for name, of_all in predictions.items()}
    controls = predict_controls(run, params, data, answer)
    return params, data, controls, control_table(params, data, Scoring("tiny", predictions, scores, {}, None), controls)


def test_a_model_that_looks_is_above_every_control(tiny, world, toy_samples, tmp_path, capsys):
    from functools import partial

    params, data, controls, table = stage(world, toy_samples, tmp_path, partial(generate, *tiny, max_completion_length=40))
    assert list(table.index) == ["tiny", "black frames", "shuffled frames", "text only", "whole video", "centre third", "random"]
    assert no_better_than(table) == [] and table.loc["black frames", "mIoU"] < table.loc["tiny", "mIoU"] - 10
    assert table.loc["black frames", "model above by"] == pytest.approx(table.loc["tiny", "mIoU"] - table.loc["black frames", "mIoU"], abs=1e-3)
    print_controls(params, data, table)
    assert "it looks at the video" in capsys.readouterr().out
    assert {len(rows) for rows in controls.values()} == {len(toy_samples)} and len(list(tmp_path.rglob("control_*.jsonl"))) == 3


def test_a_model_that_does_not_look_is_named(world, toy_samples, tmp_path, capsys):
    "Its answers depend on the words of the prompt alone, so it gives the same ones under every control."

    def blind(prompts):
        starts = [len(str([b for m in p["prompt"] for b in m["content"] if b.get("text", "0")[0].isalpha()])) % 9 for p in prompts]
        return [response_text("", [start, start + 4]) for start in starts]

    params, data, controls, table = stage(world, toy_samples, tmp_path, blind)
    assert controls["black frames"] == controls["shuffled frames"] == controls["text only"]
    assert {"black frames", "shuffled frames", "text only"} <= set(no_better_than(table))
    print_controls(params, data, table)
    assert "is not surely above: black frames, shuffled frames, text only" in capsys.readouterr().out


def test_control_limit_bounds_the_queries_and_zero_asks_none(world, toy_samples, tmp_path):
    params, data, controls, table = stage(world, toy_samples, tmp_path, lambda prompts: [response_text("", [1, 5])] * len(prompts), 5)
    assert {len(rows) for rows in controls.values()} == {5}
    nothing = BenchmarksParams(control_limit=0, outputs_dir=str(tmp_path))
    assert predict_controls(None, nothing, data, None) == {}
