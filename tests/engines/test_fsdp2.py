"""FSDP2 on two CPU processes, by the shim (tests/engines/shim, which says what this does not prove): the cold start and GRPO as with DDP, evaluation on the way, LoRA,
a killed process, resuming, and the saved model.

Trainings run in children of a process that has the libraries loaded (`run_ranks`); the one that is killed is started by the user's command, through the launcher."""

import json
import os
import signal
import time

import numpy as np
import pytest
import torch
from engine_runs import CLEAN, cold_start_files, curve, environment, on_cpu, rank_process, responses, rows, run_command, run_ranks, words
from safetensors import safe_open

from vtg_r1.models.loading import load_model
from vtg_r1.runs.run import read_manifest

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


@pytest.fixture(scope="module")
def setting(world, tmp_path_factory):
    out = tmp_path_factory.mktemp("fsdp2")
    return cold_start_files(world, out), on_cpu("fsdp2.yaml", out), out


def trained(setting, stage, name, config="fsdp2", **more):
    "The folder of a finished run, made once by two processes."
    given, fsdp2, out = setting
    folder = out / stage / name
    if not (folder / "metrics.json").exists():
        config = {"fsdp2": fsdp2, "ddp": "configs/accelerate/two_cpu.yaml"}[config]
        output = run_ranks(stage, {**given, "run_name": name, "accelerate_config": config, **more}, out)
        assert not output, output[-20000:]
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
    whole, killed = trained(setting, "sft", "fsdp2-0", lora_rank=0), out / "sft/killed"
    parameters = {**given, "run_name": "killed", "accelerate_config": config, "save_steps": 2, "lora_rank": 0}
    run = CLEAN.Process(target=run_command, args=(words("sft", parameters), environment(), str(out / "killed.txt")))
    run.start()
    victim = rank_process(run.pid, 1)
    while not (killed / "checkpoints/checkpoint-2/complete.json").exists() and run.is_alive():
        time.sleep(0.01)
    os.kill(victim, signal.SIGKILL)
    start = time.monotonic()
    run.join(120)
    seconds, output = time.monotonic() - start, (out / "killed.txt").read_text()
    print(f"measured: the run ended {seconds:.1f} s after the death of one process")
    assert run.exitcode == 2 and seconds < 60, output[-3000:]
    assert "process 1 of sft was ended by SIGKILL, and the launcher ended the others" in output.splitlines()[-1], output[-3000:]
    assert read_manifest(killed)["status"] == "failed" and len(curve(killed)) < 4
    output = run_ranks("sft", {**parameters, "resume": True}, out)
    assert not output, output[-20000:]
    assert (curve(killed) == curve(whole)).all() and responses(killed) == responses(whole)
    metrics = [json.loads((folder / "metrics.json").read_text()) for folder in (killed, whole)]
    assert metrics[0] == metrics[1]
    weights = [load_model(str(folder / "model"), "cpu").state_dict() for folder in (killed, whole)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[1])


def test_a_configuration_that_would_not_shard_is_refused(setting):
    "Without the shim accelerate ignores FSDP on CPU: an error before the first step, which names what was asked for and what would run."
    given, config, out = setting
    parameters = {**given, "run_name": "refused", "accelerate_config": config, "eval_before_training": False}
    output = run_ranks("sft", parameters, out, shim=False)
    assert "asks for FSDP, but accelerate trains as MULTI_CPU on cpu with 2 processes" in output
    assert read_manifest(out / "sft/refused")["status"] == "failed" and not rows(out / "sft/refused/log.jsonl")
