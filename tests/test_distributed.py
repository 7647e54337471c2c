"Two processes, gloo on CPU, teach the same lesson as one with the same batch."

import dataclasses
import json
import multiprocessing
import os
import socket

import numpy as np
import pytest

from vtg_r1.cli import main
from vtg_r1.core.prompts import response_text
from vtg_r1.core.samples import load_samples, write_jsonl
from vtg_r1.data.model_inputs import VideoInputConfig
from vtg_r1.data.toyworld import read_scripts, toy_teacher
from vtg_r1.models.loading import load_model, load_processor
from vtg_r1.runs.run import read_manifest
from vtg_r1.sft import SFTParams
from vtg_r1.sft import main as cold_start

pytestmark = pytest.mark.distributed
CLEAN = multiprocessing.get_context("forkserver")
CLEAN.set_forkserver_preload(["trl.trainer.grpo_trainer", "transformers.models.qwen2_5_vl.modeling_qwen2_5_vl"])


def curve(folder) -> np.ndarray:
    return np.array([(row["loss"], row["grad_norm"]) for row in map(json.loads, (folder / "log.jsonl").read_text().splitlines())])


def test_a_launched_cold_start_equals_one_process(world, tmp_path):
    "The stage itself, started from its notebook's command by one parameter: same samples in the same batches, so the same losses and the same model."
    samples = [dataclasses.replace(s, teacher=toy_teacher(s, read_scripts(world))) for s in load_samples(world / "samples.jsonl")[:8]]
    write_jsonl(tmp_path / "s.jsonl", samples)
    given = {
        "annotations": str(tmp_path / "s.jsonl"),
        "eval_annotations": str(tmp_path / "s.jsonl"),
        "video_root": str(world / "videos"),
        "outputs_dir": str(tmp_path),
    }
    given |= {"epochs": 2.0, "batch_size": 4, "per_device_batch_size": 2, "learning_rate": 1e-3, "max_completion_length": 24, "threads": 1}
    pairs = [
        x
        for key, value in {**given, "run_name": "two", "accelerate_config": "configs/accelerate/two_cpu.yaml"}.items()
        for x in ("-p", key, json.dumps(value))
    ]
    assert main(["run", "nbs/03_sft.ipynb", *pairs]) == 0
    alone = CLEAN.Process(target=cold_start, args=(SFTParams(**given, run_name="one"),))
    alone.start()
    alone.join(300)
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


def fixed_rollouts(prompts, trainer):
    """Responses that do not depend on who writes them: the k-th try at a query names a span k seconds longer.

    Sampling itself cannot be equal: every process draws from a generator of its own. What is compared is all that comes after: rewards, advantages within
    groups that lie across processes, the loss and its normalisation by the tokens of all, the gradient."""
    first = trainer.accelerator.process_index * len(prompts)
    texts = [response_text("seen.", [1, 2 + 2 * ((first + i) % trainer.num_generations)]) for i in range(len(prompts))]
    tokenizer = trainer.processing_class.tokenizer
    ids = [tokenizer(text)["input_ids"] + [tokenizer.eos_token_id] for text in texts]
    shown = trainer.processing_class.apply_chat_template(prompts, add_generation_prompt=True, tokenize=True, return_dict=True)
    return {"prompt_ids": shown["input_ids"], "completion_ids": ids, "logprobs": [[0.0] * len(c) for c in ids]}


def train(rank, world_size, port, samples, view, folder):
    "Two steps of GRPO on fixed responses, in one of `world_size` processes."
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
    sizes = dict(prompts_per_step=2, num_generations=4, per_device_batch_size=2)
    params = GRPOParams(steps=3, learning_rate=1e-3, warmup_steps=0, share_prefix=False, **sizes)
    trainer = grpo_trainer(model, processor, samples, view, folder, params)
    trainer.rollout_func = fixed_rollouts
    fit(trainer, "GRPO", {})


def test_grpo_on_the_same_responses_equals_one_process(world, toy_samples, tmp_path):
    view = VideoInputConfig(str(world / "videos"), 8, 28 * 28, "short")
    for name, n in (("one", 1), ("two", 2)):
        (tmp_path / name).mkdir()
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        started = [CLEAN.Process(target=train, args=(rank, n, port, toy_samples[:4], view, str(tmp_path / name))) for rank in range(n)]
        for p in started:
            p.start()
        for p in started:
            p.join(200)
        assert [p.exitcode for p in started] == [0] * n
    one, two = curve(tmp_path / "one"), curve(tmp_path / "two")
    np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-4)
    assert len(one) == 3 and (one[:, 1] > 0.01).all()
