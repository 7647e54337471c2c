"What stays on disk after a kill, a full disk or a jump of the clock; how a second process on a run is refused; what happens when a worker dies. Kills and full disks are real."

import ast
import json
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from vtg_r1.core.atomic_files import DiskFull, append
from vtg_r1.core.runtime import RunError, project_root
from vtg_r1.core.samples import iter_jsonl, load_samples
from vtg_r1.data.model_inputs import VideoInputConfig, build_prompt
from vtg_r1.data.teacher import Log
from vtg_r1.runs import execute
from vtg_r1.runs import run as runs
from vtg_r1.runs.execute import run_notebook
from vtg_r1.runs.parameters import RunParams, param
from vtg_r1.runs.run import read_manifest, run_folder, start_run
from vtg_r1.train.checkpoints import is_complete, last_checkpoint
from vtg_r1.video import sandbox
from vtg_r1.video.cache import FrameCache, _make_room, _unpack
from vtg_r1.video.decoders import VideoError
from vtg_r1.video.reader import probe
from vtg_r1.video.sandbox import ResourceLimits, run_sandboxed

YEAR_2040, YEAR_1970 = 2_208_988_800, 0
ENV = {**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), *filter(None, sys.path)])}


# ---- kill -9 during every write ----

FORKER = """
import itertools, json, os, sys, time
from pathlib import Path
here = Path(sys.argv[1])
%s
began = time.monotonic()
if os.fork() == 0:
    write(0)
    os._exit(0)
os.wait()
print(time.monotonic() - began, flush=True)
for line in sys.stdin:  # a fork for each kill, so that the imports are done only once
    if (pid := os.fork()) == 0:
        for n in itertools.count(int(line)): write(n)
    print(pid, flush=True)
    os.waitpid(pid, 0)
    print("dead", flush=True)
"""


def kills(writer: str, here: Path, times: int = 30):
    "Let a process write one version after the other, kill it within about four of them, and yield; the next process begins at the version that the caller sends, or far above."
    rng, n = random.Random(times), 1
    with subprocess.Popen([sys.executable, "-c", FORKER % writer, here], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENV) as forker:
        took = float(forker.stdout.readline())
        for i in range(times):
            forker.stdin.write(f"{n}\n")
            forker.stdin.flush()
            pid = int(forker.stdout.readline())
            time.sleep(rng.uniform(0.1, 4) * took)
            os.kill(pid, signal.SIGKILL)
            assert forker.stdout.readline() == "dead\n"
            sent = yield
            n = 100_000 * (i + 1) if sent is None else sent
        forker.stdin.close()


def unfinished(here: Path) -> list[Path]:
    "Files and folders that killed writers did not finish."
    return [p for p in here.rglob("*") if p.name.endswith(".part")]


RUN = "from vtg_r1.runs.run import Run\nrun = Run(here, {'stage': 'demo'})\n"
WRITERS = {  # code of the writer; function that reads the versions in what it wrote: one, if no write is half done
    "manifest": (
        RUN + "def write(n): run.record(n=n, text=f'{n} ' * 200_000)",
        lambda here: {n} if (m := read_manifest(here))["text"] == f"{(n := m['n'])} " * 200_000 else None,
    ),
    "metrics": (
        RUN + "names = [f'm{i}' * 3000 for i in range(60)]\ndef write(n): run.save_metrics(dict.fromkeys(names, n))",
        lambda here: set(json.loads((here / "metrics.json").read_text()).values()),
    ),
    "predictions": (
        RUN + "def write(n): run.save_rows('predictions.jsonl', ({'qid': i, 'n': n} for i in range(10_000)))",
        lambda here: {row["n"] for row in rows_of(here / "predictions.jsonl", 10_000)},
    ),
    "samples": (
        "from vtg_r1.core.samples import Sample, write_jsonl\ndef write(n): write_jsonl(here / 's.jsonl', [Sample(str(i), 'v.mp4', 9.0, f'{n}', [[1.0, 2.0]]) for i in range(300)])",
        lambda here: {s.query for s in load_samples(here / "s.jsonl")} if len(load_samples(here / "s.jsonl")) == 300 else None,
    ),
    "curated sets": (
        "from vtg_r1.core.samples import write_jsonl_files\ndef write(n): write_jsonl_files(here, ['a.jsonl', 'b.jsonl'], ((name, {'n': n}) for _ in range(400) for name in ('a.jsonl', 'b.jsonl')))",
        lambda here: max(({row["n"] for row in rows_of(here / name, 400)} for name in ("a.jsonl", "b.jsonl")), key=len),
    ),
    "page": (
        "from vtg_r1.pages.review import Review\ndef write(n): Review(f'{n} ' * 1_000_000).save(here / 'page.html')",
        lambda here: same((here / "page.html").read_bytes(), 1_000_000),
    ),
    "model": (
        "from vtg_r1.core.atomic_files import atomic_dir\ndef write(n):\n    with atomic_dir(here / 'model') as part:\n        for name in 'abcdefgh': (part / name).write_bytes(b'%d ' % n * 100_000)",
        lambda here: set.union(*(same((restored_model(here) / name).read_bytes(), 100_000) for name in "abcdefgh")),
    ),
}


def rows_of(path: Path, n: int) -> list[dict]:
    rows = [row for _, row in iter_jsonl(path)]
    assert len(rows) == n and all(isinstance(row, dict) for row in rows)
    return rows


def same(content: bytes, times: int) -> set[bytes]:
    "The version number of which a content is `times` copies."
    number = content[: content.index(b" ") + 1]
    assert content == number * times
    return {number}


def restored_model(here: Path) -> Path:
    "The model folder. If the kill fell between the two renames, the old model is put back; other old models, half removed, are deleted."
    aside = list(here.glob(".model.*.old"))
    if not (here / "model").exists():
        aside.pop().rename(here / "model")
    for old in aside:
        shutil.rmtree(old)
    return here / "model"


@pytest.mark.parametrize("what", WRITERS)
def test_a_killed_writer_leaves_the_old_or_the_new_version_whole(what, tmp_path):
    writer, read = WRITERS[what]
    seen, torn = set(), 0
    for _ in kills(writer, tmp_path):
        version = read(tmp_path)
        assert version and len(version) == 1, f"a mixture of versions: {version}"
        seen |= version
        torn += len(unfinished(tmp_path))
        for half in unfinished(tmp_path):
            shutil.rmtree(half) if half.is_dir() else half.unlink()
    assert torn >= 1 and len(seen) > 3, "no kill fell into a write: this proves nothing"


@pytest.mark.parametrize("what", ["jsonl", "teacher"])
def test_a_log_keeps_every_written_row_and_continues_after_half_a_line(what, tmp_path):
    path = tmp_path / "log.jsonl"
    row = "{'key': str(n), 'response': 'x' * 400_000, 'usage': {'prompt_tokens': 1, 'completion_tokens': 1}}"
    writer = {
        "jsonl": f"from vtg_r1.core.samples import append_jsonl\ndef write(n): append_jsonl(here / 'log.jsonl', [{row}])",
        "teacher": f"from vtg_r1.data.teacher import Log\nlog = []\ndef write(n):\n    if not log: log.append(Log(here / 'log.jsonl'))\n    log[0].add({row})",
    }[what]
    loop, rounds = kills(writer, tmp_path, 20), 0
    next(loop)
    while True:
        if (rounds := rounds + 1) % 4 == 0:  # a kill inside the system call leaves half a line; that is rare, so it is made here
            os.truncate(path, path.stat().st_size - 100)
        found = [row for _, row in iter_jsonl(path)]
        kept = [int(row["key"]) for row in found if isinstance(row, dict)]
        assert kept == list(range(len(kept)))
        assert rounds < 4 or any(isinstance(row, Exception) for row in found)
        if what == "teacher":
            with Log(path) as log:
                assert len(log.answered) == len(kept) == log.tokens_in and log.get(str(kept[-1]))["key"] == str(kept[-1])
        try:
            loop.send(len(kept))
        except StopIteration:
            break
    assert len(kept) > 5


CACHE = """
import numpy as np
from vtg_r1.video.cache import FrameCache
cache = FrameCache(here)
def write(n): cache._keep(f"{n % 4:032x}", np.full((32, 224, 224, 3), n % 251, np.uint8), np.full(32, float(n)))
"""


def test_a_cache_entry_is_never_half_written_and_unfinished_files_go_after_an_hour(tmp_path):
    for _ in kills(CACHE, tmp_path):
        for entry in tmp_path.glob("*.frames"):
            frames, times = _unpack(entry.stem, np.fromfile(entry, np.uint8))
            assert (times == times[0]).all() and (frames == times[0] % 251).all()
    parts = unfinished(tmp_path)
    assert len(parts) >= 2, "no kill fell into a write: this proves nothing"
    _make_room(tmp_path, 10**12)
    assert unfinished(tmp_path) == parts
    for part, when in zip(parts, (time.time() - 3700, YEAR_2040)):
        os.utime(part, (when, when))
    _make_room(tmp_path, 10**12)
    assert unfinished(tmp_path) == parts[2:]


CHECKPOINTS = """
import shutil
from vtg_r1.train.checkpoints import seal_checkpoint
def write(n):
    new = here / f"checkpoint-{n}"
    if new.exists(): shutil.rmtree(new)
    new.mkdir()
    for name in ("model.safetensors", "optimizer.pt", "rng_state.pth", "training_args.bin"): (new / name).write_bytes(b"%d " % n * 50_000)
    for old in sorted(here.glob("checkpoint-*"), key=lambda p: int(p.name[11:]))[:-2]: shutil.rmtree(old)  # save_total_limit=2, before it is sealed
    seal_checkpoint(new)
"""


def test_the_newest_complete_checkpoint_is_used_after_a_kill_at_any_moment(tmp_path):
    torn = 0
    for _ in kills(CHECKPOINTS, tmp_path):
        there = sorted(int(p.name[11:]) for p in tmp_path.glob("checkpoint-*"))
        last = last_checkpoint(tmp_path)
        torn += not is_complete(tmp_path / f"checkpoint-{there[-1]}")
        assert int(last.name[11:]) in there[-2:]
        for half in (p for p in tmp_path.glob("checkpoint-*") if not is_complete(p)):  # as training does before it goes on
            shutil.rmtree(half)
        assert {*b" ".join((last / name).read_bytes() for name in ("model.safetensors", "optimizer.pt", "rng_state.pth")).split()} == {
            last.name[11:].encode()
        }
    assert torn >= 3, "no kill fell into a checkpoint: this proves nothing"


WRITES = {  # writes that do not go through `atomic_files`, and why that is right
    "predictions.py": ["open"],  # a packed file, unpacked into a folder that is removed
    "callbacks.py": ["save_file"],  # in a checkpoint that is sealed afterwards
    "regime_map.py": ["open"],  # /dev/null
    "nan_guard.py": ["save_file"],  # in a folder that is moved into place
    "atomic_files.py": ["open", "open"],
    "experiment_grid.py": ["write_text", "open"],  # the input of a job, read at once; its log
    "execute.py": ["open"],  # /dev/null
    "toyworld.py": ["write_text"],  # in a folder that is moved into place
}


def test_all_other_writes_of_the_package_go_through_atomic_files():
    found = {}
    for path in sorted((project_root() / "vtg_r1").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name, said = ast.unparse(node.func).split(".")[-1], ast.unparse(node)
            modes = [
                a.value
                for a in [*node.args[1:2], *(k.value for k in node.keywords if k.arg == "mode")]
                if isinstance(a, ast.Constant) and isinstance(a.value, str)
            ]
            text_only = name in ("to_csv", "to_json") and not node.args  # without a path they return text
            if (name in ("write_text", "write_bytes", "save_file", "savez", "to_csv", "to_json") and not text_only) or (
                name == "open"
                and not said.startswith(("av.", "os.", "webbrowser."))
                and any(set(m) & set("wax+") for m in modes + ["w"] * ("mode" in said))
            ):
                found.setdefault(path.name, []).append(name)
    assert found == WRITES


# ---- two processes on one run folder ----

HOLDER = """
import os, sys, time
from vtg_r1.runs import execute, run as runs
out = sys.argv[1]
folder = runs.run_folder("small", "one", out)
runs.make_folder(folder)
with execute._closing(folder, folder / "99_small.ipynb"):
    run = runs.start_run("small", "one", {"seed": 0}, out)
    worker = os.fork()
    if worker == 0: time.sleep(60); os._exit(0)  # outlives its parent, as a DataLoader's worker may for a while
    print(worker, flush=True)
    time.sleep(60)
"""


@dataclass(kw_only=True)
class SmallParams(RunParams):
    "A stage of no work"

    stage: ClassVar[str] = "small"
    resume: bool = param(False, "Go on with the run of this name.")
    accelerate_config: str = param("", "Configuration of several processes.")


def small_stage(folder: Path) -> Path:
    import nbformat

    cells = ['run_name = ""\noutputs_dir = "outputs"\nseed = 0\nresume = False', "1 / 0"]
    nb = nbformat.v4.new_notebook(
        metadata={"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}, cells=[*map(nbformat.v4.new_code_cell, cells)]
    )
    nb.cells[0].metadata["tags"] = ["parameters"]
    nbformat.write(nb, folder / "99_small.ipynb")
    return folder / "99_small.ipynb"


def test_a_launched_run_is_marked_failed_when_its_main_process_is_killed(tmp_path, monkeypatch):
    "It cannot record its own end, so the command that launched it does."
    code = "import os, signal, sys; from vtg_r1.runs.run import start_run; start_run('small', 'one', {}, sys.argv[1]); os.kill(os.getpid(), signal.SIGKILL)"
    run_echoed = execute._run_echoed
    monkeypatch.setattr(execute, "_run_echoed", lambda command: run_echoed([sys.executable, "-c", code, str(tmp_path)]))
    (tmp_path / "small/one").mkdir(parents=True)
    with pytest.raises(RunError, match="small failed under configs/accelerate/two_cpu.yaml"):
        execute.launch_stage(
            SmallParams(run_name="one", outputs_dir=str(tmp_path), accelerate_config="configs/accelerate/two_cpu.yaml"), tmp_path / "small/one"
        )
    assert read_manifest(tmp_path / "small/one")["status"] == "failed"


def test_a_second_process_on_a_run_folder_is_refused_until_the_first_is_gone(tmp_path):
    folder, notebook = tmp_path / "small/one", small_stage(tmp_path)
    with subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path], stdout=subprocess.PIPE, text=True, env=ENV) as first:
        worker = int(first.stdout.readline())
        before = {p.name: p.read_bytes() for p in folder.iterdir()}
        said = f"small/one is being run by process {first.pid} on {socket.gethostname()}: wait for its end"
        for resume in (False, True):
            with pytest.raises(RunError, match=said):
                start_run("small", "one", {"seed": 0}, tmp_path, resume)
            with pytest.raises(RunError, match=said):
                run_notebook(notebook, {"run_name": "one", "outputs_dir": str(tmp_path), "resume": resume}, SmallParams)
        with pytest.raises(RunError, match=said):
            small = SmallParams(run_name="one", outputs_dir=str(tmp_path), accelerate_config="configs/accelerate/two_cpu.yaml", resume=True)
            execute.launch_stage(small, folder)
        with pytest.raises(RunError, match=said):  # the first command's kernel is not there yet
            (folder / ".lock").rename(folder / ".lock.kept")
            with execute._closing(folder, folder / "99_small.ipynb"):
                pass
        (folder / ".lock.kept").rename(folder / ".lock")
        assert before == {p.name: p.read_bytes() for p in folder.iterdir()}
        first.kill()
    try:
        (folder / ".metrics.json.1.ab.part").write_text("half")
        run = start_run("small", "one", {"seed": 0}, tmp_path, resume=True)
        assert run.manifest["pid"] == os.getpid() and len(run.manifest["resumed"]) == 1 and not unfinished(folder)
        os.kill(worker, 0)  # the worker still lives, and does not hold the lock
    finally:
        os.kill(worker, signal.SIGKILL)
    run.finish()
    with pytest.raises(RunError, match="holds a run already"):
        start_run("small", "one", {"seed": 0}, tmp_path, resume=True)


def test_a_run_folder_that_was_removed_and_made_again_is_locked_again(tmp_path):
    run = start_run("small", "one", {"seed": 0}, tmp_path)
    shutil.rmtree(run.path)
    start_run("small", "one", {"seed": 0}, tmp_path)
    code = "import sys; from pathlib import Path; from vtg_r1.runs.run import running; print(running(Path(sys.argv[1])))"
    assert subprocess.check_output([sys.executable, "-c", code, run.path], text=True, env=ENV).startswith(f"process {os.getpid()} on ")
    runs._release(run.path)


def test_a_manifest_that_is_no_json_is_not_overwritten(tmp_path):
    folder = tmp_path / "small/one"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text('{"status": "fini')
    with pytest.raises(RunError, match=r"manifest\.json is not JSON"):
        start_run("small", "one", {"seed": 0}, tmp_path, resume=True)
    assert (folder / "manifest.json").read_text() == '{"status": "fini' and not (folder / ".lock").exists()


def test_a_second_process_waits_for_rollouts_that_another_one_makes(tmp_path, toy_samples):
    from vtg_r1.difficulty import resumable_rollouts

    samples, path = toy_samples[:4], tmp_path / "rollouts.jsonl"
    path.write_text('{"qid": "' + samples[0].qid)  # what a process left that was killed in its first batch
    code = "import sys, time; from vtg_r1.core.atomic_files import lock; held = lock(sys.argv[1]); print(1, flush=True); time.sleep(1)"
    with subprocess.Popen([sys.executable, "-c", code, f"{path}.lock"], stdout=subprocess.PIPE, env=ENV) as other:
        other.stdout.readline()
        start = time.monotonic()
        found = resumable_rollouts(path, lambda batch: [f"{s.qid} {k}" for s in batch for k in range(2)], samples, 2)
        assert time.monotonic() - start > 0.5 and other.wait(5) == 0
    assert found == {s.qid: [f"{s.qid} 0", f"{s.qid} 1"] for s in samples}
    assert resumable_rollouts(path, lambda batch: pytest.fail("asked again"), samples, 2) == found


# ---- a full disk ----

FULL = """
import json, sys, warnings
from pathlib import Path
import numpy as np
here, room, source = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
from safetensors.numpy import save_file
from vtg_r1.core.samples import write_jsonl_files
from vtg_r1.core.atomic_files import DiskFull, atomic_dir
from vtg_r1.video.cache import FrameCache
from vtg_r1.core.plots import save_figure
from vtg_r1.pages.review import Review
from vtg_r1.core.atomic_files import write_json
from vtg_r1.runs.run import Run
from vtg_r1.core.samples import append_jsonl, write_jsonl
from vtg_r1.data.teacher import Log

def model(big):
    with atomic_dir(here / "model") as part: save_file({"x": np.full(room if big else 8, 3.0)}, part / "model.safetensors")

def figure(big):
    import matplotlib.pyplot as plt
    side = 10 if big else 1
    fig = plt.figure(figsize=(side, side))
    fig.gca().imshow(np.random.default_rng(0).random((100 * side, 100 * side, 3)))
    save_figure(fig, here / "figs" / "f")
    plt.close(fig)

row = lambda big: {"key": "k", "response": "x" * (room if big else 9), "usage": {"prompt_tokens": 1, "completion_tokens": 1}}
log = Log(here / "teacher.jsonl")
writers = {
    "manifest.json": lambda big: Run(here, {}).record(x="x" * (room if big else 9)),
    "metrics.json": lambda big: write_json(here / "metrics.json", ["x"] * (room if big else 9)),
    "predictions.jsonl": lambda big: write_jsonl(here / "predictions.jsonl", [{"n": i} for i in range(room // 5 if big else 9)]),
    "log.jsonl": lambda big: append_jsonl(here / "log.jsonl", [row(big)]),
    "teacher.jsonl": lambda big: log.add(row(big)),
    "rl.jsonl": lambda big: write_jsonl_files(here, ["rl.jsonl"], [("rl.jsonl", row(big))]),
    "page.html": lambda big: Review("x" * (room if big else 9)).save(here / "page.html"),
    "model": model,
    "figs/f.svg": figure,
}
for name, write in writers.items():
    write(False)
    target = here / name
    content = lambda: {p.name: p.read_bytes() for p in ([target] if target.is_file() else target.iterdir())}
    old = content()
    try: write(True)
    except DiskFull as e: said = str(e)
    else: said = "written"
    kept, left = content() == old, sorted(p.name for p in here.rglob("*") if p.name.endswith((".part", ".old")))
    write(False)
    print(json.dumps([name, said, kept, left]), flush=True)
log.close()

cache, frames = FrameCache(here / "cache"), np.zeros((1, room, 1, 3), np.uint8)
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    for i in range(3): assert np.array_equal(cache.fetch(source, (i,), lambda: (frames + i, np.zeros(1)))[0], frames + i)
print(json.dumps(["cache", [str(w.message) for w in told], not list((here / "cache").glob("*.frames")), []]))
"""


@pytest.fixture
def tmpfs(tmp_path):
    "A file system of two megabytes; skips where mounting is not allowed."
    folder = tmp_path / "small"
    folder.mkdir()
    if (
        not shutil.which("mount")
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], check=False, capture_output=True).returncode
    ):
        pytest.skip("may not mount a file system here; the test of the limit on a file's size has the same checks")
    yield folder
    subprocess.run(["umount", folder], check=True)


def check_full(here: Path, room: int, reason: str, tmp_path: Path, before=None):
    "Run `FULL`, whose big writes need more than there is; `before` runs in its process first."
    source = tmp_path / "v.mp4"
    source.write_bytes(b"a video")
    os.utime(source, (1e9, 1e9))
    done = subprocess.run(
        [sys.executable, "-c", FULL, here, str(room), source],
        capture_output=True,
        text=True,
        check=False,
        env={**ENV, "MPLBACKEND": "agg"},
        preexec_fn=before,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    *files, cache = map(json.loads, done.stdout.splitlines())
    assert len(files) == 9
    for name, said, kept, left in files:
        assert said == f"{here / name} cannot be written ({reason}): make room there", said
        assert kept and not left, (name, left)
    assert len(cache[1]) == 1 and "frames are not kept" in cache[1][0] and reason in cache[1][0] and cache[2]


def test_a_full_disk_is_one_error_that_names_the_file_and_leaves_the_old_one(tmpfs, tmp_path):
    check_full(tmpfs, 3_000_000, "No space left on device", tmp_path)


def test_a_file_at_its_size_limit_is_the_same_error_and_leaves_the_old_one(tmp_path):
    (tmp_path / "here").mkdir()
    check_full(tmp_path / "here", 3_000_000, "File too large", tmp_path, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000,) * 2))


def test_other_errors_of_a_write_are_not_changed(tmp_path):
    with pytest.raises(IsADirectoryError):
        append(tmp_path, "x\n")
    with pytest.raises(FileNotFoundError):
        append(tmp_path / "gone/log", "x\n")
    assert isinstance(DiskFull(28, "No space left on device", "x"), OSError)


# ---- clocks that jump ----


def cached(cache: FrameCache, video: Path, how: int) -> bool:
    "Whether frames come from the cache; those that do not are put there."
    made = []
    cache.fetch(video, (how,), lambda: (made.append(how) or np.full((1, 28, 28, 3), how, np.uint8), np.zeros(1)))
    return not made


def test_cache_entries_dated_in_the_future_are_dropped_first_unless_they_are_used(tmp_path):
    video, folder, room = tmp_path / "v.mp4", tmp_path / "c", 4.5 * 4096 / 1e9
    video.write_bytes(b"a video")
    for how in (1, 2):
        cached(FrameCache(folder, room), video, how)
    for entry in folder.glob("*.frames"):
        os.utime(entry, (YEAR_2040, YEAR_2040))  # written before the clock was set back
    assert cached(FrameCache(folder, room), video, 1)
    assert sorted(e.stat().st_mtime > time.time() + 60 for e in folder.glob("*.frames")) == [False, True]
    for how in (3, 4, 5):
        cached(FrameCache(folder, room), video, how)
        time.sleep(0.02)
    assert [cached(FrameCache(folder, 1.0), video, how) for how in (1, 3, 4, 5)] == [True] * 4 and not cached(FrameCache(folder, 1.0), video, 2)


@pytest.mark.parametrize("when", [YEAR_1970, YEAR_2040])
def test_a_video_with_a_wrong_date_is_cached_and_its_change_is_noticed(tmp_path, when, world, toy_samples):
    video, folder = tmp_path / "v.mp4", tmp_path / "c"
    clips = sorted((world / "videos").iterdir(), key=lambda p: p.stat().st_size)
    shutil.copyfile(clips[0], video)
    os.utime(video, (when, when))
    first = probe(video)
    time.sleep(2.1)  # a digest is only recorded for a file that has not changed for two seconds
    cached(FrameCache(folder), video, 1)
    assert len(list(folder.glob("*.id"))) == 1 and cached(FrameCache(folder), video, 1)
    shutil.copyfile(clips[-1], video)  # the same name and time, another video
    os.utime(video, (when, when))
    assert len(probe(video)) == len(probe(clips[-1])) and (len(first), first.duration) != (len(probe(video)), probe(video).duration)
    assert not cached(FrameCache(folder), video, 1)


def test_runs_without_a_name_never_share_a_folder(tmp_path):
    for ahead in range(3):  # made before the clock was set back
        (tmp_path / "demo" / (datetime.now() + timedelta(seconds=ahead)).strftime("%Y%m%d-%H%M%S")).mkdir(parents=True)
    made = [run_folder("demo", "", str(tmp_path)).name for _ in range(3)]
    assert len({*made}) == 3 and all(name.split("-")[-1] in ("2", "3", "4") for name in made)
    assert len(list((tmp_path / "demo").iterdir())) == 6


def test_durations_are_measured_by_a_clock_that_cannot_jump():
    "A search of the source, since the machine's clock cannot be set here: the clock that jumps is asked only for a date to record, or to compare with a file's date."
    asked = {}
    for path in sorted((project_root() / "vtg_r1").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                "time.time",
                "time.time_ns",
                "time.clock_gettime",
                "datetime.now",
                "datetime.utcnow",
            ):
                asked.setdefault(path.name, []).append(ast.unparse(node.func))
    assert asked == {"cache.py": ["time.time_ns"] * 2, "run.py": ["datetime.now"] * 2, "recipe.py": ["datetime.now"]}


# ---- workers that die ----

MISHAPS = """
import os, signal, sys, time
from pathlib import Path
from vtg_r1.video import sandbox
def tried(path):
    "How often this file was tried before."
    with open(path, "a") as f: f.write("x")
    return Path(path).stat().st_size - 1
def spin():
    while True: pass
def ok(path): return {"tries": tried(path) + 1}, []
def after(what, always):
    def job(path):
        if not tried(path) or always: what()
        return {"tries": Path(path).stat().st_size}, []
    return job
what = {"killed": lambda: os.kill(os.getpid(), signal.SIGKILL), "stalls": lambda: time.sleep(600), "stops": lambda: os.kill(os.getpid(), signal.SIGSTOP), "spins": spin, "crashes": os.abort}
sandbox.serve({"ok": ok, **{f"{k} once": after(w, False) for k, w in what.items()}, **{k: after(w, True) for k, w in what.items()}}, %r)
"""


@pytest.fixture
def mishaps(monkeypatch):
    "Limits for children that fail as `MISHAPS` says, in place of decoding."
    sandbox._stop_all()
    monkeypatch.setattr(sandbox, "_SERVE", MISHAPS)
    yield ResourceLimits(seconds=0.6)
    sandbox._stop_all()


@pytest.mark.parametrize("what, used", [("killed", False), ("killed", True), ("stalls", False), ("stalls", True), ("stops", True)])
def test_a_file_is_tried_again_when_its_child_ends_for_another_reason(what, used, mishaps, tmp_path, monkeypatch):
    if used:
        run_sandboxed(tmp_path / "other", mishaps, do="ok")
    if what == "stops":  # a stopped child gets no alarm: the parent ends it
        monkeypatch.setattr(sandbox, "_GRACE", 3.0)
    assert run_sandboxed(tmp_path / "v", mishaps, do=f"{what} once")[0]["tries"] == 2


@pytest.mark.parametrize(
    "what, tries, said",
    [
        ("killed", 2, r"its decoder was killed twice \(SIGKILL\)"),
        ("stalls", 2, "longer than 0.6 s, twice, most of it waiting"),
        ("stops", 2, "longer than 0.6 s, twice, most of it waiting"),
        ("spins", 1, "takes longer than 0.6 s$"),
        ("crashes", 1, "SIGABRT"),
    ],
)
def test_a_file_that_fails_every_time_is_one_error_and_no_hang(what, tries, said, mishaps, tmp_path, monkeypatch):
    if what == "stops":
        monkeypatch.setattr(sandbox, "_GRACE", 3.0)
    start = time.monotonic()
    with pytest.raises(VideoError, match=said):
        run_sandboxed(tmp_path / "v", mishaps, do=what)
    assert (tmp_path / "v").stat().st_size == tries and time.monotonic() - start < 20


@pytest.mark.parametrize("sent", ["[" * 100_000, '"x"', '{"worked": "x"}', '{"worked": 0}\n5'])
def test_a_child_that_sends_anything_but_an_answer_is_one_error(sent, mishaps, tmp_path, monkeypatch):
    monkeypatch.setattr(sandbox, "_SERVE", f"import sys; sys.stdin.readline(); print({sent!r})  # %r")
    with pytest.raises(VideoError, match="made the decoder leave with status 0"):
        run_sandboxed(tmp_path / "v", mishaps, do="ok")


def test_a_killed_data_loader_worker_ends_the_epoch_with_an_error_that_names_it(world, toy_samples):
    from torch.utils.data import DataLoader

    view = VideoInputConfig(str(world / "videos"), 4, 784, "short", cache="")
    loader = DataLoader(toy_samples * 50, batch_size=None, num_workers=1, collate_fn=lambda s: (os.getpid(), len(build_prompt(s, view)["images"])))
    start, killed = time.monotonic(), None
    with pytest.raises(RuntimeError, match=r"DataLoader worker \(pid.*exited unexpectedly|killed by signal: Killed") as e:
        for pid, frames in loader:
            assert frames == 4
            if killed is None:
                os.kill(killed := pid, signal.SIGKILL)
    assert str(killed) in str(e.value) and time.monotonic() - start < 60
