"""The command line, `vtg-r1`. Progress goes to stderr, results to stdout; exit code 0 is success, 1 a failed run, 2 bad input."""

import argparse
import sys


class UserError(Exception):
    "Bad input: shown as one clear line, exit code 2."


def build_parser() -> argparse.ArgumentParser:
    "The parser with one function a subcommand; each sets `handler`, a function of the parsed arguments that returns an exit code."
    parser = argparse.ArgumentParser(prog="vtg-r1", description="Teach video models to say when.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_score(commands)
    return parser


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
