"`vtg-r1 score`: the official metrics of a prediction file."

import os
import sys
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from typer import Option

from ..core.runtime import UserError
from ..data.official_benchmarks import BENCHMARKS, OWN
from .common import AsJson, Columns, column_options, command, one_of, print_json


NAMES = (*BENCHMARKS, *OWN)
PREDICTIONS = 'JSON lines {"qid", "pred": [[start, end], …] or null, "response", "answer"}; pred wins over response'


@command(
    "score",
    "vtg-r1 score --benchmark charades_sta --annotations charades_sta_test.txt --predictions predictions.jsonl",
    "vtg-r1 score --benchmark samples --annotations heldout.jsonl --predictions outputs/grpo/mine/predictions.jsonl --json",
    "vtg-r1 score --benchmark csv --annotations mine.csv --predictions outputs/grpo/mine/predictions.jsonl --missing skip",
)
def score_command(
    benchmark: Annotated[str, Option(metavar="NAME", callback=one_of(NAMES), help=f"{', '.join(BENCHMARKS)}; for own data {', '.join(OWN)}")],
    annotations: Annotated[str, Option(metavar="PATH", help="the file; for nextgqa the folder with test.csv and gsub_test.json")],
    predictions: Annotated[str, Option(metavar="FILE", help=PREDICTIONS)],
    columns: Columns = None,
    reading: Annotated[Literal["strict", "lenient"], Option(help="lenient reads spans as published evaluators do")] = "strict",
    missing: Annotated[Literal["zero", "skip"], Option(help="a query without a row counts as 0, or is left out as NExT-GQA does")] = "zero",
    as_json: AsJson = False,
) -> int:
    """Compute the official metrics of a prediction file: mIoU, R1@m, and the other metrics that a benchmark reports. Own data is scored as samples
    (JSON lines of this project), csv or jsonl."""
    from ..core.samples import SampleError
    from ..data.official_benchmarks import PredictionError, load_benchmark, read_predictions, score

    if os.path.isdir(predictions):
        raise UserError(f"--predictions {predictions}: is a folder; a run's answers are in {os.path.join(predictions, 'predictions.jsonl')}")
    try:
        samples, report = load_benchmark(benchmark, annotations, **column_options(columns, benchmark))
        rows = read_predictions(predictions, [sample.qid for sample in samples], reading)
    except (SampleError, PredictionError, OSError) as e:
        raise UserError(e) from None
    metrics = score(benchmark, samples, rows, missing)
    notes = [f"{annotations}: {len(samples)} queries, spans as published"]
    if report.before["past_end"]:
        notes[0] += f" ({report.before['past_end']} end past their video)"
    if metrics["missing"]:
        notes.append(f"{predictions}: {metrics['missing']} queries have no prediction ({missing})")
    notes += [f"{predictions}: {problem}" for problem in _problems(rows)]
    if "Acc@QA" in metrics and not any(row.answer for row in rows.values()):
        notes.append(f"{predictions}: no row has an answer, so accuracies are 0")
    print("\n".join(notes), file=sys.stderr)
    if as_json:
        print_json(metrics)
        return 0
    for name, value in metrics.items():
        digits = 0 if isinstance(value, int) else 2
        print(f"{name:8s} {value:8.{digits}f}")
    return 0


def _problems(predictions: Mapping[str, Any]) -> list[str]:
    "Predictions that overlap nothing: what is wrong with them, and how many they are."
    first = [row.spans[0] for row in predictions.values() if row.spans]
    counts = {
        "give no span (null, or a response in which none can be read)": len(predictions) - len(first),
        "give a span that ends at its start or before": sum(end <= start for start, end in first),
    }
    return [f"{count} of {len(predictions)} rows {problem}, and count as misses" for problem, count in counts.items() if count]
