"`vtg-r1 run NOTEBOOK`: execute a stage notebook into its run folder."

import importlib
import json
from typing import Annotated, Any

from typer import Argument, Option

from ..core.atomic_files import DiskFull
from ..core.runtime import UserError, shown_path
from ..runs.execute import run_notebook, stage_name, stage_notebook
from ..runs.parameters import STAGES, RunParams, from_mapping, help_text, parameter_fields, read_parameters
from ..runs.run import read_manifest, refuse_secrets
from .common import AsJson, CommandFailed, command, first_line, print_json

Pairs = Annotated[list[str], Option("-p", "--parameter", metavar="NAME VALUE", help="set a parameter, NAME=VALUE will do; the value is YAML")]
ParameterFiles = Annotated[list[str], Option("-f", "--file", metavar="FILE", help="YAML file of parameters; later files and -p win")]

DRY_RUN_HELP = (
    "list what would stop the stage: model, context, memory, launch, data, hours; nothing is decoded or trained, exit code 1 with a problem"
)


@command(
    "run",
    "vtg-r1 run nbs/05_grpo.ipynb -f configs/toy.yaml",
    "vtg-r1 run nbs/05_grpo.ipynb -f configs/own_data.yaml -p model Qwen/Qwen2.5-VL-3B-Instruct -p dataset csv -p annotations mine.csv -p video_root my_videos",
    "vtg-r1 run nbs/05_grpo.ipynb -f configs/toy.yaml -p steps 200 -p seed 1 -p run_name mine",
    "vtg-r1 run nbs/05_grpo.ipynb -f configs/toy.yaml -p steps 200 -p seed 1 -p run_name mine -p resume true   # go on where it was killed",
    "vtg-r1 run nbs/05_grpo.ipynb --parameters                                                                 # what they are called and mean",
    "vtg-r1 run nbs/05_grpo.ipynb -f configs/paper_7b.yaml -p annotations rl.jsonl -p video_root videos --dry-run                # what would stop it",
    fails="a cell failed, stderr names it; the executed notebook holds the rest; or a dry run found a problem",
)
def run_command(
    notebook: Annotated[str, Argument(metavar="NOTEBOOK", help="e.g. nbs/05_grpo.ipynb")],
    pairs: Pairs = [],
    files: ParameterFiles = [],
    parameters: Annotated[bool, Option("--parameters", help="print the stage's parameters and the paper's values; run nothing")] = False,
    dry_run: Annotated[bool, Option("--dry-run", help=DRY_RUN_HELP)] = False,
    as_json: AsJson = False,
) -> int:
    """Execute a stage notebook with parameters. Papermill writes it into outputs/<stage>/<run>/; the command prints that folder. Relative paths among
    the parameters count from the project's root."""
    stage = stage_name(stage_notebook(notebook))
    params_class = stage_params(stage)
    if parameters:
        if params_class is None:
            raise UserError(f"{notebook}: only a stage lists its parameters; the stages are {', '.join(STAGES)}")
        print(help_text(params_class))
        return 0
    given = read_given(stage, files, pairs)
    if dry_run:
        if params_class is None:
            raise UserError(f"{notebook}: only a stage has a dry run; the stages are {', '.join(STAGES)}")
        from ..train.preflight import preflight

        report = preflight(from_mapping(params_class, given))
        if as_json:
            print_json([{"what": what, "text": text, "problem": problem} for what, text, problem in report.lines])
        else:
            print(report.text())
        return int(bool(report.problems))
    return run_stage(notebook, given, as_json)


def stage_params(stage: str) -> type[RunParams] | None:
    "The class of a stage's parameters; None for a notebook that is not a stage."
    if stage not in STAGES:
        return None
    module = importlib.import_module(f"vtg_r1.{stage}")
    classes = [value for value in vars(module).values() if isinstance(value, type) and issubclass(value, RunParams) and value.stage == stage]
    return next(iter(classes), None)


def read_given(stage: str, files: list[str], pairs: list[str]) -> dict[str, Any]:
    "The parameters of -f and -p; those of a stage are checked by name."
    split = [(name, value) for name, _, value in (pair.partition("=") for pair in pairs)]
    return read_parameters(stage_params(stage), files, split)


def run_stage(notebook: str, given: dict[str, Any], as_json: bool) -> int:
    "Run a stage notebook and print its run folder."
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    params_class = stage_params(stage_name(notebook))
    if params_class and "model" in parameter_fields(params_class):
        from ..train.checks import refuse_toy_values

        refuse_secrets(given)
        refuse_toy_values(from_mapping(params_class, given))
    try:
        folder = run_notebook(notebook, given, params_class)
    except DiskFull as e:
        raise UserError(e) from e
    except PapermillExecutionError as e:
        raise CommandFailed(f"{notebook}, cell {e.exec_count}: {e.ename}: {e.evalue}") from e
    except DeadKernelError as e:
        raise CommandFailed(f"{notebook}: its kernel died ({first_line(e)}); it was killed from outside, or memory ran out") from e
    if not as_json:
        print(shown_path(folder))
        return 0
    metrics: dict[str, Any] = {}
    if (folder / "metrics.json").exists():
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    print_json({"run": str(folder), "status": read_manifest(folder).get("status"), "metrics": metrics})
    return 0
