"`vtg-r1 data where|validate|convert|curate`: find annotation files, check them, convert them to samples, make training sets."

import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer import Option

from ..core.runtime import UserError, project_root
from ..core.samples import SampleError, write_jsonl
from ..data.readers import READERS
from .common import AsJson, Columns, app, column_options, command, one_of, parse_fields, print_json
from .run import Pairs, ParameterFiles, read_given, run_stage

Dataset = Annotated[str, Option(metavar="NAME", callback=one_of(READERS), help=", ".join(READERS))]
Annotations = Annotated[str, Option(metavar="PATH", help="the file; for nextgqa (and QuerYD's release) the folder")]
Split = Annotated[str | None, Option(metavar="NAME", help="default: the one in the file's name; test for the NExT-GQA folder")]
Durations = Annotated[str | None, Option(metavar="PATH", help="JSON with durations by video, for formats that have none")]
Workers = Annotated[int, Option(min=1, metavar="N", help="processes that open videos")]
Videos = Annotated[str | None, Option(metavar="DIR", help="open every video below this folder; missing durations are measured there")]
Inverted = Annotated[Literal["drop", "swap"], Option(help="spans whose start is after their end")]
RepeatedQuery = Annotated[Literal["keep", "join"], Option(help="a sentence in several rows of a video: several samples, or one of several spans")]
Absent = Annotated[Literal["drop", "keep"], Option(help="sentences that the file says are not in the video; kept, they have no spans")]
MissingDuration = Annotated[Literal["auto", "drop", "last_end"], Option(help="samples without a duration")]
group = typer.Typer(help="Look at annotation files, convert and curate them.", rich_markup_mode=None)
app.add_typer(group, name="data")


@command(
    "validate",
    "vtg-r1 data validate --dataset csv --annotations mine.csv --videos my_videos",
    "vtg-r1 data validate --dataset charades_sta --annotations charades_sta_train.txt --against charades_sta=charades_sta_test.txt --json",
    old_name="check",
    group=group,
)
def validate(
    dataset: Dataset,
    annotations: Annotations,
    split: Split = None,
    columns: Columns = None,
    durations: Durations = None,
    workers: Workers = 2,
    inverted: Inverted = "drop",
    past_end: Annotated[Literal["keep", "clip", "drop"], Option(help="spans that end after their video")] = "keep",
    zero_length: Annotated[Literal["drop", "keep"], Option(help="spans that end at their start")] = "drop",
    missing_duration: MissingDuration = "auto",
    repeated_query: RepeatedQuery = "keep",
    absent: Absent = "drop",
    videos: Videos = None,
    against: Annotated[list[str], Option(metavar="NAME=PATH", help="a benchmark's test annotations: report overlap with it (repeatable)")] = [],
    as_json: AsJson = False,
) -> int:
    """Count the problems of an annotation file, as published and after cleaning. Open its videos, and look for overlap with benchmarks."""
    from ..data.validation import check, overlap_guard, quality_text

    policies: dict[str, Any] = dict(inverted=inverted, past_end=past_end, zero_length=zero_length, missing_duration=missing_duration)
    policies |= dict(repeated_query=repeated_query, absent=absent)
    options: dict[str, Any] = policies | column_options(columns, dataset)
    benchmarks = [(name, path, None) for pair in against for name, path in parse_fields(pair, "--against").items()]
    try:
        guard = None
        if benchmarks:
            guard = overlap_guard(benchmarks)
        report, quality = check(dataset, annotations, split, videos, workers, guard, durations, **options)
    except (SampleError, OSError) as e:
        raise UserError(e) from None
    if as_json:
        print_json(quality)
    else:
        print(quality_text(quality, report))
    return 0


@command(
    "convert",
    "vtg-r1 data convert --dataset csv --annotations mine.csv --videos my_videos --out train.jsonl --eval-annotations heldout.jsonl",
    "vtg-r1 data convert --dataset activitynet --annotations train.json --out samples.jsonl",
    group=group,
)
def convert(
    dataset: Dataset,
    annotations: Annotations,
    out: Annotated[str, Option(metavar="FILE", help="samples, JSON lines")],
    split: Split = None,
    columns: Columns = None,
    durations: Durations = None,
    workers: Workers = 2,
    inverted: Inverted = "drop",
    past_end: Annotated[Literal["clip", "drop"], Option(help="spans that end after their video")] = "clip",
    missing_duration: MissingDuration = "auto",
    repeated_query: RepeatedQuery = "keep",
    absent: Absent = "drop",
    videos: Videos = None,
    eval_annotations: Annotated[str | None, Option(metavar="FILE", help="samples of every fourth video go to this file instead")] = None,
    replace_files: Annotated[bool, Option("--replace", help="existing files of these names are replaced")] = False,
    as_json: AsJson = False,
) -> int:
    """Turn an annotation file into samples.jsonl, one JSON object per line. Rows that are left out, clipped or swapped are counted on stderr. With
    --videos, samples whose video is missing or unreadable are left out."""
    from ..data.readers import read_dataset
    from ..data.sources import hold_out_videos
    from ..data.validation import dropped_lines, read_with_videos, video_file

    _check_distinct({"--annotations": annotations, "--out": out, "--eval-annotations": eval_annotations})
    if not replace_files:
        _refuse_existing({"--out": out, "--eval-annotations": eval_annotations})
    policies = dict(inverted=inverted, past_end=past_end, missing_duration=missing_duration, repeated_query=repeated_query, absent=absent)
    options: dict[str, Any] = policies | column_options(columns, dataset)
    unreadable: dict[str, str] = {}
    try:
        if videos:
            samples, report, probed = read_with_videos(dataset, annotations, videos, split, workers, durations, **options)
            unreadable = {video: "no such file" for video in probed["missing"]} | probed["unreadable"]
            readable = [sample for sample in samples if sample.video not in unreadable]
            samples = [replace(sample, video=video_file(videos, sample.video) or sample.video) for sample in readable]
        else:
            samples, report = read_dataset(dataset, annotations, split, durations=durations, **options)
        left_out = [f"video {video}: {reason}; its samples are excluded" for video, reason in unreadable.items()]
        print(report, *dropped_lines(report), *left_out, sep="\n", file=sys.stderr)
        if not samples:
            problem = f"{annotations}: none of its {report.read} records can be used"
            for record in report.dropped[:1]:
                problem += f", e.g. {record.reason}: {record.detail}"
            raise SampleError(problem)
        parts = {out: samples}
        if eval_annotations:
            parts[out], parts[eval_annotations] = hold_out_videos(samples)
        written = {name: write_jsonl(name, part) for name, part in parts.items()}
    except (SampleError, OSError) as e:
        raise UserError(e) from None
    if as_json:
        counts = {"counts": report.counts(), "findings": report.to_dict()["findings"], "videos_left_out": unreadable}
        print_json({"read": report.read, "written": written, **counts})
    else:
        for name, count in written.items():
            print(f"{count:>8,d}  {name}")
    return 0


def _refuse_existing(files: dict[str, str | None]) -> None:
    "Raise `UserError` if a file that would be written is there; files by the option that names them."
    for option, name in files.items():
        if name and Path(name).exists():
            raise UserError(f"{option} {name}: exists; name another file, or replace it with --replace")


def _check_distinct(files: Mapping[str, str | None]) -> None:
    "Raise `UserError` if two options name one file, or one to be written names a folder."
    options: dict[str, str] = {}  # by real path
    for option, name in files.items():
        if not name:
            continue
        if option != "--annotations" and os.path.isdir(name):
            raise UserError(f"{option} {name}: is a folder; name a file in it, such as {os.path.join(name, 'samples.jsonl')}")
        other = options.setdefault(os.path.realpath(name), option)
        if other != option:
            raise UserError(f"{option} {name}: is the file of {other} too; name another one")


@command(
    "curate",
    'vtg-r1 data curate --annotations train.jsonl --videos my_videos --teacher-model qwen --teacher-url http://localhost:8000/v1 -p teacher_key_env ""',
    "vtg-r1 data curate --annotations answered.jsonl --videos my_videos --teacher precomputed -p sft_min_iou 0.7 -p run_name mine",
    fails="a cell failed, stderr names it; the teacher's answers are kept",
    group=group,
)
def curate(
    annotations: Annotated[str, Option(metavar="PATH", help="the file; for --teacher precomputed, samples with their teacher's answers")],
    videos: Annotated[str, Option(metavar="DIR", help="folder of the videos")],
    dataset: Annotated[str, Option(metavar="NAME", callback=one_of(("samples", *READERS)), help=f"samples, {', '.join(READERS)}")] = "samples",
    columns: Columns = None,
    teacher: Annotated[Literal["endpoint", "precomputed"], Option(help="an OpenAI-compatible server, or the file's answers")] = "endpoint",
    teacher_model: Annotated[str, Option(metavar="NAME", help="the model's name on the server")] = "",
    teacher_url: Annotated[str, Option(metavar="URL", help="the server; its key: the variable OPENAI_API_KEY, or -p teacher_key_env")] = "",
    pairs: Pairs = [],
    files: ParameterFiles = [],
    as_json: AsJson = False,
) -> int:
    """Ask a teacher, and make coldstart.jsonl and rl.jsonl. Run the curation stage (nbs/01_curation.ipynb) on one annotation file and print its run
    folder, which holds coldstart.jsonl, rl.jsonl and a data card. A teacher gets 64 frames of up to 100352 pixels, as the paper's does. Several
    sources, quotas, budgets: set the stage's parameters with -p and -f."""
    for path in (annotations, videos):
        if not Path(path).exists():
            raise UserError(f"{path}: no such file or folder")
    if teacher == "endpoint" and not (teacher_model and teacher_url):
        raise UserError("no teacher is named: give --teacher-model and --teacher-url, or --teacher precomputed")
    root = project_root()
    given: dict[str, Any] = {
        "sources": [{"path": os.path.relpath(annotations, root), "dataset": dataset, **column_options(columns, dataset)}],
        "video_root": os.path.relpath(videos, root),
        "teacher": teacher,
        "teacher_model": teacher_model,
        "teacher_url": teacher_url,
    }
    if teacher == "endpoint":
        given |= {"frames": 64, "pixels": 128 * 28 * 28}  # the paper's; the stage's defaults are the toy world's
    given |= read_given("curation", files, pairs)
    key = given.get("teacher_key_env", "OPENAI_API_KEY")
    if given["teacher"] == "endpoint" and key and not os.environ.get(key):
        raise UserError(
            f"the environment variable {key} is empty: put the teacher's key there (it is stored nowhere), "
            'or for a server without keys give -p teacher_key_env ""'
        )
    return run_stage("nbs/01_curation.ipynb", given, as_json)


@command(
    "where",
    "vtg-r1 data where",
    "vtg-r1 data where charades_sta",
    group=group,
)
def where(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="a data set of the paper; all by default")] = "",
    as_json: AsJson = False,
) -> int:
    """Print where a data set's annotations and videos come from, under which licence, and where the recipe looks for them. docs/reproduce.md has all."""
    from ..data.where import PLACES, describe, place_of

    places = [place_of(name)] if name else list(PLACES.values())
    if as_json:
        print_json([asdict(place) for place in places])
    else:
        print(describe(places))
    return 0
