"`vtg-r1 estimate`: a measured setting gets its measured step; for any other, what differs is named and the numbers follow from it."

import json

import pytest
import torch
from safetensors.torch import save_file

from vtg_r1.cli import main
from vtg_r1.core.runtime import project_root
from vtg_r1.grpo import GRPOParams
from vtg_r1.train.estimate import CARDS, billions, estimate_run, measured_rows

SHAPE = dict(
    frames=64, pixels=100352, num_generations=8, prompts_per_step=1, per_device_batch_size=8, max_completion_length=1024, lora_rank=16, steps=600
)


@pytest.mark.parametrize("size, seconds, gb", [("3B", 73.1, 14.7), ("7B", 59.3, 26.8)])
def test_a_measured_step_is_not_extrapolated(size, seconds, gb):
    (row,) = estimate_run(GRPOParams(model=f"Qwen/Qwen2.5-VL-{size}-Instruct", **SHAPE), "H200")
    assert row["differs"] == [] and row["fits"] and row["gb"] == gb
    assert row["step_seconds"] == pytest.approx(seconds) and row["hours"] == pytest.approx(600 * seconds / 3600)


@pytest.mark.parametrize(
    "change, named, seconds",  # the measured step: 68.7 s of decoding and 4.4 s of the rest
    [
        (dict(prompts_per_step=4), "prompts_per_step", 68.7 + 4 * 4.4),
        (dict(max_completion_length=512), "max_completion_length", 68.7 / 2 + 4.4),
        (dict(frames=32), "frames", 68.7 + 4.4 / 2),
        (dict(lora_rank=0), "lora_rank", 68.7 + 4.4),
        (dict(quantize="4bit"), "quantize", 68.7 + 4.4),
        (dict(max_tokens_per_video=4096), "max_tokens_per_video", 68.7 + 4.4 / 2),
        (dict(model="Qwen/Qwen3-VL-8B-Instruct"), "model", 54.2 + 5.1),  # the step of the 7B model, which has other layers
    ],
)
def test_what_differs_is_named_and_moves_the_numbers(change, named, seconds):
    (other,) = estimate_run(GRPOParams(**{**dict(model="Qwen/Qwen2.5-VL-3B-Instruct", **SHAPE), **change}), "H200")
    assert other["differs"] == [named] and other["step_seconds"] == pytest.approx(seconds)
    assert (other["gb"] is None) == (named in ("lora_rank", "quantize", "model"))


@pytest.mark.parametrize(
    "change",
    [
        dict(model="Qwen/Qwen2.5-VL-72B-Instruct"),
        dict(frames=256),
        dict(num_generations=16),
        dict(max_completion_length=2048),
        dict(share_prefix=False),
    ],
    ids=lambda change: next(iter(change)),
)
def test_memory_that_may_exceed_the_measured_one_is_not_estimated(change):
    rows = estimate_run(GRPOParams(**{**dict(model="Qwen/Qwen2.5-VL-7B-Instruct", **SHAPE), **change}))
    assert {row["gb"] for row in rows} == {row["fits"] for row in rows} == {None}


def test_a_card_is_refused_for_the_embedded_model(capsys):
    assert main(["estimate", "--card", "H100"]) == 2
    assert "the embedded model was measured on two CPU cores only" in capsys.readouterr().err


def test_adapters_alone_have_the_size_of_their_base(tmp_path):
    weights = {"base_model.model.lora_A.weight": torch.zeros(4, 4)}
    save_file(weights, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "Qwen/Qwen2.5-VL-7B-Instruct"}))
    assert billions(str(tmp_path)) == 7.0


@pytest.mark.parametrize("card, decoding, arithmetic", [("H200", 54.2, 1.0), ("RTX 4090", 1024 * 144e9 / 1e12, 989 / 165)])
def test_a_larger_model_takes_longer_by_its_parameters(card, decoding, arithmetic):
    """The measured 7B model (8.29 billion parameters) takes 59.3 s a step; 54.2 s of them are decoding.

    Kernel launches set the time of decoding, unless reading the 144 GB of weights for each token takes longer. The rest grows with the parameters."""
    (large,) = estimate_run(GRPOParams(model="Qwen/Qwen2.5-VL-72B-Instruct", **SHAPE), card)
    assert large["differs"][-1] == "model" and large["decoding_seconds"] == pytest.approx(decoding)
    assert large["step_seconds"] - decoding == pytest.approx((59.3 - 54.2) * 72 / 8.29 * arithmetic)


def test_a_token_budget_per_video_bounds_the_time_of_a_step():
    settings = dict(model="Qwen/Qwen2.5-VL-3B-Instruct", **SHAPE)
    tokens = SHAPE["frames"] * SHAPE["pixels"] // 784
    same, half, many = (
        estimate_run(GRPOParams(**{**settings, **given}), "H200")[0]["step_seconds"]
        for given in ({}, dict(max_tokens_per_video=tokens // 2), dict(max_tokens_per_video=tokens, frames=512, pixels=784 * 1024, fps=2))
    )
    assert half < same and many == pytest.approx(same)


@pytest.mark.parametrize(
    "change",
    [dict(max_tokens_per_video=4096), dict(quantize="4bit"), dict(share_prefix=False), dict(cuda_graph=True), dict(compile_decoding=True)],
    ids=lambda change: next(iter(change)),
)
def test_a_run_that_works_in_another_way_than_the_measured_one_is_not_called_measured(change):
    (row,) = estimate_run(GRPOParams(**{**dict(model="Qwen/Qwen2.5-VL-3B-Instruct", **SHAPE), **change}), "H200")
    assert row["differs"] == list(change)


def test_every_card_has_a_row_and_only_the_measured_card_does_not_differ():
    rows = estimate_run(GRPOParams(model="Qwen/Qwen2.5-VL-7B-Instruct", **SHAPE))
    assert [row["card"] for row in rows] == list(CARDS)
    assert {row["card"]: row["fits"] for row in rows}["RTX 4090"] is False
    assert [row["card"] for row in rows if "card" not in row["differs"]] == ["H200"]


def test_the_measured_rows_stand_in_perf_readme():
    table = (project_root() / "perf/README.md").read_text(encoding="utf-8")
    for row in measured_rows():
        if row["peak_gb"]:
            assert (
                f"| {row['step_seconds']} s per step, {row['decoding_seconds']} s of it for 8 responses of 1024 tokens | {row['peak_gb']} GB |"
                in table
            )
        else:
            assert f"(median step {row['step_seconds']} s;" in table


def test_the_command_prints_a_row_per_card_and_refuses_what_it_does_not_know(capsys):
    preset = str(project_root() / "configs/single_gpu_lora.yaml")
    assert main(["estimate", "-f", preset, "-p", "model", "Qwen/Qwen2.5-VL-3B-Instruct", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == len(CARDS)
    assert main(["estimate", "-f", str(project_root() / "configs/toy.yaml")]) == 0
    out = capsys.readouterr().out
    assert "two CPU cores" in out and "as measured" in out and "100 steps of 8 queries × 8 responses" in out
    assert main(["estimate", "-f", preset, "-p", "model", "Qwen/Qwen2.5-VL-3B-Instruct", "--card", "K80"]) == 2
    assert "give one of H200" in capsys.readouterr().err
    assert main(["estimate", "-f", preset, "-p", "model", "mine/model"]) == 2
    assert "does not say its size" in capsys.readouterr().err
