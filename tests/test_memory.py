"perf/memory.py, which measures the presets: its models have the published shapes, and it runs at tiny size."

import json
import sys

import pytest

from vtg_r1.core.runtime import project_root

sys.path.insert(0, str(project_root() / "perf"))
import memory  # noqa: E402


@pytest.mark.parametrize("size,parameters", [("3b", 3_754_622_976), ("7b", 8_292_166_656)])
def test_shapes_have_the_published_number_of_weights(size, parameters):
    "The numbers of the checkpoints on the hub. The models are built on the meta device, without memory."
    model, _ = memory.random_model(size, "sdpa", "meta")
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_a_response_for_sft_has_as_many_tokens_as_are_asked_for(tmp_path):
    args = memory.parser().parse_args("--size tiny --stage sft --frames 2 --pixels 784 --response 100 --steps 1".split())
    (labels, *_) = next(iter(memory.trainer_of(args, tmp_path).get_train_dataloader()))["labels"]
    assert (labels != -100).sum() == 100


def test_the_script_measures_a_tiny_step(capsys):
    result = memory.main("--size tiny --frames 4 --pixels 3136 --num-generations 2 --response 8 --steps 2 --lora 4 --cuda-graph".split())
    assert result == json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["step_seconds"] > 0 and result["per_second"] > 0 and 0.1 < result["peak_gb"] < 16 and result["error"] is None
    assert "LoRA 4" in memory.row(result)
