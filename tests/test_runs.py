"Run folders, parameters, and the command that runs a stage."

import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import nbformat
import pytest

from vtg_r1.cli import main
from vtg_r1.core.runtime import RunError, project_root
from vtg_r1.runs import parameters
from vtg_r1.runs.execute import ensure_run, stage_name
from vtg_r1.runs.run import read_manifest, record_files, start_run

ROOT = project_root()
STAGES = sorted((ROOT / "nbs").glob("[0-9][0-9]_*.ipynb"))


def stage(folder, *cells):
    "Writes a small stage notebook: the parameters, then the given cells."
    nb = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}})
    nb.cells = [nbformat.v4.new_code_cell('run_name = ""\noutputs_dir = "outputs"\nseed = 0\nsteps = 1', metadata={"tags": ["parameters"]})]
    nb.cells += [nbformat.v4.new_code_cell(c) for c in cells]
    path = folder / "99_small.ipynb"
    nbformat.write(nb, path)
    return path


START = "from vtg_r1.runs.run import *\nrun = start_run('small', run_name, dict(run_name=run_name, outputs_dir=outputs_dir, seed=seed, steps=steps), outputs_dir)"


def test_the_manifest_of_a_run_holds_its_parameters_versions_and_inputs(tmp_path):
    source = tmp_path / "in.txt"
    source.write_text("data")
    run = start_run("demo", "a", {"seed": 3, "steps": 7}, tmp_path)
    run.add_input(source, "annotations")
    metrics = run.save_metrics({"mIoU": 1.5, "n": 2, "seed": 3})
    assert json.loads(metrics.read_text()) == {"mIoU": 1.5, "n": 2, "seed": 3}
    assert read_manifest(run.path)["status"] == "running"
    run.finish()
    m = read_manifest(run.path)
    assert m["status"] == "finished" and m["seed"] == 3 and m["parameters"]["steps"] == 7 and m["git"]["commit"] and m["packages"]["torch"]
    assert m["inputs"]["annotations"]["sha256"] == hashlib.sha256(b"data").hexdigest()


def test_a_run_is_not_resumed_with_a_changed_input(tmp_path):
    source = tmp_path / "my_rewards.py"
    source.write_text("# before")
    run = start_run("grpo", "changed", {}, tmp_path)
    run.add_input(source, "reward my_rewards.py:boundary")
    run.finish("failed")
    start_run("grpo", "changed", {}, tmp_path, resume=True).add_input(source, "reward my_rewards.py:boundary")
    source.write_text("# after")
    again = start_run("grpo", "changed", {}, tmp_path, resume=True)
    with pytest.raises(RunError, match=r"my_rewards\.py has changed since this run began: give another run_name, or put the file back"):
        again.add_input(source, "reward my_rewards.py:boundary")


def test_each_annotation_file_of_a_folder_is_recorded_as_its_own_input(tmp_path):
    (tmp_path / "annotations" / "more").mkdir(parents=True)
    for name in ("test.csv", "more/gsub.json", "video.mp4"):
        (tmp_path / "annotations" / name).write_text(name)
    run = start_run("demo", "a", {"seed": 0}, tmp_path)
    record_files(run, tmp_path / "annotations", "annotations")
    record_files(run, tmp_path / "annotations" / "test.csv", "train_annotations")
    record_files(run, "some/hub-id", "eval_annotations")
    inputs = read_manifest(run.path)["inputs"]
    assert set(inputs) == {"annotations/test.csv", "annotations/more/gsub.json", "train_annotations"}
    assert inputs["train_annotations"] == inputs["annotations/test.csv"]
    for role, content in (("annotations/test.csv", b"test.csv"), ("annotations/more/gsub.json", b"more/gsub.json")):
        assert inputs[role]["sha256"] == hashlib.sha256(content).hexdigest()


def test_a_run_name_that_is_taken_is_refused_and_the_old_run_left_alone(tmp_path):
    run = start_run("demo", "a", {"seed": 0}, tmp_path)
    run.save_metrics({"n": 1})
    before = (run.path / "manifest.json").read_bytes()
    with pytest.raises(RunError, match="holds a run already"):
        start_run("demo", "a", {"seed": 1}, tmp_path)
    assert (run.path / "manifest.json").read_bytes() == before


@pytest.mark.parametrize("name", ["../up", "a/b", ".."])
def test_a_run_name_cannot_leave_its_folder(tmp_path, name):
    with pytest.raises(RunError, match="plain folder name"):
        start_run("demo", name, {"seed": 0}, tmp_path)


def test_a_metric_that_is_not_finite_is_saved_as_null(tmp_path):
    "The correlation of equal numbers is nan. It must not end the run, and metrics.json must stay valid JSON."
    path = start_run("demo", "a", {"seed": 0}, tmp_path).save_metrics({"spearman": float("nan"), "loss": float("inf"), "n": 2})
    assert json.loads(path.read_text()) == {"spearman": None, "loss": None, "n": 2}


def test_a_metric_that_is_text_is_refused(tmp_path):
    with pytest.raises(RunError, match="numbers"):
        start_run("demo", "a", {"seed": 0}, tmp_path).save_metrics({"mIoU": "high"})


@pytest.mark.parametrize(
    "address",
    [
        "https://me:hunter2@host/v1",
        "https://host/v1?api_key=hunter2",
        "https://host/v1?a=b&X-Goog-Signature=hunter2",
        "https://hunter2@host/v1",
        "https://host/v1?sig=hunter2",
    ],
)
def test_an_address_with_a_key_is_refused_and_the_key_written_nowhere(tmp_path, capsys, address):
    path = stage(tmp_path, START)
    assert main(["run", str(path), "-p", "run_name", "one", "-p", "outputs_dir", str(tmp_path), "-p", "steps", address]) == 2
    assert "steps carries a password or a key" in (err := capsys.readouterr().err) and "hunter2" not in err
    for given in ({"model": address}, {"sources": [{"path": "a.jsonl"}, {"dataset": "huggingface", "path": address}]}):
        with pytest.raises(RunError, match=f"{[*given][0]} carries .* environment variable"):
            start_run("demo", "a", {"seed": 0, **given}, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["99_small.ipynb"]


def test_addresses_without_a_key_are_taken(tmp_path):
    plain = {"seed": 0, "teacher_url": "http://localhost:8000/v1", "source": "https://host/a?version=2", "model": "me@host://x", "odd": "http://[::1"}
    start_run("demo", "a", dict(plain), tmp_path)
    assert json.loads((tmp_path / "demo/a/manifest.json").read_text())["parameters"] == plain


def test_the_run_command_runs_a_stage_and_keeps_the_executed_notebook(tmp_path, capsys):
    path = stage(tmp_path, START, "run.save_metrics({'steps': steps})\nrun.finish()")
    (tmp_path / "p.yaml").write_text("steps: 5\nseed: 2\n")
    assert (
        main(["run", str(path), "-f", str(tmp_path / "p.yaml"), "-p", "steps", "8", "-p", "run_name", "one", "-p", "outputs_dir", str(tmp_path)]) == 0
    )
    folder = tmp_path / "small" / "one"
    assert capsys.readouterr().out.strip() == str(folder)
    assert json.loads((folder / "metrics.json").read_text()) == {"steps": 8}
    assert (folder / "99_small.ipynb").exists() and read_manifest(folder)["parameters"]["seed"] == 2
    assert main(["run", str(path), "-p", "run_name", "one", "-p", "outputs_dir", str(tmp_path)]) == 2
    assert "holds a run already" in capsys.readouterr().err


def test_the_run_command_reports_the_error_of_a_failing_cell(tmp_path, capsys):
    path = stage(tmp_path, START, "raise ValueError('the frame is upside down')")
    assert main(["run", str(path), "-p", "run_name", "bad", "-p", "outputs_dir", str(tmp_path)]) == 1
    assert "ValueError: the frame is upside down" in capsys.readouterr().err
    assert read_manifest(tmp_path / "small" / "bad")["status"] == "failed"
    with pytest.raises(RunError, match="is failed"):
        ensure_run(str(path), {"run_name": "bad", "outputs_dir": str(tmp_path)})


def test_what_an_earlier_stage_prints_goes_to_stderr(tmp_path, capsys):
    "Scripts read stdout: it holds nothing but the result of the command itself."
    path = stage(tmp_path, START, "print('decoded')\nrun.finish()")
    folder = ensure_run(str(path), {"run_name": "one", "outputs_dir": str(tmp_path)})
    out, err = capsys.readouterr()
    assert not out and "one: no finished small run there, making it with" in err and "decoded\n" in err and f"{folder}\n" in err


@pytest.mark.parametrize(
    "args,message",
    [
        (["-p", "stepz", "3"], "unknown parameter 'stepz'"),
        (["-f", "gone.yaml"], "gone.yaml"),
        (["-p", "run_name", "../x"], "plain folder name"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, capsys, args, message):
    assert main(["run", str(stage(tmp_path)), "-p", "outputs_dir", str(tmp_path), *args]) == 2
    err = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vtg-r1 run:")]
    assert len(err) == 1 and message in err[0]


@pytest.mark.parametrize(
    "stage, name, value, message",
    [
        ("05_grpo", "steps", "abc", "parameter 'steps' is 'abc': give a whole number of at least 1"),
        ("05_grpo", "steps", "-3", "parameter 'steps' is -3: give a whole number"),
        ("05_grpo", "steps", "2.5", "parameter 'steps' is 2.5: give a whole number"),
        ("05_grpo", "learning_rate", "fast", "parameter 'learning_rate' is 'fast': give a number"),
        ("05_grpo", "temperature", ".nan", "give a number"),
        ("05_grpo", "resume", "maybe", "parameter 'resume' is 'maybe': give true or false"),
        ("05_grpo", "time_encoding", "foo", "parameter 'time_encoding' is 'foo': give one of \"interleaved\", \"native\""),
        ("05_grpo", "missing_videos", "ignore", 'give one of "error", "skip"'),
        ("05_grpo", "quantize", "8bit", 'give one of "", "4bit"'),
        ("05_grpo", "vllm", "yes", 'give one of "", "colocate", "server"'),
        ("05_grpo", "video_root", "2024", "parameter 'video_root' is 2024: give text"),
        ("05_grpo", "strategy_options", "easy", "give a mapping"),
        ("03_sft", "sft_target", "foo", 'give one of "response", "teacher_span", "exact_span"'),
        ("01_curation", "label_source", "foo", 'give one of "teacher", "ground_truth"'),
        ("01_curation", "teacher", "me", 'give one of "simulated", "endpoint", "precomputed"'),
        ("01_curation", "teacher_reasoning", "deep", 'give one of "none", "short", "medium", "long"'),
        ("07_benchmarks", "backend", "tgi", 'give one of "transformers", "vllm"'),
        ("07_benchmarks", "prompt_style", "terse", 'give one of "short", "full"'),
    ],
)
def test_a_wrong_value_is_refused_before_a_run_folder_is_made(stage, name, value, message, tmp_path, capsys):
    assert main(["run", str(ROOT / f"nbs/{stage}.ipynb"), "-p", "outputs_dir", str(tmp_path), "-p", name, value]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line and not any(tmp_path.iterdir())


def test_a_parameter_may_be_given_as_name_equals_value(tmp_path, capsys):
    assert main(["run", "-p", "steps=abc", str(ROOT / "nbs/05_grpo.ipynb"), "-p", f"outputs_dir={tmp_path}", "-p", "video_root", "a=b"]) == 2
    assert "parameter 'steps' is 'abc'" in capsys.readouterr().err
    assert main(["run", "--parameter", "stepz=3", str(ROOT / "nbs/05_grpo.ipynb")]) == 2
    assert "unknown parameter 'stepz'" in capsys.readouterr().err


def test_a_missing_notebook_is_answered_with_those_that_exist(capsys):
    assert main(["run", "nbs/99_gone.ipynb"]) == 2
    assert "no such notebook; there are nbs/01_curation.ipynb, " in capsys.readouterr().err
    for name in ("05_grpo", "grpo", "nbs/grpo.ipynb"):
        assert main(["run", name]) == 2
        assert "did you mean nbs/05_grpo.ipynb?" in capsys.readouterr().err


def test_outside_a_checkout_the_command_says_that_it_needs_one(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words in (["run", "nbs/05_grpo.ipynb"], ["data", "curate", "--annotations", ".", "--videos", ".", "--teacher", "precomputed"]):
        assert main(words) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "not part of the installed package: run this in a checkout" in line


@pytest.mark.parametrize("path", STAGES, ids=lambda p: p.stem)
def test_stage_notebooks_have_one_parameters_cell_and_a_python_kernel(path):
    nb = nbformat.read(path, 4)
    tagged = [c for c in nb.cells if "parameters" in c.metadata.get("tags", [])]
    assert len(tagged) == 1 and nb.metadata.kernelspec.language == "python"
    for name in ("run_name", "seed", "outputs_dir"):
        assert f"\n{name} = " in "\n" + tagged[0].source.replace("#| eval: false\n", "")


def test_every_stage_has_its_notebook_in_order():
    "parameters.STAGES, the numbered notebooks in nbs/ and the modules of vtg_r1 are the same stages."
    assert [p.stem for p in STAGES] == [f"{number:02d}_{name}" for number, name in enumerate(parameters.STAGES, 1)]
    assert all((ROOT / f"vtg_r1/{stage_name(p)}.py").is_file() for p in STAGES)


def test_python_m_runs_the_command_line():
    out = subprocess.run([sys.executable, "-m", "vtg_r1.cli", "--help"], capture_output=True, text=True, check=True)
    assert "Execute a stage notebook" in out.stdout


def test_a_training_is_resumed_with_as_many_processes_as_it_began_with(tmp_path, monkeypatch):
    """Batches and random numbers of a training depend on the number of processes.

    The rows of a stage that only generates do not: it may be resumed with another number."""
    for stage, config in (("sft", {"trainer": {}}), ("benchmarks", {})):
        run = start_run(stage, "one", {"seed": 0}, str(tmp_path))
        run.record(config=config, processes=4)
        run.finish("failed")
    with pytest.raises(RunError, match="was begun with 4 processes, now there are 1: resume it with 4"):
        start_run("sft", "one", {"seed": 0}, str(tmp_path), resume=True)
    start_run("benchmarks", "one", {"seed": 0}, str(tmp_path), resume=True).finish("failed")
    monkeypatch.setattr("vtg_r1.runs.run.process_index_and_count", lambda: (0, 4))
    assert start_run("sft", "one", {"seed": 0}, str(tmp_path), resume=True).manifest["processes"] == 4


def test_sigterm_ends_the_launched_command_too(tmp_path):
    "SIGTERM arrives while a launched command works: both processes end at once."
    code = (
        "import os, pathlib, sys\nfrom vtg_r1.core.runtime import on_sigterm\nfrom vtg_r1.runs.execute import _run_echoed\n"
        "def end(*_): raise SystemExit(3)\n"
        "child = 'import os, pathlib, sys, time; pathlib.Path(sys.argv[1]).write_text(str(os.getpid())); time.sleep(120)'\n"
        "with on_sigterm(end): _run_echoed([sys.executable, '-c', child, sys.argv[1]])"
    )
    pid = tmp_path / "pid"
    with subprocess.Popen([sys.executable, "-c", code, str(pid)]) as waiting:
        until = time.monotonic() + 60
        while not (pid.exists() and pid.read_text()):
            assert time.monotonic() < until
            time.sleep(0.05)
        waiting.send_signal(signal.SIGTERM)
        assert waiting.wait(20) == 3
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
