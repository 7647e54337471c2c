"""Rewards by parameter: what is refused before the first step, what is taken, and the example of "Add a reward" in CONTRIBUTING.md, run as written."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vtg_r1.core.prompts import parse_answer, parse_set
from vtg_r1.core.runtime import RunError, UserError, project_root
from vtg_r1.data.model_inputs import VideoInputConfig
from vtg_r1.grpo import GRPOParams, grpo_arguments, rewards_of
from vtg_r1.rewards import format_reward, own_rewards, set_tiou_reward, tiou_reward, with_options
from vtg_r1.runs.run import read_manifest
from vtg_r1.train.reward_functions import load_rewards, made_up_answers, read_entries, trial_batch, try_reward, try_rewards


@pytest.fixture(scope="module")
def batch(world, toy_samples):
    return trial_batch(toy_samples, VideoInputConfig(str(world / "videos"), 4, 784, "short", cache=""))


def loaded(folder: Path, source: str, name: str = "mine", **entry):
    "The loaded reward of a file with this text."
    (folder / "mine.py").write_text(source)
    rows = [{"name": f"{folder}/mine.py:{name}", "weight": 1.0, **entry}]
    return load_rewards(read_entries(rows, own_rewards()), own_rewards(), {"reading": "time"})[0]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "no entry has a weight other than 0"),
        ([{"name": "tiou", "weight": 0}], "no entry has a weight other than 0"),
        (["tiou"], "entry 1 is 'tiou': give a name and a weight"),
        ([{"name": "tiou"}], "entry 1, weight is None: give a number"),
        ([{"name": "tiou", "weight": True}], "entry 1, weight is True: give a number"),
        ([{"name": "tiou", "weight": float("nan")}], "entry 1, weight is nan: give a number"),
        ([{"name": "tiou", "weight": 10**400}], "give a number, 0 to log the reward"),
        ([{"name": "tiou", "weight": 1}, {"name": "format", "wieght": 1}], "entry 2 has 'wieght'"),
        ([{"name": "toiu", "weight": 1}], "reward 'toiu' is not known: did you mean 'tiou'?"),
        ([{"name": "tiou", "weight": 1, "range": [1, 0]}], "entry 1, range is [1, 0]"),
        ([{"name": "tiou", "weight": 1, "options": ["union"]}], "entry 1, options is ['union']"),
    ],
)
def test_each_wrong_entry_is_refused_in_one_line(rows, said):
    with pytest.raises(UserError) as e:
        GRPOParams(rewards=rows)
    assert said in str(e.value) and "\n" not in str(e.value)


def test_the_default_rewards_are_the_papers():
    "The functions, their order and their weights are those of 0.9 · tIoU + 0.1 · format."
    params = GRPOParams(reading="answer")
    assert grpo_arguments(params, "folder", 1)["reward_weights"] == [0.9, 0.1]
    texts = ["<think>a</think><answer>[3, 9]</answer>", "<think>a</think><time>[3, 9]</time>", "[3, 9]"]
    tiou, form = (reward.function for reward in rewards_of(params))
    columns = dict(completions=texts, spans=[[[3, 6]]] * 3)
    assert tiou(**columns) == with_options(tiou_reward, reading="answer")(**columns) == [0.5, 0, 0] and tiou.__name__ == "tiou_reward"
    assert form(**columns) == with_options(format_reward, reading="answer")(**columns) == [1, 0, 0] and form.__name__ == "format_reward"


def test_tiou_is_logged_where_it_is_not_paid():
    params = GRPOParams(rewards=[{"name": "giou", "weight": 1}])
    assert [(r.function.__name__, r.entry.weight) for r in rewards_of(params)] == [("tiou_reward", 0.0), ("giou_reward", 1.0)]
    assert grpo_arguments(params, "folder", 1)["reward_weights"] == [0.0, 1.0]


def test_options_reach_the_function_and_unknown_ones_are_named():
    rows = [{"name": "tiou", "weight": 1, "options": {"multi_gt": "union"}}]
    (union,) = load_rewards(read_entries(rows, own_rewards()), own_rewards())
    assert union.function(completions=["<time>[20, 26]</time>"], spans=[[[3, 9], [20, 26]]]) == [0.5]
    with pytest.raises(UserError, match="options has 'mulit_gt', and the function takes completions, spans, multi_gt"):
        load_rewards(read_entries([{"name": "tiou", "weight": 1, "options": {"mulit_gt": "union"}}], own_rewards()), own_rewards())
    with pytest.raises(UserError, match="two functions are called tiou_reward"):
        load_rewards(read_entries([{"name": "tiou", "weight": 1}, {"name": "tiou", "weight": 1}], own_rewards()), own_rewards())


@pytest.mark.parametrize(
    ("name", "source", "said"),
    [
        ("{}/gone.py:mine", "", "gone.py is no file"),
        ("{}/mine.py:mine", "def mine(:", "cannot be imported (SyntaxError"),
        ("{}/mine.py:mine", "import nowhere_at_all", "cannot be imported (ModuleNotFoundError: No module named 'nowhere_at_all')"),
        ("{}/mine.py:mine", "raise SystemExit(3)", "cannot be imported (SystemExit: 3)"),
        ("{}/mine.py:mine", "def other(completions, **columns): ...", "has no function 'mine'; it defines other"),
        ("{}/mine.py:mine", "mine = 3", "has no function 'mine'; it defines none"),
        ("nowhere_at_all.part:mine", "", "nowhere_at_all.part cannot be imported (ModuleNotFoundError"),
    ],
)
def test_files_that_give_no_function_are_named(tmp_path, name, source, said):
    if source:
        (tmp_path / "mine.py").write_text(source)
    entries = read_entries([{"name": name.format(tmp_path), "weight": 1}], own_rewards())
    with pytest.raises(UserError) as e:
        load_rewards(entries, own_rewards())
    assert said in str(e.value) and "\n" not in str(e.value)


TEXTS = "texts = [c if isinstance(c, str) else c[-1]['content'] for c in completions]"
WRONG = {  # body of `mine` → words of the error
    "return [0.5]": "gives 1 values for 64 completions",
    "return [0.5] * (len(completions) + 1)": "gives 65 values for 64 completions",
    "return 0.5": "gives '0.5' for 64 completions: return a list",
    "return 'x' * len(completions)": "values for 64 completions: return a list",
    "return {i: 0.5 for i in range(len(completions))}": "values for 64 completions: return a list",
    "return [float('nan')] * len(completions)": "gives nan for the completion",
    "return [float(duration[0] > 0) / 0.0 if not t else 0.5 for t in texts]": "ZeroDivisionError",
    "return [float('nan') if not t else 0.5 for t in texts]": "gives nan for the completion ''",
    "return [float('inf')] * len(completions)": "gives inf for the completion",
    "return [len(t) / 10 for t in texts]": "or give the entry its range, such as range: [-1, ",
    "return ['good'] * len(completions)": "gives good for the completion",
    "return [t[0][0] / 100 for t in [*spans[1:], spans[0]]]": "it reads another row",
    "return [spans[0][0][0] / 100] * len(completions)": "it reads another row",
    "return [spans[-1][0][0] / 100 for _ in completions]": "it reads another row",
    "n = [len(t) for t in texts]; return [x / max(n) for x in n]": "it reads another row",
    "n = [len(t) / 1000 for t in texts]; return [x - sum(n) / len(n) for x in n]": "it reads another row",
    "return [i / len(completions) for i in range(len(completions))]": "it reads another row",
    "return sorted(len(t) / 1000 for t in texts)": "it reads another row",
    "return [float(sum(q == p for p in qid) > 1) for q in qid]": "it reads another row",
    "return [1 / len(completions)] * len(completions)": "it reads another row",
    "return [float(texts.index(t) % 2) for t in texts]": "it reads another row",
    "import random; return [random.random() for _ in completions]": "at a second call: it draws at random or counts its calls",
    "calls.append(1); return [len(calls) / 1000] * len(completions)": "at a second call: it draws at random or counts its calls",
    "return [float(t.pop()[0] > 3) for t in spans]": "changes its arguments",
    "completions[0][-1]['content'] = ''; return [0.5] * len(completions)": "changes its arguments",
    "prompts.clear(); return [0.5] * len(completions)": "changes its arguments",
    "return [x['gone'] for x in spans]": "fails on 64 made-up answers in line 6",
    "return [float('<time>' in c) for c in [c.strip() for c in completions]]": "completions (message lists: the text is completion[-1]['content'])",
    "return [len(t) / 1000 for t in texts] if len(texts) > 1 else [None]": "it reads another row",
}


@pytest.mark.parametrize("body", WRONG)
def test_what_is_no_reward_of_its_own_row_is_refused(tmp_path, world, toy_samples, body):
    batch = trial_batch(toy_samples, VideoInputConfig(str(world / "videos"), 4, 784, "short", cache=""))  # anew: some of these change it
    source = f"calls = []\n\n\ndef mine(completions, prompts, spans, duration, qid, **columns):\n    {TEXTS}\n    {body}\n"
    with pytest.raises(UserError) as e:
        try_reward(loaded(tmp_path, source), batch)
    assert WRONG[body] in str(e.value) and "mine" in str(e.value) and "\n" not in str(e.value)


def test_a_function_without_room_for_columns_is_refused(tmp_path, batch):
    with pytest.raises(UserError, match="take what you need, and \\*\\*columns"):
        try_reward(loaded(tmp_path, "def mine(completions, spans):\n    return [0.5] * len(completions)"), batch)


RIGHT = {
    "list": "def mine(completions, spans, **columns):\n    return [t[0][0] / 100 for t in spans]",
    "none": "def mine(completions, spans, **columns):\n    return [None if t[0][0] > 5 else 1 for t in spans]",
    "array": "import numpy as np\ndef mine(completions, spans, **columns):\n    return np.array([t[0][0] for t in spans], np.float32) / 100",
    "tensor": "import torch\ndef mine(completions, spans, **columns):\n    return torch.tensor([t[0][0] for t in spans]) / 100",
    "generator": "def mine(completions, spans, **columns):\n    return (t[0][0] / 100 for t in spans)",
    "bool": "def mine(completions, spans, **columns):\n    return [t[0][0] > 5 for t in spans]",
    "frames": "def mine(completions, images, **columns):\n    return [len(frames) / 100 for frames in images]",
    "tokens": "def mine(completions, completion_ids, **columns):\n    return [-min(1, len(ids) / 1000) for ids in completion_ids]",
    "trl": "def mine(completions, trainer_state, log_metric, log_extra, **columns):\n    log_metric('n', 1.0)\n    return [float(trainer_state.global_step == 0)] * len(completions)",
    "async": "import asyncio\nasync def mine(completions, spans, **columns):\n    await asyncio.sleep(0)\n    return [t[0][0] / 100 for t in spans]",
    "object": "class Pay:\n    def __call__(self, completions, spans, **columns):\n        return [t[0][0] / 100 for t in spans]\nmine = Pay()",
    "dataclass": "from dataclasses import dataclass\n@dataclass\nclass Row:\n    start: float\ndef mine(completions, spans, **columns):\n    return [Row(t[0][0]).start / 100 for t in spans]",
}


@pytest.mark.parametrize("kind", RIGHT)
def test_whatever_trl_takes_is_taken(tmp_path, batch, kind):
    reward = loaded(tmp_path, RIGHT[kind])
    values = try_reward(reward, batch)
    assert len(values) == len(batch.kinds) and reward.file == tmp_path / "mine.py"
    if kind in ("list", "array", "tensor", "generator", "async", "object", "dataclass"):
        assert values == pytest.approx([spans[0][0] / 100 for spans in batch.columns["spans"]])


def test_the_trial_says_what_each_kind_of_answer_is_paid(tmp_path, batch):
    reward = loaded(tmp_path, f"def mine(completions, **columns):\n    {TEXTS}\n    return [0.25 if text else None for text in texts]")
    assert try_rewards([reward], batch) == "reward mine, weight 1, on 64 made-up answers: exact 0.25, late 0.25, whole video 0.25, nothing none"


def test_a_range_is_what_the_entry_says(tmp_path, batch):
    source = "def mine(completions, duration, **columns):\n    return [d for d in duration]"
    assert max(try_reward(loaded(tmp_path, source, range=[0, 100]), batch)) > 1
    with pytest.raises(UserError, match="or give the entry its range"):
        try_reward(loaded(tmp_path, source), batch)


def test_a_package_is_found_and_an_edited_file_is_read_again(tmp_path, monkeypatch):
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package/__init__.py").write_text("")
    (tmp_path / "my_package/pay.py").write_text("def mine(completions, **columns):\n    return [0.25] * len(completions)")
    monkeypatch.syspath_prepend(tmp_path)
    (reward,) = load_rewards(read_entries([{"name": "my_package.pay:mine", "weight": 1}], own_rewards()), own_rewards())
    assert reward.function(completions=["a"]) == [0.25] and reward.file == tmp_path / "my_package/pay.py"
    for value in (0.5, 0.75):
        assert loaded(tmp_path, f"def mine(completions, **columns):\n    return [{value}] * len(completions)").function(completions=["a"]) == [value]


def test_the_trial_batch_mixes_samples_and_keeps_their_truths(batch, toy_samples):
    truths = {s.qid: s.spans for s in toy_samples}
    assert all(truths[q] == spans for q, spans in zip(batch.columns["qid"], batch.columns["spans"])) and len(set(batch.columns["qid"])) == 8
    assert sum(a != b for a, b in zip(batch.columns["qid"], batch.columns["qid"][1:])) > 40  # neighbours are of different samples
    paid = tiou_reward(batch.columns["completions"], batch.columns["spans"])
    by_kind = {kind: {round(v, 3) for v, k in zip(paid, batch.kinds) if k == kind} for kind in set(batch.kinds)}
    assert by_kind["exact"] == {1.0} and by_kind["half"] == {0.5} and by_kind["no span"] == by_kind["nothing"] == {0.0}


@pytest.mark.parametrize("reading", ["time", "answer", "glue"])
def test_made_up_answers_are_read(reading):
    answers = made_up_answers([[3, 9]], 16.0, "B" if reading == "time" else None, reading)
    assert tiou_reward([answers["exact"], answers["whole video"]], [[[3, 9]]] * 2, reading=reading) == [1.0, 6 / 16]


@pytest.mark.parametrize("letter", "ABCDE")
def test_made_up_answers_choose_the_right_option_or_a_wrong_one(letter):
    answers = made_up_answers([[3, 9]], 16.0, letter)
    assert parse_answer(answers["exact"]) == letter and parse_answer(answers["late"]) in {"A", "B"} - {letter}


def test_made_up_answers_of_a_style_without_thinking_are_in_its_format():
    answers = made_up_answers([[3, 9]], 16.0, thinking=False)
    assert format_reward([answers["exact"]], thinking=False) == [1.0] and "think" not in "".join(answers.values())


def test_made_up_answers_in_hundredths_are_read():
    answers = made_up_answers([[4, 8]], 16.0, reading="vtimellm")
    read = [parse_set(answers[kind], "vtimellm", 16.0) for kind in ("exact", "whole video", "two spans")]
    assert read == [[[4.0, 8.0]], [[0.0, 16.0]], [[4.0, 8.0]]]
    assert parse_set(made_up_answers([], 16.0, reading="vtimellm")["exact"], "vtimellm", 16.0) == []


def test_the_exact_answer_to_what_is_absent_is_a_refusal():
    absent, present = made_up_answers([], 16.0), made_up_answers([[3, 9]], 16.0)
    assert absent["whole video"] == "<think>It begins at 5.33333.</think><time>[0, 16]</time>"
    answers, truths = [absent["exact"], absent["late"], absent["exact"], present["exact"]], [[], [], [[3, 9]], [[3, 9]]]
    assert set_tiou_reward(answers, truths) == [1.0, 0.0, -0.5, 1.0]  # the third refuses what is there


# ---- in training ----

SHORT = dict(
    model="tiny",
    steps=2,
    prompts_per_step=2,
    num_generations=4,
    per_device_batch_size=8,
    eval_limit=4,
    eval_before_training=False,
    figures=False,
    threads=1,
)


def train(world, outputs, **parameters):
    from vtg_r1.grpo import main
    from vtg_r1.runs.parameters import from_mapping

    own = dict(annotations=str(world / "samples.jsonl"), video_root=str(world / "videos"))
    return main(from_mapping(GRPOParams, {**SHORT, **own, "outputs_dir": str(outputs), **parameters}))


@pytest.mark.long
def test_a_reward_that_becomes_nan_ends_the_run(world, tmp_path):
    "TRL takes NaN for a reward that does not apply, and would continue training."
    (tmp_path / "late.py").write_text(
        "def late(completions, trainer_state, **columns):\n    return [0.5 if trainer_state.global_step == 0 else float('nan')] * len(completions)"
    )
    with pytest.raises(RunError, match="gives nan for the completion"):
        train(world, tmp_path, run_name="late", rewards=[{"name": f"{tmp_path}/late.py:late", "weight": 1}])
    rows = (tmp_path / "grpo/late/log.jsonl").read_text().splitlines()
    assert len(rows) == 1 and json.loads(rows[0])["rewards/late/mean"] == 0.5


def test_a_wrong_reward_is_refused_before_a_model_is_loaded(world, tmp_path, monkeypatch):
    import vtg_r1.grpo

    monkeypatch.setattr(vtg_r1.grpo, "load_policy_and_processor", lambda *args: pytest.fail("the model is loaded"))
    (tmp_path / "wrong.py").write_text("def wrong(completions, spans, **columns):\n    return [spans[0][0][0] / 100] * len(completions)")
    with pytest.raises(UserError, match="it reads another row"):
        train(world, tmp_path, run_name="wrong", rewards=[{"name": f"{tmp_path}/wrong.py:wrong", "weight": 1}])


# ---- the example of "Add a reward" in CONTRIBUTING.md ----

EXAMPLE = (project_root() / "CONTRIBUTING.md").read_text(encoding="utf-8").split("## Add a reward\n")[1].split("\n## ")[0]
FEW = "-p annotations {world}/samples.jsonl -p video_root {world}/videos -p outputs_dir {folder}/outputs -p eval_limit 4 -p prompts_per_step 2 -p num_generations 4 -p per_device_batch_size 8 -p figures false -p threads 1"


@pytest.fixture(scope="module")
def example(world, tmp_path_factory):
    "A copy of the project in which the example was followed: its file written, its command run on few samples."
    folder = tmp_path_factory.mktemp("example")
    for name in ("settings.ini", "nbs"):
        source = project_root() / name
        if source.is_dir():
            shutil.copytree(source, folder / name)
        else:
            shutil.copy(source, folder / name)
    file, trainer = re.findall(r"```python\n(.*?)```", EXAMPLE, re.DOTALL)
    (folder / file.splitlines()[0].removeprefix("# ")).write_text(file)
    (command,) = re.findall(r"```bash\n(.*?)```", EXAMPLE, re.DOTALL)
    words = command.replace("nbs/05_grpo.ipynb ", f"nbs/05_grpo.ipynb {FEW.format(world=world, folder=folder)} ")
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(project_root())}
    done = subprocess.run(["bash", "-euc", words], cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr[-3000:]}"
    return folder, trainer


@pytest.mark.slow
def test_the_example_trains_with_the_file_and_records_its_hash(example):
    folder, _ = example
    run = folder / "outputs/grpo/boundary"
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert len(log) == 2 and all(0 <= row["rewards/boundary/mean"] <= 1 for row in log)
    assert log[0]["reward"] == pytest.approx(0.8 * log[0]["rewards/tiou_reward/mean"] + 0.2 * log[0]["rewards/boundary/mean"], abs=1e-5)
    entry = read_manifest(run)["inputs"]["reward my_rewards.py:boundary"]
    assert entry["sha256"] == hashlib.sha256((folder / "my_rewards.py").read_bytes()).hexdigest()
    assert "reward boundary, weight 0.2, on 64 made-up answers: exact 1.00" in (run / "05_grpo.ipynb").read_text()


@pytest.mark.slow
def test_the_same_file_trains_in_trls_own_trainer(example, tiny_text_model, tmp_path, monkeypatch):
    from datasets import Dataset

    folder, trainer = example
    monkeypatch.syspath_prepend(folder)
    row = {"prompt": [{"role": "user", "content": "When?"}], "spans": [[3.0, 9.0]], "duration": 30.0}
    config = dict(
        output_dir=str(tmp_path),
        max_steps=1,
        per_device_train_batch_size=4,
        num_generations=4,
        max_completion_length=8,
        use_cpu=True,
        report_to="none",
    )
    names = dict(
        model=tiny_text_model,
        config={**config, "logging_steps": 1, "save_strategy": "no", "disable_tqdm": True},
        dataset=Dataset.from_list([row] * 4),
    )
    exec(trainer, names)
    assert names["trainer"].state.log_history[0]["rewards/boundary/mean"] == 0  # random letters hold no span


def test_02_shows_the_function_of_contributing():
    (file, _) = re.findall(r"```python\n(.*?)```", EXAMPLE, re.DOTALL)
    cells = json.loads((project_root() / "nbs/02_rewards.ipynb").read_text(encoding="utf-8"))["cells"]
    assert any(file.split("\n", 1)[1] in "".join(cell["source"]) for cell in cells)
