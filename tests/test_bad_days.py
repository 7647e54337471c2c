"Bad days of the trainer: no loss, no signal, no samples, no room. Each is named, before the model is loaded where the data can already tell."

import json
import math
import resource
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from vtg_r1.core.runtime import RunError, set_seed
from vtg_r1.core.samples import Sample, SampleError, write_jsonl
from vtg_r1.data.model_inputs import VideoInputConfig, build_prompt
from vtg_r1.data.toyworld import read_scripts, toy_teacher
from vtg_r1.grpo import grpo_trainer
from vtg_r1.models.generation import model_inputs
from vtg_r1.models.loading import TINY_PATH, load_model, load_processor
from vtg_r1.models.tiny import build_tiny
from vtg_r1.runs.execute import run_here
from vtg_r1.sft import sft_trainer, target_response
from vtg_r1.train.checkpoints import is_complete
from vtg_r1.train.checks import check_context_length, prompt_lengths
from vtg_r1.train.nan_guard import read_batch
from vtg_r1.train.trainer import fit

STAGES = {"sft": "nbs/03_sft.ipynb", "difficulty": "nbs/04_difficulty.ipynb", "grpo": "nbs/05_grpo.ipynb", "curation": "nbs/01_curation.ipynb"}
SMALL = {
    "sft": {"epochs": 2.0, "batch_size": 4, "per_device_batch_size": 2, "learning_rate": 1e-3},
    "grpo": {"steps": 3, "prompts_per_step": 2, "num_generations": 4, "per_device_batch_size": 4, "learning_rate": 1e-3, "max_completion_length": 24},
}


@pytest.fixture(scope="module")
def taught(world, toy_samples):
    scripts = read_scripts(world)
    return [replace(s, teacher=toy_teacher(s, scripts)) for s in toy_samples[:8]]


def shown(world, encoding="interleaved") -> VideoInputConfig:
    return VideoInputConfig(str(world / "videos"), 8, 28 * 28, "short", encoding)


def made(kind: str, model, processor, taught, view, folder, **recipe):
    "A trainer of a small recipe: `sft`, `grpo` (see once) or `stock`."
    torch.set_num_threads(1)
    set_seed(0)
    if kind == "sft":
        return sft_trainer(model, processor, taught, view, folder, **{**SMALL["sft"], **recipe})
    return grpo_trainer(model, processor, taught, view, folder, share_prefix=kind == "grpo", **{**SMALL["grpo"], **recipe})


def tiny():
    return load_model("tiny", device="cpu"), load_processor("tiny")


class BadCell(TrainerCallback):
    "A weight turns infinite in the middle of the second update, when its first micro-batch is done."

    def on_substep_end(self, args, state, control, model=None, **kwargs):
        if state.global_step == 1:
            model.model.language_model.norm.weight.data[0] = math.inf


def contents(folder) -> dict:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


class Keep(TrainerCallback):
    "What the first checkpoint holds once it is sealed."

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 1:
            self.held = contents(self.folder)


@pytest.mark.parametrize("encoding", ["interleaved", "native"])
@pytest.mark.parametrize("kind", ["sft", "grpo", "stock"])
def test_a_loss_that_is_no_number_ends_the_run_before_the_update(world, taught, tmp_path, kind, encoding):
    trainer = made(kind, *tiny(), taught, shown(world, encoding), tmp_path, save_steps=1)
    keep, cell = Keep(), BadCell()
    keep.folder = tmp_path / "checkpoints/checkpoint-1"
    trainer.add_callback(keep)
    trainer.add_callback(cell)
    with pytest.raises(
        RunError, match=r"^step 2: the loss of micro-batch 2 of 2 is nan\. Nothing was updated; its (8|4) rows.*nan_batch.*checkpoint-1 is untouched"
    ):
        fit(trainer, "", {})
    assert is_complete(keep.folder) and contents(keep.folder) == keep.held and not (tmp_path / "checkpoints/checkpoint-2").exists()
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 1
    about, rows, inputs = read_batch(tmp_path / "nan_batch")
    assert about["step"] == 2 and [x == "nan" for x in about["losses"]] == [False, True] and len(inputs) == 2
    assert {p.suffix for p in (tmp_path / "nan_batch").iterdir()} == {".json", ".jsonl", ".safetensors"}
    assert {r["qid"] for r in rows} <= {s.qid for s in taught} and [r["micro_batch"] for r in rows] == [0] * (len(rows) // 2) + [1] * (len(rows) // 2)
    check = the_samples if kind == "sft" else the_rollouts
    check(rows, inputs, taught, tiny()[0], trainer)


def the_samples(rows, inputs, taught, model, trainer):
    "Every row names the response that its sample teaches, and the tensors are a batch that a sound model takes."
    said = {s.qid: target_response(s) + "<|im_end|>" for s in taught}
    assert len(rows) == 4 and all(row["response"] == said[row["qid"]] for row in rows)
    with torch.no_grad():
        assert all(math.isfinite(model(**batch).loss) for batch in inputs)


def the_rollouts(rows, inputs, taught, model, trainer):
    "Four rollouts of each of two queries, each with what it was paid: advantages are those rewards in their group's units, so rows, rewards and tensors belong together."
    groups = {}
    for row in rows:
        groups.setdefault(row["qid"], []).append(row)
    assert sorted(map(len, groups.values())) == [4, 4]
    for group in groups.values():
        paid = torch.tensor([0.9 * r["rewards"]["tiou_reward"] + 0.1 * r["rewards"]["format_reward"] for r in group])
        advantage = torch.tensor([r["advantage"] for r in group])
        torch.testing.assert_close(advantage, (paid - paid.mean()) / (paid.std() + 1e-4), atol=1e-3, rtol=1e-3)
    assert any(r["advantage"] for r in rows)
    said = [trainer._tokenizer.decode(ids[mask.bool()]) for batch in inputs for ids, mask in zip(batch["completion_ids"], batch["completion_mask"])]
    assert said == [r["response"] for r in rows] and any("pixel_values" in name for name in inputs[0])


@pytest.fixture(scope="module")
def infinite(tmp_path_factory):
    "The embedded model with one infinite weight, on disk."
    folder = tmp_path_factory.mktemp("models") / "infinite"
    shutil.copytree(TINY_PATH, folder)
    weights = load_file(folder / "model.safetensors")
    name = next(n for n in weights if n.endswith("norm.weight") and "layers" not in n and "visual" not in n)
    weights[name][0] = math.inf
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return str(folder)


@pytest.mark.parametrize("kind", ["sft", "grpo"])
def test_a_gradient_that_is_no_number_is_seen_behind_finite_losses(world, taught, tmp_path, kind):
    trainer = made(kind, *tiny(), taught, shown(world), tmp_path)
    weight = trainer.model.model.language_model.norm.weight
    weight.register_hook(lambda gradient: gradient * math.inf)
    before = weight.detach().clone()
    with pytest.raises(RunError, match="step 1: every loss is finite, but the norm of the gradient is (nan|inf)"):
        fit(trainer, "", {})
    assert torch.equal(weight, before) and all(map(math.isfinite, read_batch(tmp_path / "nan_batch")[0]["losses"]))


def test_a_bad_model_on_disk_cannot_be_trained(world, taught, infinite, tmp_path):
    trainer = made("sft", load_model(infinite, device="cpu"), load_processor(infinite), taught, shown(world), tmp_path)
    with pytest.raises(RunError, match=r"step 1: the loss of micro-batch 1 of 2 is nan.*There is no checkpoint yet"):
        fit(trainer, "", {})


@pytest.mark.parametrize("kind", ["grpo", "stock"])
def test_a_policy_that_cannot_be_sampled_leaves_its_frames(world, taught, infinite, tmp_path, kind):
    trainer = made(kind, load_model(infinite, device="cpu"), load_processor(infinite), taught, shown(world), tmp_path)
    with pytest.raises(RunError, match="step 1: the policy's probabilities are no numbers.*probability tensor"):
        fit(trainer, "", {})
    about, rows, (inputs,) = read_batch(tmp_path / "nan_batch")
    assert len(rows) == 2 and about["step"] == 1
    for row in rows:
        sample = next(s for s in taught if s.qid == row["qid"])
        want = build_prompt(sample, shown(world))
        np.testing.assert_array_equal(inputs[f"frames/{row['qid']}"], np.stack([np.asarray(i) for i in want["images"]]))
        assert row["prompt"] == want["prompt"]


def test_an_absurd_learning_rate_is_caught_where_it_shows(world, taught, tmp_path):
    trainer = made("sft", *tiny(), taught, shown(world), tmp_path, learning_rate=1e38)
    with pytest.raises(RunError, match=r"step [23]: .* (nan|inf).*lower learning_rate"):
        fit(trainer, "", {})
    assert read_batch(tmp_path / "nan_batch")[0]["step"] > 1


def test_a_batch_that_cannot_be_written_is_still_named(world, taught, infinite, tmp_path):
    "A file may hold at most 20,000 bytes, which is what a full disk is like."
    trainer = made("sft", load_model(infinite, device="cpu"), load_processor(infinite), taught, shown(world), tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(RunError, match="step 1: the loss.*its batch could not be written.*File too large"):
            fit(trainer, "", {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "nan_batch/about.json").exists()  # which is written last


@pytest.mark.parametrize("kind", ["sft", "grpo", "stock"])
def test_looking_changes_nothing(world, taught, tmp_path, kind, monkeypatch):
    "A healthy run with and without the look: the same log and weights, to the bit."
    found = []
    for name in ("with", "without"):
        if name == "without":
            monkeypatch.setattr("vtg_r1.train.nan_guard.with_nan_guard", lambda trainer: trainer)
        trainer = made(kind, *tiny(), taught, shown(world), tmp_path / name, **({} if kind == "sft" else {"steps": 2}))
        assert (type(trainer).__mro__[1].__name__ == "_NaNGuardSFT" if kind == "sft" else type(trainer).__mro__[1].__name__ == "_NaNGuardGRPO") == (
            name == "with"
        )
        log = [{k: v for k, v in h.items() if k not in ("step_time", "tokens_per_second")} for h in fit(trainer, "", {})]
        found.append((log, {n: p.numpy(force=True).tobytes() for n, p in trainer.model.named_parameters()}))
    assert found[0] == found[1] and len(found[0][0]) >= 2 and not (tmp_path / "with/nan_batch").exists()


def test_steps_without_signal_are_named_and_end_the_run(world, taught, tmp_path):
    "A model that knows nothing is never paid, and never ends a response."
    trainer = made("grpo", *build_tiny(0), taught, shown(world), tmp_path, steps=6, max_completion_length=6)
    with pytest.warns(UserWarning) as told:
        log = fit(trainer, "", {}, zero_std_patience=4)
    said = [str(w.message) for w in told]
    assert len(log) == 4 and all(h["frac_reward_zero_std"] == 1 and h["reward"] == 0 for h in log)
    assert any(s.startswith("step 1: the rewards of every group are equal (mean 0)") for s in said)
    assert any(s.startswith("step 4: no group had unequal rewards for 4 steps (mean 0)") for s in said)
    assert any("step 1: 100 % of the responses were cut at max_completion_length = 6 tokens (the parameter max_completion_length)" in s for s in said)
    assert any(s.startswith("4 of 4 steps had equal rewards in every group, 4 of them in a row") for s in said)
    assert any(s.startswith("4 of 4 steps: 90 % of the responses or more were cut") for s in said)


@pytest.mark.parametrize("recipe", [{"zero_std_patience": 0}, {"entropy_coef": 1e-3}])
def test_a_run_without_signal_goes_on_where_it_may(world, taught, tmp_path, recipe):
    "By the parameter, or because an entropy bonus moves the policy all the same."
    patience = {"zero_std_patience": recipe.pop("zero_std_patience", 2)}
    trainer = made("grpo", *build_tiny(0), taught, shown(world), tmp_path, steps=4, max_completion_length=6, **recipe)
    with pytest.warns(UserWarning, match="4 of 4 steps had equal rewards"):
        assert len(fit(trainer, "", {}, **patience)) == 4


@pytest.fixture(scope="module")
def files(world, taught, tmp_path_factory):
    "Annotations, and parameters whose model would be missed if anything tried to load it."
    home = tmp_path_factory.mktemp("early")
    write_jsonl(home / "train.jsonl", taught)
    write_jsonl(home / "hard.jsonl", [replace(s, difficulty={"policy": "p", "ious": [0.0], "mean_iou": 0.0, "pass_rate": 0.0}) for s in taught])
    write_jsonl(home / "empty.jsonl", [])
    given = {
        "annotations": str(home / "train.jsonl"),
        "eval_annotations": str(home / "train.jsonl"),
        "video_root": str(world / "videos"),
        "outputs_dir": str(home),
    }
    return home, {**given, "model": str(home / "nothing-there"), "threads": 1, "figures": False}


def stage(name: str, files, run_name: str, **parameters):
    "A stage's notebook in this process, with those of the common parameters that it has."
    common = {k: v for k, v in files[1].items() if name != "difficulty" or k != "eval_annotations"}
    return run_here(STAGES[name], {**common, "run_name": run_name, **parameters})


def few(files, name, run_name, **parameters) -> str:
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
def test_a_plan_that_is_none_is_refused_before_anything_is_read(files, world, taught, tmp_path, name, bad):
    field = next(iter(bad))
    with pytest.raises((ValueError, RunError), match=f"^({field} must be (at least|above)|parameter '{field}' is -.* of at least 0)"):
        stage(name, files, "none", **bad)
    assert not (files[0] / name / "none").exists()
    with pytest.raises(ValueError, match=f"^{field} must be (at least|above)"):
        made(name, None, None, taught, shown(world), tmp_path, **bad)


def test_fewer_samples_than_a_batch(files):
    for name, field in (("sft", "batch_size"), ("grpo", "prompts_per_step")):
        said = few(files, name, "few", **{field: 64}, max_train_samples=5)
        assert (
            f"train.jsonl (max_train_samples and match_size_to excluded 3): 5 samples are left to train on, and an update takes {field} = 64" in said
        )


def test_held_out_videos_are_counted(files, taught):
    videos = sorted(p.name for p in Path(files[1]["video_root"]).glob("*.mp4"))
    write_jsonl(files[0] / "wide.jsonl", [replace(taught[0], qid=v, video=v) for v in [*videos[:8], "not-there.mp4"]])
    said = few(files, "sft", "split", eval_annotations="", annotations=str(files[0] / "wide.jsonl"), missing_videos="skip")
    assert "wide.jsonl (missing_videos 'skip' excluded 1, eval_annotations '' (every fourth video) excluded 2): 6 samples are left" in said


def test_a_strategy_that_keeps_nothing_names_the_file(files):
    said = few(files, "grpo", "hard", annotations=str(files[0] / "hard.jsonl"), strategy="difficulty_range", max_train_samples=6)
    assert "hard.jsonl (max_train_samples and match_size_to excluded 2): strategy 'difficulty_range' keeps none of 6 samples" in said


@pytest.mark.parametrize("name", ["sft", "difficulty", "grpo"])
def test_an_empty_file_is_named(files, name):
    assert "empty.jsonl: holds no samples" in few(files, name, "empty", annotations=str(files[0] / "empty.jsonl"))


def test_thresholds_that_let_nothing_through_are_named_where_they_act_and_where_it_shows(world, taught, files):
    sources = [{"path": files[1]["annotations"]}]
    common = {"sources": sources, "video_root": files[1]["video_root"], "outputs_dir": str(files[0]), "teacher": "precomputed"}
    rows = [replace(s, teacher={**s.teacher, "iou": 0.5, "span": s.spans[0]}) for s in taught]
    write_jsonl(files[0] / "half.jsonl", rows)
    with pytest.warns(
        UserWarning, match=r"coldstart.jsonl holds no samples; 01_curation \(sft_min_iou = 0.9, rl_min_iou = 0.4.*turned away 8 as only in rl.jsonl"
    ):
        folder = run_here(
            STAGES["curation"], {**common, "sources": [{"path": str(files[0] / "half.jsonl")}], "run_name": "strict", "sft_min_iou": 0.9}
        )
    said = few(files, "sft", "strict", annotations=str(folder / "coldstart.jsonl"))
    assert "coldstart.jsonl: holds no samples; 01_curation (sft_min_iou = 0.9" in said and "8 as only in rl.jsonl" in said


def test_sources_of_which_nothing_is_left(files, tmp_path):
    common = {
        "sources": [{"path": files[1]["annotations"]}],
        "video_root": str(tmp_path),
        "outputs_dir": str(tmp_path),
        "teacher": "precomputed",
        "run_name": "gone",
    }
    with pytest.raises(SampleError, match=r"train.jsonl: none of 8 records is left \(8 video\)"):
        run_here(STAGES["curation"], common)


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    "The embedded model's configuration and processor, with a context of 64 tokens and without any weights."
    folder = tmp_path_factory.mktemp("models") / "narrow"
    shutil.copytree(TINY_PATH, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = 64
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


@pytest.mark.parametrize("name", ["sft", "difficulty", "grpo"])
def test_a_prompt_longer_than_the_context_is_named_before_the_model_is_loaded(files, narrow, name):
    size = {"sft": {"batch_size": 8}, "grpo": {"prompts_per_step": 8}}.get(name, {})
    said = few(files, name, "long", model=narrow, max_completion_length=32, **size)
    assert (
        "do not fit into the context of 64 tokens" in said
        and "max_position_embeddings" in said
        and "Give at most about" in said
        and "sample 'train_" in said
    )


@pytest.mark.parametrize("encoding", ["interleaved", "native"])
def test_a_prompt_is_as_long_as_was_said(grey, tmp_path, encoding):
    "Lengths from clock and size are those of the decoded prompts; as many large frames as narrow ones, and a clip."
    for name, size, n in (("wide", (320, 180), 30), ("narrow", (64, 96), 14)):
        grey(tmp_path / f"{name}.mp4", "libx264", n, 3, size)
    samples = [
        Sample("a", "wide.mp4", 10.0, "the red circle", [[1, 2]]),
        Sample("b", "wide.mp4", 3.0, "a longer sentence about the blue cross", [[1, 2]], clip=[2.0, 5.0]),
        Sample("c", "narrow.mp4", 4.6, "the cross", [[0, 1]]),
    ]
    view, processor = VideoInputConfig(str(tmp_path), 12, 20 * 28 * 28, "full", encoding, cache=""), load_processor("tiny")
    told = {s.qid: n for s, n, _ in prompt_lengths(processor, samples, view)}
    assert told == {s.qid: model_inputs(processor, [build_prompt(s, view)], "cpu")["input_ids"].shape[1] for s in samples} and told["a"] > 100
    check_context_length("tiny", processor, samples, view, 4096 - max(told.values()))
    with pytest.raises(SampleError, match=f"sample '{max(told, key=told.get)}'.* prompt of {max(told.values())} tokens"):
        check_context_length("tiny", processor, samples, view, 4097 - max(told.values()))
