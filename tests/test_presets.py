"The presets: every value with its source, every name a parameter, and the paper's one built into exactly the arguments that TRL is told."

import ast
import inspect
import json
import re
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from trl import GRPOConfig, SFTConfig

from vtg_r1.cli import main
from vtg_r1.cli.run import read_given
from vtg_r1.core.runtime import project_root, resolve
from vtg_r1.grpo import grpo_arguments
from vtg_r1.runs.execute import known_parameters
from vtg_r1.sft import sft_arguments

PRESETS = ["paper_7b", "qwen3_vl", "single_gpu_lora", "toy"]
NOTEBOOKS = {"sft": "nbs/03_sft.ipynb", "difficulty": "nbs/04_difficulty.ipynb", "grpo": "nbs/05_grpo.ipynb"}
GOLDEN = Path(__file__).parent / "golden" / "paper_7b.json"
DEVICE = {"bf16", "use_cpu", "dataloader_pin_memory", "output_dir", "run_name"}  # follow the machine and the run folder


def part(preset: str, stage: str) -> dict:
    "What the command line makes of a preset for a stage: the notebook's defaults, then the file."
    defaults = {name: ast.literal_eval(p["default"]) for name, p in known_parameters(resolve(NOTEBOOKS[stage])).items()}
    return {**defaults, **read_given(stage, [str(resolve(f"configs/{preset}.yaml"))], [])}


@pytest.mark.parametrize("preset", PRESETS)
def test_every_value_has_a_source_and_a_parameter(preset):
    text = resolve(f"configs/{preset}.yaml").read_text()
    content = yaml.safe_load(text)
    assert set(content) == set(NOTEBOOKS)
    for stage, values in content.items():
        assert set(values) <= set(known_parameters(resolve(NOTEBOOKS[stage]))), stage
        assert not (launch := values.get("accelerate_config")) or resolve(launch).is_file()
    for line in text.splitlines():
        if re.match(r"  \w+:", line):
            assert re.search(r"# .*(paper|code|ours|own|all)", line), f"{preset}: no source: {line}"


def arguments(stage: str, world: int) -> dict:
    given = part("paper_7b", stage)
    make = {"sft": sft_arguments, "grpo": grpo_arguments}[stage]
    names = set(inspect.signature(make).parameters)
    more = {"weights": (given["tiou_weight"], given["format_weight"])} if stage == "grpo" else {}
    told = make("run", world=world, **{k: v for k, v in given.items() if k in names}, **more)
    return {"activation_checkpointing" if k == "gradient_checkpointing" else k: v for k, v in told.items()}  # its name before transformers 5.23


@pytest.mark.parametrize("stage,world,config", [("sft", 8, SFTConfig), ("grpo", 16, GRPOConfig)])
def test_the_papers_recipe_is_told_to_trl_number_by_number(stage, world, config, tmp_path):
    told = {k: v for k, v in arguments(stage, world).items() if k not in DEVICE}
    golden = json.loads(GOLDEN.read_text())[stage]
    assert told == {name: entry["value"] for name, entry in golden.items()}
    assert all(entry["source"] for entry in golden.values())
    checkpointing = "activation_checkpointing" if hasattr(config, "activation_checkpointing") else "gradient_checkpointing"
    built = config(
        **{**{k if k != "activation_checkpointing" else checkpointing: v for k, v in arguments(stage, world).items()}, "output_dir": str(tmp_path)}
    )
    for name, value in told.items():
        assert getattr(built, checkpointing if name == "activation_checkpointing" else name) == ([] if name == "report_to" else value), name
    if stage == "grpo":
        assert (
            built.loss_type == "dapo"
            and built.num_iterations == 1
            and built.per_device_train_batch_size * built.gradient_accumulation_steps * 16 == 128 * 8
        )
    else:
        assert built.per_device_train_batch_size * built.gradient_accumulation_steps * 8 == 8


@pytest.mark.parametrize("path", sorted((project_root() / "configs/accelerate").glob("*.yaml")), ids=lambda p: p.stem)
def test_accelerate_reads_its_configurations(path):
    config = load_config_from_file(str(path))
    assert config.num_processes == {"one_gpu": 1, "two_cpu": 2, "two_nodes": 16}.get(path.stem, 8)
    assert config.main_process_ip is None  # loopback, until a command line says otherwise


def test_a_file_without_a_part_for_the_stage(tmp_path, capsys):
    (tmp_path / "p.yaml").write_text("sft:\n  seed: 1\n")
    assert main(["run", "nbs/05_grpo.ipynb", "-f", str(tmp_path / "p.yaml")]) == 2
    assert "has parts for sft, none for grpo" in capsys.readouterr().err


def test_vllm_is_looked_for_on_this_machine_alone():
    told = grpo_arguments("run", vllm="server")
    assert (told["vllm_server_host"], told["vllm_server_port"]) == ("127.0.0.1", 8000)
    listening = [line for p in (project_root() / "examples").glob("*.sh") for line in p.read_text().splitlines() if "vllm-serve" in line]
    assert listening and all("--host 127.0.0.1" in line for line in listening)
