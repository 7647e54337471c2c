"`vtg-r1 recipe` and its dry run, also killed and continued; `vtg-r1 runs`; the page Reproduce the paper."

import importlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from vtg_r1.cli import main
from vtg_r1.cli.recipe import changes, read_recipe
from vtg_r1.cli.run import stage_params
from vtg_r1.core.runtime import UserError, project_root, resolve
from vtg_r1.core.samples import load_samples
from vtg_r1.data.official_benchmarks import score, trivial_predictions
from vtg_r1.data.where import PLACES
from vtg_r1.runs.execute import stage_name
from vtg_r1.runs.parameters import from_mapping, to_mapping
from vtg_r1.runs.run import read_manifest, run_state, start_run

TINY = """
name: small
shared: {seed: 0, threads: 1, outputs_dir: OUT, figures: false, eval_limit: 4}
steps:
  curation: {stage: curation, toy_videos: 6, workers: 1}
  cold_start: {stage: sft, files: [configs/toy.yaml], model: tiny, annotations: $curation/coldstart.jsonl, steps: 2, batch_size: 2,
    per_device_batch_size: 2, eval_before_training: false}
  difficulty: {stage: difficulty, model: $cold_start/model, annotations: $curation/rl.jsonl, max_samples: 4, num_rollouts: 2, batch_size: 4}
  rl: {stage: grpo, model: $cold_start/model, annotations: $curation/rl.jsonl, steps: 4, prompts_per_step: 2, num_generations: 2,
    per_device_batch_size: 4, save_steps: 1, eval_before_training: false}
measure:
  policies: {base: tiny, cold start: $cold_start/model, RL: $rl/model}
  train_annotations: $curation/rl.jsonl
  control_limit: 0
  benchmarks:
    toy world: {eval_limit: 12}
"""


def command(file: Path) -> list[str]:
    return [sys.executable, "-m", "vtg_r1.cli", "recipe", str(file)]


@pytest.mark.resume
def test_a_killed_recipe_goes_on(tmp_path):
    """Only the process of the recipe is killed, while the cold start trains in the kernel of its notebook.

    The kernel must end too. The same command then goes on from the last checkpoint."""
    file = tmp_path / "recipe.yaml"
    content = yaml.safe_load(TINY.replace("OUT", str(tmp_path)))
    steps = {name: content["steps"][name] for name in ("curation", "cold_start")}
    steps["cold_start"] |= {"steps": 12, "save_steps": 1, "eval_limit": 1}
    file.write_text(yaml.safe_dump({**content, "steps": steps, "measure": {}}, sort_keys=False))
    folder = tmp_path / "sft/small-cold_start"
    with subprocess.Popen(command(file), cwd=project_root(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True) as first:
        until = time.monotonic() + 300
        while not list(folder.glob("checkpoints/checkpoint-2")) and time.monotonic() < until:
            time.sleep(0.02)
        os.kill(first.pid, signal.SIGKILL)
    assert run_state(folder) in ("running", "interrupted")
    curated = read_manifest(tmp_path / "curation/small-curation")
    again = subprocess.run(command(file), cwd=project_root(), capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr[-3000:]
    manifest = read_manifest(folder)
    assert manifest["status"] == "finished" and len(manifest["resumed"]) == 1 and len((folder / "log.jsonl").read_text().splitlines()) == 12
    assert read_manifest(tmp_path / "curation/small-curation") == curated and "curation: finished, it is kept" in again.stderr
    assert len(list((tmp_path / "curation/small-curation").glob("*.ipynb"))) == 1  # an ordinary run, by papermill


def by_function(notebook: str, given: dict, as_json: bool) -> int:
    "Takes the place of `run_stage`: calls the function of the stage here, which saves the start of a notebook's kernel."
    stage = stage_name(notebook)
    importlib.import_module(f"vtg_r1.{stage}").main(from_mapping(stage_params(stage), given))
    return 0


@pytest.mark.slow
def test_a_recipe_ends_in_its_table_and_refuses_runs_of_other_parameters(tmp_path, monkeypatch, capsys):
    file = tmp_path / "recipe.yaml"
    file.write_text(TINY.replace("OUT", str(tmp_path)))
    monkeypatch.setattr("vtg_r1.cli.recipe.run_stage", by_function)
    assert main(["recipe", str(file)]) == 0
    check_table(tmp_path, capsys.readouterr().out)
    ended = read_manifest(tmp_path / "grpo/small-rl")["ended"]
    assert main(["recipe", str(file)]) == 0 and read_manifest(tmp_path / "grpo/small-rl")["ended"] == ended  # all are kept
    capsys.readouterr()

    # a finished run that is not what the recipe asks for is refused, not shown
    file.write_text(TINY.replace("OUT", str(tmp_path)).replace("steps: 4,", "steps: 5,"))
    (step,) = [step for step in read_recipe(str(file)).steps if step.name == "rl"]
    assert changes(step) == ["steps was 4, now 5"]
    assert main(["recipe", str(file)]) == 2 and "steps was 4, now 5" in capsys.readouterr().err
    with open(tmp_path / "curation/small-curation/rl.jsonl", "a") as f:
        f.write("\n")
    assert "has changed since" in changes(step)[1]
    assert main(["recipe", str(file)]) == 2 and "has changed since" in capsys.readouterr().err
    assert main(["runs", "--outputs", str(tmp_path), "--json"]) == 0
    listed = {row["run"]: row for row in json.loads(capsys.readouterr().out)}
    assert listed["small-rl"]["state"] == "finished" and "final" in listed["small-rl"]["mIoU"] and listed["small-rl"]["age"]


def check_table(folder: Path, printed: str) -> None:
    "The table has the scores that are computed here without it, and those of the benchmark runs."
    numbers = json.loads((folder / "recipes/small/table.json").read_text())["toy world"]
    samples = load_samples(folder / "toyworld/held-out-in-domain/samples.jsonl")[:12]
    whole = score("samples", samples, trivial_predictions(samples)["whole video"])["mIoU"]
    assert numbers["blind/whole video/mIoU"] == pytest.approx(whole, abs=1e-3) and "blind/dataset prior/mIoU" in numbers
    for policy, run in (("base", "base"), ("cold start", "cold_start"), ("RL", "rl")):
        measured = json.loads((folder / f"benchmarks/small-toy_world-{run}/metrics.json").read_text())["mIoU"]
        assert numbers[f"{policy}/interval/mIoU/low"] <= measured <= numbers[f"{policy}/interval/mIoU/high"] and f"{policy}/above_blind/p" in numbers
        assert f"| {policy} | {measured:.1f} [" in printed
    assert "best answer that sees no frame" in printed


@pytest.mark.long
def test_a_recipe_killed_as_rl_begins_keeps_what_is_finished(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(TINY.replace("OUT", str(tmp_path)))
    rl = tmp_path / "grpo/small-rl"
    with subprocess.Popen(command(file), cwd=project_root(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True) as first:
        until = time.monotonic() + 300
        while not (rl / "manifest.json").exists() and time.monotonic() < until:
            time.sleep(0.05)
        os.kill(first.pid, signal.SIGKILL)  # only the recipe: the kernel of the notebook must end by itself
    assert run_state(tmp_path / "sft/small-cold_start") == "finished"
    ended = read_manifest(tmp_path / "sft/small-cold_start")["ended"]
    again = subprocess.run(command(file), cwd=project_root(), capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr[-3000:]
    assert read_manifest(tmp_path / "sft/small-cold_start")["ended"] == ended  # kept
    assert "cold_start: finished, it is kept" in again.stderr and run_state(rl) == "finished"
    for stage, name in (("curation", "curation"), ("difficulty", "difficulty"), ("grpo", "rl"), ("benchmarks", "toy_world-rl")):
        assert len(list((tmp_path / stage / f"small-{name}").glob("*.ipynb"))) == 1, stage  # an ordinary run, by papermill
    check_table(tmp_path, again.stdout)


def test_the_dry_run_names_every_missing_path_at_once(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("GEMINI_API_KEY", raising=False)
    presets = ("recipe_7b", "curation_paper", "paper_7b", "benchmark_7b")
    for preset in presets:  # as they are, but for the folder data, which a laboratory may have
        content = resolve(f"configs/{preset}.yaml").read_text().replace("data/", f"{tmp_path}/data/")
        for other in presets:
            content = content.replace(f"configs/{other}.yaml", f"{tmp_path}/{other}.yaml")
        (tmp_path / f"{preset}.yaml").write_text(content)
    assert main(["recipe", str(tmp_path / "recipe_7b.yaml"), "--dry-run"]) == 1
    output = capsys.readouterr().out
    for source in yaml.safe_load((tmp_path / "curation_paper.yaml").read_text())["sources"]:
        assert f"{source['path']} ({source['dataset']}): no such file" in output
    for path in ("data/videos", "data/nextgqa", "data/rextime/rextime_val.json", "GEMINI_API_KEY"):
        assert path in output
    assert "made by curation" in output and "made by cold_start" in output and "nothing was decoded or trained" in output


def test_the_dry_run_of_the_toy_recipe_has_no_problem_and_makes_nothing(tmp_path, capsys):
    file = tmp_path / "toy.yaml"
    content = yaml.safe_load(resolve("configs/recipe_toy.yaml").read_text())
    content["shared"]["outputs_dir"] = str(tmp_path)
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    assert main(["recipe", str(file), "--dry-run"]) == 0
    assert "0 problems in 7 steps" in capsys.readouterr().out and [p.name for p in tmp_path.iterdir()] == ["toy.yaml"]


def test_the_released_data_needs_no_teacher(world, toy_samples, tmp_path, capsys):
    """recipe_7b_released.yaml starts from the authors' RL set, without curation and cold start.

    Here an annotation file of the same form takes the place of that set, and the embedded model that of the large ones."""
    rows = [
        {"video": f"./{s.video}", "problem": s.query, "gt_frame": s.spans[0], "video_length": s.duration, "dataset": "tacos"} for s in toy_samples
    ]
    (tmp_path / "TVG_RL.json").write_text(json.dumps(rows))
    content = yaml.safe_load(resolve("configs/recipe_7b_released.yaml").read_text())
    assert not any(step["stage"] in ("curation", "sft") for step in content["steps"].values())
    text = json.dumps(content).replace("data/tvg_r1/TVG_RL.json", str(tmp_path / "TVG_RL.json")).replace("data/videos", str(world / "videos"))
    content = json.loads(text.replace("RuizheChen/TVG_Coldstart", "tiny").replace("Qwen/Qwen2.5-VL-7B-Instruct", "tiny"))
    for step in content["steps"].values():
        step.update(
            {"files": ["configs/toy.yaml"], "accelerate_config": "", "eval_annotations": ""}
            if step["stage"] == "grpo"
            else {"files": ["configs/toy.yaml"]}
        )
    content["steps"]["rl"] |= {"prompts_per_step": 2, "num_generations": 2, "per_device_batch_size": 4}
    content["measure"] = {"policies": {"RL": "$rl/model"}, "benchmarks": {"toy world": {}}}
    content["shared"]["outputs_dir"] = str(tmp_path)
    (tmp_path / "released.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    code = main(["recipe", str(tmp_path / "released.yaml"), "--dry-run"])
    output = capsys.readouterr().out
    assert code == 0 and f"{len(rows)} samples of 12 videos" in output, output


@pytest.mark.parametrize(
    "change, problem",
    [
        (("$curation/rl.jsonl, max", "$curatoin/rl.jsonl, max"), "step difficulty: $curatoin is no earlier step; those are curation, cold_start"),
        (("stage: grpo", "stage: gpro"), "step rl: stage 'gpro' is none of"),
        (("num_rollouts: 2", "num_rolouts: 2"), "step difficulty: unknown parameter 'num_rolouts', did you mean 'num_rollouts'?"),
        (("train_annotations: $curation/rl.jsonl", "train_annotations: $curatoin/rl.jsonl"), "measure: $curatoin is no earlier step"),
        (("name: small", "nome: small"), "nome"),
        (("shared: {seed: 0", "shared: {sead: 0"), "shared: no stage has a parameter 'sead'"),
        (("shared: {seed: 0", "shared: {model: $curation/model"), "shared: $curation names a step"),
        (
            ("files: [configs/toy.yaml]", "files: configs/toy.yaml"),
            "step cold_start: files is 'configs/toy.yaml'; give a list, such as [configs/toy.yaml]",
        ),
        ((TINY, ""), "give name, steps, and if needed shared and measure"),
        (("  rl:", "  empty:\n  rl:"), "step empty: give its stage and parameters"),
        (("train_annotations: $curation/rl.jsonl", "train_annotations: train.txt"), "measure: train_annotations train.txt is no samples file"),
        (("train_annotations: $curation/rl.jsonl", "prior: $curation/rl.jsonl"), "parameter 'prior' is now called 'train_annotations'"),
        (("cold start: $cold_start/model", "Base: $cold_start/model"), "two steps would be called toy_world-base"),  # they would have one run folder
        (("{base: tiny, cold start: $cold_start/model, RL: $rl/model}", "{}"), "measure has benchmarks and no policies"),
        (("toy world: {eval_limit: 12}", "- toy world"), "benchmarks: give `name: value` lines"),
        (("toy world: {eval_limit: 12}", "toy world: 12"), "toy world: give `name: value` lines"),
    ],
)
def test_an_error_in_a_recipe_is_named_on_one_line(tmp_path, change, problem):
    file = tmp_path / "recipe.yaml"
    file.write_text(TINY.replace(*change).replace("OUT", str(tmp_path)))
    with pytest.raises(UserError) as e:
        read_recipe(str(file))
    assert problem in str(e.value) and "\n" not in str(e.value)


def test_a_dry_run_names_an_interrupted_run_of_other_parameters(tmp_path, capsys):
    (tmp_path / "recipe.yaml").write_text(TINY.replace("OUT", str(tmp_path)))
    step = next(step for step in read_recipe(str(tmp_path / "recipe.yaml")).steps if step.stage == "sft")
    start_run("sft", step.params.run_name, {**to_mapping(step.params), "steps": 99}, tmp_path).finish("failed")
    assert main(["recipe", str(tmp_path / "recipe.yaml"), "--dry-run"]) == 1
    assert "was begun with other parameters: steps was 99" in capsys.readouterr().out


def test_a_step_with_outputs_of_its_own_is_looked_for_there(tmp_path):
    content = yaml.safe_load(TINY.replace("OUT", str(tmp_path / "shared")))
    content["steps"]["curation"]["outputs_dir"] = str(tmp_path / "own")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    curation, cold_start, *_ = read_recipe(str(tmp_path / "recipe.yaml")).steps
    assert cold_start.params.annotations == str(curation.folder / "coldstart.jsonl") == str(tmp_path / "own/curation/small-curation/coldstart.jsonl")


def test_runs_lists_state_scores_and_age(tmp_path, capsys):
    done, half = (start_run("grpo", name, {"seed": 0}, tmp_path) for name in ("done", "half"))
    done.save_metrics({"initial/mIoU": 41.25, "final/mIoU": 52.0})
    done.finish()
    half.finish("failed")
    assert main(["runs", "--outputs", str(tmp_path)]) == 0
    lines = {line.split()[1]: line for line in capsys.readouterr().out.splitlines()}
    assert "finished" in lines["grpo/done"] and "mIoU 41.2 → 52.0" in lines["grpo/done"] and lines["grpo/done"].endswith("just now")
    assert lines["grpo/half"].startswith("failed")
    (half.path / "manifest.json").write_text(json.dumps({**read_manifest(half.path), "started": "9999-01-01"}))  # later than the other for certain
    assert main(["runs", "grpo", "--newest", "--outputs", str(tmp_path)]) == 0
    output, err = capsys.readouterr()
    assert output.strip() == str(done.path) and "half: passed over, it is failed" in err
    assert main(["runs", "grpo", "--newest", "--json", "--outputs", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out) == {"folder": str(done.path)}
    assert main(["runs", "sft", "--newest", "--outputs", str(tmp_path)]) == 2 and "no finished run" in capsys.readouterr().err


def test_the_page_and_the_command_show_the_table_of_places(capsys):
    spec = importlib.util.spec_from_file_location("reproduce", project_root() / "docs/reproduce.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.page() == resolve("docs/reproduce.md").read_text(encoding="utf-8"), "run python docs/reproduce.py > docs/reproduce.md"
    assert main(["data", "where", "nextgqa"]) == 0
    output = capsys.readouterr().out
    assert all(getattr(PLACES["nextgqa"], field) in output for field in ("annotations", "videos", "licence", "layout"))
    assert main(["data", "where", "nextqa"]) == 2 and "nextgqa" in capsys.readouterr().err


def test_every_data_path_of_a_preset_is_in_the_table_of_places():
    text = "".join(resolve(f"configs/{name}.yaml").read_text() for name in ("recipe_7b", "recipe_7b_released", "curation_paper"))
    layouts = {place.layout for place in PLACES.values()}
    named = set(re.findall(r"(?:path|annotations): (data/[^\s,}]+)", text))
    assert named and named <= layouts, named - layouts


@pytest.mark.long
def test_the_toy_recipe_trains_a_policy_above_the_base_and_above_blind_answers(tmp_path):
    "The unchanged recipe takes under ten minutes on two cores without other work."
    content = yaml.safe_load(resolve("configs/recipe_toy.yaml").read_text())
    content["shared"]["outputs_dir"] = str(tmp_path)
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    start = time.monotonic()
    output = subprocess.run(command(tmp_path / "toy.yaml"), cwd=project_root(), capture_output=True, text=True, check=True).stdout
    print(f"{time.monotonic() - start:.0f} s\n{output}")
    numbers = json.loads((tmp_path / "recipes/recipe_toy/table.json").read_text())["toy world"]
    assert numbers["RL/above_blind/low"] > 0 and numbers["RL/interval/mIoU/low"] > numbers["base/interval/mIoU/high"]
