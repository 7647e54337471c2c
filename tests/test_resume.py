"Runs that are killed and resumed end like uninterrupted ones. VTG_R1_KILLS=10 kills ten runs of every stage, each at a random step, but the first of sft while it writes a checkpoint."

import json
import os
import random
import resource
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
from children import CLEAN
from safetensors.numpy import load_file

from vtg_r1 import difficulty, grpo, sft
from vtg_r1.core.runtime import project_root
from vtg_r1.core.samples import load_samples, write_jsonl
from vtg_r1.data.toyworld import make_world, read_scripts, toy_teacher
from vtg_r1.difficulty import make_curriculum
from vtg_r1.runs.parameters import from_mapping
from vtg_r1.runs.run import read_manifest
from vtg_r1.train.checkpoints import is_complete, last_checkpoint

pytestmark = pytest.mark.resume
KILLS = int(os.environ.get("VTG_R1_KILLS", 1))
STEPS = 6
STAGES = {
    "sft": {"epochs": 2.0, "batch_size": 2, "per_device_batch_size": 2, "learning_rate": 1e-3},
    "grpo": {"model": "tiny", "steps": STEPS, "prompts_per_step": 2, "num_generations": 4, "per_device_batch_size": 4, "learning_rate": 1e-3},
}
MAINS = {"sft": (sft.SFTParams, sft.main), "grpo": (grpo.GRPOParams, grpo.main), "difficulty": (difficulty.DifficultyParams, difficulty.main)}
DIFFICULTY = {"model": "tiny", "num_rollouts": 4, "batch_size": 1, "max_completion_length": 24, "figures": False, "threads": 1}


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    "Six training samples, two held out. A pass takes three steps, so a resumed run has to find its place in the second pass."
    home = tmp_path_factory.mktemp("resume")
    world = make_world(home / "world", videos=6, seed=5)
    samples = load_samples(world / "samples.jsonl")
    taught = [{**s.to_dict(), "teacher": toy_teacher(s, read_scripts(world))} for s in samples]
    trained = {s.video for s in samples[:6]}
    write_jsonl(home / "train.jsonl", taught[:6])
    write_jsonl(home / "held.jsonl", [row for row in taught if row["video"] not in trained][:2])
    common = {
        "annotations": str(home / "train.jsonl"),
        "eval_annotations": str(home / "held.jsonl"),
        "video_root": str(world / "videos"),
        "outputs_dir": str(home),
    }
    return home, {**common, "save_steps": 2, "threads": 1, "max_completion_length": 24}


def _stage(stage, params, out, limit):
    "Runs in the child process: one stage, with stdout and stderr in a file."
    sys.stdout.flush()
    with open(out, "w") as f:
        os.dup2(f.fileno(), 1)
        os.dup2(f.fileno(), 2)
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    os.chdir(project_root())
    params_class, main = MAINS[stage]
    main(from_mapping(params_class, params))


def start(stage, setting, name, limit=None, **more):
    "The stage as a process of its own. `limit` is the most bytes that it may write to one file; it stands for a full disk."
    home, common = setting
    params = {**common, **STAGES[stage], "run_name": name, **more}
    process = CLEAN.Process(target=_stage, args=(stage, params, str(home / f"{stage}-{name}.txt"), limit))
    process.start()
    return process


def returncode(process) -> int:
    process.join(300)
    return process.exitcode


def finished(process, setting, stage, name):
    assert returncode(process) == 0, (setting[0] / f"{stage}-{name}.txt").read_text()[-2000:]
    return setting[0] / stage / name


def steps_logged(folder: Path) -> int:
    log = folder / "log.jsonl"
    return len(log.read_text().splitlines()) if log.exists() else 0


def end(process, folder: Path, step: int, how: signal.Signals) -> None:
    "Sends a signal once the log shows this step, and waits for the end of the process."
    while steps_logged(folder) < step and process.is_alive():
        time.sleep(0.005)
    os.kill(process.pid, how)
    process.join(60)


def end_in_a_checkpoint(process, checkpoint: Path) -> None:
    "Kills the process while it writes a checkpoint, or just after it, where that was faster."
    while process.is_alive() and not checkpoint.exists():
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.join(60)


def outcome(folder: Path) -> tuple:
    "Metrics, log without times, and weights of a finished run."
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    other_when_resumed = {"step_time", "num_tokens", "tokens_per_second"}  # SFTTrainer counts num_tokens from the start of the process
    log = [{k: v for k, v in row.items() if k not in other_when_resumed} for row in rows]
    return json.loads((folder / "metrics.json").read_text()), log, {k: v.tolist() for k, v in load_file(folder / "model/model.safetensors").items()}


@pytest.fixture(scope="module")
def uninterrupted(setting):
    return {stage: outcome(finished(start(stage, setting, "whole"), setting, stage, "whole")) for stage in STAGES}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("attempt", range(KILLS))
def test_killed_and_resumed_equals_uninterrupted(setting, uninterrupted, stage, attempt):
    name, folder = f"killed{attempt}", setting[0] / stage / f"killed{attempt}"
    step = random.Random(f"{stage}{attempt}").randrange(0, STEPS) if KILLS > 1 else 4
    process, checkpoint = start(stage, setting, name), folder / "checkpoints/checkpoint-4"
    if stage == "sft" and attempt == 0:
        end_in_a_checkpoint(process, checkpoint)
    else:
        end(process, folder, step, signal.SIGKILL)
    torn = checkpoint.exists() and not is_complete(checkpoint)  # any kill may come while it is written
    assert read_manifest(folder).get("status") in (None, "running")
    again = outcome(finished(start(stage, setting, name, resume=True), setting, stage, name))
    whole = uninterrupted[stage]
    assert again[0] == whole[0] and again[1] == whole[1] and again[2] == whole[2]
    output = (setting[0] / f"{stage}-{name}.txt").read_text()
    assert ("checkpoint-4 is incomplete and is removed: training resumes from checkpoint-2" in output) == torn
    assert len(whole[1]) == STEPS and (stage == "sft" or any(row["grad_norm"] for row in whole[1]))
    assert not (folder / "checkpoints").exists()


def rollouts(setting, outputs, name):
    "04_difficulty as a process of its own, on all training samples, one per batch."
    home, common = setting
    given = {k: common[k] for k in ("annotations", "video_root")}
    process = CLEAN.Process(
        target=_stage,
        args=(
            "difficulty",
            {**given, **DIFFICULTY, "outputs_dir": str(outputs), "run_name": name},
            str(home / f"difficulty-{outputs.name}-{name}.txt"),
            None,
        ),
    )
    process.start()
    return process


@pytest.fixture(scope="module")
def all_rollouts(setting):
    out = setting[0] / "rollouts"
    process = rollouts(setting, out, "whole")
    assert returncode(process) == 0, (setting[0] / "difficulty-rollouts-whole.txt").read_text()[-2000:]
    return (out / "difficulty/whole/rl_scored.jsonl").read_text(), json.loads((out / "difficulty/whole/metrics.json").read_text())


@pytest.mark.parametrize("attempt", range(KILLS))
def test_killed_rollouts_are_taken_up_by_the_next_run_with_the_same_scores(setting, all_rollouts, attempt):
    out, wanted = setting[0] / f"rollouts{attempt}", random.Random(attempt).randrange(1, 5) if KILLS > 1 else 3

    def done():
        return [line for p in out.glob("difficulty-work/*/rollouts.jsonl") for line in p.read_text().splitlines() if line.strip()]

    process = rollouts(setting, out, "killed")
    while len(done()) < wanted and process.is_alive():
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.join(60)
    before = done()
    assert wanted <= len(before) and read_manifest(out / "difficulty/killed")["status"] == "running"
    assert returncode(rollouts(setting, out, "again")) == 0
    assert done()[: len(before) - 1] == before[:-1]  # the last line may have been half written
    missing = 6 - sum(line.endswith("}") for line in before)
    assert f" {missing}/{missing} [" in (setting[0] / f"difficulty-{out.name}-again.txt").read_text()  # its progress bar counts only these
    assert ((out / "difficulty/again/rl_scored.jsonl").read_text(), json.loads((out / "difficulty/again/metrics.json").read_text())) == all_rollouts


def test_sigterm_saves_a_checkpoint_before_the_run_ends(setting, uninterrupted):
    process, folder = start("grpo", setting, "asked", save_steps=0), setting[0] / "grpo/asked"
    end(process, folder, 3, signal.SIGTERM)
    assert process.exitcode != 0 and read_manifest(folder)["status"] == "failed"
    assert "stopped by SIGTERM after step" in (setting[0] / "grpo-asked.txt").read_text()
    saved = last_checkpoint(folder / "checkpoints")
    assert (
        int(saved.name.split("-")[1]) >= 3
        and {p.suffix for p in saved.glob("model*")} == {".safetensors"}
        and not (saved / "training_args.bin").exists()
    )
    again = outcome(finished(start("grpo", setting, "asked", save_steps=0, resume=True), setting, "grpo", "asked"))
    assert again[0] == uninterrupted["grpo"][0] and again[2] == uninterrupted["grpo"][2]


def test_a_full_disk_is_named_and_leaves_no_half_written_checkpoint(setting, uninterrupted):
    weights = (setting[0] / "sft/whole/model/model.safetensors").stat().st_size
    process, folder = start("sft", setting, "full", limit=weights + 100_000), setting[0] / "sft/full"
    assert returncode(process) == 1
    output = (setting[0] / "sft-full.txt").read_text()
    assert "checkpoint-2 could not be written" in output and "is the disk full?" in output
    assert last_checkpoint(folder / "checkpoints") is None and read_manifest(folder)["status"] == "failed"
    again = outcome(finished(start("sft", setting, "full", resume=True), setting, "sft", "full"))
    assert again[0] == uninterrupted["sft"][0] and again[2] == uninterrupted["sft"][2]


def test_a_run_is_not_resumed_with_another_value_or_after_its_end(setting, uninterrupted):
    (setting[0] / "sft/whole2").mkdir(parents=True, exist_ok=True)
    manifest = read_manifest(setting[0] / "sft/whole")
    (setting[0] / "sft/whole2/manifest.json").write_text(json.dumps({**manifest, "status": "running"}))
    process = start("sft", setting, "whole2", resume=True, learning_rate=5e-3)
    assert returncode(process) == 1 and "learning_rate was 0.001, now 0.005" in (setting[0] / "sft-whole2.txt").read_text()
    process = start("sft", setting, "whole", resume=True)
    assert returncode(process) == 1 and "holds a run already (status finished)" in (setting[0] / "sft-whole.txt").read_text()


def test_an_unreadable_video_is_named(setting, tmp_path):
    home, common = setting
    shutil.copytree(home / "world/videos", tmp_path / "videos")
    sample = load_samples(home / "train.jsonl")[0]
    (tmp_path / "videos" / sample.video).write_bytes(b"")  # the file exists, so it is missed only when it is decoded
    process = start("sft", setting, "gone", video_root=str(tmp_path / "videos"))
    assert returncode(process) == 1
    output = (home / "sft-gone.txt").read_text()
    assert "VideoError" in output and sample.video in output and read_manifest(home / "sft/gone")["status"] == "failed"


def test_an_outputs_folder_that_cannot_be_written_is_refused(setting):
    process = start("sft", setting, "nowhere", outputs_dir="/proc/self/fd")
    assert returncode(process) == 1 and "outputs_dir must name a writable folder" in (setting[0] / "sft-nowhere.txt").read_text()


def draw(curriculum, start: int, end: int) -> list[int]:
    "The indices of draws `start` to `end` of a curriculum, two a step. Queries of even index are solved (reward 1), the others are not."
    passes, drawn = curriculum.epochs(2), []
    for n in range(end):
        i = next(passes)
        if n >= start:
            drawn.append(i)
            curriculum.last_rewards[curriculum.samples[i].qid] = [1.0] if i % 2 == 0 else [0.1]
    return drawn


def test_a_curriculum_that_drops_solved_queries_is_resumed_in_its_order(toy_samples):
    "It needs both things that a checkpoint keeps: the last rewards, and which samples each pass so far had."
    whole = make_curriculum(toy_samples[:8], "drop_all_correct")
    order = draw(whole, 0, 24)
    assert any(len(live) < 8 for live in whole.active_sets)
    first = make_curriculum(toy_samples[:8], "drop_all_correct")
    assert draw(first, 0, 10) == order[:10]
    kept = json.loads(json.dumps({"last_rewards": first.last_rewards, "active_sets": first.active_sets}))
    again = make_curriculum(toy_samples[:8], "drop_all_correct")
    again.last_rewards, again.replay = kept["last_rewards"], kept["active_sets"]
    assert draw(again, 10, 24) == order[10:]
    forgetful = make_curriculum(toy_samples[:8], "drop_all_correct")
    forgetful.last_rewards = kept["last_rewards"]
    assert draw(forgetful, 10, 24) != order[10:]  # without the samples of the earlier passes the order is another one
