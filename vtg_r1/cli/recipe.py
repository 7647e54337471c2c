"`vtg-r1 recipe FILE`: the stages one after another as ordinary runs, and a table at the end. `vtg-r1 runs`: what runs there are."

import contextlib
import json
import re
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, cast

from typer import Argument, Option

from ..core.atomic_files import atomic_write, write_json
from ..core.runtime import RunError, UserError, project_root, resolve, sha256
from ..core.samples import SampleError, load_samples
from ..core.tables import markdown_table
from ..data.blind import BesideBlind, beside_blind
from ..data.official_benchmarks import COUNTS_ABOVE
from ..data.predictions import read_predictions
from ..runs.experiment_grid import filled, references
from ..runs.parameters import STAGES, RunParams, from_mapping, load_yaml, parameter_fields, read_parameters, to_mapping
from ..runs.run import newest_run, read_manifest, run_folder, run_state, running
from .common import AsJson, command, print_json
from .run import run_stage, stage_params

STEP_KEYS = {"stage", "files"}  # other keys of a step are parameters of its stage
MEASURE_KEYS = {"policies", "benchmarks", "train_annotations", "files"}  # other keys of `measure` are parameters of 07
WAIT = 60  # seconds that the kernel of a killed recipe gets to end by itself


@dataclass
class Step:
    "One run of a recipe."

    name: str  # of the step, such as cold_start
    stage: str
    params: RunParams

    @property
    def folder(self) -> Path:
        "The folder of its run."
        return run_folder(self.stage, self.params.run_name, self.params.outputs_dir)

    @property
    def notebook(self) -> str:
        "The stage's notebook."
        return next(str(path.relative_to(project_root())) for path in sorted((project_root() / "nbs").glob(f"*_{self.stage}.ipynb")))


@dataclass
class Recipe:
    "The runs of a recipe in their order, and what is measured at the end."

    name: str
    outputs: str
    steps: list[Step]
    benchmarks: dict[str, dict[str, Step]]  # benchmark → policy → its run of 07, which is among the steps
    train_annotations: str  # samples of the training set, for the dataset prior; empty leaves it out


def read_recipe(path: str) -> Recipe:
    "A recipe file, checked: stages, parameters, references to earlier steps."
    try:
        content = load_yaml(resolve(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise UserError(f"recipe {path}: {' '.join(str(e).split())}") from e
    content = content if isinstance(content, dict) else {}
    unknown = set(content) - {"name", "shared", "steps", "measure"}
    if unknown or not isinstance(content.get("steps"), dict) or not content.get("name"):
        excess = f"; {sorted(unknown)} is none of them" if unknown else ""
        raise UserError(f"recipe {path}: give name, steps, and if needed shared and measure{excess}")
    shared = _lines(path, "shared", content.get("shared"))
    _check_shared(path, shared)
    recipe = Recipe(str(content["name"]), str(shared.get("outputs_dir", "outputs")), [], {}, "")
    folders: dict[str, str] = {}
    for name, given in content["steps"].items():
        if not isinstance(given, dict):
            raise UserError(f"recipe {path}, step {name}: give its stage and parameters as `name: value` lines")
        _add_step(recipe, path, name, given, shared, folders)
    measure = _lines(path, "measure", content.get("measure"))
    benchmarks = _lines(path, "benchmarks", measure.get("benchmarks"))
    _check_references(path, "measure", measure.get("train_annotations"), folders)
    recipe.train_annotations = filled(str(measure.get("train_annotations") or ""), folders)
    if recipe.train_annotations and not recipe.train_annotations.endswith(".jsonl"):
        raise UserError(
            f"recipe {path}, measure: train_annotations {recipe.train_annotations} is no samples file; "
            "give a .jsonl, such as $curation/rl.jsonl, or leave it out"
        )
    if benchmarks and not (isinstance(measure.get("policies"), dict) and measure["policies"]):
        raise UserError(f"recipe {path}: measure has benchmarks and no policies; give `name: model` lines below policies")
    for benchmark, own in benchmarks.items():
        recipe.benchmarks[benchmark] = {}
        for policy, model in measure["policies"].items():
            common = {key: value for key, value in measure.items() if key not in MEASURE_KEYS}
            given = {"stage": "benchmarks", "files": measure.get("files", []), **common, **_lines(path, str(benchmark), own), "model": model}
            step = _add_step(recipe, path, f"{_plain(benchmark)}-{_plain(policy)}", given, shared, folders)
            recipe.benchmarks[benchmark][policy] = step
    return recipe


def _check_shared(path: str, shared: Mapping[str, Any]) -> None:
    known = {name for stage in STAGES for name in parameter_fields(cast(type, stage_params(stage)))}
    unknown = sorted(set(shared) - known)
    if unknown:
        raise UserError(f"recipe {path}, shared: no stage has a parameter {unknown[0]!r}")
    if references(dict(shared)):
        raise UserError(f"recipe {path}, shared: ${references(dict(shared))[0]} names a step; give it in the steps that come after that one")


def _check_references(path: str, name: str, value: Any, folders: Mapping[str, str]) -> None:
    later = [other for other in references(value) if other not in folders]
    if later:
        raise UserError(f"recipe {path}, {name}: ${later[0]} is no earlier step; those are {', '.join(folders) or 'none'}")


def _lines(path: str, name: str, given: Any) -> dict[str, Any]:
    "A part of a recipe; empty where it is not given."
    if given is not None and not isinstance(given, dict):
        raise UserError(f"recipe {path}, {name}: give `name: value` lines")
    return given or {}


def _plain(name: str) -> str:
    "A name in the form that a folder's name may contain."
    return re.sub(r"[^A-Za-z0-9]+", "_", str(name)).strip("_").lower()


def _add_step(recipe: Recipe, path: str, name: str, given: Mapping[str, Any], shared: Mapping[str, Any], folders: dict[str, str]) -> Step:
    "Add a step, whose folder later steps may name."
    if name in folders:
        raise UserError(
            f"recipe {path}: two steps would be called {name}; write benchmarks and policies by names that differ in ASCII letters and digits"
        )
    stage = str(given.get("stage"))
    params_class = stage_params(stage)
    if params_class is None:
        raise UserError(f"recipe {path}, step {name}: stage {stage!r} is none of {', '.join(STAGES)}")
    _check_references(path, f"step {name}", dict(given), folders)
    files = given.get("files") or []
    if not isinstance(files, list):
        raise UserError(f"recipe {path}, step {name}: files is {files!r}; give a list, such as [{files}]")
    known = parameter_fields(params_class)
    values = read_parameters(params_class, [resolve(file) for file in files], [])
    values |= {key: value for key, value in shared.items() if key in known}
    values |= filled({key: value for key, value in given.items() if key not in STEP_KEYS}, folders)
    try:
        params = from_mapping(params_class, {**values, "run_name": f"{recipe.name}-{name}"})
    except UserError as e:
        raise UserError(f"recipe {path}, step {name}: {e}") from e
    step = Step(name, stage, params)
    recipe.steps.append(step)
    folders[name] = f"{params.outputs_dir}/{stage}/{params.run_name}"
    return step


def changes(step: Step) -> list[str]:
    "Why the finished run of a step is not the run that the recipe asks for: parameters, or files that it read and that have changed."
    manifest = read_manifest(step.folder)
    earlier, wanted = manifest["parameters"], to_mapping(step.params)
    problems = [
        f"{name} was {earlier.get(name)!r}, now {value!r}" for name, value in wanted.items() if value != earlier.get(name) and name != "resume"
    ]
    for role, entry in manifest["inputs"].items():
        file = resolve(entry["path"])
        if file.is_file() and sha256(file) != entry["sha256"]:
            problems.append(f"its input {role} ({entry['path']}) has changed since")
    return problems


@command(
    "recipe",
    "vtg-r1 recipe configs/recipe_toy.yaml",
    "vtg-r1 recipe configs/recipe_7b.yaml --dry-run",
    "vtg-r1 recipe configs/recipe_7b.yaml        # the same command goes on after a kill",
    fails="a stage failed, stderr names it; or a dry run found a problem",
)
def recipe_command(
    file: Annotated[str, Argument(metavar="FILE", help="a recipe, such as configs/recipe_toy.yaml")],
    dry_run: Annotated[bool, Option("--dry-run", help="list what would stop any of the stages; nothing is decoded or trained")] = False,
    as_json: AsJson = False,
) -> int:
    """Run the stages of a recipe one after another, each as an ordinary run (vtg-r1 run). A finished stage is kept, an interrupted one goes on. The last
    thing printed is a table: answers that see no frame, base, cold start and RL on the same queries, with intervals and paired tests."""
    recipe = read_recipe(file)
    if dry_run:
        return _dry_run(recipe, as_json)
    for step in recipe.steps:
        _run_step(step)
    return _finish(recipe, as_json)


def _dry_run(recipe: Recipe, as_json: bool) -> int:
    from ..train.preflight import preflight

    made: dict[str, str] = {}
    rows: list[dict[str, Any]] = []
    for step in recipe.steps:
        if run_state(step.folder) == "finished":
            lines = [("run", f"{step.folder}: finished, it is kept", False), *(("run", text, True) for text in changes(step))]
        else:
            given = to_mapping(step.params)
            given |= {"resume": True} if "resume" in given else {"run_name": ""}  # as `_run_step`, which removes what cannot be resumed
            lines = preflight(from_mapping(type(step.params), given), made).lines
            made[str(step.folder)] = step.name
        rows += [{"step": step.name, "what": what, "text": text, "problem": problem} for what, text, problem in lines]
    train = resolve(recipe.train_annotations)
    if recipe.train_annotations and not train.exists() and not any(train.is_relative_to(folder) for folder in made):
        text = f"train_annotations {recipe.train_annotations!r}: no such file (looked at {train})"
        rows.append({"step": "measure", "what": "train_annotations", "text": text, "problem": True})
    count = len({row["text"] for row in rows if row["problem"]})
    if as_json:
        print_json(rows)
    else:
        for step in recipe.steps:
            print(f"{step.name} ({step.notebook})")
            _print_rows([row for row in rows if row["step"] == step.name])
        _print_rows([row for row in rows if row["step"] == "measure"])
        print(f"{count} problem{'s' * (count != 1)} in {len(recipe.steps)} steps; nothing was decoded or trained")
    return int(count > 0)


def _print_rows(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        print(f"  {'problem' if row['problem'] else 'ok':<9}{row['what']:<18}{row['text']}")


def _run_step(step: Step) -> None:
    "Run a step, unless it is finished."
    folder = step.folder
    until = time.monotonic() + WAIT
    while running(folder) and time.monotonic() < until:
        time.sleep(1)
    state = run_state(folder)
    if state == "finished":
        different = changes(step)
        if different:
            raise RunError(
                f"{folder} is finished, and not what the recipe asks for: {'; '.join(different)}. Remove it, or give the recipe another name"
            )
        print(f"{step.name}: finished, it is kept ({folder})", file=sys.stderr)
        return
    given = to_mapping(step.params)
    if "resume" in given:
        given["resume"] = True
    elif state in ("failed", "interrupted"):
        print(f"{step.name}: {folder} is {state}; it is made again from what {step.stage} keeps outside its run folder", file=sys.stderr)
        shutil.rmtree(folder)
    print(f"{step.name}: {step.notebook}", file=sys.stderr)
    with contextlib.redirect_stdout(sys.stderr):  # stdout gets the table alone
        run_stage(step.notebook, given, as_json=False)


def compare_policies(recipe: Recipe) -> dict[str, BesideBlind]:
    "The policies of a finished recipe on each benchmark, beside answers that see no frame."
    from ..train.stage_data import benchmark_queries

    train = load_samples(resolve(recipe.train_annotations)) if recipe.train_annotations else None
    results = {}
    for benchmark, steps in recipe.benchmarks.items():
        params: Any = next(iter(steps.values())).params
        samples = benchmark_queries(params)[0][: params.eval_limit or None]
        answers = {policy: read_predictions(step.folder / "predictions.jsonl", samples) for policy, step in steps.items()}
        beside = beside_blind(samples, answers, train, params.seed, params.benchmark in COUNTS_ABOVE)
        if beside:
            results[benchmark] = beside
    return results


def _finish(recipe: Recipe, as_json: bool) -> int:
    "Write and print the table."
    try:
        results = compare_policies(recipe)
    except (SampleError, OSError) as e:
        raise UserError(e) from e
    folder = resolve(recipe.outputs) / "recipes" / recipe.name
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for benchmark, beside in results.items():
        rows = beside.rows()
        table = markdown_table(list(rows[0]), [list(row.values()) for row in rows])
        parts.append(f"## {benchmark}\n\n{table}\n\n{beside.sentence()}\n")
    with atomic_write(folder / "table.md") as f:
        f.write("\n".join(parts))
    numbers = {benchmark: beside.metrics({policy: f"{policy}/" for policy in beside.policies}) for benchmark, beside in results.items()}
    write_json(folder / "table.json", numbers)
    if as_json:
        print_json({"table": str(folder / "table.md"), "results": numbers})
    else:
        print("\n".join(parts))
        print(folder / "table.md")
    return 0


@command(
    "runs",
    "vtg-r1 runs",
    "vtg-r1 runs grpo --json",
    "vtg-r1 runs grpo --newest      # the folder of the newest finished one; unfinished ones are named on stderr",
)
def runs_command(
    stage: Annotated[str, Argument(metavar="[STAGE]", help=f"one of {', '.join(STAGES)}; all by default")] = "",
    newest: Annotated[bool, Option("--newest", help="print the folder of the newest finished run of the stage")] = False,
    outputs: Annotated[str, Option(metavar="DIR", help="folder of all runs")] = "outputs",
    as_json: AsJson = False,
) -> int:
    "List runs: state, scores and age, the newest last."
    if stage and stage not in STAGES:
        raise UserError(f"{stage!r} is none of {', '.join(STAGES)}")
    if newest:
        if not stage:
            raise UserError("--newest needs a stage, such as grpo")
        folder, passed_over = newest_run(stage, outputs)
        print("".join(f"{sentence}\n" for sentence in passed_over), end="", file=sys.stderr)
        if as_json:
            print_json({"folder": str(folder)})
        else:
            print(folder)
        return 0
    rows = list_runs(outputs, [stage] if stage else list(STAGES))
    if as_json:
        print_json(rows)
        return 0
    for row in rows:
        score = " → ".join(f"{row['mIoU'][when]:.1f}" for when in ("initial", "final") if when in row["mIoU"])
        print(f"{row['state']:<12}{row['stage'] + '/' + row['run']:<44}{'mIoU ' + score if score else '':<20}{row['age']}")
    if not rows:
        print(f"{resolve(outputs)}: no runs", file=sys.stderr)
    return 0


def list_runs(outputs: str, stages: list[str]) -> list[dict[str, Any]]:
    "A row for each run, in the order in which they began."
    rows = []
    for stage in stages:
        for manifest_file in (resolve(outputs) / stage).glob("*/manifest.json"):
            folder = manifest_file.parent
            manifest = read_manifest(folder)
            row = {"stage": stage, "run": folder.name, "state": run_state(folder) or "not readable", "started": manifest.get("started")}
            rows.append({**row, "age": _age(manifest.get("started")), "mIoU": _scores(folder), "folder": str(folder)})
    return sorted(rows, key=lambda row: str(row["started"]))


def _scores(folder: Path) -> dict[str, float]:
    "The run's mIoU before and after, where it has them."
    try:
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    names = {"before/mIoU": "initial", "after/mIoU": "final", "initial/mIoU": "initial", "final/mIoU": "final"}  # the first two are of version 0.1
    scores = {when: metrics[name] for name, when in names.items() if name in metrics}
    return scores or ({"final": metrics["mIoU"]} if "mIoU" in metrics else {})


def _age(started: Any) -> str:
    "How long ago, in the largest unit."
    try:
        seconds = (datetime.now(UTC) - datetime.fromisoformat(str(started))).total_seconds()
    except (TypeError, ValueError):
        return ""
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}{'s' * (count != 1)} ago"
    return "just now"
