"The page on own data, nbs/own_data.ipynb: its commands run as they are written there, with few training steps."

import importlib.util
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import nbformat
import pytest
import yaml

from vtg_r1.cli import main
from vtg_r1.cli.run import read_given, stage_params
from vtg_r1.core.runtime import project_root, resolve
from vtg_r1.core.samples import iter_jsonl, load_samples
from vtg_r1.grpo import GRPOParams
from vtg_r1.grpo import main as grpo
from vtg_r1.runs.parameters import from_mapping
from vtg_r1.runs.run import read_manifest

PAGE = project_root() / "nbs/own_data.ipynb"
FEW = {"03_sft": "steps 2", "05_grpo": "steps 2 -p prompts_per_step 2 -p num_generations 4 -p per_device_batch_size 8"}


def cells() -> list[str]:
    "The page's code cells: first the one that makes the table, then commands."
    return [c.source for c in nbformat.read(PAGE, 4).cells if c.cell_type == "code"]


def commands_in_text() -> list[str]:
    "Commands that the page shows but does not run."
    return [
        block.replace("\\\n", "")
        for c in nbformat.read(PAGE, 4).cells
        if c.cell_type == "markdown"
        for block in re.findall(r"```bash\n(.*?)```", c.source, re.DOTALL)
    ]


def shell(command: str, folder: Path) -> subprocess.CompletedProcess:
    "Runs a cell of the page in bash. Its outputs/ is a folder of the test, and its runs are short."
    for stage, few in FEW.items():
        command = command.replace(
            f"nbs/{stage}.ipynb ", f"nbs/{stage}.ipynb -p outputs_dir outputs/ -p threads 1 -p figures false -p eval_limit 4 -p {few} "
        )
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = command.removeprefix("%%bash\n").replace("outputs/", f"{folder}/")
    return subprocess.run(["bash", "-euc", command], cwd=project_root(), env=env, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    "Runs the whole page once. Returns its folder and what each command printed, by the first words of the command."
    folder = tmp_path_factory.mktemp("outputs")
    table, *commands = cells()
    source = table.replace("outputs/", f"{folder}/").replace("videos=24", "videos=8")
    subprocess.run([sys.executable, "-c", source], cwd=project_root(), check=True, capture_output=True)
    stdout = {}
    for command in commands:
        done = shell(command, folder)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr[-3000:]}"
        stdout[" ".join(re.search(r"vtg-r1 (\S+) (\S+)", command).groups()).partition(" outputs/")[0]] = done.stdout
    return folder, stdout


pytestmark = pytest.mark.slow


def test_the_page_has_every_step_in_its_order(walked):
    steps = ["data validate", "data convert", "run --dry-run", "run nbs/03_sft.ipynb", "run nbs/05_grpo.ipynb", "score --benchmark", "ground"]
    assert list(walked[1]) == steps
    assert "hours on two CPU cores" in walked[1]["run --dry-run"] and "0 problems" in walked[1]["run --dry-run"]


def test_the_table_is_valid_and_split_by_video(walked):
    folder, stdout = walked
    assert (folder / "own_data/mine.csv").read_text().splitlines()[0] == "video,start,end,sentence"
    assert "8 named, 8 readable, 0 missing, 0 unreadable, 0 off by" in stdout["data validate"] and "dropped" not in stdout["data validate"]
    train, held = load_samples(folder / "own_data/train.jsonl"), load_samples(folder / "own_data/heldout.jsonl")
    truth = load_samples(folder / "toyworld/own-data/samples.jsonl")
    assert len(train) + len(held) == len(truth) and len({s.video for s in held}) == 2 and not {s.video for s in held} & {s.video for s in train}
    length = {s.video: s.duration for s in truth}
    assert all(s.duration == pytest.approx(length[s.video], abs=1e-2) for s in train + held)


def test_both_runs_train_adapters_and_are_measured_on_held_out_queries(walked):
    folder, stdout = walked
    for stage in ("sft", "grpo"):
        printed, manifest = (
            json.loads(stdout[f"run nbs/0{3 if stage == 'sft' else 5}_{stage}.ipynb"].splitlines()[-1]),
            read_manifest(folder / stage / "mine"),
        )
        assert (
            printed["status"] == manifest["status"] == "finished" and manifest["parameters"]["lora_rank"] == 16 and printed["metrics"]["steps"] == 2
        )
        assert (
            printed["metrics"]["train_samples"] == len(load_samples(folder / "own_data/train.jsonl"))
            and (folder / stage / "mine/model/model.safetensors").is_file()
        )
    assert read_manifest(folder / "sft/mine")["parameters"]["sft_target"] == "exact_span"
    asked = [row["qid"] for _, row in iter_jsonl(folder / "grpo/mine/predictions.jsonl")]
    assert asked and set(asked) <= {s.qid for s in load_samples(folder / "own_data/heldout.jsonl")}


def test_the_score_command_gives_the_metrics_of_the_run(walked, capsys):
    "eval_limit leaves four held-out queries."
    folder, stdout = walked
    run = json.loads((folder / "grpo/mine/metrics.json").read_text())
    of_table = json.loads(stdout["score --benchmark"].splitlines()[-1])
    assert (
        any("The best answer that sees no frame" in line for line in stdout["score --benchmark"].splitlines())
        and "dataset prior" in stdout["score --benchmark"]
    )
    assert run["final/above_blind/difference"] == pytest.approx(
        run["final/mIoU"] - max(v for k, v in run.items() if k.startswith("blind/")), abs=1e-3
    )
    assert (
        of_table["n"] == 4
        and of_table["mIoU"] == pytest.approx(run["final/mIoU"], abs=1e-3)
        and of_table["R1@0.5"] == pytest.approx(run["final/R1@0.5"], abs=1e-3)
    )
    assert (
        main(
            [
                "score",
                "--benchmark",
                "samples",
                "--annotations",
                str(folder / "own_data/heldout.jsonl"),
                "--predictions",
                str(folder / "grpo/mine/predictions.jsonl"),
                "--missing",
                "skip",
                "--json",
            ]
        )
        == 0
    )
    assert json.loads(capsys.readouterr().out)["mIoU"] == pytest.approx(of_table["mIoU"])


def test_the_ground_command_writes_the_moment_as_a_video(walked):
    assert (walked[0] / "own_data/moment.mp4").stat().st_size > 1000


def test_the_table_itself_can_be_trained_on(walked):
    "GRPO reads the CSV file itself, and gets durations from the videos. Its function is called here: the commands of the page have run its notebook."
    folder, _ = walked
    given = read_given("grpo", ["configs/own_data.yaml", "configs/own_data_tiny.yaml"], ["steps=2", "prompts_per_step=2", "num_generations=4"])
    given |= {"dataset": "csv", "annotations": str(folder / "own_data/mine.csv"), "video_root": str(folder / "own_data/videos"), "model": "tiny"}
    given |= {"eval_before_training": False, "eval_limit": 4, "per_device_batch_size": 8, "threads": 1, "figures": False}
    grpo(from_mapping(GRPOParams, {**given, "outputs_dir": str(folder), "run_name": "table"}))
    assert json.loads((folder / "grpo/table/metrics.json").read_text())["n"] == 4


@pytest.mark.long  # tests/test_pages.py has quick tests of the demo, and of Ctrl-C on a command that serves (`review`)
def test_the_demo_command_of_the_page_answers_and_ends_on_ctrl_c(walked):
    if not importlib.util.find_spec("gradio"):
        pytest.skip("gradio is not installed: pip install 'vtg_r1[demo]'")
    folder, _ = walked
    words = next(block for block in commands_in_text() if block.startswith("vtg-r1 demo")).replace("outputs/", f"{folder}/").split()
    with subprocess.Popen([sys.executable, "-m", "vtg_r1.cli", *words[1:], "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as p:
        try:
            address = json.loads(p.stdout.readline())["address"]
            with urllib.request.urlopen(address, timeout=60) as page:
                assert page.status == 200 and "gradio" in page.read().decode().lower()
            p.send_signal(signal.SIGINT)
            _, err = p.communicate(timeout=60)
        finally:
            p.kill()
    assert p.returncode == 130 and "Traceback" not in err


def test_the_parser_takes_the_commands_in_the_text(parse_command):
    commands = [shlex.split(line) for block in commands_in_text() for line in block.splitlines()]
    assert {words[1] for words in commands} >= {"demo", "data"}
    for words in commands:
        assert words[0] == "vtg-r1" and parse_command(words[1:]).command.name == words[2 if words[1] == "data" else 1]


@pytest.mark.parametrize("name", ["own_data", "own_data_tiny"])
def test_the_presets_have_values_that_the_stages_take(name):
    file = resolve(f"configs/{name}.yaml")
    stages = yaml.safe_load(file.read_text())
    assert set(stages) == {"sft", "grpo"}
    for stage in stages:
        from_mapping(stage_params(stage), read_given(stage, [str(file)], []))  # an unknown name or value is an error


def test_with_a_teacher_rl_begins_at_the_cold_start_that_the_teacher_taught():
    "Each command gets what the one before it wrote, and the held-out set."
    curate, cold_start, rl = next(block for block in commands_in_text() if "data curate" in block).splitlines()

    def given(command: str) -> dict[str, str]:
        words = shlex.split(command)
        return {words[i + 1]: words[i + 2] for i, word in enumerate(words) if word == "-p"}

    for stage, command in (("sft", cold_start), ("grpo", rl)):
        pairs = [f"{name}={value}" for name, value in given(command).items()]
        from_mapping(stage_params(stage), read_given(stage, ["configs/own_data.yaml"], pairs))
        assert given(command)["eval_annotations"] == "outputs/own_data/heldout.jsonl" and given(command)["video_root"] == "outputs/own_data/videos"
    curated = f"outputs/curation/{given(curate)['run_name']}"
    assert (given(cold_start)["annotations"], given(rl)["annotations"]) == (f"{curated}/coldstart.jsonl", f"{curated}/rl.jsonl")
    assert given(rl)["model"] == f"outputs/sft/{given(cold_start)['run_name']}/model" and given(cold_start)["sft_target"] == "response"
