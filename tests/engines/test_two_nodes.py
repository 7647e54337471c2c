"""Two nodes as two network namespaces of this machine, each with one CPU process of FSDP2 (by the shim): training, the death of a node's process, and resuming.

Part of `make engines`. Needs root, for the namespaces, and ip. The commands are those of examples/slurm_two_nodes.sh. Not proven: a network that loses packets, two file
systems, clocks that differ."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from engine_runs import STAGES, cold_start_files, curve, environment, on_cpu, rank_process, responses

from vtg_r1.core.runtime import project_root
from vtg_r1.runs.run import read_manifest

pytestmark = [pytest.mark.long, pytest.mark.distributed]


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@pytest.fixture(scope="module")
def nodes():
    "The names of two namespaces joined by a pair of virtual interfaces, 10.231.7.1 and .2, called vtg0 and vtg1."
    if not shutil.which("ip") or os.geteuid():
        pytest.skip("network namespaces need root and the program ip (Debian: iproute2)")
    names = [f"vtg{os.getpid()}n{i}" for i in range(2)]
    try:
        for name in names:
            ip("netns", "add", name)
    except subprocess.CalledProcessError as e:
        pytest.skip(f"no network namespace can be made here: {e.stderr.strip()}")
    try:
        ip("link", "add", "vtg0", "netns", names[0], "type", "veth", "peer", "name", "vtg1", "netns", names[1])
        for i, name in enumerate(names):
            ip("-n", name, "addr", "add", f"10.231.7.{i + 1}/24", "dev", f"vtg{i}")
            ip("-n", name, "link", "set", f"vtg{i}", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def start(nodes: list[str], config: str, parameters: dict, out: Path) -> list[subprocess.Popen]:
    "The stage on both nodes."
    params = out / f"{parameters['run_name']}.yaml"
    params.write_text(yaml.safe_dump({**STAGES["sft"], **parameters}))
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", config]
    started = []
    for i, name in enumerate(nodes):
        where = ["--machine_rank", str(i), "--main_process_ip", "10.231.7.1"]
        words = ["ip", "netns", "exec", name, *launcher, *where, "-m", "vtg_r1.sft", "--params", str(params)]
        env = environment(GLOO_SOCKET_IFNAME=f"vtg{i}")
        log = open(out / f"{parameters['run_name']}-{i}.txt", "a")
        started.append(subprocess.Popen(words, env=env, cwd=project_root(), stdout=log, stderr=subprocess.STDOUT))
    return started


def finish(started: list[subprocess.Popen], out: Path, name: str) -> None:
    for process in started:
        process.wait(400)
    assert [p.returncode for p in started] == [0, 0], "".join((out / f"{name}-{i}.txt").read_text()[-3000:] for i in range(2))


def test_two_nodes_train_end_together_and_resume(nodes, world, tmp_path):
    given, config = cold_start_files(world, tmp_path), on_cpu("two_nodes.yaml", tmp_path)
    finish(start(nodes, config, {**given, "run_name": "whole", "save_steps": 2}, tmp_path), tmp_path, "whole")
    whole = tmp_path / "sft/whole"
    assert read_manifest(whole)["config"]["strategy"] == "FSDP2" and read_manifest(whole)["processes"] == 2 and len(curve(whole)) == 4

    killed = tmp_path / "sft/killed"
    started = start(nodes, config, {**given, "run_name": "killed", "save_steps": 2}, tmp_path)
    victim = rank_process(started[1].pid, 1)
    while not (killed / "checkpoints/checkpoint-2/complete.json").exists() and started[0].poll() is None:
        time.sleep(0.01)
    os.kill(victim, signal.SIGKILL)
    start_of_end = time.monotonic()
    assert [process.wait(120) != 0 for process in started] == [True, True]
    seconds = time.monotonic() - start_of_end
    print(f"measured: both nodes ended {seconds:.1f} s after the death of one process")
    assert seconds < 60

    finish(start(nodes, config, {**given, "run_name": "killed", "save_steps": 2, "resume": True}, tmp_path), tmp_path, "killed")
    assert "resuming from step 2 of 4" in (tmp_path / "killed-0.txt").read_text()
    assert (curve(killed) == curve(whole)).all() and responses(killed) == responses(whole)
