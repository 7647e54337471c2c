"""The command line, `vtg-r1`. Progress goes to stderr, results to stdout; exit code 0 is success, 1 a failed run, 2 bad input."""

import argparse
import sys


class UserError(Exception):
    "Bad input: shown as one clear line, exit code 2."


def build_parser() -> argparse.ArgumentParser:
    "The parser with one function a subcommand; each sets `handler`, a function of the parsed arguments that returns an exit code."
    parser = argparse.ArgumentParser(prog="vtg-r1", description="Teach video models to say when.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_run(commands)
    add_score(commands)
    add_data(commands)
    add_push(commands)
    return parser


def add_run(commands) -> None:
    "`vtg-r1 run NOTEBOOK`: execute a stage notebook into its run folder."
    p = commands.add_parser(
        "run",
        help="execute a stage notebook with parameters",
        description="Execute a stage notebook with papermill into outputs/<stage>/<run>/. Prints the run folder; exit code 1 if a cell fails, 2 for bad input.",
        epilog="example: vtg-r1 run nbs/05_grpo.ipynb -p steps 200 -p seed 1 -f configs/toy.yaml",
    )
    p.add_argument("notebook", help="e.g. nbs/05_grpo.ipynb")
    p.add_argument("-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="set one parameter; the value is read as YAML")
    p.add_argument("-f", "--file", action="append", default=[], metavar="FILE", help="YAML file of parameters; later files and -p win")
    p.set_defaults(handler=run)


def run(args) -> int:
    "Handler of `vtg-r1 run`."
    from papermill.exceptions import PapermillExecutionError

    from .runs import RunError, run_notebook, stage_name

    try:
        print(run_notebook(args.notebook, given_parameters(args, stage_name(args.notebook))))
    except RunError as e:
        raise UserError(e) from e
    except PapermillExecutionError as e:
        print(f"vtg-r1 run: {args.notebook}, cell {e.exec_count}: {e.ename}: {e.evalue}", file=sys.stderr)
        return 1
    return 0


STAGES = ("curation", "rewards", "sft", "difficulty", "grpo", "ablations", "benchmarks")


def given_parameters(args, stage: str) -> dict:
    "Parameters of -f files and -p pairs, in that order. Of a file in parts, one a stage, the stage's."
    found: dict = {}
    for name in args.file:
        content = _read_yaml(name)
        parts = content and set(content) <= set(STAGES)
        if parts and stage not in content:
            raise UserError(f"parameter file {name}: has parts for {', '.join(content)}, none for {stage}")
        found |= {key: _number(value) for key, value in ((content[stage] or {}) if parts else content).items()}
    return found | {name: _value(text) for name, text in args.parameter}


def _read_yaml(name: str) -> dict:
    import yaml

    try:
        with open(name, encoding="utf-8") as f:
            content = yaml.safe_load(f)
    except (OSError, yaml.YAMLError) as e:
        raise UserError(f"parameter file {name}: {e}") from e
    if not isinstance(content, dict):
        raise UserError(f"parameter file {name}: must hold `name: value` lines, holds {type(content).__name__}")
    return content


def _value(text: str):
    "A command-line value as YAML reads it; what YAML cannot read is text."
    import yaml

    try:
        return _number(yaml.safe_load(text)) if text else ""
    except yaml.YAMLError:
        return text


def _number(value):
    "YAML reads `1e-6` as text; a parameter means the number."
    try:
        return float(value) if isinstance(value, str) and "e" in value.lower() else value
    except ValueError:
        return value


def add_score(commands) -> None:
    "`vtg-r1 score`: the official metrics of a prediction file."
    from .benchmarks import BENCHMARKS, MISSING
    from .prompts import READINGS
    score = commands.add_parser("score", help="the official metrics of a prediction file")
    score.add_argument("--benchmark", required=True, choices=BENCHMARKS, metavar="NAME", help=", ".join(BENCHMARKS))
    score.add_argument("--annotations", required=True, metavar="PATH", help="the official file; for nextgqa the folder with test.csv and gsub_test.json")
    score.add_argument("--predictions", required=True, metavar="FILE", help='JSON lines {"qid", "pred": [[start, end], …] | null, "response", "answer"}; pred wins over response')
    score.add_argument("--reading", choices=READINGS, default="strict", help="how responses are read; lenient takes numbers from anywhere, as published evaluators do")
    score.add_argument("--missing", choices=MISSING, default="zero", help="queries without a row count as 0, or are left out as NExT-GQA's script does")
    score.add_argument("--json", metavar="FILE", help="write the metrics there as well")
    score.set_defaults(handler=_score)


def _score(args) -> int:
    import json
    from pathlib import Path

    from .benchmarks import PredictionError, load_benchmark, read_predictions, score
    from .samples import SampleError
    try:
        samples, report = load_benchmark(args.benchmark, args.annotations)
        predictions = read_predictions(args.predictions, [s.qid for s in samples], args.reading)
        metrics = score(args.benchmark, samples, predictions, args.missing)
        if args.json: Path(args.json).write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    except (SampleError, PredictionError, OSError) as e:
        raise UserError(str(e)) from None
    past_end = report.before["past_end"]
    print(f"{args.annotations}: {len(samples)} queries, spans as published" + (f" ({past_end} end past their video)" if past_end else ""), file=sys.stderr)
    if metrics["missing"]: print(f"{args.predictions}: {metrics['missing']} queries have no prediction ({args.missing})", file=sys.stderr)
    if "Acc@QA" in metrics and not any(p.answer for p in predictions.values()): print(f"{args.predictions}: no row has an answer, so accuracies are 0", file=sys.stderr)
    for name, value in metrics.items(): print(f"{name:8s} {value:8d}" if isinstance(value, int) else f"{name:8s} {value:8.2f}")
    return 0


def add_data(commands) -> None:
    "`vtg-r1 data check`: what an annotation file holds, and what reading it does."
    from .datasets import POLICIES, READERS
    actions = commands.add_parser("data", help="look at annotation files").add_subparsers(dest="action", required=True, metavar="ACTION")
    check = actions.add_parser("check", help="count what is odd in a published annotation file")
    check.add_argument("--dataset", required=True, choices=READERS, metavar="NAME", help=", ".join(READERS))
    check.add_argument("--annotations", required=True, metavar="PATH", help="the file; for nextgqa (and QuerYD's release) the folder")
    check.add_argument("--split", help="default: what the file name says; test for the NExT-GQA folder")
    check.add_argument("--videos", metavar="DIR", help="open every video below this folder")
    check.add_argument("--workers", type=int, default=2, help="processes that open videos (default 2)")
    check.add_argument("--durations", metavar="PATH", help="JSON with durations by video id, for formats that have none")
    check.add_argument("--columns", metavar="FIELD=COLUMN,…", help="csv and jsonl: query=caption,start=from,…")
    check.add_argument("--against", action="append", default=[], metavar="NAME=PATH", help="a benchmark's test annotations: report what is shared with it (repeatable)")
    check.add_argument("--json", action="store_true", help="print the whole report as JSON")
    for name, choices in POLICIES.items():
        check.add_argument(f"--{name.replace('_', '-')}", choices=choices, default=choices[0], help=f"default {choices[0]}")
    check.set_defaults(handler=_data_check)


def _pairs(text: str, option: str) -> dict[str, str]:
    "`a=b,c=d` as a dict."
    pairs = [p.split("=", 1) for p in text.split(",")]
    if any(len(p) != 2 or not all(p) for p in pairs):
        raise UserError(f"{option} {text!r}: write FIELD=COLUMN, several separated by commas")
    return dict(pairs)


def _data_check(args) -> int:
    import json

    from .datasets import POLICIES
    from .quality import check, overlap_guard, quality_text
    from .samples import SampleError
    options = {"columns": _pairs(args.columns, "--columns")} if args.columns else {}
    if options and args.dataset not in ("csv", "jsonl"):
        raise UserError(f"--columns is for csv and jsonl, not for {args.dataset}")
    policies = {name: getattr(args, name) for name in POLICIES}
    try:
        against = [(*next(iter(_pairs(a, "--against").items())), None) for a in args.against]
        guard = overlap_guard(against) if against else None
        report, found = check(args.dataset, args.annotations, args.split, args.videos, args.workers, guard, args.durations, **policies, **options)
    except (SampleError, OSError) as e:
        raise UserError(str(e)) from None
    print(json.dumps(found) if args.json else quality_text(found, report))
    return 0


def add_push(commands) -> None:
    "`vtg-r1 push`: a finished run to the Hugging Face Hub."
    p = commands.add_parser("push", help="share a finished run on the Hugging Face Hub", description="Upload a run's model (safetensors) or data with a card made from its manifest.")
    p.add_argument("run", metavar="RUN_FOLDER", help="e.g. outputs/grpo/mine")
    p.add_argument("repo", metavar="OWNER/NAME", help="repository; made where it is missing")
    p.add_argument("--public", action="store_true", help="make a new repository public; private otherwise")
    p.add_argument("--dry-run", action="store_true", help="show exactly what would go, send nothing")
    p.set_defaults(handler=_push)


def _push(args) -> int:
    from httpx import HTTPError
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    from .runs import RunError, resolve
    from .sharing import push
    try:
        report = push(resolve(args.run), args.repo, not args.public, args.dry_run)
    except RunError as e:
        raise UserError(e) from None
    except (HTTPError, HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled) as e:
        print(f"vtg-r1 push: the hub did not take it ({type(e).__name__}: {e}); nothing of the run has changed", file=sys.stderr)
        return 1
    if args.dry_run: print(report["card"] + "\n")
    for name, size in report["files"].items(): print(f"{size:>14,d}  {name}")
    for name in report["left"]: print(f"{'stays':>14s}  {name}")
    print(report["url"] or f"dry run: {len(report['files'])} files, {sum(report['files'].values()):,d} bytes would go to {report['kind']} {args.repo}")
    return 0


def main(argv: list[str] | None = None) -> int:
    "Run one command; the console script's entry point."
    args = build_parser().parse_args(argv)
    try:
        return args.handler(args)
    except UserError as e:
        print(f"vtg-r1 {args.command}: {e}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
