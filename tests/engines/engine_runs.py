"What the tests of the engines share: a stage launched in several processes, on CPU, with the configurations that the project ships."

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import yaml

from vtg_r1.core.runtime import project_root
from vtg_r1.core.samples import load_samples, write_jsonl
from vtg_r1.data.toyworld import read_scripts, toy_teacher

SHIM = Path(__file__).parent / "shim"
COMMON = {"threads": 1, "figures": False, "max_completion_length": 24, "frames": 8, "eval_batch_size": 2}
STAGES = {
    "sft": {**COMMON, "model": "tiny", "steps": 4, "batch_size": 4, "per_device_batch_size": 2, "learning_rate": 1e-3},
    "grpo": {
        **COMMON,
        "model": "tiny",
        "steps": 3,
        "prompts_per_step": 2,
        "num_generations": 4,
        "per_device_batch_size": 4,
        "learning_rate": 1e-3,
        "warmup_steps": 0,
        "eval_steps": 2,
        "eval_subset": 5,
    },
}
STAGES |= {"difficulty": {}, "benchmarks": {}}
NOTEBOOKS = {"sft": "nbs/03_sft.ipynb", "difficulty": "nbs/04_difficulty.ipynb", "grpo": "nbs/05_grpo.ipynb", "benchmarks": "nbs/07_benchmarks.ipynb"}


def cold_start_files(world: Path, out: Path) -> dict[str, str]:
    "Parameters that name eight taught samples, five held-out ones (three batches of two for two processes) and where runs are kept."
    samples = [replace(s, teacher=toy_teacher(s, read_scripts(world))) for s in load_samples(world / "samples.jsonl")]
    write_jsonl(out / "train.jsonl", samples[:8])
    write_jsonl(out / "held.jsonl", [s for s in samples if s.video not in {t.video for t in samples[:8]}][:5])
    files = {"annotations": str(out / "train.jsonl"), "eval_annotations": str(out / "held.jsonl")}
    return {**files, "video_root": str(world / "videos"), "outputs_dir": str(out)}


def on_cpu(name: str, folder: Path, **changes) -> str:
    "A configuration of configs/accelerate for two processes on CPU in float32; all else is as it is shipped."
    config = yaml.safe_load((project_root() / "configs/accelerate" / name).read_text())
    config |= {"use_cpu": True, "num_processes": 2, "mixed_precision": "no", **changes}
    path = folder / f"{Path(name).stem}_cpu.yaml"
    path.write_text(yaml.safe_dump(config))
    return str(path)


def environment(shim: bool = True, **variables: str) -> dict[str, str]:
    "The environment of a launched command; `shim` lets accelerate shard on CPU."
    env = {**os.environ, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1", **variables}
    if shim:
        env["PYTHONPATH"] = os.pathsep.join([str(SHIM), *filter(None, [env.get("PYTHONPATH")])])
    return env


def command(stage: str, parameters: dict) -> list[str]:
    "The command that a user gives."
    given = {**STAGES[stage], **parameters}
    pairs = [word for name, value in given.items() for word in ("-p", name, json.dumps(value))]
    return [sys.executable, "-m", "vtg_r1.cli", "run", NOTEBOOKS[stage], *pairs]


def launch(stage: str, parameters: dict, env: dict[str, str], status: int = 0) -> str:
    "Run a stage to its end; its output."
    run = subprocess.run(command(stage, parameters), env=env, cwd=project_root(), text=True, capture_output=True, timeout=550)
    assert run.returncode == status, (run.stdout + run.stderr)[-20000:]
    return run.stdout + run.stderr


def descendants(pid: int) -> list[int]:
    "Processes that a process started, and those that they started."
    children = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        children += [int(child) for child in task.read_text().split()]
    return children + [p for child in children for p in descendants(child)]


def rank_process(pid: int, rank: int) -> int:
    "The process of a rank below a launcher's; waits for it."
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline:
        for child in descendants(pid):
            try:
                variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if f"RANK={rank}".encode() in variables:
                return child
        time.sleep(0.05)
    raise TimeoutError(f"no process of rank {rank}")


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def curve(folder: Path) -> np.ndarray:  # (steps, 2)
    "Loss and gradient norm of each step."
    return np.array([(row["loss"], row["grad_norm"]) for row in rows(folder / "log.jsonl")])


def responses(folder: Path) -> list[str]:
    return [row["response"] for row in rows(folder / "predictions.jsonl")]
