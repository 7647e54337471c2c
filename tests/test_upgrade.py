"Run folders, toy worlds, parameters and grids of version 0.1.0 are read with the right numbers, or refused in one line that says what to do."

import json
from pathlib import Path

import pytest

from vtg_r1 import cli
from vtg_r1.cli.recipe import list_runs
from vtg_r1.core.runtime import RunError, UserError
from vtg_r1.core.samples import Sample
from vtg_r1.data.toyworld import ToyWorldConfig, make_world
from vtg_r1.difficulty import advise
from vtg_r1.grpo import GRPOParams
from vtg_r1.runs.execute import ensure_run
from vtg_r1.runs.experiment_grid import read_grid
from vtg_r1.runs.parameters import from_mapping
from vtg_r1.runs.run import refuse_run


def old_run(outputs: Path, stage: str, status: str, parameters: dict) -> Path:
    "A run folder as 0.1.0 left it, with the names that metrics had then."
    folder = outputs / stage / "old"
    folder.mkdir(parents=True)
    manifest = {"stage": stage, "run": "old", "status": status, "started": "2026-11-27T12:00:00+00:00", "parameters": parameters, "config": {}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "metrics.json").write_text(json.dumps({"before/mIoU": 55.2, "after/mIoU": 60.3, "n": 32}))
    return folder


def test_scores_of_old_runs_are_listed(tmp_path):
    old_run(tmp_path, "grpo", "finished", {"generations": 8})
    assert list_runs(str(tmp_path), ["grpo"])[0]["mIoU"] == {"initial": 55.2, "final": 60.3}


def test_an_old_run_is_not_resumed(tmp_path):
    folder = old_run(tmp_path, "grpo", "failed", {"generations": 8, "see_once": True})
    problem = rf"{folder} was begun by an earlier version .*\(generations, see_once\): finish it with that version, or give another run_name$"
    with pytest.raises(RunError, match=problem):
        refuse_run(folder, True, {"num_generations": 8, "share_prefix": True})
    with pytest.raises(RunError, match=r"give another run_name or remove that folder$"):
        refuse_run(old_run(tmp_path, "sft", "finished", {"limit": 0}), True, {})


def test_an_old_run_is_not_taken_as_the_start_of_a_new_one(tmp_path):
    folder = old_run(tmp_path, "sft", "finished", {"max_response": 64})
    with pytest.raises(RunError, match=f"{folder} was begun by an earlier version .*remove or rename that folder"):
        ensure_run("nbs/03_sft.ipynb", {"run_name": "old", "outputs_dir": str(tmp_path)})


def test_an_old_toy_world_of_the_same_settings_is_taken(tmp_path):
    folder = make_world(tmp_path / "world", 1, 0, "train", ToyWorldConfig(label_noise=0.2), progress=False)
    card = json.loads((folder / "world.json").read_text())
    del card["label_errors"]
    for name, old in {"p_reappear": "twice", "p_distractor": "lookalikes", "label_noise": "mislabelled"}.items():
        card[old] = card.pop(name)
    (folder / "world.json").write_text(json.dumps(card))
    assert make_world(folder, 1, 0, "train", ToyWorldConfig(label_noise=0.2), progress=False) == folder
    with pytest.raises(FileExistsError, match="holds another world"):
        make_world(folder, 1, 0, "train", ToyWorldConfig(label_noise=0.1), progress=False)


def test_all_renamed_parameters_are_named_at_once():
    with pytest.raises(UserError, match="have new names: 'generations' is 'num_generations', 'encoding' is 'time_encoding'$"):
        from_mapping(GRPOParams, {"generations": 8, "steps": 5, "encoding": "native"})
    with pytest.raises(UserError, match=r"'tiou_weight' is now called 'rewards', such as \[.\"name\": \"tiou\", \"weight\": 0.9"):
        from_mapping(GRPOParams, {"tiou_weight": 0.9})


def test_a_renamed_strategy_is_named():
    with pytest.raises(UserError, match="'keep_between' is now called 'difficulty_range'$"):
        GRPOParams(strategy="keep_between")


@pytest.mark.parametrize(
    "text, problem",
    [
        ("quick: {}\nstages: {}\nrows: {}", "grid.yaml: 'quick' is now called 'smoke'$"),
        ("stages: {sft: {}}\nrows: {a: {stage: sft, once: true}}", "grid.yaml: row 'a': 'once' is now called 'shared_across_seeds'$"),
        ("stages: {sft: {}}\nrows: {b: {stage: sft}, a: {stage: sft, after: $b}}", "row 'a': 'after' is now called 'depends_on'$"),
    ],
)
def test_an_old_grid_is_refused_by_its_keys(text, problem, tmp_path):
    (tmp_path / "grid.yaml").write_text(text)
    with pytest.raises(RunError, match=problem):
        read_grid(tmp_path / "grid.yaml")


def test_advice_on_old_rollouts_says_that_they_have_no_consensus():
    teacher = {"model": "m", "response": "<think></think><time>[1, 3]</time>", "span": [1.0, 3.0], "iou": 1.0, "usage": None}
    record = {"policy": "p", "ious": [0.0, 1.0], "mean_iou": 0.5, "pass_rate": 0.5}
    old = [Sample("q", "v.mp4", 9.0, "a dog", [[1.0, 3.0]], teacher=teacher, difficulty=record)]
    assert any("are of version 0.1, which kept no consensus; run 04_difficulty again" in sentence for sentence in advise(old).sentences)
    new = [Sample("q", "v.mp4", 9.0, "a dog", [[1.0, 3.0]], teacher=teacher, difficulty={**record, "consensus": None})]
    assert not any("version 0.1" in sentence for sentence in advise(new).sentences)


def test_a_run_folder_to_review_is_answered_with_its_files(tmp_path, capsys):
    folder = old_run(tmp_path, "grpo", "finished", {})
    for files, names in [((), "of which none ends in .jsonl"), (("predictions.jsonl", "eval.jsonl"), "eval.jsonl, predictions.jsonl")]:
        for name in files:
            (folder / name).write_text("")
        assert cli.main(["review", str(folder)]) == 2
        assert capsys.readouterr().err.strip() == f"vtg-r1 review: {folder} is a folder: give files of it, {names}"
