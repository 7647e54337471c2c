"`vtg-r1 score`: the official metrics of a prediction file."

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from typer import BadParameter, Option

from ..core.prompts import READINGS, check_reading
from ..core.runtime import UserError
from ..core.samples import Report, Sample, SampleError
from ..data.blind import BesideBlind, beside_blind, bracket
from ..data.official_benchmarks import BENCHMARKS, COUNTS_ABOVE, OTHERS, OWN, load_benchmark, load_queries, per_query, score
from ..data.predictions import FORMS, SUBMISSIONS, Prediction, PredictionError, PredictionFile, read_prediction_file, write_submission
from ..data.protocol import CONVENTIONS, Convention, Protocol, explain, own_convention, protocol_of, truths_of_other_file
from .common import AsJson, Columns, column_options, command, one_of, print_json

Predictions = dict[str, Prediction]  # by qid
NAMES = (*BENCHMARKS, *OWN, *OTHERS)
OWNERS = dict.fromkeys(owner for form in FORMS.values() for owner in form.owner.split(", ") if form.owner != "VTG-R1")
PREDICTIONS = (
    'JSON lines {"qid", "pred": [[start, end], …] or null, "response", "answer"}, pred wins over response; or a file of '
    f"{', '.join(OWNERS)}. Repeat it for parts of one set"
)


def _one_reading(value: str | None) -> str | None:
    if value is not None:
        try:
            check_reading(value)
        except ValueError as e:
            raise BadParameter(str(e)) from None
    return value


BENCHMARK_HELP = f"{', '.join(BENCHMARKS)}; for own data {', '.join(OWN)}; or other annotations: {', '.join(OTHERS)}"
READING_HELP = f"read every response by this convention: {', '.join(READINGS)}; default: stated spans, else the form's own"
TRAIN_HELP = "training annotations in the same format, for the dataset prior among the answers that see no frame"
AS_CONVERTED = "as in data convert"
BETWEEN_HELP = (
    f"for --explain, two of {', '.join(CONVENTIONS)}; default: ours, and that of the project whose file it is (tvg_r1 for files of this one)"
)


@command(
    "score",
    "vtg-r1 score --benchmark charades_sta --annotations charades_sta_test.txt --predictions predictions.jsonl",
    "vtg-r1 score --benchmark samples --annotations heldout.jsonl --predictions outputs/grpo/mine/predictions.jsonl --json",
    "vtg-r1 score --benchmark csv --annotations mine.csv --predictions outputs/grpo/mine/predictions.jsonl --missing skip",
    "vtg-r1 score --benchmark charades_sta --annotations charades_sta_test.txt --predictions tg_0_1.jsonl --explain",
    "vtg-r1 score --benchmark qvhighlights --annotations highlight_test_release.jsonl --predictions mine.jsonl --submission hl_test_submission.jsonl",
)
def score_command(
    benchmark: Annotated[str, Option(metavar="NAME", callback=one_of(NAMES), help=BENCHMARK_HELP)],
    annotations: Annotated[str, Option(metavar="PATH", help="the file; for nextgqa the folder with test.csv and gsub_test.json")],
    predictions: Annotated[list[str], Option(metavar="FILE", help=PREDICTIONS)],
    columns: Columns = None,
    reading: Annotated[str | None, Option(metavar="NAME", callback=_one_reading, help=READING_HELP)] = None,
    missing: Annotated[Literal["zero", "skip"], Option(help="a query without a row counts as 0, or is left out as NExT-GQA does")] = "zero",
    submission: Annotated[str | None, Option(metavar="FILE", help=f"also write the file to upload, for {', '.join(SUBMISSIONS)}")] = None,
    explain: Annotated[bool, Option("--explain", help="show which part of the difference between two conventions each cause makes")] = False,
    between: Annotated[str | None, Option(metavar="A,B", help=BETWEEN_HELP)] = None,
    other_annotations: Annotated[str | None, Option(metavar="PATH", help="for --explain, a second label file that B is scored with")] = None,
    train_annotations: Annotated[str | None, Option(metavar="PATH", help=TRAIN_HELP)] = None,
    worst: Annotated[int, Option(min=0, metavar="N", help="name so many of the worst answers")] = 3,
    inverted: Annotated[Literal["drop", "swap"] | None, Option(help=f"spans whose start is after their end; {AS_CONVERTED}")] = None,
    past_end: Annotated[Literal["clip", "drop", "keep"] | None, Option(help=f"spans that end after their video; {AS_CONVERTED}")] = None,
    repeated_query: Annotated[Literal["keep", "join"] | None, Option(help=f"a sentence in several rows of a video; {AS_CONVERTED}")] = None,
    absent: Annotated[Literal["drop", "keep"] | None, Option(help=f"sentences that are not in the video; {AS_CONVERTED}")] = None,
    as_json: AsJson = False,
) -> int:
    """Compute the official metrics of a prediction file: mIoU, R1@m, and the other metrics that a benchmark reports. Own data is scored as samples
    (JSON lines of this project), csv or jsonl. Files of other projects are recognised by their shape. The protocol line says what the numbers
    depend on: compare numbers of equal hash only. The last line has the score beside the best answer that sees no frame, with a paired test."""
    if (between or other_annotations) and not explain:
        raise UserError("--between and --other-annotations are for --explain")
    for file in predictions:
        if not os.path.exists(file):
            raise UserError(f"--predictions {file}: no such file")
    for file in filter(os.path.isdir, predictions):
        raise UserError(f"--predictions {file}: is a folder; a run's answers are in {os.path.join(file, 'predictions.jsonl')}")
    policies = {"inverted": inverted, "past_end": past_end, "repeated_query": repeated_query, "absent": absent}
    options, result = column_options(columns, benchmark), dict[str, Any]()
    options["policies"] = {name: value for name, value in policies.items() if value is not None}
    train: list[Sample] | None = None
    try:
        if train_annotations:
            train, _ = load_benchmark(benchmark, train_annotations, **options)
        samples, report = _queries(benchmark, annotations, options, labels=not submission)
        answers = read_prediction_file(predictions, samples)
        rows = _scored_rows(answers, reading, missing)
        if submission:
            _write_submission(submission, benchmark, samples, rows)
        if report is None:
            print(f"{annotations}: labels are withheld, so nothing is scored", file=sys.stderr)
            return 0
        if explain:
            result = _explanation(benchmark, samples, answers, between, other_annotations, options)
    except (SampleError, PredictionError, OSError) as e:
        raise UserError(e) from None
    metrics = score(benchmark, samples, rows, missing)
    scored = [s for s in samples if missing == "zero" or s.qid in rows]
    beside = beside_blind(scored, {"this file": rows}, train, above=benchmark in COUNTS_ABOVE)
    notes = [*_recognised(answers, reading), *_problems(rows, samples, missing, benchmark)]
    if "Acc@QA" in metrics and not any(row.answer for row in rows.values()):
        notes.append("no row has an answer, so accuracies are 0")
    notes += _worst(scored, rows, worst)
    protocol = protocol_of(benchmark, annotations, len(samples), answers, reading, missing, options["policies"])
    print(_of_labels(annotations, report, protocol.truths), *(f"{', '.join(predictions)}: {note}" for note in notes), sep="\n", file=sys.stderr)
    _print_scores(metrics, protocol, result, beside, as_json)
    return 0


def _queries(
    benchmark: str,
    annotations: str,
    options: dict[str, Any],  # of `load_benchmark`
    labels: bool,  # are needed
) -> tuple[list[Sample], Report | None]:
    "The queries of a benchmark, and their report; None where labels are withheld, and only a file to upload is to be written."
    try:
        return load_benchmark(benchmark, annotations, **options)
    except SampleError as e:
        if labels or e.reason != "labels_withheld":
            raise
    return load_queries(benchmark, annotations), None


def _scored_rows(file: PredictionFile, reading: str | None, missing: str) -> Predictions:
    "The rows that are scored. With `missing` skip, questions for which NExT-GQA's two files give no span are left out too."
    rows = file.predictions(reading)
    if missing == "skip":
        rows = {qid: row for qid, row in rows.items() if qid not in file.ungrounded}
    if not rows:
        raise PredictionError("no row gives a span, so --missing skip has nothing to score")
    return rows


def _write_submission(path: str, benchmark: str, samples: Sequence[Sample], rows: Predictions) -> None:
    count = write_submission(path, benchmark, samples, rows)
    empty = sum(s.qid not in rows or not rows[s.qid].spans for s in samples)
    print(f"{path}: {count} queries, {empty} of them without a span; {SUBMISSIONS[benchmark]}", file=sys.stderr)


def _of_labels(annotations: str, report: Report, truths: str) -> str:
    text, past_end = f"{annotations}: {report.kept} queries, spans {truths}", report.before["past_end"]
    if past_end:
        text += f" ({past_end} end past their video)"
    return text


def _worst(samples: Sequence[Sample], rows: Predictions, count: int) -> list[str]:
    "The answers with the least overlap, one per line; of equal ones those of the longest truths."
    present = [s for s in samples if s.spans]
    if not present or not count:
        return []
    iou = per_query(present, rows)["iou"]
    order = sorted(range(len(present)), key=lambda i: (iou[i], -max(end - start for start, end in present[i].spans)))
    lines = []
    for i in order[:count]:
        sample = present[i]
        answer = rows[sample.qid].spans[:1] if sample.qid in rows else []
        lines.append(f"worst: {sample.qid} ({sample.video}) {sample.query!r}: truth {sample.spans}, predicted {answer or 'none'}, IoU {iou[i]:.2f}")
    return lines


def _print_blind(beside: BesideBlind) -> None:
    "Print the answers that see no frame, and the sentence that compares."
    print("beside answers that see no frame:")
    for name, scores in beside.blind.items():
        value, low, high = scores["mIoU"]
        print(f"  {name:14s} mIoU {value:6.2f} {bracket(low, high, '.2f')}")
    print(beside.sentence())


def _print_scores(metrics: Mapping[str, float], protocol: Protocol, explanation: dict[str, Any], beside: BesideBlind | None, as_json: bool) -> None:
    if as_json:
        document = {**metrics, "protocol": protocol.to_dict()}
        if beside:
            document["beside_blind"] = beside.metrics({"this file": "predictions/"})
        if explanation:
            document["explanation"] = explanation
        print_json(document)
        return
    for metric, value in metrics.items():
        digits = 2 * isinstance(value, float)
        print(f"{metric:10s} {value:8.{digits}f}")
    if explanation:
        _print_explanation(explanation)
    print(f"protocol {protocol.hash}: {protocol.line}")
    if beside:
        _print_blind(beside)


def _recognised(file: PredictionFile, reading: str | None) -> list[str]:
    "Notes on what the file is, and how its rows were assigned to queries."
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
        notes.append("no span ends after second 1: are these shares of the video? NExT-GQA's evaluator takes those from a file named *_gs.json")
    return notes


def _problems(predictions: Predictions, samples: Sequence[Sample], missing: str, benchmark: str) -> list[str]:
    "Notes on queries without a row, and on rows that count as misses: what is wrong with them, and how many."
    without = [s.qid for s in samples if s.qid not in predictions]
    notes = []
    if without:
        notes.append(f"{len(without)} queries have no prediction ({missing}): {', '.join(without[:3])}{', …' * (len(without) > 3)}")
    first = [row.spans[0] for row in predictions.values() if row.spans]
    present = {s.qid for s in samples if s.spans}
    point = " (NExT-GQA's IoP counts a point within the truth as 1)" if benchmark == "nextgqa" else ""
    counts = {
        "give no span (null, or a response in which none can be read)": sum(row.as_set is None for row in predictions.values()),
        "say that the video does not show it, which it does": sum(
            row.refused and not row.spans and qid in present for qid, row in predictions.items()
        ),
        f"give a span that ends at its start or before{point}": sum(end <= start for start, end in first),
    }
    return notes + [f"{count} of {len(predictions)} rows {problem}, and count as misses" for problem, count in counts.items() if count]


def _conventions(file: PredictionFile, between: str | None) -> tuple[list[str], list[Convention]]:
    "The names and settings of the two conventions."
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
    samples: Sequence[Sample],
    file: PredictionFile,
    between: str | None,
    other_annotations: str | None,
    options: dict[str, Any],  # of `load_benchmark`
) -> dict[str, Any]:
    "The result of `protocol.explain`, with the names of the conventions."
    names, (first, second) = _conventions(file, between)
    other = None
    if other_annotations:
        others, _ = load_benchmark(benchmark, other_annotations, **options)
        other, second = truths_of_other_file(samples, others), replace(second, labels="other")
    return {"conventions": names, **explain(benchmark, samples, file, first, second, other)}


def _print_explanation(result: dict[str, Any]) -> None:
    "Print the parts as a table whose last row is their sum."
    metrics = list(result["difference"])
    first, second = result["conventions"]

    def show(title: str, values: Mapping[str, float], sign: str = "") -> None:
        print(f"{title:44s}" + "".join(f"{values[metric]:{sign}11.4f}" for metric in metrics))

    print(f"\n{'from ' + first + ' to ' + second:44s}" + "".join(f"{metric:>11s}" for metric in metrics))
    show(first, result["first"])
    for part, values in result["parts"].items():
        settings = result["differs"].get(part)
        title = f"  {part} ({' → '.join(settings)})" if settings else f"  {part}"
        show(title, values, "+")
    show(second, result["second"])
    show("difference", result["difference"], "+")
    print("Each part is its mean effect over all orders of exchanging the conventions (Shapley values); the parts add up to the difference.\n")
