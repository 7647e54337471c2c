"Typed stage parameters: which values and names are taken, group headings, parameter files, the notebook's cell, and the program of a stage."

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from vtg_r1.core.runtime import UserError
from vtg_r1.runs.parameters import (
    ParameterGroup,
    from_mapping,
    from_notebook,
    help_text,
    param,
    parameter_cell,
    parameter_fields,
    parameter_groups,
    read_parameters,
    stage_program,
    to_mapping,
)


@dataclass(kw_only=True)
class RunParams(ParameterGroup):
    "Run"

    run_name: str = param("", "Folder of the run.")
    seed: int = param(0, "Seed.", minimum=0)


@dataclass(kw_only=True)
class OptimizerParams(ParameterGroup):
    """Optimizer.

    Only the first line is the heading. This line is not part of it.
    """

    steps: int = param(600, "Updates.", paper="600 (Section 4.1)", minimum=1)
    learning_rate: float = param(1e-6, "Peak rate.", above=0)


@dataclass(kw_only=True)
class TrainParams(RunParams, OptimizerParams):
    "Training"

    stage = "grpo"
    steps = 100
    learning_rate: float = 3e-4  # an annotation beside the new default changes nothing
    share: float = param(0.5, "Share.", minimum=0, maximum=1)
    style: Literal["short", "full"] = param("short", "Prompt.")
    max_completion_length: int = param(40, "Length.", unit="tokens", minimum=1)
    annotations: str | list = param("", "Training samples.")
    budget: float | None = param(None, "Limit.", minimum=0)
    seeds: list[int] = param([], "Seeds.", minimum=0)
    options: dict = param({}, "Options.")
    figures: bool = param(True, "Draw them.")
    sft_target: str = param("response", "What is imitated.")


@dataclass(kw_only=True)
class LongParams(TrainParams):
    "Long training"

    stage = "sft"
    steps = 1000
    run_name: str = param("long", "Another meaning.")
    label_source: str = param("teacher", "Source.")


@pytest.mark.parametrize(
    "name, given, taken",
    [
        ("steps", 3.0, 3),
        ("steps", 1e3, 1000),
        ("seed", 10**30, 10**30),
        ("learning_rate", 1, 1.0),
        ("share", 0, 0.0),
        ("share", 1, 1.0),
        ("style", "full", "full"),
        ("annotations", "a.jsonl", "a.jsonl"),
        ("annotations", [{"path": "a"}], [{"path": "a"}]),
        ("budget", None, None),
        ("budget", 3, 3.0),
        ("seeds", [1, 2.0], [1, 2]),
        ("options", {"n": [1]}, {"n": [1]}),
        ("figures", False, False),
        ("run_name", "'7'", "'7'"),
    ],
)
def test_values_that_are_taken(name, given, taken):
    value = getattr(from_mapping(TrainParams, {name: given}), name)
    assert value == taken and type(value) is type(taken)


@pytest.mark.parametrize(
    "name, value, wanted",
    [
        ("steps", -1, "a whole number of at least 1"),
        ("steps", 0, "a whole number of at least 1"),
        ("steps", 2.5, "a whole number of at least 1"),
        ("steps", "3", "a whole number of at least 1"),
        ("steps", True, "a whole number of at least 1"),
        ("steps", None, "a whole number of at least 1"),
        ("steps", [3], "a whole number of at least 1"),
        ("steps", float("nan"), "a whole number of at least 1"),
        ("steps", float("inf"), "a whole number of at least 1"),
        ("max_completion_length", 0, "a whole number of at least 1, in tokens"),
        ("learning_rate", 0, "a number above 0"),
        ("learning_rate", float("nan"), "a number above 0"),
        ("learning_rate", float("-inf"), "a number above 0"),
        ("learning_rate", False, "a number above 0"),
        ("learning_rate", "1e-6", "a number above 0"),
        ("learning_rate", 10**400, "a number above 0"),
        ("share", 1.01, "a number of at least 0 and of at most 1"),
        ("style", "long", 'one of "short", "full"'),
        ("style", None, 'one of "short", "full"'),
        ("style", ["short"], 'one of "short", "full"'),
        ("budget", -1, "a number of at least 0 or null"),
        ("budget", "", "a number of at least 0 or null"),
        ("seeds", 3, "a list, each item a whole number of at least 0"),
        ("seeds", [1, -1], "a list, each item a whole number of at least 0"),
        ("seeds", [1, True], "a list, each item a whole number of at least 0"),
        ("options", [], "a mapping"),
        ("figures", 1, "true or false"),
        ("figures", "false", "true or false"),
        ("run_name", ["a"], "text"),
        ("run_name", None, "text"),
        ("annotations", {"path": "a"}, "text or a list"),
    ],
)
def test_values_that_are_refused(name, value, wanted):
    with pytest.raises(UserError) as e:
        from_mapping(TrainParams, {name: value})
    assert str(e.value) == f"parameter {name!r} is {repr(value)[:200]}: give {wanted}"


@pytest.mark.parametrize("value", [7, 1e6, True])
def test_a_number_where_text_is_due_is_refused_with_the_way_to_quote_it(value):
    with pytest.raises(UserError, match=f"give text; quotes inside the quotes make it text, as in -p run_name \"'{value}'\"$"):
        from_mapping(TrainParams, {"run_name": value})


def test_an_error_is_one_short_line():
    with pytest.raises(UserError) as e:
        from_mapping(TrainParams, {"style": "a\nb" * 10_000})
    assert "\n" not in str(e.value) and len(str(e.value)) < 300


@pytest.mark.parametrize(
    "cls, name, problem",
    [
        (TrainParams, "stepz", "unknown parameter 'stepz', did you mean 'steps'?"),
        (TrainParams, "max_response", "parameter 'max_response' is now called 'max_completion_length'"),
        (TrainParams, "target", "parameter 'target' is now called 'sft_target'"),
        (LongParams, "target", "parameter 'target' is now called 'label_source'"),
        (RunParams, "target", "unknown parameter 'target'. Known: run_name, seed"),
        (RunParams, "max_response", "unknown parameter 'max_response'. Known: run_name, seed"),
        (RunParams, "stage", "unknown parameter 'stage'. Known: run_name, seed"),
        (RunParams, 1, "unknown parameter '1'. Known: run_name, seed"),
    ],
)
def test_names_that_are_refused(cls, name, problem):
    with pytest.raises(UserError) as e:
        from_mapping(cls, {name: 1})
    assert str(e.value) == problem


def test_groups_come_in_the_order_in_which_the_base_classes_are_named():
    assert list(parameter_groups(TrainParams)) == ["Run", "Optimizer", "Training"]
    names = list(parameter_fields(LongParams))
    assert names[:5] == ["run_name", "seed", "steps", "learning_rate", "share"] and names[-1] == "label_source"
    assert list(to_mapping(LongParams())) == names
    assert list(parameter_groups(LongParams)) == ["Run", "Optimizer", "Training", "Long training"]


def test_a_subclass_may_change_a_default_and_keeps_the_rest_of_the_parameter():
    for cls, steps in ((OptimizerParams, 600), (TrainParams, 100), (LongParams, 1000)):
        f = parameter_fields(cls)["steps"]
        assert (cls().steps, f.metadata["doc"], f.metadata["paper"], f.type) == (steps, "Updates.", "600 (Section 4.1)", int)
        with pytest.raises(UserError, match="at least 1"):
            cls(steps=0)
    assert TrainParams().learning_rate == LongParams().learning_rate == 3e-4
    assert LongParams().run_name == "long" and parameter_fields(LongParams)["run_name"].metadata["doc"] == "Another meaning."


def test_a_default_out_of_bounds_is_refused():
    @dataclass(kw_only=True)
    class Bad(OptimizerParams):
        "Bad"

        steps = 0

    with pytest.raises(UserError, match="parameter 'steps' is 0"):
        Bad()


def test_instances_share_no_list():
    one, other = TrainParams(), TrainParams()
    one.seeds.append(1)
    one.options["n"] = 1
    assert (other.seeds, other.options) == (TrainParams().seeds, TrainParams().options) == ([], {})


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "p.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "text, pairs, given",
    [
        ("steps: 5\nlearning_rate: 1e-6\n", [], {"steps": 5, "learning_rate": 1e-6}),
        ("grpo: {steps: 5}\nsft: {other: 1}\n", [("steps", "7"), ("steps", "8")], {"steps": 8}),
        ("grpo:\nsft: {steps: 1}\n", [], {}),
        ("{}", [("run_name", ""), ("annotations", "[a.jsonl]"), ("budget", "null")], {"run_name": "", "annotations": ["a.jsonl"], "budget": None}),
        ("run_name: '1e6'", [("style", "a: b: c")], {"run_name": "1e6", "style": "a: b: c"}),
        ("options: {learning_rate: 2E-5}", [("run_name", "2026-13-01")], {"options": {"learning_rate": 2e-5}, "run_name": "2026-13-01"}),
        ("run_name: 1e6a", [("learning_rate", ".5e-3")], {"run_name": "1e6a", "learning_rate": 5e-4}),
    ],
)
def test_pairs_win_over_files_and_keep_their_types(text, pairs, given, tmp_path):
    read: dict[str, Any] = read_parameters(TrainParams, [written(tmp_path, text)], pairs)
    assert read == given and [type(v) for v in read.values()] == [type(v) for v in given.values()]


def test_a_later_file_wins(tmp_path):
    first = written(tmp_path, "steps: 5\nseed: 1")
    (tmp_path / "later.yaml").write_text("grpo:\n  steps: 6")
    assert read_parameters(TrainParams, [first, tmp_path / "later.yaml"], []) == {"steps": 6, "seed": 1}


@pytest.mark.parametrize(
    "text, problem",
    [
        ("- steps", "holds list; write `name: value` lines"),
        ("", "is empty; write `name: value` lines"),
        ("steps: [", "while parsing"),
        ("when: 2026-13-01", "month must be in 1..12"),
        ("sft: {steps: 1}", "has sections for sft, none for grpo"),
        ("grpo: 5", "unknown parameter 'grpo'"),
        ("difficulty: a", "unknown parameter 'difficulty'"),  # a parameter of other stages, and no section
        ("grpo: {stepz: 1}", "unknown parameter 'stepz', did you mean 'steps'?"),
        ("steps: 5\nseed: 1\nsteps: 6", "'steps' stands twice"),
        ("grpo: {steps: 1}\nsft: {}\ngrpo: {seed: 2}", "'grpo' stands twice"),
        ("max_response: 5", "parameter 'max_response' is now called 'max_completion_length'"),
        ("on: 5", "unknown parameter 'True'"),
        (None, "No such file"),
        (b"\xff", "can't decode"),
    ],
)
def test_a_bad_file_is_named_on_one_line(text, problem, tmp_path):
    path = tmp_path / "p.yaml"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError) as e:
        read_parameters(TrainParams, [path], [])
    assert str(e.value).startswith(f"parameter file {path}: ") and problem in str(e.value) and "\n" not in str(e.value)


def run_cells(*sources: str) -> dict:
    namespace: dict = {"In": ["", *sources]}
    for source in sources:
        exec(source, namespace)
    return namespace


def test_values_are_read_from_the_cell_and_from_what_papermill_injects():
    cell = parameter_cell(TrainParams)
    assert cell.startswith('# --- Run ---\nrun_name = ""\nseed = 0\n# --- Optimizer ---\nsteps = 100\n')
    assert from_notebook(TrainParams, run_cells(cell)) == TrainParams()
    injected = '# Parameters\nsteps = 3\nannotations = [{"path": "a"}]\nbudget = None\n'
    assert from_notebook(TrainParams, run_cells(cell, injected)) == TrainParams(steps=3, annotations=[{"path": "a"}])


@pytest.mark.parametrize(
    "injected, problem",
    [
        ("# Parameters\nstepz = 4\n", "unknown parameter 'stepz', did you mean 'steps'"),
        ("# Parameters\nmax_response = 4\n", "'max_response' is now called 'max_completion_length'"),
        ("# Parameters\nlearning_rate = float('nan')\n", "parameter 'learning_rate' is nan: give a number above 0"),
    ],
)
def test_a_wrong_injected_parameter_is_named(injected, problem):
    with pytest.raises(UserError, match=problem):
        from_notebook(TrainParams, run_cells("stepz = 1", parameter_cell(TrainParams), injected))


def test_the_help_text_shows_every_parameter():
    text = help_text(TrainParams)
    assert all(f"\n- `{name} = " in text for name in parameter_fields(TrainParams)) and "\n### Optimizer\n" in text
    assert "- `steps = 100` Updates. Takes a whole number of at least 1. Paper: 600 (Section 4.1)." in text
    assert all(len(line) <= 100 for line in text.splitlines())


def started(monkeypatch, *words) -> None:
    monkeypatch.setattr(sys, "argv", ["grpo", *map(str, words)])
    stage_program(TrainParams, lambda params: Path("outputs") / params.run_name / str(params.steps), lambda params: 7)


def test_the_program_prints_the_run_folder_in_the_first_process_only(tmp_path, monkeypatch, capsys):
    started(monkeypatch, "--params", written(tmp_path, "steps: 5\nrun_name: a"), "-p", "run_name", "b")
    assert capsys.readouterr().out == "outputs/b/5\n"
    monkeypatch.setenv("RANK", "1")
    started(monkeypatch)
    assert capsys.readouterr().out == ""


def test_a_dry_run_of_the_program_ends_with_its_own_code_and_runs_nothing(monkeypatch, capsys):
    with pytest.raises(SystemExit) as e:
        started(monkeypatch, "--dry-run")
    assert e.value.code == 7 and capsys.readouterr().out == ""


def test_the_program_says_what_is_wrong_on_one_line(monkeypatch, capsys):
    with pytest.raises(SystemExit) as e:
        started(monkeypatch, "-p", "steps", "many")
    assert e.value.code == 2
    assert capsys.readouterr().err == "python -m vtg_r1.grpo: parameter 'steps' is 'many': give a whole number of at least 1\n"


def test_the_programs_help_lists_the_parameters(monkeypatch, capsys):
    with pytest.raises(SystemExit) as e:
        started(monkeypatch, "--help")
    assert e.value.code == 0 and help_text(TrainParams) in capsys.readouterr().out
