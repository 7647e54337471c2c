"What the tests of the engines share: a stage in several processes, on CPU, with the configurations that the project ships."

import importlib.util
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import yaml
from children import CLEAN

from vtg_r1.core.runtime import project_root
from vtg_r1.core.samples import load_samples, write_jsonl
from vtg_r1.data.toyworld import read_scripts, toy_teacher
from vtg_r1.runs.parameters import from_mapping

SHIM = Path(__file__).parent / "shim"
COMMON = {"threads": 1, "figures": False, "max_completion_length": 24, "frames": 8, "eval_batch_size": 2, "eval_before_training": False}
STAGES = {
    "sft": {**COMMON, "model": "tiny", "steps": 4, "batch_size": 4, "per_device_batch_size": 2, "learning_rate": 1e-3},
    "grpo": {
        **COMMON,
        "model": "tiny",
        "steps": 2,
        "prompts_per_step": 2,
        "num_generations": 4,
        "per_device_batch_size": 4,
        "learning_rate": 1e-3,
        "warmup_steps": 0,
        "eval_steps": 2,
        "eval_subset": 5,
    },
}


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


def words(stage: str, parameters: dict) -> list[str]:
    "The words that a user gives to vtg-r1."
    (notebook,) = project_root().glob(f"nbs/[0-9]*_{stage}.ipynb")
    pairs = [word for name, value in {**STAGES[stage], **parameters}.items() for word in ("-p", name, json.dumps(value))]
    return ["run", str(notebook), *pairs]


def launch(stage: str, parameters: dict, env: dict[str, str], status: int = 0) -> str:
    "Run a stage's program to its end, by `accelerate launch` if it has an `accelerate_config`; its output."
    given = {**STAGES.get(stage, {}), **parameters}
    file = Path(given["outputs_dir"]) / f"{stage}-{given['run_name']}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(given))
    launcher = []
    if "accelerate_config" in given:
        launcher = ["-m", "accelerate.commands.launch", "--config_file", given["accelerate_config"]]
    command = [sys.executable, *launcher, "-m", f"vtg_r1.{stage}", "--params", str(file)]
    run = subprocess.run(command, env=env, cwd=project_root(), text=True, capture_output=True, timeout=900)
    assert run.returncode == status, (run.stdout + run.stderr)[-20000:]
    return run.stdout + run.stderr


def launcher_variables(config: str) -> dict[str, str]:
    "What `accelerate launch` sets in the environment of the processes of a configuration, by its own functions."
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env

    words = ["--config_file", str(project_root() / config), "-m", "vtg_r1.sft"]
    args, *_ = _validate_launch_command(launch_command_parser().parse_args(words))
    variables = {name: value for name, value in prepare_multi_gpu_env(args).items() if os.environ.get(name) != value}
    return {**variables, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(args.main_process_port), "WORLD_SIZE": str(args.num_processes)}


def write_output_to(path: str) -> None:
    "From now on what this process prints goes to a file."
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(file, stream)


def run_rank(stage: str, parameters: dict, variables: dict[str, str], rank: int, output: str, shim: bool) -> None:
    "In a child: one process of a stage, in the environment that the launcher would give it; `shim` lets accelerate shard on CPU."
    import accelerate.state

    write_output_to(output)
    processes = variables["WORLD_SIZE"]
    os.environ.update(variables | {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": processes, "TQDM_DISABLE": "1"})
    if shim:
        spec = importlib.util.spec_from_file_location("shim", SHIM / "sitecustomize.py")
        shim_module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(shim_module)
        shim_module.shard_on_cpu(accelerate.state)
    module = importlib.import_module(f"vtg_r1.{stage}")
    params_class = {"sft": "SFTParams", "grpo": "GRPOParams"}[stage]
    module.main(from_mapping(getattr(module, params_class), parameters))


def run_ranks(stage: str, parameters: dict, out: Path, shim: bool = True) -> str:  # what they printed and how they ended, if one failed; else empty
    "Run a training stage in the processes of its `accelerate_config`, without the launcher's programs, which take most of the time of a small run."
    given, output = {**STAGES[stage], **parameters}, out / f"{stage}-{parameters['run_name']}.txt"
    variables = launcher_variables(given["accelerate_config"])
    count = int(variables["WORLD_SIZE"])
    ranks = [CLEAN.Process(target=run_rank, args=(stage, given, variables, rank, str(output), shim)) for rank in range(count)]
    for process in ranks:
        process.start()
    deadline = time.monotonic() + 400
    while any(process.is_alive() for process in ranks) and not any(process.exitcode for process in ranks) and time.monotonic() < deadline:
        time.sleep(0.05)
    codes = [process.exitcode for process in ranks]  # None: still running
    for process in ranks:
        process.join(20)
        process.kill()  # one that waits for another that has failed
        process.join()
    if codes == [0] * count:
        return ""
    printed = output.read_text() if output.exists() else ""
    return f"{printed}exit codes {codes}"


def run_command(words: list[str], env: dict[str, str], output: str) -> None:
    "In a child: a command of the command line."
    from vtg_r1.cli import main

    write_output_to(output)
    os.environ.update(env)
    sys.exit(main(words))


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
