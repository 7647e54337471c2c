"The parameter cell, the presets and the program of each stage agree with its dataclass."

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from vtg_r1.cli import main
from vtg_r1.cli.run import stage_params
from vtg_r1.core.runtime import UserError, project_root
from vtg_r1.runs.parameters import STAGES, from_mapping, help_text, parameter_cell, parameter_fields, read_parameters

ROOT = project_root()
NOTEBOOKS = {path.stem[3:]: path for path in sorted((ROOT / "nbs").glob("[0-9][0-9]_*.ipynb"))}


def parameter_source(notebook: Path) -> str:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    (cell,) = [c for c in cells if "parameters" in c["metadata"].get("tags", [])]
    return "".join(cell["source"])


@pytest.mark.parametrize("stage", STAGES)
def test_the_notebooks_parameter_cell_is_the_one_that_the_dataclass_gives(stage):
    assert parameter_source(NOTEBOOKS[stage]) == "#| eval: false\n" + parameter_cell(stage_params(stage))


@pytest.mark.parametrize("stage", STAGES)
def test_every_parameter_is_explained_by_a_sentence(stage):
    for name, f in parameter_fields(stage_params(stage)).items():
        assert len(f.metadata["doc"].split()) > 1 and f.metadata["doc"].endswith((".", ")")), name
    assert '`run_name = ""`' in help_text(stage_params(stage))


PRESETS = {path.stem: path for path in sorted((ROOT / "configs").glob("*.yaml"))}
SECTIONS = []
for name, path in PRESETS.items():
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    if set(content) <= set(STAGES):
        SECTIONS += [(name, stage) for stage in content]


@pytest.mark.parametrize(("preset", "stage"), SECTIONS)
def test_a_stage_takes_its_section_of_a_preset(preset, stage):
    given = read_parameters(stage_params(stage), [PRESETS[preset]], [])
    assert given and from_mapping(stage_params(stage), given)


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_is_a_program_too(stage):
    module = importlib.import_module(f"vtg_r1.{stage}")
    assert callable(module.main)
    assert f"    stage_program({stage_params(stage).__name__}, main, dry_run)" in Path(module.__file__).read_text(encoding="utf-8")


def test_a_program_refuses_an_unknown_parameter():
    command = [sys.executable, "-m", "vtg_r1.rewards", "-p", "stepz", "3"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 2 and run.stderr.startswith("python -m vtg_r1.rewards: unknown parameter 'stepz'")


@pytest.mark.parametrize(
    ("stage", "old", "new"),
    [
        ("grpo", "max_response", "max_completion_length"),
        ("grpo", "heldout", "eval_annotations"),
        ("grpo", "see_once", "share_prefix"),
        ("sft", "target", "sft_target"),
        ("curation", "target", "label_source"),
        ("curation", "eps1", "sft_min_iou"),
        ("difficulty", "rollouts", "num_rollouts"),
        ("difficulty", "limit", "max_samples"),
        ("benchmarks", "prior", "train_annotations"),
        ("ablations", "quick", "smoke"),
    ],
)
def test_an_old_name_is_refused_with_the_new_one(stage, old, new):
    with pytest.raises(UserError, match=f"parameter '{old}' is now called '{new}'"):
        from_mapping(stage_params(stage), {old: 1})


@pytest.mark.parametrize("stage", ["sft", "difficulty", "grpo", "benchmarks"])
def test_a_large_model_with_the_toy_defaults_is_refused_on_one_line(stage, capsys):
    assert main(["run", str(NOTEBOOKS[stage]), "-p", "model", "Qwen/Qwen2.5-VL-7B-Instruct"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "pixels = 784" in line and "max_completion_length" in line and "-f FILE" in line and "configs/" in line


@pytest.mark.parametrize(
    "stage, name, entry",
    [
        ("grpo", "annotations", "a.jsonl"),
        ("grpo", "eval_annotations", {"dataset": "tacos"}),
        ("difficulty", "annotations", {"path": 3}),
        ("curation", "sources", {"dataset": "tacos"}),
        ("curation", "benchmarks", {"path": None}),
    ],
)
def test_a_file_of_a_list_that_has_no_path_is_refused_in_one_line(stage, name, entry):
    "`annotations: [a.jsonl]` ended in a traceback, in the dry run too."
    with pytest.raises(UserError, match=f"{name}, entry 2 is .*: write a file as {{path: …}}") as e:
        stage_params(stage)(**{name: [{"path": "b.jsonl"}, entry]})
    assert "\n" not in str(e.value)
