"The dry run: traps that end in a false result, and what would stop a stage, in one list, before anything is decoded or trained."

import json

import pytest

from vtg_r1.benchmarks import BenchmarksParams, prepare_data
from vtg_r1.benchmarks import main as benchmarks
from vtg_r1.cli import main
from vtg_r1.core.atomic_files import write_json
from vtg_r1.core.runtime import UserError
from vtg_r1.core.samples import load_samples, write_jsonl
from vtg_r1.curation import CurationParams
from vtg_r1.curation import main as curation
from vtg_r1.difficulty import DifficultyParams
from vtg_r1.difficulty import main as difficulty
from vtg_r1.grpo import GRPOParams
from vtg_r1.grpo import main as grpo
from vtg_r1.runs.run import newest_run, run_state, start_run
from vtg_r1.sft import SFTParams
from vtg_r1.sft import main as sft
from vtg_r1.train.preflight import _known_card, preflight
from vtg_r1.train.stage_data import toy_run


@pytest.fixture
def split(world, toy_samples, tmp_path):
    "Samples of the toy world to train on and to hold out, and the folder of their videos."
    videos = sorted({s.video for s in toy_samples})
    train = [s.to_dict() for s in toy_samples if s.video in videos[:8]]
    held_out = [s.to_dict() for s in toy_samples if s.video in videos[8:]]
    write_jsonl(tmp_path / "train.jsonl", train)
    write_jsonl(tmp_path / "heldout.jsonl", held_out)
    return dict(annotations=str(tmp_path / "train.jsonl"), eval_annotations=str(tmp_path / "heldout.jsonl"), video_root=str(world / "videos"))


def test_a_run_that_would_work_has_no_problem(split, tmp_path):
    report = preflight(GRPOParams(model="tiny", prompts_per_step=2, num_generations=4, per_device_batch_size=8, outputs_dir=str(tmp_path), **split))
    assert report.problems == [] and {"model", "data", "held out", "context", "hours", "memory"} == {what for what, _, _ in report.lines}
    assert not list(tmp_path.glob("grpo/*"))  # nothing was begun


def test_all_problems_come_at_once(split, tmp_path, capsys):
    shared = [json.loads(line) for line in open(split["annotations"])][:2]
    write_jsonl(tmp_path / "heldout.jsonl", [{**row, "qid": f"again_{row['qid']}"} for row in shared])
    rows = [{**json.loads(line), "video": "gone.mp4", "qid": "gone"} for line in open(split["annotations"])][:1]
    write_jsonl(tmp_path / "train.jsonl", [*(json.loads(line) for line in open(split["annotations"])), *rows])
    given = {
        **split,
        "model": str(tmp_path / "nowhere"),
        "accelerate_config": "nowhere.yaml",
        "match_size_to": "gone.jsonl",
        "outputs_dir": str(tmp_path),
    }
    given["rewards"] = [{"name": "tiou", "weight": 0.9}, {"name": "nowhere.py:mine", "weight": 0.1}]
    words = [word for name, value in given.items() for word in ("-p", name, json.dumps(value))]
    assert main(["run", "nbs/05_grpo.ipynb", *words, "--dry-run"]) == 1
    said = capsys.readouterr().out
    for part in (
        "no config.json there",
        "nowhere.yaml",
        "1 of 9 videos are not below",
        "trained on too",
        "match_size_to 'gone.jsonl'",
        "rewards 'nowhere.py'",
    ):
        assert part in said, part
    assert "6 problems; nothing was decoded or trained" in said and not list(tmp_path.glob("grpo/*"))


def hours(**given) -> float:
    return next(float(text.split()[0]) for what, text, _ in preflight(GRPOParams(**given)).lines if what == "hours")


def test_too_few_samples_after_the_draw_are_a_problem(split, tmp_path):
    "The size of the set is checked after `max_train_samples` or `match_size_to`."
    given = dict(model="tiny", prompts_per_step=4, num_generations=4, per_device_batch_size=8, outputs_dir=str(tmp_path), **split)
    write_jsonl(tmp_path / "three.jsonl", [json.loads(line) for line in open(split["annotations"])][:3])
    for draw, problem in (
        ({"max_train_samples": 3}, "3 samples are left to train on, and an update takes 4"),
        ({"match_size_to": str(tmp_path / "three.jsonl")}, "3 samples are left to train on, and an update takes 4"),
        ({"max_train_samples": 500}, "samples are fewer than the 500 asked for"),
    ):
        (found,) = preflight(GRPOParams(**given, **draw)).problems
        assert problem in found
    assert preflight(GRPOParams(**given, max_train_samples=4)).problems == []


def test_the_hours_are_those_of_the_answers_that_are_made(split, tmp_path):
    "A batch of one answer of up to 3000 tokens takes 39 s by the measured step (0.52 s for 40 tokens); a training step has 8 answers where the measured one has 64."
    given = dict(model="tiny", prompts_per_step=2, num_generations=4, per_device_batch_size=8, steps=100, max_completion_length=3000)
    given |= dict(eval_batch_size=1, outputs_dir=str(tmp_path), **split)
    held_out = len(open(split["eval_annotations"]).readlines())
    for more, answers in (({}, 2 * held_out), ({"eval_limit": 3}, 6), ({"eval_limit": 3, "eval_steps": 100, "eval_subset": 2}, 6 + 2 * 2)):
        assert hours(**given, **more) == pytest.approx((39 * answers + 100 * 39 / 8) / 3600, abs=0.0051)


def test_two_folders_of_videos_are_a_problem_as_in_the_stage(split, tmp_path):
    "Two annotation files whose manifests record different video folders."
    rows = [json.loads(line) for line in open(split["annotations"])]
    for name, part in (("one", rows[:6]), ("two", rows[6:])):
        write_jsonl(tmp_path / name / "rl.jsonl", part)
        write_json(tmp_path / name / "manifest.json", {"config": {"video_root": f"videos-{name}"}})
    files = [{"path": str(tmp_path / name / "rl.jsonl")} for name in ("one", "two")]
    given = dict(model="tiny", annotations=files, outputs_dir=str(tmp_path), prompts_per_step=2, num_generations=4, per_device_batch_size=8)
    (problem,) = preflight(GRPOParams(**given)).problems
    assert problem.startswith("video_root is empty")
    for name in ("one", "two"):
        write_json(tmp_path / name / "manifest.json", {"config": {"video_root": split["video_root"]}})
    assert preflight(GRPOParams(**given)).problems == []


def test_a_missing_file_beside_one_that_an_earlier_step_makes_is_a_problem(split, tmp_path):
    files = [{"path": str(tmp_path / "curation/rl.jsonl")}, {"path": str(tmp_path / "gone.jsonl")}]
    given = dict(model="tiny", annotations=files, video_root=split["video_root"], outputs_dir=str(tmp_path))
    report = preflight(GRPOParams(**given), {str(tmp_path / "curation"): "curation"})
    (problem,) = report.problems
    assert "gone.jsonl: no such file" in problem
    assert ("data", f"{files[0]['path']}: made by curation", False) in report.lines


def test_a_data_set_of_the_hub_is_not_said_to_be_there(tmp_path):
    sources = [{"path": "somebody/moments", "dataset": "huggingface"}]
    report = preflight(CurationParams(sources=sources, video_root=str(tmp_path), outputs_dir=str(tmp_path)))
    assert report.problems == [] and ("source", "somebody/moments: a data set of the Hub, not looked up", False) in report.lines


def test_a_context_that_is_too_short(split, tmp_path):
    from transformers import AutoConfig

    from vtg_r1.models.loading import load_model, load_processor

    folder = tmp_path / "short"
    load_processor("tiny").save_pretrained(folder)
    load_model("tiny").save_pretrained(folder)
    config = AutoConfig.from_pretrained(folder)
    config.text_config.max_position_embeddings = 40
    config.save_pretrained(folder)
    given = dict(annotations=split["annotations"], video_root=split["video_root"])
    (problem,) = preflight(DifficultyParams(model=str(folder), **given)).problems
    assert "do not fit into the context of 40 tokens" in problem


@pytest.mark.parametrize("status,state", [("running", "interrupted"), ("failed", "failed")])
def test_what_an_unfinished_run_left_is_refused_by_name(split, tmp_path, status, state):
    "The newest run, by time, is the unfinished one: its half of a cold start is refused, and newest_run passes over it."
    done, half = (start_run("curation", name, {"seed": 0}, tmp_path) for name in ("done", "half"))
    done.finish()
    write_jsonl(half.path / "coldstart.jsonl", [json.loads(line) for line in open(split["annotations"])])
    half.finish("failed")
    write_json(half.path / "manifest.json", {**half.manifest, "status": status, "started": "2999-01-01"})
    assert run_state(half.path) == state
    newest, passed_over = newest_run("curation", str(tmp_path))
    assert newest == done.path and passed_over == [f"{half.path}: passed over, it is {state}"]
    given = dict(outputs_dir=str(tmp_path), model="tiny", video_root=split["video_root"], annotations=str(half.path / "coldstart.jsonl"))
    problems = preflight(SFTParams(**given)).problems
    assert len(problems) == 1 and f"half, which is {state}" in problems[0] and "finish it with the command that began it" in problems[0]
    with pytest.raises(Exception, match=f"half, which is {state}"):  # the stage itself refuses it, too
        sft(SFTParams(**given, run_name="mine"))
    assert run_state(tmp_path / "sft/mine") == "failed"


def test_the_policy_and_the_scores_of_an_unfinished_run_are_refused(split, tmp_path):
    from vtg_r1.models.loading import load_model, load_processor

    for stage in ("sft", "difficulty"):
        run = start_run(stage, "half", {"seed": 0}, tmp_path)
        load_processor("tiny").save_pretrained(run.path / "model")
        load_model("tiny").save_pretrained(run.path / "model")
        write_jsonl(run.path / "rl_scored.jsonl", [])
        run.finish("failed")
    given = {**split, "model": str(tmp_path / "sft/half/model"), "difficulty": str(tmp_path / "difficulty/half"), "outputs_dir": str(tmp_path)}
    problems = preflight(GRPOParams(**given, prompts_per_step=2, num_generations=4, per_device_batch_size=8)).problems
    assert [("sft/half" in p, "difficulty/half" in p, "which is failed" in p) for p in problems] == [(True, False, True), (False, True, True)]


def test_queries_of_a_benchmark_are_read_as_the_run_reads_them(split, tmp_path):
    "Absolute paths below `video_root` are read as relative ones."
    samples = load_samples(split["eval_annotations"])
    write_jsonl(tmp_path / "absolute.jsonl", [{**s.to_dict(), "video": f"{split['video_root']}/{s.video}"} for s in samples])
    given = dict(benchmark="samples", annotations=str(tmp_path / "absolute.jsonl"), video_root=split["video_root"], outputs_dir=str(tmp_path))
    params = BenchmarksParams(model="tiny", eval_limit=2, **given)
    report = preflight(params)
    assert report.problems == [] and "samples: 2 queries" in report.text()
    assert prepare_data(start_run("benchmarks", "r", {"seed": 0}, tmp_path), params).samples == samples[:2]


@pytest.mark.parametrize("stage", ["01_curation", "02_rewards", "03_sft", "04_difficulty", "06_ablations", "07_benchmarks"])
def test_the_other_stages_have_a_dry_run(stage, tmp_path, capsys):
    assert main(["run", f"nbs/{stage}.ipynb", "-p", "outputs_dir", str(tmp_path), "--dry-run"]) == 0
    assert "0 problems; nothing was decoded or trained" in capsys.readouterr().out and not list(tmp_path.iterdir())


@pytest.mark.parametrize("asked, name", [({}, "toy-s3"), ({"answers": "set"}, "toy-sets-s3"), ({"options": True}, "toy-questions-s3")], ids=str)
def test_a_dry_run_names_the_toy_run_of_what_is_asked(asked, name, tmp_path):
    given = {"rewards": [{"name": "set_tiou", "weight": 1.0}]} if asked.get("answers") else {}
    text = preflight(GRPOParams(seed=3, outputs_dir=str(tmp_path), **asked, **given)).text()
    assert f"run {name} of 01_curation, made now" in text


@pytest.mark.parametrize(
    "cls, run",
    [(CurationParams, curation), (SFTParams, sft), (DifficultyParams, difficulty), (GRPOParams, grpo), (BenchmarksParams, benchmarks)],
    ids=["01", "03", "04", "05", "07"],
)
def test_a_training_world_with_held_out_videos_is_refused(cls, run, tmp_path):
    "Its videos are those of the held-out sets, byte for byte, if its seed is theirs."
    params = cls(run_name="r", seed=10_000, outputs_dir=str(tmp_path))
    message = "seed is 10000: the toy world's held-out videos are made from seeds of 10,000 or more; give a seed below 10,000"
    assert preflight(params).problems == [message] and not list(tmp_path.iterdir())
    with pytest.raises(UserError, match=f"^{message}$"):
        run(params)
    assert not (tmp_path / "toyworld").exists()
    assert preflight(cls(run_name="r", seed=9_999, outputs_dir=str(tmp_path / "other"))).problems == []


def test_own_annotations_take_any_seed(split, tmp_path):
    given = dict(model="tiny", prompts_per_step=2, num_generations=4, per_device_batch_size=8, outputs_dir=str(tmp_path))
    assert preflight(GRPOParams(seed=10_000, **given, **split)).problems == []
    sources = [{"path": split["annotations"], "dataset": "samples"}]
    assert preflight(CurationParams(seed=10_000, sources=sources, video_root=split["video_root"], outputs_dir=str(tmp_path))).problems == []


def test_each_style_without_thinking_has_a_toy_run_of_its_own():
    names = {style: toy_run("nbs/03_sft.ipynb", 0, GRPOParams(prompt_style=style))["run_name"] for style in ("short", "direct", "short_direct")}
    assert names == {"short": "toy-s0", "direct": "toy-direct-direct-s0", "short_direct": "toy-direct-s0"}


@pytest.mark.parametrize(
    ("name", "gigabytes", "card"),
    [
        ("NVIDIA A100-SXM4-40GB", 42.3, "A100 40 GB"),
        ("NVIDIA A100-SXM4-80GB", 85.0, "A100 80 GB"),
        ("NVIDIA H100 80GB HBM3", 85.0, "H100"),
        ("NVIDIA GeForce RTX 4090", 25.3, "RTX 4090"),
        ("NVIDIA GeForce RTX 3090", 25.3, ""),  # not in CARDS; the 4090's row must not match
        ("NVIDIA RTX A6000", 51.0, ""),
        ("NVIDIA L40S", 47.7, "L40S"),
    ],
)
def test_a_card_is_known_by_its_name_and_memory(name, gigabytes, card):
    assert _known_card(name, gigabytes) == card
