"The regime map: its rules, its committed rows, the advice that uses it, and a map that is killed and resumed."

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import yaml

from vtg_r1.cli import main
from vtg_r1.core.runtime import RunError, project_root, resolve
from vtg_r1.core.samples import Sample, write_jsonl
from vtg_r1.difficulty import advise, difficulty, label_noise_estimate
from vtg_r1.experiments.map_laws import atlas, read_questions
from vtg_r1.experiments.regime_map import (
    HOME,
    RULES,
    cells_of,
    committed_rules,
    key_of,
    predictions,
    read_rows,
    read_rules,
    runs_of,
    seeds_of,
    spec_from,
    unpacked,
)


@pytest.fixture(scope="module")
def rules():
    return read_rules()


def test_the_two_arms_of_a_cell_differ_in_one_group_of_dials_and_no_seed_is_of_the_pilots(rules):
    for block in rules["blocks"]:
        for cell in cells_of(rules, block):
            differing = {name for name, value in vars(cell.treated).items() if value != getattr(cell.control, name)}
            groups = ({"labels", "label_noise", "label_errors"}, {"cold_start", "teacher", "updates", "reasoning"}, {"reasoning", "updates"})
            assert differing and any(differing <= group for group in groups), cell
        assert not {0, 1, 2} & set(seeds_of(rules, block, rules["max_seeds"]))
    blocks = ("c3", "c2", "table4")
    assert sum(len(runs_of(cells_of(rules, b), seeds_of(rules, b))) for b in blocks) == 132 + 72 + 40
    with pytest.raises(RunError, match="BLOCK=c9: use one of c3"):
        cells_of(rules, "c9")
    with pytest.raises(RunError, match="no such dial: budget"):
        spec_from({**rules["defaults"], "budget": 3})


def test_a_share_of_wrong_labels_makes_no_other_run_if_the_labels_are_clean(rules):
    clean = [spec_from({**rules["defaults"], "labels": "clean", "label_noise": noise}) for noise in (0.2, 0.5)]
    noisy = [spec_from({**rules["defaults"], "labels": "unfiltered", "label_noise": noise}) for noise in (0.2, 0.5)]
    assert clean[0] == clean[1] and noisy[0] != noisy[1]
    assert key_of(clean[0], 10) == key_of(clean[1], 10) != key_of(clean[0], 11)


def test_the_committed_predictions_are_computed_again(rules):
    committed = json.loads((resolve(HOME) / "predictions.json").read_text())
    over, mious = rules["blocks"]["c3"][0]["over"], {row["base"]: row["miou"] for row in committed if not row["label_noise"]}
    assert list(mious) == over["base"] and len(committed) == 4 * (1 + 8)
    again = predictions({"blind-10": mious["blind-10"]}, [0.5], ["whole"], rules["looks"])
    expected = [
        row
        for row in committed
        if row["base"] == "blind-10" and row["label_noise"] in (0.0, 0.5) and row["label_errors"] != ("random" if row["label_noise"] else "")
    ]
    for new, old in zip(again, expected, strict=True):
        assert [new["curve"][step] for step in rules["looks"]] == pytest.approx([old["curve"][str(step)] for step in rules["looks"]], abs=0.5)


def test_the_map_in_the_package_is_made_from_the_committed_rows(rules):
    predicted = json.loads((resolve(HOME) / "predictions.json").read_text())
    carried = json.loads(resolve("vtg_r1/assets/regime_map.json").read_text())
    assert atlas(rules, read_rows(), read_questions(), predicted) == carried, "run `make map BLOCK=report`"


def test_committed_rows_are_complete_and_began_after_their_rules_were_committed(rules):
    rows = read_rows()
    assert len(rows) == 232, "README.md says how many runs there are"
    for key, row in rows.items():
        assert row["rules_date"] < row["started"] and row["seed"] not in (0, 1, 2) and key == key_of(spec_from(row["spec"]), row["seed"])
        looks = [step for step in rules["looks"] if step <= row["spec"]["steps"]]
        assert [int(step) for step in row["tious"]] == looks and all(len(unpacked(text)) == 96 for text in row["tious"].values())


def git(folder, *arguments):
    subprocess.run(["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@t", *arguments], check=True, capture_output=True)


def test_a_map_whose_rules_are_not_committed_does_not_start(tmp_path, monkeypatch):
    monkeypatch.setattr("vtg_r1.core.runtime.project_root", lambda: tmp_path)
    files = [tmp_path / path for path in (RULES, f"{HOME}/predictions.json", f"{HOME}/questions.json")]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("{}")
    with pytest.raises(RunError, match="regime_map.yaml is not committed as it is"):
        committed_rules()
    git(tmp_path, "init")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-m", "rules")
    assert len(committed_rules()["rules_commit"]) == 40
    for file in files:  # each file in turn is changed after its commit
        file.write_text('{"changed": 1}')
        with pytest.raises(RunError, match=f"{file.name} is not committed as it is"):
            committed_rules()
        file.write_text("{}")


# the advice


def scored(n, label_wrong, teacher_wrong, policy_right, rng):
    "Samples whose labels, teacher and policy make independent errors."
    samples = []
    for i in range(n):
        truth, other = [float(8), 12.0], [[20.0, 24.0], [30.0, 34.0], [40.0, 44.0]]
        label, teacher = (other[k] if rng.random() < wrong else truth for k, wrong in enumerate((label_wrong, teacher_wrong)))
        consensus = truth if rng.random() < policy_right else other[2]
        spans = [consensus] * 5 + [[float(50 + j), 54.0 + j] for j in range(3)]
        sample = Sample(f"q{i}", f"v{i // 2}.mp4", 60.0, "the red circle", [label])
        responses = [f"<time>[{a:g}, {b:g}]</time>" for a, b in spans]
        samples.append(replace(sample, teacher={"span": teacher, "iou": 0.0}, difficulty=difficulty(sample, responses, "demo")))
    return samples


@pytest.mark.parametrize("noise", [0.0, 0.2, 0.5])
def test_the_share_of_wrong_labels_is_estimated_from_labels_teacher_and_policy(noise):
    "Over eight draws the bias is below 2.5 points, and at least six intervals hold the share that was drawn."
    errors, held = [], 0
    for seed in range(8):
        samples = scored(300, noise, 0.25, 0.7, np.random.default_rng(seed))
        wrong = 100 * np.mean([s.spans[0] != [8.0, 12.0] for s in samples])  # the share in this draw
        estimate, low, high = label_noise_estimate(samples, resamples=200)
        errors.append(estimate - wrong)
        held += low <= wrong <= high
    assert abs(np.mean(errors)) < 2.5 and held >= 6


def test_errors_that_teacher_and_policy_share_make_right_labels_look_wrong():
    "The limit of the estimate, which 04_difficulty states."
    samples = scored(400, 0.0, 0.0, 1.0, np.random.default_rng(0))
    shared = [
        replace(s, teacher={"span": [20.0, 24.0], "iou": 0.0}, difficulty={**s.difficulty, "consensus": [20.0, 24.0]}) if i % 2 else s
        for i, s in enumerate(samples)
    ]
    assert label_noise_estimate(shared)[0] > 40


def test_the_command_gives_the_metrics_the_place_on_the_map_and_the_advice(tmp_path, capsys):
    samples = scored(60, 0.35, 0.2, 0.8, np.random.default_rng(0))
    write_jsonl(tmp_path / "rl_scored.jsonl", samples)
    assert main(["difficulty", str(tmp_path), "--advise", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    ious = np.array([s.difficulty["ious"] for s in samples])
    assert result["metrics"]["p_right"] == pytest.approx(100 * (ious >= 0.5).mean()) and result["n"] == 60
    assert result["metrics"]["pass_at_k"] == pytest.approx(100 * (ious >= 0.5).any(1).mean())
    assert {cell["label_noise"] for cell in result["place"]} == {0.35} and result["sentences"]
    assert main(["difficulty", str(tmp_path), "--advise"]) == 0
    out = capsys.readouterr().out
    assert "p(right)" in out and "map: base" in out and "[" in out
    write_jsonl(tmp_path / "rl_scored.jsonl", [replace(s, teacher=None) for s in samples])
    assert main(["difficulty", str(tmp_path / "rl_scored.jsonl"), "--advise"]) == 0
    assert "annotate with a teacher" in capsys.readouterr().out


@pytest.mark.parametrize(
    "content,error",
    [
        (None, "no such file; give a run of 04_difficulty"),
        ([Sample("q", "v.mp4", 9.0, "x", [[1.0, 2.0]])], "sample 'q', field 'difficulty': is empty"),
        ([], "holds no sample"),
    ],
)
def test_a_file_that_cannot_be_advised_on_is_one_line(tmp_path, capsys, content, error):
    if content is not None:
        write_jsonl(tmp_path / "rl_scored.jsonl", content)
    assert main(["difficulty", str(tmp_path), "--advise"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and error in lines[0] and "rl_scored.jsonl" in lines[0]


def test_labels_of_which_hardly_one_is_wrong_have_no_place_on_the_map():
    "Its least share of wrong labels is 20 %, where a filter may be worth its price."
    for wrong, advised in ((0.0, False), (0.35, True)):
        advice = advise(scored(60, wrong, 0.2, 0.8, np.random.default_rng(0)))
        assert bool(advice.place) == any("At this place" in sentence for sentence in advice.sentences) == advised
        assert any("little to remove" in sentence for sentence in advice.sentences) != advised


def test_the_advice_mentions_zero_std_groups_only_if_there_are_any():
    silent = [replace(s, difficulty={**s.difficulty, "ious": [0.1] * 8}) for s in scored(20, 0.0, 0.0, 1.0, np.random.default_rng(0))]
    assert any("zero-std groups" in sentence for sentence in advise(silent).sentences)
    mixed = [replace(s, difficulty={**s.difficulty, "ious": [0.1, 1.0] * 4}) for s in silent]
    assert not any("zero-std groups" in sentence for sentence in advise(mixed).sentences)


# real runs


@pytest.mark.long
def test_a_killed_map_is_resumed_and_a_row_made_again_is_the_same(tmp_path):
    "In a clone with short runs: SIGKILL after the first row, the same command for the rest, then one row is removed and made again."
    root = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(project_root()), str(root)], check=True)
    rules = yaml.safe_load((root / RULES).read_text())
    rules["defaults"] |= {"steps": 4}
    rules["looks"], rules["seeds"], rules["data"] = (
        [0, 2, 4],
        [10],
        {**rules["data"], "videos": 40, "rl_samples": 24, "cold_start_samples": 32, "eval_subset": 96},
    )
    rules["blocks"] = {
        "c3": [
            {
                "over": {"base": ["embedded"], "label_noise": [0.2, 0.5], "label_errors": ["random", "whole"]},
                "treated": {"labels": "clean"},
                "control": {"labels": "unfiltered"},
            }
        ]
    }
    rules["laws"] = {"L1": {**rules["laws"]["L1"]}}
    (root / RULES).write_text(yaml.safe_dump(rules))
    (root / HOME / "rows.jsonl").unlink(missing_ok=True)
    git(root, "commit", "-aqm", "short rules")
    path, log = root / HOME / "rows.jsonl", open(tmp_path / "log", "w")
    command = [sys.executable, "-m", "vtg_r1.experiments.map_laws", "c3", "--cores", "2"]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    first = subprocess.Popen(command, cwd=root, env=environment, stdout=log, stderr=log)
    while first.poll() is None and not (path.exists() and path.read_text().count("\n")):
        time.sleep(0.2)
    assert first.poll() is None, (tmp_path / "log").read_text()[-2000:]
    first.send_signal(signal.SIGKILL)
    first.wait()
    before = path.read_bytes()
    with open(path, "ab") as f:
        f.write(b'{"key": "torn')  # what a power cut leaves
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = read_rows(path)
    assert path.read_bytes().startswith(before) and len(rows) == 5 and Counter(row["seed"] for row in rows.values()) == {10: 5}
    kept = path.read_text().splitlines()
    one = json.loads(kept[0])
    path.write_text("".join(line + "\n" for line in kept[1:] if "torn" not in line or line.endswith("}")))
    assert subprocess.run(command, cwd=root, env=environment, capture_output=True).returncode == 0
    again = read_rows(path)[one["key"]]
    assert {name: again[name] for name in ("tious", "average", "reward", "zero_std", "start")} == {
        name: one[name] for name in ("tious", "average", "reward", "zero_std", "start")
    }
