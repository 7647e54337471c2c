"""FSDP2 on two CPU processes, by the shim (tests/engines/shim, which says what this does not prove): the cold start and GRPO as with DDP, evaluation on the way, LoRA,
a killed process, resuming, and the saved model."""

import json
import os
import signal
import subprocess
import time

import numpy as np
import pytest
import torch
from engine_runs import cold_start_files, command, curve, environment, launch, on_cpu, rank_process, responses, rows
from safetensors import safe_open

from vtg_r1.core.runtime import project_root
from vtg_r1.models.loading import load_model
from vtg_r1.runs.run import read_manifest

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


@pytest.fixture(scope="module")
def setting(world, tmp_path_factory):
    out = tmp_path_factory.mktemp("fsdp2")
    return cold_start_files(world, out), on_cpu("fsdp2.yaml", out), out


def trained(setting, stage, name, config="fsdp2", **more):
    "The folder of a finished run, made once."
    given, fsdp2, out = setting
    folder = out / stage / name
    if not (folder / "metrics.json").exists():
        config = {"fsdp2": fsdp2, "ddp": "configs/accelerate/two_cpu.yaml"}[config]
        launch(stage, {**given, "run_name": name, "accelerate_config": config, **more}, environment())
    return folder


@pytest.mark.parametrize(
    ("stage", "lora_rank"),
    [("sft", 0), ("grpo", 4), pytest.param("sft", 4, marks=pytest.mark.long), pytest.param("grpo", 0, marks=pytest.mark.long)],
)
def test_training_and_evaluation_are_those_of_ddp(setting, stage, lora_rank):
    "Losses, gradient norms, what is evaluated on the way, and the responses of the saved model, with all weights and with adapters."
    sharded = trained(setting, stage, f"fsdp2-{lora_rank}", lora_rank=lora_rank)
    usual = trained(setting, stage, f"ddp-{lora_rank}", "ddp", lora_rank=lora_rank)
    assert read_manifest(sharded)["config"]["strategy"] == "FSDP2" and read_manifest(usual)["config"]["strategy"] == "DDP (MULTI_CPU)"
    np.testing.assert_allclose(curve(sharded), curve(usual), rtol=1e-3, atol=1e-4)
    assert (curve(sharded)[:, 1] > 1e-4).any() and responses(sharded) == responses(usual) and len(responses(sharded)) == 5
    if stage == "grpo":
        log = rows(sharded / "eval_log.jsonl")
        assert log == rows(usual / "eval_log.jsonl") and [row["step"] for row in log] == [0, 2]


@pytest.mark.parametrize(("stage", "lora_rank"), [("sft", 0), ("grpo", 4)])
def test_the_saved_model_is_one_whole_model(setting, stage, lora_rank):
    "No pickles, tied weights once, the precision in which the policy was read; trained weights, and with LoRA only those that have adapters."
    folder = trained(setting, stage, f"fsdp2-{lora_rank}", lora_rank=lora_rank) / "model"
    assert {p.suffix for p in folder.iterdir()} <= {".safetensors", ".json", ".jinja", ".txt"}
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert not any("lm_head" in key for key in file.keys()) and {file.get_tensor(key).dtype for key in file.keys()} == {torch.float32}
    before, after = load_model("tiny", "cpu").state_dict(), load_model(str(folder), "cpu").state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert len(changed) > 10 and before.keys() == after.keys()
    if lora_rank:
        assert all("language_model" in key and key.endswith("_proj.weight") for key in changed)


def test_a_killed_process_is_named_and_the_resumed_run_is_exact(setting):
    "SIGKILL of the second process behind a checkpoint: the first ends within a minute, one line names the second, and what follows equals a run that was never killed."
    given, config, out = setting
    whole = trained(setting, "sft", "fsdp2-0")
    parameters = {**given, "run_name": "killed", "accelerate_config": config, "save_steps": 2, "lora_rank": 0}
    with subprocess.Popen(
        command("sft", parameters), env=environment(), cwd=project_root(), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as run:
        victim = rank_process(run.pid, 1)
        while not (out / "sft/killed/checkpoints/checkpoint-2/complete.json").exists() and run.poll() is None:
            time.sleep(0.01)
        os.kill(victim, signal.SIGKILL)
        start = time.monotonic()
        output = run.communicate(timeout=120)[0]
    assert run.returncode == 2 and time.monotonic() - start < 60
    assert "process 1 of sft was ended by SIGKILL, and the launcher ended the others" in output.splitlines()[-1], output[-3000:]
    assert read_manifest(out / "sft/killed")["status"] == "failed"
    launch("sft", {**parameters, "resume": True}, environment())
    resumed = out / "sft/killed"
    assert (curve(resumed) == curve(whole)).all() and responses(resumed) == responses(whole)
    metrics = [json.loads((folder / "metrics.json").read_text()) for folder in (resumed, whole)]
    assert metrics[0] == metrics[1]
    weights = [load_model(str(folder / "model"), "cpu").state_dict() for folder in (resumed, whole)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[1])


@pytest.mark.long
def test_a_configuration_that_would_not_shard_is_refused(setting):
    "Without the shim accelerate ignores FSDP on CPU: an error before the first step, which names what was asked for and what would run."
    given, config, out = setting
    parameters = {**given, "run_name": "refused", "accelerate_config": config, "eval_before_training": False}
    output = launch("sft", parameters, environment(shim=False), 2)
    assert "asks for FSDP, but accelerate trains as MULTI_CPU on cpu with 2 processes" in output
    assert read_manifest(out / "sft/refused")["status"] == "failed" and not rows(out / "sft/refused/log.jsonl")
