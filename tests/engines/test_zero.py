"""DeepSpeed's ZeRO-2 and ZeRO-3 on two CPU processes, by the shim, beside DDP on two: the cold start with the evaluation after it, adapters, GRPO; and the saved model.

Part of `make engines`, which installs DeepSpeed into an environment of its own."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from engine_runs import cold_start_files, curve, environment, launch, on_cpu, responses, rows, run_ranks
from safetensors import safe_open

from vtg_r1.models.loading import load_model
from vtg_r1.runs.run import read_manifest

pytestmark = [
    pytest.mark.long,
    pytest.mark.distributed,
    pytest.mark.skipif(not find_spec("deepspeed"), reason="DeepSpeed is not installed: run `make engines`"),
]
CPU = {"DS_ACCELERATOR": "cpu"}


@pytest.fixture(scope="module")
def setting(world, tmp_path_factory):
    out = tmp_path_factory.mktemp("zero")
    return cold_start_files(world, out), out


def config(stage: int, out) -> str:
    "configs/accelerate/zero3.yaml, as ZeRO-2 too."
    path = on_cpu("zero3.yaml", out, main_process_port=0)
    if stage == 2:
        path = on_cpu("zero3.yaml", out, main_process_port=0, deepspeed_config={"zero_stage": 2, "deepspeed_multinode_launcher": "standard"})
    return path


def trained(setting, stage, name, zero, **more):
    given, out = setting
    folder = out / stage / name
    if not (folder / "metrics.json").exists():
        parameters = {**given, "run_name": name, "accelerate_config": "configs/accelerate/two_cpu.yaml", **more}
        if zero:
            launch(stage, {**parameters, "accelerate_config": config(zero, out)}, environment(**CPU))
        else:
            output = run_ranks(stage, parameters, out)
            assert not output, output[-20000:]
    return folder


@pytest.mark.parametrize(("stage", "zero", "lora_rank"), [("sft", 2, 0), ("sft", 3, 0), ("sft", 3, 4), ("grpo", 3, 0)])
def test_training_and_evaluation_are_those_of_ddp(setting, stage, zero, lora_rank):
    sharded = trained(setting, stage, f"zero{zero}-{lora_rank}", zero, lora_rank=lora_rank)
    usual = trained(setting, stage, f"ddp-{lora_rank}", 0, lora_rank=lora_rank)
    manifest = read_manifest(sharded)
    assert manifest["config"]["strategy"] == f"ZeRO-{zero}" and manifest["packages"]["deepspeed"] and manifest["processes"] == 2
    np.testing.assert_allclose(curve(sharded), curve(usual), rtol=1e-3, atol=1e-4)
    assert (curve(sharded)[:, 1] > 1e-4).any() and responses(sharded) == responses(usual) and len(responses(sharded)) == 5
    if stage == "grpo":
        assert rows(sharded / "eval_log.jsonl") == rows(usual / "eval_log.jsonl")
    folder = sharded / "model"
    assert {p.suffix for p in folder.iterdir()} <= {".safetensors", ".json", ".jinja", ".txt"}
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert not any("lm_head" in key for key in file.keys()) and {file.get_tensor(key).dtype for key in file.keys()} == {torch.float32}
    before, after = load_model("tiny", "cpu").state_dict(), load_model(str(folder), "cpu").state_dict()
    assert sum(not torch.equal(before[key], after[key]) for key in before) > 10
