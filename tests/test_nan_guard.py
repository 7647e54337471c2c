"A loss or gradient that is not finite ends the run before the update, and its batch is written."

import math
import resource
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from vtg_r1.core.runtime import RunError, set_seed
from vtg_r1.data.model_inputs import VideoInputConfig, build_prompt
from vtg_r1.data.toyworld import read_scripts, toy_teacher
from vtg_r1.grpo import GRPOParams, grpo_trainer
from vtg_r1.models.loading import load_model, load_processor, model_path
from vtg_r1.sft import SFTParams, sft_trainer, target_response
from vtg_r1.train.checkpoints import is_complete
from vtg_r1.train.nan_guard import read_batch
from vtg_r1.train.trainer import fit

SFT = {"epochs": 2.0, "batch_size": 4, "per_device_batch_size": 2}
GRPO = {"steps": 3, "prompts_per_step": 2, "num_generations": 4, "per_device_batch_size": 4, "warmup_steps": 0, "max_completion_length": 24}


@pytest.fixture(scope="module")
def taught(world, toy_samples):
    scripts = read_scripts(world)
    return [replace(s, teacher=toy_teacher(s, scripts)) for s in toy_samples[:8]]


def view_of(world, encoding="interleaved") -> VideoInputConfig:
    return VideoInputConfig(str(world / "videos"), 8, 28 * 28, "short", encoding)


def make_trainer(kind: str, model, processor, taught, view, folder, **changes):
    "A trainer of a small recipe: `sft`, `grpo` with the shared prefix, or `stock`, which is GRPO without it."
    torch.set_num_threads(1)
    set_seed(0)
    if kind == "sft":
        return sft_trainer(model, processor, taught, view, folder, SFTParams(**{"learning_rate": 1e-3, **SFT, **changes}))
    params = GRPOParams(**{"learning_rate": 1e-3, "share_prefix": kind == "grpo", **GRPO, **changes})
    return grpo_trainer(model, processor, taught, view, folder, params)


def tiny():
    return load_model("tiny", device="cpu"), load_processor("tiny")


class InfiniteWeight(TrainerCallback):
    "Makes a weight infinite in the second update, after its first micro-batch of two."

    def on_substep_end(self, args, state, control, model=None, **kwargs):
        if state.global_step == 1:
            model.model.language_model.norm.weight.data[0] = math.inf


def contents(folder) -> dict:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


class Keep(TrainerCallback):
    "Remembers the files of the first checkpoint, once that is complete."

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 1:
            self.held = contents(self.folder)


@pytest.mark.parametrize(
    ("kind", "encoding"),
    [
        ("sft", "interleaved"),
        ("grpo", "interleaved"),
        ("grpo", "native"),
        ("stock", "interleaved"),
        pytest.param("sft", "native", marks=pytest.mark.long),
        pytest.param("stock", "native", marks=pytest.mark.long),
    ],
)
def test_a_loss_that_is_not_finite_ends_the_run_before_the_update(world, taught, tmp_path, kind, encoding):
    trainer = make_trainer(kind, *tiny(), taught, view_of(world, encoding), tmp_path, save_steps=1)
    keep = Keep()
    keep.folder = tmp_path / "checkpoints/checkpoint-1"
    trainer.add_callback(keep)
    trainer.add_callback(InfiniteWeight())
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
    "Every row has the response that its sample teaches. A model without the infinite weight has a finite loss on the tensors."
    taught_responses = {s.qid: target_response(s) + "<|im_end|>" for s in taught}
    assert len(rows) == 4 and all(row["response"] == taught_responses[row["qid"]] for row in rows)
    with torch.no_grad():
        assert all(math.isfinite(model(**batch).loss) for batch in inputs)


def the_rollouts(rows, inputs, taught, model, trainer):
    """Four rollouts of each of two queries. Rows, rewards and tensors belong together:

    the advantages follow from the rewards of the rows, and the tensors decode to the responses of the rows."""
    groups = {}
    for row in rows:
        groups.setdefault(row["qid"], []).append(row)
    assert sorted(map(len, groups.values())) == [4, 4]
    for group in groups.values():
        rewards = torch.tensor([0.9 * r["rewards"]["tiou_reward"] + 0.1 * r["rewards"]["format_reward"] for r in group])
        advantage = torch.tensor([r["advantage"] for r in group])
        torch.testing.assert_close(advantage, (rewards - rewards.mean()) / (rewards.std() + 1e-4), atol=1e-3, rtol=1e-3)
    assert any(r["advantage"] for r in rows)
    responses = [
        trainer._tokenizer.decode(ids[mask.bool()]) for batch in inputs for ids, mask in zip(batch["completion_ids"], batch["completion_mask"])
    ]
    assert responses == [r["response"] for r in rows] and any("pixel_values" in name for name in inputs[0])


@pytest.fixture(scope="module")
def infinite(tmp_path_factory):
    "The embedded model with one infinite weight, on disk."
    folder = tmp_path_factory.mktemp("models") / "infinite"
    shutil.copytree(model_path("tiny"), folder)
    weights = load_file(folder / "model.safetensors")
    name = next(n for n in weights if n.endswith("norm.weight") and "layers" not in n and "visual" not in n)
    weights[name][0] = math.inf
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return str(folder)


@pytest.mark.parametrize("kind", ["sft", "grpo"])
def test_a_gradient_that_is_not_finite_ends_the_run_though_every_loss_is_finite(world, taught, tmp_path, kind):
    trainer = make_trainer(kind, *tiny(), taught, view_of(world), tmp_path)
    weight = trainer.model.model.language_model.norm.weight
    weight.register_hook(lambda gradient: gradient * math.inf)
    before = weight.detach().clone()
    with pytest.raises(RunError, match="step 1: every loss is finite, but the norm of the gradient is (nan|inf)"):
        fit(trainer, "", {})
    assert torch.equal(weight, before) and all(map(math.isfinite, read_batch(tmp_path / "nan_batch")[0]["losses"]))


def test_a_model_with_an_infinite_weight_is_refused_in_the_first_step(world, taught, infinite, tmp_path):
    trainer = make_trainer("sft", load_model(infinite, device="cpu"), load_processor(infinite), taught, view_of(world), tmp_path)
    with pytest.raises(RunError, match=r"step 1: the loss of micro-batch 1 of 2 is nan.*There is no checkpoint yet"):
        fit(trainer, "", {})


@pytest.mark.parametrize("kind", ["grpo", "stock"])
def test_prompts_and_frames_are_written_when_the_policy_cannot_be_sampled(world, taught, infinite, tmp_path, kind):
    trainer = make_trainer(kind, load_model(infinite, device="cpu"), load_processor(infinite), taught, view_of(world), tmp_path)
    with pytest.raises(RunError, match="step 1: the policy's probabilities are not finite.*probability tensor"):
        fit(trainer, "", {})
    about, rows, (inputs,) = read_batch(tmp_path / "nan_batch")
    assert len(rows) == 2 and about["step"] == 1
    for row in rows:
        sample = next(s for s in taught if s.qid == row["qid"])
        want = build_prompt(sample, view_of(world))
        np.testing.assert_array_equal(inputs[f"frames/{row['qid']}"], np.stack([np.asarray(i) for i in want["images"]]))
        assert row["prompt"] == want["prompt"]


def test_an_absurd_learning_rate_ends_the_run_with_the_advice_to_lower_it(world, taught, tmp_path):
    trainer = make_trainer("sft", *tiny(), taught, view_of(world), tmp_path, learning_rate=1e38)
    with pytest.raises(RunError, match=r"step [23]: .* (nan|inf).*lower learning_rate"):
        fit(trainer, "", {})
    assert read_batch(tmp_path / "nan_batch")[0]["step"] > 1


def test_a_batch_that_cannot_be_written_is_named(world, taught, infinite, tmp_path):
    "No file may grow above 20,000 bytes. That limit stands for a full disk."
    trainer = make_trainer("sft", load_model(infinite, device="cpu"), load_processor(infinite), taught, view_of(world), tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(RunError, match="step 1: the loss.*its batch could not be written.*File too large"):
            fit(trainer, "", {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "nan_batch/about.json").exists()  # which is written last


@pytest.mark.parametrize("kind", ["sft", "grpo", "stock"])
def test_the_guard_changes_nothing_in_a_healthy_run(world, taught, tmp_path, kind, monkeypatch):
    "Log and weights are the same with and without the guard, to the bit."
    outcomes = []
    for name in ("with", "without"):
        if name == "without":
            monkeypatch.setattr("vtg_r1.train.nan_guard.with_nan_guard", lambda trainer: trainer)
        trainer = make_trainer(kind, *tiny(), taught, view_of(world), tmp_path / name, **({} if kind == "sft" else {"steps": 2}))
        guard = "_NaNGuardSFT" if kind == "sft" else "_NaNGuardGRPO"
        assert (type(trainer).__mro__[1].__name__ == guard) == (name == "with")
        log = [{k: v for k, v in h.items() if k not in ("step_time", "tokens_per_second")} for h in fit(trainer, "", {})]
        outcomes.append((log, {n: p.numpy(force=True).tobytes() for n, p in trainer.model.named_parameters()}))
    assert outcomes[0] == outcomes[1] and len(outcomes[0][0]) >= 2 and not (tmp_path / "with/nan_batch").exists()
