"The code and commands of CONTRIBUTING.md for a reader, a prompt and a model family. Those for a reward: test_reward_functions.py."

import json
import re
import shlex
import subprocess
import sys

import pytest

from vtg_r1.cli.run import read_given, stage_params
from vtg_r1.core.atomic_files import write_json
from vtg_r1.core.prompts import SYSTEM_PROMPT
from vtg_r1.core.runtime import project_root
from vtg_r1.core.samples import Sample, load_samples
from vtg_r1.data.model_inputs import build_messages
from vtg_r1.models.ground import resolve_model
from vtg_r1.runs.parameters import from_mapping, parameter_fields, to_mapping

TEXT = (project_root() / "CONTRIBUTING.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return TEXT.split(f"## {title}\n")[1].split("\n## ")[0]


def blocks(title: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", section(title), re.MULTILINE | re.DOTALL)


def test_the_example_reader_clips_long_spans_and_drops_inverted_ones(tmp_path):
    module, use = blocks("Add a reader", "python")
    (tmp_path / "my_reader.py").write_text(module)
    rows = [
        {"clip": "a.mp4", "moment": [3.0, 9.0], "event": "a goal", "length": 15.5},
        {"clip": "b.mp4", "moment": [10.0, 99.0], "event": "a foul", "length": 20.0},
        {"clip": "b.mp4", "moment": [9.0, 3.0], "event": "a corner", "length": 20.0},
    ]
    (tmp_path / "sports_train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = subprocess.run([sys.executable, "-c", use], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    samples = load_samples(tmp_path / "train.jsonl")
    assert [(s.video, s.query, s.spans, s.source) for s in samples] == [
        ("a.mp4", "a goal", [[3.0, 9.0]], "sports"),
        ("b.mp4", "a foul", [[10.0, 20.0]], "sports"),
    ]
    assert "read 3, kept 2" in done.stdout and "inverted" in done.stdout


STAGES = ["curation", "sft", "difficulty", "grpo", "benchmarks"]


@pytest.fixture
def given() -> dict:
    "The parameters of the command under Change the prompt."
    words = shlex.split(blocks("Change the prompt", "bash")[0])
    assert words[:3] == ["vtg-r1", "run", "nbs/03_sft.ipynb"]
    pairs = [f"{words[i + 1]}={words[i + 2]}" for i, word in enumerate(words) if word == "-p"]
    return read_given("sft", [], pairs)


@pytest.mark.parametrize("style", ["full", "short"])
def test_a_system_message_of_the_user_takes_the_place_of_the_built_in_one(given, style):
    params = from_mapping(stage_params("sft"), {**given, "prompt_style": style})
    sample = Sample("q", "v.mp4", 15.5, "a goal", [[3.0, 9.0]])
    own, others = (
        build_messages(sample, [0.0, 1.0], params.view("")),
        build_messages(sample, [0.0, 1.0], stage_params("sft")(prompt_style=style).view("")),
    )
    assert own[0] == {"role": "system", "content": [{"type": "text", "text": given["system_prompt"]}]} and given["system_prompt"].startswith(
        "You watch"
    )
    assert own[1:] == [m for m in others if m["role"] != "system"]
    assert (others[0]["content"][0]["text"] == SYSTEM_PROMPT) == (style == "full")


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_has_the_parameters_of_the_prompt(stage):
    fields = parameter_fields(stage_params(stage))
    assert {"prompt_style", "answers", "system_prompt"} <= set(fields)


def test_a_trained_run_is_asked_with_its_own_system_message(given, tmp_path):
    params = from_mapping(stage_params("sft"), given)
    (tmp_path / "model").mkdir()
    write_json(tmp_path / "model/config.json", {})
    write_json(tmp_path / "manifest.json", {"parameters": to_mapping(params)})
    config = resolve_model(str(tmp_path))[1]
    assert config.view("").system_prompt == given["system_prompt"]


def test_the_command_and_the_files_for_a_model_family_exist(parse_command):
    words = shlex.split(blocks("Add a model family", "bash")[0])
    assert words[:2] == ["vtg-r1", "check-model"] and parse_command(words[1:]).params["as_json"]
    assert "def family(" in (project_root() / "tests/model_zoo.py").read_text() and (project_root() / "tests/test_matrix.py").exists()
    assert (project_root() / "docs/models.md").read_text().startswith("# Which models work")
