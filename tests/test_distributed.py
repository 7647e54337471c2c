"Two processes (gloo on CPU) train and generate the same as one process with the same batches."

import dataclasses
import json
import os
import signal
import socket
import time

import numpy as np
import pytest
from children import CLEAN

from vtg_r1.benchmarks import BenchmarksParams
from vtg_r1.benchmarks import main as measure
from vtg_r1.cli import main
from vtg_r1.core.prompts import response_text
from vtg_r1.core.runtime import RunError
from vtg_r1.core.samples import load_samples, write_jsonl
from vtg_r1.data.model_inputs import VideoInputConfig
from vtg_r1.data.toyworld import read_scripts, toy_teacher
from vtg_r1.difficulty import DifficultyParams
from vtg_r1.difficulty import main as score_difficulty
from vtg_r1.models.loading import load_model, load_processor
from vtg_r1.runs.execute import launch_stage
from vtg_r1.runs.parameters import from_mapping
from vtg_r1.runs.run import read_manifest
from vtg_r1.sft import SFTParams
from vtg_r1.sft import main as cold_start

pytestmark = pytest.mark.distributed


STAGES = {"difficulty": (DifficultyParams, score_difficulty), "benchmarks": (BenchmarksParams, measure)}


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def curve(folder) -> np.ndarray:
    "Loss and gradient norm of every step."
    return np.array([(row["loss"], row["grad_norm"]) for row in map(json.loads, (folder / "log.jsonl").read_text().splitlines())])


def test_a_launched_cold_start_equals_one_process(world, tmp_path, capsys):
    """`accelerate_config` alone makes `vtg-r1 run` start two processes.

    They get the samples in the batches of one process, so losses and answers are the same."""
    samples = [dataclasses.replace(s, teacher=toy_teacher(s, read_scripts(world))) for s in load_samples(world / "samples.jsonl")[:8]]
    write_jsonl(tmp_path / "s.jsonl", samples)
    trained = {s.video for s in samples}
    write_jsonl(tmp_path / "held.jsonl", [s for s in load_samples(world / "samples.jsonl") if s.video not in trained][:8])
    given = {
        "annotations": str(tmp_path / "s.jsonl"),
        "eval_annotations": str(tmp_path / "held.jsonl"),
        "video_root": str(world / "videos"),
        "outputs_dir": str(tmp_path),
    }
    given |= {"epochs": 2.0, "batch_size": 4, "per_device_batch_size": 2, "learning_rate": 1e-3, "max_completion_length": 24, "threads": 1}
    pairs = [
        x
        for key, value in {**given, "run_name": "two", "accelerate_config": "configs/accelerate/two_cpu.yaml"}.items()
        for x in ("-p", key, json.dumps(value))
    ]
    assert main(["run", "nbs/03_sft.ipynb", *pairs, "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["metrics"]["samples_seen"] == 16 and "Everything is in" in err
    alone = CLEAN.Process(target=cold_start, args=(SFTParams(**given, run_name="one"),))
    alone.start()
    alone.join(600)
    one, two = (tmp_path / "sft" / name for name in ("one", "two"))
    np.testing.assert_allclose(curve(two), curve(one), rtol=1e-4, atol=1e-4)
    assert len(curve(one)) == 4 and read_manifest(two)["status"] == "finished"
    assert (
        read_manifest(two)["config"]["trainer"]["gradient_accumulation_steps"] == 1
        and read_manifest(one)["config"]["trainer"]["gradient_accumulation_steps"] == 2
    )
    assert [json.loads(line)["response"] for line in (two / "predictions.jsonl").open()] == [
        json.loads(line)["response"] for line in (one / "predictions.jsonl").open()
    ]


def test_several_machines_without_an_address_are_refused(tmp_path):
    "Without the refusal they would wait for each other without end."
    params = SFTParams(accelerate_config="configs/accelerate/two_nodes.yaml", outputs_dir=str(tmp_path), run_name="a")
    with pytest.raises(RunError, match="two_nodes.yaml: num_machines is 2 and main_process_ip is not set"):
        launch_stage(params, tmp_path / "sft/a")
    assert not (tmp_path / "sft").exists()


def fixed_rollouts(prompts, trainer):
    """The same responses for any number of processes: each next response to a query names a span that is 4 s longer, and the last two have more tokens.

    Sampled responses cannot be the same: every process draws from its own generator. The test compares all that comes after sampling: rewards, advantages of
    a group that is spread over processes, the loss with its normalisation by the tokens of all processes, and the gradient."""
    first = trainer.accelerator.process_index * len(prompts)
    texts = [response_text("seen.", [1, 2 + 4 * ((first + i) % trainer.num_generations)]) for i in range(len(prompts))]
    tokenizer = trainer.processing_class.tokenizer
    ids = [tokenizer(text)["input_ids"] + [tokenizer.eos_token_id] for text in texts]
    shown = trainer.processing_class.apply_chat_template(prompts, add_generation_prompt=True, tokenize=True, return_dict=True)
    return {"prompt_ids": shown["input_ids"], "completion_ids": ids, "logprobs": [[0.0] * len(c) for c in ids]}


def train(rank, world_size, port, samples, view, folder):
    "Three steps of GRPO on fixed responses, in one of `world_size` processes."
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), TQDM_DISABLE="1", ACCELERATE_USE_CPU="true")
    if world_size > 1:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_WORLD_SIZE=str(world_size))
    import torch

    from vtg_r1.core.runtime import set_seed
    from vtg_r1.grpo import GRPOParams, grpo_trainer
    from vtg_r1.train.trainer import fit

    torch.set_num_threads(1)
    set_seed(0)
    model, processor = load_model("tiny", device="cpu"), load_processor("tiny")
    sizes = dict(prompts_per_step=1, num_generations=4, per_device_batch_size=2)
    params = GRPOParams(steps=3, learning_rate=1e-3, warmup_steps=0, share_prefix=False, **sizes)
    trainer = grpo_trainer(model, processor, samples, view, folder, params)
    trainer.rollout_func = fixed_rollouts
    fit(trainer, "GRPO", {})


def test_grpo_in_two_processes_equals_one_on_the_same_responses(world, toy_samples, tmp_path):
    view = VideoInputConfig(str(world / "videos"), 8, 28 * 28, "short")
    for name, n in (("one", 1), ("two", 2)):
        (tmp_path / name).mkdir()
        port = free_port()
        started = [CLEAN.Process(target=train, args=(rank, n, port, toy_samples[:4], view, str(tmp_path / name))) for rank in range(n)]
        for p in started:
            p.start()
        for p in started:
            p.join(200)
        assert [p.exitcode for p in started] == [0] * n
    one, two = curve(tmp_path / "one"), curve(tmp_path / "two")
    np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-4)
    assert len(one) == 3 and (one[:, 1] > 0.01).all()


# ---- what the first process makes for all ----


def take_policy(rank, port, folder):
    "One of two processes asks for the start policy of 05, which is missing. The run that would train it is replaced: it only makes a folder."
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), ACCELERATE_USE_CPU="true", RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2")
    from vtg_r1 import grpo
    from vtg_r1.core.runtime import broadcast_object

    def make(notebook, seed, outputs, asked):
        if not (folder / "model").exists():
            with open(folder / "makers", "a") as f:
                f.write(f"{rank}\n")
            time.sleep(2)
            (folder / "model").mkdir()
        return folder

    grpo.toy_upstream = make
    broadcast_object(None)  # both begin at the same time
    assert grpo.policy_path(grpo.GRPOParams(per_device_batch_size=32)) == str(folder / "model")


def test_the_first_process_alone_makes_a_missing_policy(tmp_path):
    port = free_port()
    started = [CLEAN.Process(target=take_policy, args=(rank, port, tmp_path)) for rank in (0, 1)]
    for process in started:
        process.start()
    for process in started:
        process.join(600)
    assert [process.exitcode for process in started] == [0, 0] and (tmp_path / "makers").read_text() == "0\n"


# ---- 04 and 07 divide their batches among processes ----

GENERATING = {
    "difficulty": {"num_rollouts": 3, "batch_size": 3, "max_completion_length": 16},
    "benchmarks": {"batch_size": 3, "max_completion_length": 16, "benchmark": "samples"},
}
FILES = {"difficulty": ["rl_scored.jsonl", "metrics.json", "strategies.csv"], "benchmarks": ["predictions.jsonl", "metrics.json"]}


def generate(rank, world_size, port, stage, given):
    "04 or 07 in one of `world_size` processes."
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), ACCELERATE_USE_CPU="true", TQDM_DISABLE="1")
    if world_size > 1:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_WORLD_SIZE=str(world_size))
    params_class, run = STAGES[stage]
    run(from_mapping(params_class, given))


def generate_with(stage: str, world, out, name: str, processes: int, **more) -> None:
    "04 or 07 in processes that are started here. The test of the cold start covers those that the launcher starts."
    given = {"model": "tiny", "annotations": str(out / "samples.jsonl"), "video_root": str(world / "videos"), "figures": False, "threads": 1}
    given |= {**GENERATING[stage], "outputs_dir": str(out / name), "run_name": "run", **more}
    port = free_port()
    started = [CLEAN.Process(target=generate, args=(rank, processes, port, stage, given)) for rank in range(processes)]
    for process in started:
        process.start()
    for process in started:
        process.join(600)
    assert [process.exitcode for process in started] == [0] * processes


@pytest.fixture(scope="module")
def thirteen(world, tmp_path_factory):
    "Thirteen samples, in an order that mixes the queries of four videos."
    out = tmp_path_factory.mktemp("parallel")
    samples = load_samples(world / "samples.jsonl")
    write_jsonl(out / "samples.jsonl", [samples[i] for i in np.random.default_rng(3).permutation(13)])
    return out


@pytest.mark.parametrize("stage", GENERATING)
def test_two_processes_generate_the_files_of_one(world, thirteen, stage):
    "Byte for byte: the batches, and the seed of each, do not depend on the number of processes."
    generate_with(stage, world, thirteen, "one", 1)
    generate_with(stage, world, thirteen, "two", 2)
    one, two = thirteen / "one" / stage / "run", thirteen / "two" / stage / "run"
    for name in FILES[stage]:
        assert (two / name).read_bytes() == (one / name).read_bytes(), name
    assert read_manifest(two)["status"] == "finished" and read_manifest(two)["processes"] == 2 and read_manifest(one)["processes"] == 1
    assert not [p for p in (thirteen / "two").rglob("*.jsonl") if p.name.split(".")[1].isdigit()]  # the processes' own files are merged


def rows_in_one_process(path, samples, kill_rank, rank, world_size, port):
    "Calls `resumable_rows` in one of several processes. The process `kill_rank` kills itself in its second batch."
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), ACCELERATE_USE_CPU="true", TQDM_DISABLE="1")
    if world_size > 1:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_WORLD_SIZE=str(world_size))
    from vtg_r1.models.generation import resumable_rows

    batches = []

    def make_rows(k, batch):
        batches.append(k)
        if rank == kill_rank and len(batches) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        with open(path.with_name("made.txt"), "a") as f:
            f.write(f"{k}\n")
        return [{"qid": s.qid, "batch": k} for s in batch]

    rows = resumable_rows(path, make_rows, samples, 2)
    assert rows == {row["qid"]: row for row in map(json.loads, path.read_text().splitlines())}


@pytest.mark.parametrize("kill_rank", [0, 1])
def test_a_killed_process_loses_nothing_that_was_written(toy_samples, tmp_path, kill_rank):
    """The next call takes up what every process has written, here with three processes in place of two.

    The file in the end is the one that a single process writes."""
    samples, path = toy_samples[:13], tmp_path / "rows.jsonl"
    for processes, killed in ((2, kill_rank), (3, None)):
        port = free_port()
        started = [CLEAN.Process(target=rows_in_one_process, args=(path, samples, killed, rank, processes, port)) for rank in range(processes)]
        for p in started:
            p.start()
        for p in started:
            p.join(120)
        if killed is None:
            assert [p.exitcode for p in started] == [0] * processes
        else:
            assert started[killed].exitcode == -signal.SIGKILL and started[1 - killed].exitcode == 1  # the other process ends too
            made_before = (tmp_path / "made.txt").read_text().split()
            assert len(made_before) > 1
    made = (tmp_path / "made.txt").read_text().split()
    assert made[: len(made_before)] == made_before and sorted(made) == sorted(set(made))  # no batch twice
    alone = CLEAN.Process(target=rows_in_one_process, args=(tmp_path / "alone.jsonl", samples, None, 0, 1, 0))
    alone.start()
    alone.join(120)
    assert path.read_bytes() == (tmp_path / "alone.jsonl").read_bytes() and [p.name for p in tmp_path.glob("rows*")] == ["rows.jsonl"]


def generate_in_step(out, prompts, rank, world_size, port):
    "One of several processes of a sharded model, with prompts of its own. It writes the batches of its passes, and the answers that it got."
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), ACCELERATE_USE_CPU="true")
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_WORLD_SIZE=str(world_size))
    from vtg_r1.models.generation import in_step

    passes = []

    def generate(batch):
        passes.append([p["query"] for p in batch])
        return [p["query"].upper() for p in batch]

    together = in_step(generate)
    answers = [together([{"query": q} for q in batch]) for batch in prompts[rank]]
    (out / f"{rank}.json").write_text(json.dumps([passes, answers]))


def test_processes_of_a_sharded_model_make_the_same_number_of_passes(tmp_path):
    """Every pass through a sharded model needs all processes.

    A process that has no prompts left, or none with a readable video, takes part with a prompt of another one. Where no process has any, there is no pass."""
    prompts = [[["a", "b"], [], [], ["e"]], [["c"], ["d"], [], []]]
    port = free_port()
    started = [CLEAN.Process(target=generate_in_step, args=(tmp_path, prompts, rank, 2, port)) for rank in range(2)]
    for p in started:
        p.start()
    for p in started:
        p.join(120)
    (passes0, answers0), (passes1, answers1) = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert answers0 == [["A", "B"], [], [], ["E"]] and answers1 == [["C"], ["D"], [], []]
    assert passes0 == [["a", "b"], ["d"], ["e"]] and passes1 == [["c"], ["d"], ["e"]]
