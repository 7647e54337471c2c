"`vtg-r1 score`: the official metrics of a prediction file."

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import BadParameter, Option

from ..core.prompts import READINGS, check_reading
from ..core.runtime import UserError
from ..data.official_benchmarks import BENCHMARKS, OTHERS, OWN
from ..data.predictions import FORMS, SUBMISSIONS
from ..data.protocol import CONVENTIONS
from .common import AsJson, Columns, column_options, command, one_of, print_json

if TYPE_CHECKING:
    from ..core.samples import Sample
    from ..data.predictions import Prediction, PredictionFile
    from ..data.protocol import Convention

NAMES = (*BENCHMARKS, *OWN, *OTHERS)
PREDICTIONS = (
    'JSON lines {"qid", "pred": [[start, end], …] or null, "response", "answer"}, pred wins over response; or a file of '
    f"{', '.join(dict.fromkeys(form.owner for form in FORMS.values()))}. Repeat it for parts of one set"
)


def _one_reading(value: str | None) -> str | None:
    if value is not None:
        try:
            check_reading(value)
        except ValueError as e:
            raise BadParameter(str(e)) from None
    return value


@command(
    "score",
    "vtg-r1 score --benchmark charades_sta --annotations charades_sta_test.txt --predictions predictions.jsonl",
    "vtg-r1 score --benchmark samples --annotations heldout.jsonl --predictions outputs/grpo/mine/predictions.jsonl --json",
    "vtg-r1 score --benchmark csv --annotations mine.csv --predictions outputs/grpo/mine/predictions.jsonl --missing skip",
    "vtg-r1 score --benchmark charades_sta --annotations charades_sta_test.txt --predictions tg_0_1.jsonl --explain",
    "vtg-r1 score --benchmark qvhighlights --annotations highlight_test_release.jsonl --predictions mine.jsonl --submission hl_test_submission.jsonl",
)
def score_command(
    benchmark: Annotated[
        str,
        Option(
            metavar="NAME",
            callback=one_of(NAMES),
            help=f"{', '.join(BENCHMARKS)}; for own data {', '.join(OWN)}; or other annotations: {', '.join(OTHERS)}",
        ),
    ],
    annotations: Annotated[str, Option(metavar="PATH", help="the file; for nextgqa the folder with test.csv and gsub_test.json")],
    predictions: Annotated[list[str], Option(metavar="FILE", help=PREDICTIONS)],
    columns: Columns = None,
    reading: Annotated[
        str | None,
        Option(
            metavar="NAME",
            callback=_one_reading,
            help=f"read every response by this convention: {', '.join(READINGS)}; default: stated spans, else the form's own",
        ),
    ] = None,
    missing: Annotated[Literal["zero", "skip"], Option(help="a query without a row counts as 0, or is left out as NExT-GQA does")] = "zero",
    submission: Annotated[str | None, Option(metavar="FILE", help=f"also write the file to upload, for {', '.join(SUBMISSIONS)}")] = None,
    explain: Annotated[bool, Option("--explain", help="show which part of the difference between two conventions each cause makes")] = False,
    between: Annotated[
        str | None,
        Option(metavar="A,B", help=f"for --explain, two of {', '.join(CONVENTIONS)}; default: ours, and that of the project whose file it is"),
    ] = None,
    other_annotations: Annotated[str | None, Option(metavar="PATH", help="for --explain, a second label file that B is scored with")] = None,
    as_json: AsJson = False,
) -> int:
    """Compute the official metrics of a prediction file: mIoU, R1@m, and the other metrics that a benchmark reports. Own data is scored as samples
    (JSON lines of this project), csv or jsonl. Files of other projects are recognised by their shape. The last line, the protocol, says what the
    numbers depend on: compare numbers of equal hash only."""
    from ..core.samples import SampleError
    from ..data.official_benchmarks import load_benchmark, load_queries, score
    from ..data.predictions import PredictionError, read_prediction_file, write_submission
    from ..data.protocol import protocol_of

    if (between or other_annotations) and not explain:
        raise UserError("--between and --other-annotations are for --explain")
    for file in filter(os.path.isdir, predictions):
        raise UserError(f"--predictions {file}: is a folder; a run's answers are in {os.path.join(file, 'predictions.jsonl')}")
    options, report = column_options(columns, benchmark), None
    try:
        try:
            samples, report = load_benchmark(benchmark, annotations, **options)
        except SampleError as e:
            if e.reason != "labels_withheld" or not submission:
                raise
            samples = load_queries(benchmark, annotations)  # hidden labels: nothing to score, but a file to upload
        answers = read_prediction_file(predictions, samples)
        rows = answers.predictions(reading)
        if missing == "skip":
            rows = {qid: row for qid, row in rows.items() if qid not in answers.ungrounded}
            if not rows:
                raise PredictionError(f"{predictions[0]}: no row gives a span, so --missing skip has nothing to score")
        if submission:
            count = write_submission(submission, benchmark, samples, rows)
            empty = sum(s.qid not in rows or not rows[s.qid].spans for s in samples)
            print(f"{submission}: {count} queries, {empty} of them without a span; {SUBMISSIONS[benchmark]}", file=sys.stderr)
        if report is None:
            print(f"{annotations}: labels are withheld, so nothing is scored", file=sys.stderr)
            return 0
        result = None
        if explain:
            result = _explanation(benchmark, samples, answers, between, other_annotations, options)
    except (SampleError, PredictionError, OSError) as e:
        raise UserError(e) from None
    metrics = score(benchmark, samples, rows, missing)
    protocol = protocol_of(benchmark, annotations, len(samples), answers, reading, missing)
    notes = [f"{annotations}: {len(samples)} queries, spans as published"]
    if report.before["past_end"]:
        notes[0] += f" ({report.before['past_end']} end past their video)"
    name = ", ".join(predictions)
    notes += [f"{name}: {note}" for note in [*_recognised(answers, reading), *_problems(rows, samples, missing)]]
    if "Acc@QA" in metrics and not any(row.answer for row in rows.values()):
        notes.append(f"{name}: no row has an answer, so accuracies are 0")
    print("\n".join(notes), file=sys.stderr)
    if as_json:
        document = {**metrics, "protocol": protocol.to_dict()}
        if result:
            document["explanation"] = result
        print_json(document)
        return 0
    for metric, value in metrics.items():
        digits = 0 if isinstance(value, int) else 2
        print(f"{metric:10s} {value:8.{digits}f}")
    if result:
        _print_explanation(result)
    print(f"protocol {protocol.hash}: {protocol.line}")
    return 0


def _recognised(file: "PredictionFile", reading: str | None) -> list[str]:
    "What the file is, and how its rows found their queries."
    form = FORMS[file.form]
    ways = ", ".join(f"{count} by {way}" for way, count in file.ways.items())
    notes = [f"form of {form.owner}: {form.what}; {len(file.rows)} rows, queries found: {ways}"]
    rules = file.rules(reading)
    if rules:
        counts = ", ".join(f"{rule} {count}" for rule, count in rules.items())
        notes.append(f"responses read by the rules of auto: {counts}; an ambiguous or unreadable one is a miss")
    if file.passed_over:
        notes.append(f"{file.passed_over} rows are about questions without a truth, and are passed over as {form.owner} does")
    if file.ungrounded:
        notes.append(f"{len(file.ungrounded)} questions have an option and no span")
    if file.other_truths:
        notes.append(f"{file.other_truths} rows repeat another truth than the annotations have: another label file? --explain shows what that makes")
    ends = [end for row in file.rows.values() if not row.shares for _, end in row.spans or []]
    if ends and max(ends) <= 1 and min(row.duration for row in file.rows.values()) > 2:
        notes.append("every span ends before second 1: are these shares of the video? NExT-GQA's evaluator takes those from a file named *_gs.json")
    return notes


def _problems(predictions: "dict[str, Prediction]", samples: "Sequence[Sample]", missing: str) -> list[str]:
    "Queries without a row, and predictions that overlap nothing: what is wrong with them, and how many they are."
    without = [s.qid for s in samples if s.qid not in predictions]
    notes = []
    if without:
        notes.append(f"{len(without)} queries have no prediction ({missing}): {', '.join(without[:3])}{', …' * (len(without) > 3)}")
    first = [row.spans[0] for row in predictions.values() if row.spans]
    counts = {
        "give no span (null, or a response in which none can be read)": len(predictions) - len(first),
        "give a span that ends at its start or before": sum(end <= start for start, end in first),
    }
    return notes + [f"{count} of {len(predictions)} rows {problem}, and count as misses" for problem, count in counts.items() if count]


def _conventions(file: "PredictionFile", between: str | None) -> "tuple[list[str], list[Convention]]":
    "The names and settings of the two conventions."
    from ..data.protocol import own_convention

    names = (between or f"ours,{FORMS[file.form].convention}").split(",")
    if len(names) != 2:
        raise UserError(f"--between {between}: name two of {', '.join(CONVENTIONS)}, separated by a comma")
    for name in names:
        if name not in CONVENTIONS:
            raise UserError(f"--between {between}: {name!r} is none of {', '.join(CONVENTIONS)}")
    settings = {**CONVENTIONS, "ours": own_convention(file)}
    return names, [settings[name] for name in names]


def _explanation(
    benchmark: str,
    samples: "Sequence[Sample]",
    file: "PredictionFile",
    between: str | None,
    other_annotations: str | None,
    options: dict[str, Any],  # of `load_benchmark`
) -> dict[str, Any]:
    "The result of `protocol.explain`, with the names of the conventions."
    from dataclasses import replace

    from ..data.official_benchmarks import load_benchmark
    from ..data.protocol import explain, truths_of_other_file

    names, (first, second) = _conventions(file, between)
    other = None
    if other_annotations:
        others, _ = load_benchmark(benchmark, other_annotations, **options)
        other, second = truths_of_other_file(samples, others), replace(second, labels="other")
    return {"conventions": names, **explain(benchmark, samples, file, first, second, other)}


def _print_explanation(result: dict[str, Any]) -> None:
    "The parts as a table whose last line is their sum."
    metrics = list(result["difference"])
    first, second = result["conventions"]
    rows = {first: result["first"], **{f"  {part}": values for part, values in result["parts"].items()}, second: result["second"]}
    print(f"\n{'from ' + first + ' to ' + second:30s}" + "".join(f"{metric:>11s}" for metric in metrics))
    for name, values in rows.items():
        sign = "+" * name.startswith("  ")
        settings = " → ".join(map(str, result["differs"].get(name.strip(), [])))
        title = name + f" ({settings})" * bool(settings)
        print(f"{title:30s}" + "".join(f"{values[metric]:{sign}11.4f}" for metric in metrics))
    print(f"{'difference':30s}" + "".join(f"{result['difference'][metric]:+11.4f}" for metric in metrics))
    print("Each part is its mean effect over all orders of exchanging the conventions (Shapley values); the parts add up to the difference.\n")
