"The presets: every value has its source, every name is a parameter, and the paper's preset gives exactly the committed arguments of TRL."

import json
import re
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from trl import GRPOConfig, SFTConfig

from vtg_r1.benchmarks import BenchmarksParams
from vtg_r1.cli import main
from vtg_r1.core.runtime import project_root, resolve
from vtg_r1.difficulty import DifficultyParams
from vtg_r1.grpo import GRPOParams, grpo_arguments
from vtg_r1.runs.parameters import from_mapping, parameter_fields, read_parameters
from vtg_r1.sft import SFTParams, sft_arguments
from vtg_r1.train.checks import refuse_toy_values

PRESETS = ["paper_7b", "qwen3_vl", "single_gpu_lora", "toy"]
STAGES = {"sft": SFTParams, "difficulty": DifficultyParams, "grpo": GRPOParams}
GOLDEN = Path(__file__).parent / "golden" / "paper_7b.json"
NOT_OF_THE_RECIPE = {"bf16", "use_cpu", "dataloader_pin_memory", "output_dir", "run_name"}  # these depend on the machine or the run folder


def part(preset: str, stage: str):
    "The parameters of a stage with the values of a preset."
    return from_mapping(STAGES[stage], read_parameters(STAGES[stage], [resolve(f"configs/{preset}.yaml")], []))


@pytest.mark.parametrize("preset", PRESETS)
def test_every_value_has_a_source_and_a_parameter(preset):
    text = resolve(f"configs/{preset}.yaml").read_text()
    content = yaml.safe_load(text)
    assert set(content) == set(STAGES)
    for stage, values in content.items():
        assert set(values) <= set(parameter_fields(STAGES[stage])), stage
        accelerate_config = getattr(part(preset, stage), "accelerate_config", "")
        assert not accelerate_config or resolve(accelerate_config).is_file()
        refuse_toy_values(part(preset, stage))
    for line in text.splitlines():
        if re.match(r"  \w+:", line):
            assert re.search(r"# .*\b(paper|code|ours|own|all)\b", line), f"{preset}: no source: {line}"


def arguments(stage: str, world: int) -> dict:
    "What paper_7b gives to TRL, with one name for gradient checkpointing: transformers 5.23 renamed it."
    make = {"sft": sft_arguments, "grpo": grpo_arguments}[stage]
    arguments = make(part("paper_7b", stage), "run", world)
    return {"activation_checkpointing" if k == "gradient_checkpointing" else k: v for k, v in arguments.items()}


@pytest.mark.parametrize("stage,world,config", [("sft", 8, SFTConfig), ("grpo", 16, GRPOConfig)])
def test_the_papers_preset_reaches_trl_value_by_value(stage, world, config, tmp_path):
    recipe = {k: v for k, v in arguments(stage, world).items() if k not in NOT_OF_THE_RECIPE}
    golden = json.loads(GOLDEN.read_text())[stage]
    assert recipe == {name: entry["value"] for name, entry in golden.items()}
    assert all(entry["source"] for entry in golden.values())
    checkpointing = "activation_checkpointing" if hasattr(config, "activation_checkpointing") else "gradient_checkpointing"
    named = {checkpointing if name == "activation_checkpointing" else name: value for name, value in arguments(stage, world).items()}
    built = config(**{**named, "output_dir": str(tmp_path)})
    for name in named.keys() - NOT_OF_THE_RECIPE:
        assert getattr(built, name) == ([] if name == "report_to" else named[name]), name
    rows_per_update = built.per_device_train_batch_size * built.gradient_accumulation_steps * world
    assert rows_per_update == {"sft": 8, "grpo": 128 * 8}[stage]  # RL: 128 queries with 8 responses each
    assert stage == "sft" or built.num_iterations == 1


@pytest.mark.parametrize("path", sorted((project_root() / "configs/accelerate").glob("*.yaml")), ids=lambda p: p.stem)
def test_the_accelerate_configurations_start_their_number_of_processes(path):
    config = load_config_from_file(str(path))
    assert config.num_processes == {"one_gpu": 1, "two_cpu": 2, "two_nodes": 16}.get(path.stem, 8)
    assert config.main_process_ip is None  # without an address, no other machine can join


def test_a_preset_without_a_section_for_the_stage_is_refused(tmp_path, capsys):
    (tmp_path / "p.yaml").write_text("sft:\n  seed: 1\n")
    assert main(["run", "nbs/05_grpo.ipynb", "-f", str(tmp_path / "p.yaml")]) == 2
    assert "for sft, none for grpo" in capsys.readouterr().err


def test_vllm_listens_and_is_reached_on_this_machine_only():
    arguments = grpo_arguments(GRPOParams(vllm="server"), "run", 1)
    assert (arguments["vllm_server_host"], arguments["vllm_server_port"]) == ("127.0.0.1", 8000)
    listening = [line for p in (project_root() / "examples").glob("*.sh") for line in p.read_text().splitlines() if "vllm serve " in line]
    assert listening and all("--host 127.0.0.1" in line for line in listening)


def test_a_model_is_measured_as_the_paper_trains_it():
    """The preset of 07 must ask as the preset of 05 trains.

    It once measured with interleaved time labels a policy that was trained on native video."""
    measured = from_mapping(BenchmarksParams, read_parameters(BenchmarksParams, [resolve("configs/benchmark_7b.yaml")], []))
    trained = part("paper_7b", "grpo")
    for name in ("frames", "pixels", "prompt_style", "time_encoding", "max_completion_length"):
        assert getattr(measured, name) == getattr(trained, name), name
