"Runs that cannot succeed are refused before the model is loaded: toy values, wrong values, too few samples, prompts that do not fit."

import json
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest

from vtg_r1 import curation, difficulty, grpo, sft
from vtg_r1.core.prompts import response_text
from vtg_r1.core.runtime import UserError
from vtg_r1.core.samples import Sample, SampleError, load_samples, write_jsonl
from vtg_r1.data.model_inputs import VideoInputConfig, build_prompt
from vtg_r1.data.toyworld import read_scripts, toy_teacher
from vtg_r1.grpo import GRPOParams
from vtg_r1.models.generation import model_inputs
from vtg_r1.models.loading import check_model_exists, load_processor, model_path
from vtg_r1.runs.parameters import from_mapping, parameter_fields
from vtg_r1.sft import SFTParams
from vtg_r1.train.checks import check_context_length, is_embedded, max_prompt_tokens, prompt_lengths, refuse_toy_values
from vtg_r1.train.stage_data import refuse_shared_videos

STAGES = {
    "curation": (curation.CurationParams, curation.main),
    "sft": (SFTParams, sft.main),
    "difficulty": (difficulty.DifficultyParams, difficulty.main),
    "grpo": (GRPOParams, grpo.main),
}
LARGE = "Qwen/Qwen2.5-VL-3B-Instruct"


@pytest.mark.parametrize("params_class", [SFTParams, GRPOParams])
def test_a_large_model_with_a_toy_value_is_refused(params_class):
    good = {"model": LARGE, "pixels": 100352, "learning_rate": 1e-5, "max_completion_length": 1024, "frames": 64}
    refuse_toy_values(params_class(**good))
    refuse_toy_values(params_class(**{**good, "frames": 16}))  # the default of the toy world, but it suits a large model too
    for name in ("pixels", "learning_rate", "max_completion_length"):
        value = parameter_fields(params_class)[name].default
        with pytest.raises(UserError, match=f"these values suit only that: {name} = {value}. .*configs/single_gpu_lora.yaml .*configs/paper_7b.yaml"):
            refuse_toy_values(params_class(**{**good, name: value}))
    with pytest.raises(UserError, match="frames = 16, pixels = 784"):
        refuse_toy_values(params_class(**{**good, "frames": 16, "pixels": 784}))


def test_a_model_of_the_embedded_architecture_may_have_toy_values(tmp_path):
    from peft import get_peft_model

    from vtg_r1.models.loading import load_model, lora_config

    shutil.copytree(model_path("tiny"), tmp_path / "run/model")
    model = load_model("tiny", device="cpu")
    get_peft_model(model, lora_config(model, 4)).save_pretrained(tmp_path / "adapters")
    for model in ("", "tiny", str(tmp_path / "run"), str(tmp_path / "run/model"), str(tmp_path / "adapters")):
        refuse_toy_values(GRPOParams(model=model))
    config = json.loads((tmp_path / "run/model/config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 28
    (tmp_path / "run/model/config.json").write_text(json.dumps(config))
    assert not is_embedded(str(tmp_path / "run"))
    with pytest.raises(UserError, match="no config.json"):
        refuse_toy_values(GRPOParams(model=str(tmp_path / "nothing-there")))


def test_toy_values_are_refused_before_a_run_is_made(tmp_path):
    with pytest.raises(UserError, match="is not the embedded one"):
        grpo.main(GRPOParams(model=LARGE, outputs_dir=str(tmp_path), run_name="large"))
    assert not (tmp_path / "grpo").exists()


@pytest.fixture(scope="module")
def taught(world, toy_samples):
    scripts = read_scripts(world)
    return [replace(s, teacher=toy_teacher(s, scripts)) for s in toy_samples[:8]]


@pytest.fixture(scope="module")
def unloadable(tmp_path_factory):
    "The embedded model's configuration and processor without its weights: whatever loads the model fails."
    folder = tmp_path_factory.mktemp("models") / "unloadable"
    shutil.copytree(model_path("tiny"), folder, ignore=shutil.ignore_patterns("*.safetensors"))
    return folder


@pytest.fixture(scope="module")
def files(world, taught, unloadable, tmp_path_factory):
    "A folder with annotations, and parameters whose model cannot be loaded."
    home = tmp_path_factory.mktemp("early")
    write_jsonl(home / "train.jsonl", taught)
    trained = {s.video for s in taught}
    write_jsonl(home / "held.jsonl", [s for s in load_samples(world / "samples.jsonl") if s.video not in trained])
    write_jsonl(home / "hard.jsonl", [replace(s, difficulty={"policy": "p", "ious": [0.0], "mean_iou": 0.0, "pass_rate": 0.0}) for s in taught])
    write_jsonl(home / "empty.jsonl", [])
    given = {
        "annotations": str(home / "train.jsonl"),
        "eval_annotations": str(home / "held.jsonl"),
        "video_root": str(world / "videos"),
        "outputs_dir": str(home),
    }
    return home, {**given, "model": str(unloadable), "threads": 1, "figures": False}


def stage(name: str, files, run_name: str, **parameters):
    "Runs a stage in this process, with those parameters of `files` that it has."
    (params_class, main), given = STAGES[name], {**files[1], "run_name": run_name, **parameters}
    return main(from_mapping(params_class, {key: value for key, value in given.items() if key in parameter_fields(params_class)}))


def refusal(files, name, run_name, **parameters) -> str:
    "Returns the message with which a stage refuses its samples, and asserts that the run is marked as failed."
    with pytest.raises(SampleError) as e:
        stage(name, files, run_name, **parameters)
    manifest = json.loads((files[0] / name / run_name / "manifest.json").read_text())
    assert manifest["status"] == "failed"
    return str(e.value)


@pytest.mark.parametrize(
    "name, bad",
    [
        *(("sft", bad) for bad in ({"steps": -1}, {"epochs": 0.0}, {"batch_size": 0}, {"per_device_batch_size": 0}, {"learning_rate": -1e-6})),
        *(
            ("grpo", bad)
            for bad in ({"steps": 0}, {"steps": -5}, {"prompts_per_step": 0}, {"per_device_batch_size": 0}, {"num_generations": 1}, {"beta": -0.1})
        ),
        *(("grpo", bad) for bad in ({"temperature": 0.0}, {"max_completion_length": 0}, {"learning_rate": 0.0}, {"save_steps": -1})),
    ],
    ids=str,
)
def test_a_value_out_of_bounds_is_refused(name, bad):
    ((field, value),) = bad.items()
    with pytest.raises(UserError, match=f"^parameter '{field}' is {value}: give a (whole )?number (of at least|above) "):
        STAGES[name][0](**bad)


def test_fewer_samples_than_an_update_takes_are_refused(files):
    for name, field in (("sft", "batch_size"), ("grpo", "prompts_per_step")):
        message = refusal(files, name, "few", **{field: 64}, max_train_samples=5)
        assert (
            f"train.jsonl (max_train_samples and match_size_to excluded 3): 5 samples are left to train on, and an update takes {field} = 64"
            in message
        )


def test_the_error_about_too_few_samples_counts_the_held_out_videos(files, taught):
    videos = sorted(p.name for p in Path(files[1]["video_root"]).glob("*.mp4"))
    write_jsonl(files[0] / "wide.jsonl", [replace(taught[0], qid=v, video=v) for v in [*videos[:8], "not-there.mp4"]])
    message = refusal(files, "sft", "split", eval_annotations="", annotations=str(files[0] / "wide.jsonl"), missing_videos="skip")
    assert "wide.jsonl (missing_videos 'skip' excluded 1, eval_annotations '' (every fourth video) excluded 2): 6 samples are left" in message


def test_a_held_out_video_that_is_trained_on_is_refused(files, taught):
    "A cut of the same video counts as the video. The model of `files` cannot be loaded, so the refusal comes before that."
    with pytest.raises(UserError) as e:
        stage("sft", files, "shared", eval_annotations=files[1]["annotations"])
    videos = {s.video for s in taught}
    assert f"{len(videos)} of {len(videos)} held-out videos, with 8 queries, are trained on too, such as {min(videos)}" in str(e.value)
    cut, whole = replace(taught[0], video="v_abcDEF12345_10.0_20.0.mp4"), replace(taught[0], video="v_abcDEF12345.mp4")
    with pytest.raises(UserError, match="1 of 1 held-out videos"):
        refuse_shared_videos([whole], [cut])
    refuse_shared_videos([whole], [replace(cut, video="v_abcDEF12346_10.0_20.0.mp4")])


@pytest.mark.parametrize("name", ["sft", "difficulty", "grpo"])
def test_own_samples_need_a_model_that_is_named(name, files, taught):
    "Without the refusal the embedded model would be trained or measured without a word."
    write_jsonl(files[0] / "own.jsonl", [replace(s, source="charades") for s in taught])
    with pytest.raises(
        UserError, match="is not of the toy world, and no model is named: give model, such as .*; model = tiny takes the embedded one"
    ):
        stage(name, files, "unnamed", annotations=str(files[0] / "own.jsonl"), model="")


def test_a_hub_behind_a_closed_proxy_is_named_with_the_model(monkeypatch):
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with pytest.raises(UserError, match="model 'Nobody/no-such-model' is not in the Hub's cache, and the Hub cannot be reached"):
        check_model_exists("Nobody/no-such-model")


def test_a_model_that_cannot_be_found_is_refused_before_anything_is_read(files, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in [n for n in os.environ if n.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    begun = time.monotonic()
    for name, learning in (("sft", {"learning_rate": 1e-6}), ("difficulty", {}), ("grpo", {"learning_rate": 1e-6})):
        with pytest.raises(UserError, match="model 'Nobody/no-such-model' is not in the Hub's cache, and the Hub cannot be reached"):
            stage(
                name,
                files,
                "no-model",
                model="Nobody/no-such-model",
                annotations="nowhere.jsonl",
                frames=64,
                pixels=100352,
                max_completion_length=32,
                **learning,
            )
    assert time.monotonic() - begun < 30


def test_a_strategy_that_keeps_nothing_is_refused_and_the_file_named(files):
    message = refusal(files, "grpo", "hard", annotations=str(files[0] / "hard.jsonl"), strategy="difficulty_range", max_train_samples=6)
    assert "hard.jsonl (max_train_samples and match_size_to excluded 2): strategy 'difficulty_range' keeps none of 6 samples" in message


@pytest.mark.parametrize("name", ["sft", "difficulty", "grpo"])
def test_an_empty_file_is_refused(files, name):
    assert "empty.jsonl: holds no samples" in refusal(files, name, "empty", annotations=str(files[0] / "empty.jsonl"))


def test_thresholds_that_let_nothing_through_are_reported_by_both_stages(taught, files):
    halves = [[s.spans[0][0], (s.spans[0][0] + s.spans[0][1]) / 2] for s in taught]
    rows = [replace(s, teacher={"model": "x", "response": response_text("seen.", half)}) for s, half in zip(taught, halves)]
    write_jsonl(files[0] / "half.jsonl", rows)
    with pytest.warns(
        UserWarning, match=r"coldstart.jsonl holds no samples; 01_curation \(sft_min_iou = 0.9, rl_min_iou = 0.4.*excluded 8 as only in rl.jsonl"
    ):
        sources = [{"path": str(files[0] / "half.jsonl")}]
        folder = stage("curation", files, "strict", sources=sources, teacher="precomputed", sft_min_iou=0.9)
    message = refusal(files, "sft", "strict", annotations=str(folder / "coldstart.jsonl"))
    assert "coldstart.jsonl: holds no samples; 01_curation (sft_min_iou = 0.9" in message and "8 as only in rl.jsonl" in message


def test_sources_without_any_of_their_videos_are_refused(files, tmp_path):
    sources = [{"path": files[1]["annotations"]}]
    with pytest.raises(SampleError, match=r"train.jsonl: none of 8 records is left \(8 video\)"):
        stage("curation", files, "gone", sources=sources, teacher="precomputed", video_root=str(tmp_path))


@pytest.fixture(scope="module")
def narrow(unloadable):
    "A model without weights whose context has 64 tokens."
    folder = unloadable.with_name("narrow")
    shutil.copytree(unloadable, folder)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = 64
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


@pytest.mark.parametrize("name", ["sft", "difficulty", "grpo"])
def test_a_prompt_longer_than_the_context_is_named_before_the_model_is_loaded(files, narrow, name):
    size = {"sft": {"batch_size": 8, "per_device_batch_size": 8}, "grpo": {"prompts_per_step": 8}}.get(name, {})
    message = refusal(files, name, "long", model=narrow, max_completion_length=32, **size)
    assert (
        "do not fit into the context of 64 tokens" in message
        and "max_position_embeddings" in message
        and "Give at most about" in message
        and "sample 'train_" in message
    )


@pytest.mark.parametrize("encoding", ["interleaved", "native"])
def test_prompt_lengths_are_those_of_the_decoded_prompts(grey, tmp_path, encoding):
    "They are computed from times and frame size, without decoding: for large frames, narrow frames and a clip."
    for name, size, n in (("wide", (320, 180), 30), ("narrow", (64, 96), 14)):
        grey(tmp_path / f"{name}.mp4", "libx264", n, 3, size)
    samples = [
        Sample("a", "wide.mp4", 10.0, "the red circle", [[1, 2]]),
        Sample("b", "wide.mp4", 3.0, "a longer sentence about the blue cross", [[1, 2]], clip=[2.0, 5.0]),
        Sample("c", "narrow.mp4", 4.6, "the cross", [[0, 1]]),
    ]
    view, processor = VideoInputConfig(str(tmp_path), 12, 20 * 28 * 28, "full", encoding, cache=""), load_processor("tiny")
    lengths = {s.qid: n for s, n, _ in prompt_lengths(processor, samples, view)}
    assert lengths == {s.qid: model_inputs(processor, [build_prompt(s, view)], "cpu")["input_ids"].shape[1] for s in samples} and lengths["a"] > 100
    check_context_length("tiny", processor, samples, view, 4096 - max(lengths.values()))
    with pytest.raises(SampleError, match=f"sample '{max(lengths, key=lengths.get)}'.* prompt of {max(lengths.values())} tokens"):
        check_context_length("tiny", processor, samples, view, 4097 - max(lengths.values()))


@pytest.mark.parametrize("fps, encoding", [(0.0, "interleaved"), (2.0, "interleaved"), (2.0, "native")])
def test_the_bound_of_prompt_lengths_uses_the_token_budget(grey, tmp_path, fps, encoding):
    "No prompt is longer than the bound, whatever the length of its video. The bound is far below the one without a token budget."
    counts = (1, 12, 50, 130)  # frames, four per second
    for n in counts:
        grey(tmp_path / f"{n}.mp4", "libx264", n, 4, (320, 180), step=1)
    samples, processor = [Sample(str(n), f"{n}.mp4", n / 4, "the red circle", [[0, 0.2]]) for n in counts], load_processor("tiny")
    view = VideoInputConfig(str(tmp_path), 64, 60 * 28 * 28, "full", encoding, fps=fps, cache="", max_tokens_per_video=200)
    bound = max_prompt_tokens(processor, samples, view)
    assert max(n for _, n, _ in prompt_lengths(processor, samples, view)) <= bound
    assert bound < max_prompt_tokens(processor, samples, replace(view, max_tokens_per_video=0)) - 3000


def test_a_prompt_that_a_token_budget_makes_too_long_needs_a_smaller_budget(grey, tmp_path):
    "Fewer frames would not help: the budget would make each of them larger."
    grey(tmp_path / "wide.mp4", "libx264", 30, 3, (320, 180))
    samples, processor = [Sample("a", "wide.mp4", 10.0, "the red circle", [[1, 2]])], load_processor("tiny")
    view = VideoInputConfig(str(tmp_path), 12, 20 * 28 * 28, "full", cache="", max_tokens_per_video=100)
    ((_, length, _),) = prompt_lengths(processor, samples, view)
    with pytest.raises(SampleError, match=f"Lower max_tokens_per_video from 100 to about {100 * (length - 7) // length}$"):
        check_context_length("tiny", processor, samples, view, 4096 - length + 7)
