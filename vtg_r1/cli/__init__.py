"""The command line, `vtg-r1`. Progress goes to stderr, results to stdout; exit code 0 is success, 1 a failed run, 2 bad input, 130 Ctrl-C."""

import argparse
import json
import os
import sys
import textwrap
from pathlib import Path


from ..core.runtime import UserError
from ..runs.execute import given_parameters


def build_parser() -> argparse.ArgumentParser:
    "The parser with one function a subcommand; each sets `handler`, a function of the parsed arguments that returns an exit code."
    parser = argparse.ArgumentParser(
        prog="vtg-r1",
        description="Teach video models to say when.",
        epilog="`vtg-r1 COMMAND --help` has examples. Exit codes: 0 done, 1 it was tried and failed, 2 bad input (one line says what), 130 interrupted by Ctrl-C.",
    )
    parser.add_argument("--version", action="version", version=f"vtg-r1 {_own_version()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (add_ground, add_run, add_score, add_data, add_push, add_demo, add_view, add_env):
        add(commands)
    return parser


def _own_version() -> str:
    from .. import __version__

    return __version__


def add_command(commands, name: str, handler, does: str, examples: str, fails: str = "", about: str = "") -> argparse.ArgumentParser:
    "A subcommand with --json, and a help page that ends in examples and exit codes; `fails` says what exit code 1 means, `about` more than `does`."
    codes = "; ".join(["0 done", *([f"1 {fails}"] if fails else []), "2 bad input, one line says what", "130 interrupted"])
    p = commands.add_parser(
        name,
        help=does,
        description=textwrap.fill(about or f"{does[0].upper()}{does[1:]}.", 100),
        epilog="examples:\n" + "\n".join(f"  {line}" for line in examples.strip().splitlines()) + f"\n\nexit codes: {codes}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--json", action="store_true", help="print the result as one JSON object")
    p.set_defaults(handler=handler)
    return p


def show_json(value) -> None:
    "The result for a script, on stdout."
    print(json.dumps(value, ensure_ascii=False, default=str))


def quiet_libraries() -> None:
    "Keep what libraries say of each other off stderr, which is for progress and errors."
    import warnings

    warnings.filterwarnings("ignore")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def add_ground(commands) -> None:
    "`vtg-r1 ground VIDEO QUERY`: when something happens in a video."
    p = add_command(
        commands,
        "ground",
        _ground,
        "find when something happens in a video",
        """
vtg-r1 ground clip.mp4 "the second red circle"                         # the embedded toy model
vtg-r1 ground match.mp4 "a goal" "the fans leave" --model outputs/grpo/mine --json
vtg-r1 ground match.mp4 "a goal" --model Qwen/Qwen2.5-VL-7B-Instruct --clip goal.mp4
""",
        "no span could be read in an answer",
        "Ask a model when each sentence happens in a video. Prints the span in seconds and the reasoning. A run folder is asked as it was trained, the embedded model as it was made, any other as the paper asks.",
    )
    p.add_argument("video", metavar="VIDEO", help="any file that FFmpeg reads")
    p.add_argument("queries", metavar="QUERY", nargs="+", help="a sentence to be found; several are asked one by one, the video is read once")
    p.add_argument(
        "--model", default="tiny", metavar="NAME", help="a run folder, a model folder, a hub id, or tiny, the embedded toy model (default)"
    )
    p.add_argument(
        "--clip", metavar="OUT.mp4", help="cut the span out of the video, exactly and with its sound; several queries are numbered: OUT-1.mp4, …"
    )
    p.add_argument("--frames", type=int, metavar="N", help="frames at most; default: as the model was trained, else 64")
    p.add_argument("--pixels", type=int, metavar="N", help="budget a frame; default: as the model was trained, else 100352")
    p.add_argument("--style", choices=("full", "short"), help="prompt; default: as the model was trained, else full, the paper's")
    p.add_argument(
        "--time-encoding",
        choices=("interleaved", "native"),
        help="timestamps as text, or the model's own video input; default: as the model was trained, else interleaved",
    )
    p.add_argument("--max-completion-length", type=int, metavar="TOKENS", help="default: as the model was trained, else 2048")
    p.add_argument("--device", metavar="NAME", help="cuda, cpu, …; default: the GPU where there is one")


def _ground(args) -> int:
    from dataclasses import asdict, replace

    from ..models.ground import InferenceConfig, ground, resolve_model
    from ..video.cut import cut
    from ..video.decoders import VideoError
    from ..video.reader import probe

    quiet_libraries()
    if empty := [i for i, query in enumerate(args.queries, 1) if not query.strip()]:
        raise UserError(f"query {empty[0]} is empty: say in words what to look for")
    for name in ("frames", "pixels", "max_completion_length"):
        if (value := getattr(args, name)) is not None and value < (784 if name == "pixels" else 1):
            raise UserError(f"--{name.replace('_', '-')} {value}: too few")
    try:
        info, outs = probe(args.video), _numbered(args.clip, len(args.queries))
        _check_clips(args, outs)
        model, config = resolve_model(args.model)
        given = {name: value for name in InferenceConfig.__dataclass_fields__ if (value := getattr(args, name)) is not None}
        answers = ground(*_load(model, args.device), args.video, args.queries, replace(config, **given))
        clips = [str(cut(args.video, out, a.span)) if out and a.span else None for a, out in zip(answers, outs)]
    except (VideoError, FileNotFoundError, PermissionError, ImportError, ValueError) as e:
        raise UserError(e) from e
    if args.json:
        show_json(
            {
                "video": args.video,
                "duration": round(info.duration, 3),
                "model": args.model,
                "answers": [{**asdict(a), "clip": clip} for a, clip in zip(answers, clips)],
            }
        )
    else:
        print("\n".join(line for a, clip in zip(answers, clips) for line in _told(a, clip)))
    return 0 if all(a.span for a in answers) else 1


def _load(model: str, device: str | None):
    "Model and processor; whatever keeps a hub id or a folder from being loaded is the user's to mend."
    unreachable = _no_hub(model)
    from transformers.utils import logging

    from ..models.loading import load_model, load_processor

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        return load_model(model, device), load_processor(model)
    except (OSError, ValueError, KeyError, RuntimeError) as e:
        why = f"it is not in the Hub's cache, and the Hub cannot be reached ({unreachable})" if unreachable else _first_line(e)
        raise UserError(f"model {model!r} cannot be loaded: {why}") from e


def _no_hub(model: str) -> str:
    "Why the Hub cannot be reached, or nothing; in that case only its cache is looked at, without a minute of retries."
    import socket
    from urllib.parse import urlsplit
    from urllib.request import getproxies

    from huggingface_hub import constants

    if model == "tiny" or Path(model).exists() or getproxies().keys() - {"no"}:
        return ""
    at = urlsplit(constants.ENDPOINT)
    try:
        socket.create_connection((at.hostname, at.port or (443 if at.scheme == "https" else 80)), timeout=5).close()
    except OSError as e:
        constants.HF_HUB_OFFLINE = True
        return _first_line(e)
    return ""


def _first_line(e: Exception) -> str:
    return next((line.strip() for line in str(e).splitlines() if line.strip()), type(e).__name__)


def _numbered(clip: str | None, n: int) -> list[Path | None]:
    "Where each query's clip goes."
    if clip is None:
        return [None] * n
    path = Path(clip)
    return [path] if n == 1 else [path.with_name(f"{path.stem}-{i}{path.suffix}") for i in range(1, n + 1)]


def _check_clips(args, outs: list[Path | None]) -> None:
    "Clips go to files that are not the video."
    for out in filter(None, outs):
        if out.is_dir():
            raise UserError(f"--clip {out}: is a folder; name a file in it, such as {out / 'clip.mp4'}")
        if out.exists() and out.samefile(args.video):
            raise UserError(f"--clip {args.clip}: would overwrite the video")


def _told(answer, clip: str | None):
    "Lines of one answer for a person."
    yield f"{answer.span[0]:.2f} – {answer.span[1]:.2f} s  {answer.query}" if answer.span else f"no span  {answer.query}"
    thoughts = answer.reasoning or ("" if answer.span else f"the model said: {answer.response.strip()[:300]}")
    yield from (f"    {line}" for line in thoughts.splitlines())
    if clip:
        yield f"    {clip}"


def add_run(commands) -> None:
    "`vtg-r1 run NOTEBOOK`: execute a stage notebook into its run folder."
    p = add_command(
        commands,
        "run",
        run,
        "execute a stage notebook with parameters",
        """
vtg-r1 run nbs/05_grpo.ipynb -f configs/toy.yaml
vtg-r1 run nbs/05_grpo.ipynb -f configs/own_data.yaml -p model Qwen/Qwen2.5-VL-3B-Instruct -p dataset csv -p annotations mine.csv -p video_root my_videos
vtg-r1 run nbs/05_grpo.ipynb -f configs/toy.yaml -p steps 200 -p seed 1 -p run_name mine
vtg-r1 run nbs/05_grpo.ipynb -f configs/toy.yaml -p steps 200 -p seed 1 -p run_name mine -p resume true   # go on where it was killed
""",
        "a cell failed, stderr names it; the executed notebook holds the rest",
        "Execute a stage notebook with papermill into outputs/<stage>/<run>/ and print the run folder. Relative paths among the parameters count from the project's root.",
    )
    p.add_argument("notebook", metavar="NOTEBOOK", help="e.g. nbs/05_grpo.ipynb")
    _parameter_options(p)


def _parameter_options(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "-p",
        "--parameter",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="set one parameter, NAME=VALUE will do; the value is read as YAML",
    )
    p.add_argument("-f", "--file", action="append", default=[], metavar="FILE", help="YAML file of parameters; later files and -p win")


def run(args) -> int:
    "Handler of `vtg-r1 run`."
    from ..runs.execute import stage_name

    return _run_stage(args, args.notebook, given_parameters(args, stage_name(args.notebook)))


def _run_stage(args, notebook: str, parameters: dict) -> int:
    "Run a stage notebook and say where it went."
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    from ..core.atomic_files import DiskFull
    from ..core.runtime import RunError
    from ..runs.execute import run_notebook
    from ..runs.run import read_manifest

    if not isinstance(name := parameters.get("run_name", ""), str):
        raise UserError(
            f"run_name {name}: must be text, and YAML reads this as {type(name).__name__}; add a letter or quotes inside the quotes, as in -p run_name \"'{name}'\""
        )
    try:
        folder = run_notebook(notebook, parameters)
    except (RunError, DiskFull) as e:
        raise UserError(e) from e
    except PapermillExecutionError as e:
        print(f"{_prefix(args)}: {notebook}, cell {e.exec_count}: {e.ename}: {e.evalue}", file=sys.stderr)
        return 1
    except DeadKernelError as e:
        print(f"{_prefix(args)}: {notebook}: its kernel died ({_first_line(e)}); it was killed from outside, or memory ran out", file=sys.stderr)
        return 1
    if args.json:
        metrics = folder / "metrics.json"
        show_json(
            {
                "run": str(folder),
                "status": read_manifest(folder).get("status"),
                "metrics": json.loads(metrics.read_text(encoding="utf-8")) if metrics.exists() else {},
            }
        )
    else:
        print(folder)
    return 0


def add_score(commands) -> None:
    "`vtg-r1 score`: the official metrics of a prediction file."
    from ..data.official_benchmarks import BENCHMARKS, MISSING, OWN
    from ..core.prompts import READINGS

    p = add_command(
        commands,
        "score",
        _score,
        "the official metrics of a prediction file",
        """
vtg-r1 score --benchmark charades_sta --annotations charades_sta_test.txt --predictions predictions.jsonl
vtg-r1 score --benchmark samples --annotations heldout.jsonl --predictions outputs/grpo/mine/predictions.jsonl --json
vtg-r1 score --benchmark csv --annotations mine.csv --predictions outputs/grpo/mine/predictions.jsonl --missing skip
""",
        about="Score a prediction file: mIoU and R1@m, and what a benchmark reports beside them. Own data is scored as samples (JSON lines of this project), csv or jsonl.",
    )
    p.add_argument(
        "--benchmark", required=True, choices=BENCHMARKS + OWN, metavar="NAME", help=", ".join(BENCHMARKS) + "; for own data " + ", ".join(OWN)
    )
    p.add_argument(
        "--annotations", required=True, metavar="PATH", help="the official file, or your own; for nextgqa the folder with test.csv and gsub_test.json"
    )
    p.add_argument(
        "--predictions",
        required=True,
        metavar="FILE",
        help='JSON lines {"qid", "pred": [[start, end], …] | null, "response", "answer"}; pred wins over response',
    )
    p.add_argument("--columns", metavar="FIELD=COLUMN,…", help="csv and jsonl: query=caption,start=from,…")
    p.add_argument(
        "--reading",
        choices=READINGS,
        default="strict",
        help="how responses are read; lenient takes numbers from anywhere, as published evaluators do",
    )
    p.add_argument("--missing", choices=MISSING, default="zero", help="queries without a row count as 0, or are left out as NExT-GQA's script does")


def _score(args) -> int:
    from ..data.official_benchmarks import PredictionError, load_benchmark, read_predictions, score
    from ..core.samples import SampleError

    if Path(args.predictions).is_dir():
        raise UserError(
            f"--predictions {args.predictions}: is a folder; a run's answers are in {os.path.join(args.predictions, 'predictions.jsonl')}"
        )
    try:
        samples, report = load_benchmark(args.benchmark, args.annotations, **_column_options(args, args.benchmark))
        predictions = read_predictions(args.predictions, [s.qid for s in samples], args.reading)
    except (SampleError, PredictionError, OSError) as e:
        raise UserError(str(e)) from None
    metrics, past_end = score(args.benchmark, samples, predictions, args.missing), report.before["past_end"]
    print(
        f"{args.annotations}: {len(samples)} queries, spans as published" + (f" ({past_end} end past their video)" if past_end else ""),
        file=sys.stderr,
    )
    if metrics["missing"]:
        print(f"{args.predictions}: {metrics['missing']} queries have no prediction ({args.missing})", file=sys.stderr)
    for what, n in _misses(predictions).items():
        print(f"{args.predictions}: {n} of {len(predictions)} rows {what}, and count as misses", file=sys.stderr)
    if "Acc@QA" in metrics and not any(p.answer for p in predictions.values()):
        print(f"{args.predictions}: no row has an answer, so accuracies are 0", file=sys.stderr)
    if args.json:
        show_json(metrics)
    else:
        print("\n".join(f"{name:8s} {value:8d}" if isinstance(value, int) else f"{name:8s} {value:8.2f}" for name, value in metrics.items()))
    return 0


def _misses(predictions: dict) -> dict[str, int]:
    "What is wrong with predictions that overlap nothing, and how many they are."
    first = [p.spans[0] if p.spans else None for p in predictions.values()]
    found = {
        "give no span (null, or a response in which none can be read)": sum(span is None for span in first),
        "give a span that ends at its start or before": sum(span is not None and span[1] <= span[0] for span in first),
    }
    return {what: n for what, n in found.items() if n}


def add_data(commands) -> None:
    "`vtg-r1 data check|convert|curate`: look at annotations, turn them into samples, make the training sets."
    actions = commands.add_parser("data", help="look at annotation files, convert and curate them").add_subparsers(
        dest="action", required=True, metavar="ACTION"
    )
    add_check(actions)
    add_convert(actions)
    add_curate(actions)


def _at_least_one(text: str) -> int:
    "A whole number above 0; argparse says so otherwise."
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def _reading_options(p: argparse.ArgumentParser, datasets, policies: dict[str, tuple[str, ...]]) -> None:
    "What an annotation file is and how it is read; the first choice of a policy is its default."
    p.add_argument("--dataset", required=True, choices=datasets, metavar="NAME", help=", ".join(datasets))
    p.add_argument("--annotations", required=True, metavar="PATH", help="the file; for nextgqa (and QuerYD's release) the folder")
    p.add_argument("--split", help="default: what the file name says; test for the NExT-GQA folder")
    p.add_argument("--columns", metavar="FIELD=COLUMN,…", help="csv and jsonl: query=caption,start=from,…")
    p.add_argument("--durations", metavar="PATH", help="JSON with durations by video, for formats that have none")
    p.add_argument("--workers", type=_at_least_one, default=2, metavar="N", help="processes that open videos (default 2)")
    for name, choices in policies.items():
        p.add_argument(f"--{name.replace('_', '-')}", choices=choices, default=choices[0], help=f"default {choices[0]}")


def _pairs(text: str, option: str) -> dict[str, str]:
    "`a=b,c=d` as a dict."
    pairs = [p.split("=", 1) for p in text.split(",")]
    if any(len(p) != 2 or not all(p) for p in pairs):
        raise UserError(f"{option} {text!r}: write FIELD=COLUMN, several separated by commas")
    return dict(pairs)


def _column_options(args, dataset: str) -> dict:
    "The columns of an own table, where they were named."
    if args.columns and dataset not in ("csv", "jsonl"):
        raise UserError(f"--columns is for csv and jsonl, not for {dataset}")
    return {"columns": _pairs(args.columns, "--columns")} if args.columns else {}


def add_check(actions) -> None:
    "`vtg-r1 data check`: what an annotation file holds, and what reading it does."
    from ..data.readers import POLICIES, READERS

    p = add_command(
        actions,
        "check",
        _data_check,
        "count what is odd in an annotation file",
        """
vtg-r1 data check --dataset csv --annotations mine.csv --videos my_videos
vtg-r1 data check --dataset charades_sta --annotations charades_sta_train.txt --against charades_sta=charades_sta_test.txt --json
""",
        about="Read an annotation file, count what is odd in it as published and what was done about it, open its videos, and look for what it shares with benchmarks.",
    )
    _reading_options(p, READERS, POLICIES)
    p.add_argument("--videos", metavar="DIR", help="open every video below this folder; durations that the file lacks are measured there")
    p.add_argument(
        "--against",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="a benchmark's test annotations: report what is shared with it (repeatable)",
    )


def _data_check(args) -> int:
    from ..data.readers import POLICIES
    from ..data.validation import check, overlap_guard, quality_text
    from ..core.samples import SampleError

    how = {name: getattr(args, name) for name in POLICIES} | _column_options(args, args.dataset)
    try:
        against = [(*next(iter(_pairs(a, "--against").items())), None) for a in args.against]
        guard = overlap_guard(against) if against else None
        report, found = check(args.dataset, args.annotations, args.split, args.videos, args.workers, guard, args.durations, **how)
    except (SampleError, OSError) as e:
        raise UserError(str(e)) from None
    show_json(found) if args.json else print(quality_text(found, report))
    return 0


TRAINABLE = {
    "inverted": ("drop", "swap"),
    "past_end": ("clip", "drop"),
    "missing_duration": ("auto", "drop", "last_end"),
}  # policies whose results are valid samples


def add_convert(actions) -> None:
    "`vtg-r1 data convert`: any annotation file as samples.jsonl."
    from ..data.readers import READERS

    p = add_command(
        actions,
        "convert",
        _data_convert,
        "turn an annotation file into samples.jsonl",
        """
vtg-r1 data convert --dataset csv --annotations mine.csv --videos my_videos --out train.jsonl --eval-annotations heldout.jsonl
vtg-r1 data convert --dataset activitynet --annotations train.json --out samples.jsonl
""",
        about="Read any known annotation file and write this project's samples, one JSON object a line. Every row that is left out, clipped or swapped is counted on stderr.",
    )
    _reading_options(p, READERS, TRAINABLE)
    p.add_argument(
        "--videos",
        metavar="DIR",
        help="open every video below this folder: durations that the file lacks are measured, samples whose video is missing or unreadable are left out",
    )
    p.add_argument("--out", required=True, metavar="FILE", help="samples, JSON lines; replaced where it exists")
    p.add_argument("--eval-annotations", metavar="FILE", help="every fourth video's samples go there instead")


def _data_convert(args) -> int:
    from ..data.readers import read_dataset
    from ..data.validation import dropped_lines, read_with_videos
    from ..core.samples import SampleError, write_jsonl
    from ..data.sources import hold_out_videos

    _check_apart({"--annotations": args.annotations, "--out": args.out, "--eval-annotations": args.eval_annotations})
    how = {name: getattr(args, name) for name in TRAINABLE} | _column_options(args, args.dataset)
    try:
        if args.videos:
            samples, report, probed = read_with_videos(args.dataset, args.annotations, args.videos, args.split, args.workers, args.durations, **how)
            samples, gone = _with_readable_video(samples, args.videos, probed)
        else:
            (samples, report), gone = read_dataset(args.dataset, args.annotations, args.split, durations=args.durations, **how), {}
        lost = dropped_lines(report)
        print(report, *lost, *(f"video {video}: {why}; its samples are left out" for video, why in gone.items()), sep="\n", file=sys.stderr)
        if not samples:
            raise SampleError(
                f"{args.annotations}: none of its {report.read} records can be used"
                + (f", e.g. {report.dropped[0].reason}: {report.dropped[0].detail}" if report.dropped else "")
            )
        kept, held = hold_out_videos(samples) if args.eval_annotations else (samples, [])
        written = {args.out: write_jsonl(args.out, kept)} | (
            {args.eval_annotations: write_jsonl(args.eval_annotations, held)} if args.eval_annotations else {}
        )
    except (SampleError, OSError) as e:
        raise UserError(str(e)) from None
    if args.json:
        show_json(
            {"read": report.read, "written": written, "counts": report.counts(), "findings": report.to_dict()["findings"], "videos_left_out": gone}
        )
    else:
        print("\n".join(f"{n:>8,d}  {name}" for name, n in written.items()))
    return 0


def _check_apart(named: dict[str, str | None]) -> None:
    "Files that are read and written are different ones."
    seen: dict[str, str] = {}
    for option, name in named.items():
        if name and option != "--annotations" and os.path.isdir(name):
            raise UserError(f"{option} {name}: is a folder; name a file in it, such as {os.path.join(name, 'samples.jsonl')}")
        if name and (other := seen.setdefault(os.path.realpath(name), option)) != option:
            raise UserError(f"{option} {name}: is the file of {other} too; name another one")


def _with_readable_video(samples: list, root: str, probed: dict) -> tuple[list, dict[str, str]]:
    "Samples whose video can be opened, under its file's name, and why the other videos cannot."
    from dataclasses import replace

    from ..data.validation import video_file

    gone = {video: "no such file" for video in probed["missing"]} | probed["unreadable"]
    return [replace(s, video=video_file(root, s.video)) for s in samples if s.video not in gone], gone


def add_curate(actions) -> None:
    "`vtg-r1 data curate`: a cold-start and an RL set by the curation stage."
    from ..data.readers import READERS

    p = add_command(
        actions,
        "curate",
        _data_curate,
        "have a teacher answer, and make coldstart.jsonl and rl.jsonl",
        """
vtg-r1 data curate --annotations train.jsonl --videos my_videos --teacher-model qwen --teacher-url http://localhost:8000/v1 -p teacher_key_env ""
vtg-r1 data curate --annotations answered.jsonl --videos my_videos --teacher precomputed -p sft_min_iou 0.7 -p run_name mine
""",
        "a cell failed, stderr names it; what the teacher has answered is kept",
        "Run the curation stage (nbs/01_curation.ipynb) on one annotation file and print its run folder, which holds coldstart.jsonl, rl.jsonl and a data card. A teacher sees 64 frames of up to 100352 pixels, as the paper's does. Several sources, quotas, budgets: its parameters, by -p and -f.",
    )
    p.add_argument("--dataset", default="samples", choices=("samples", *READERS), metavar="NAME", help="samples (default), " + ", ".join(READERS))
    p.add_argument(
        "--annotations", required=True, metavar="PATH", help="the file; of samples for --teacher precomputed, their teacher's answers in it"
    )
    p.add_argument("--columns", metavar="FIELD=COLUMN,…", help="csv and jsonl: query=caption,start=from,…")
    p.add_argument("--videos", required=True, metavar="DIR", help="folder of the videos")
    p.add_argument(
        "--teacher",
        choices=("endpoint", "precomputed"),
        default="endpoint",
        help="an OpenAI-compatible server (default), or the answers that stand in the file",
    )
    p.add_argument("--teacher-model", default="", metavar="NAME", help="as the server calls it")
    p.add_argument(
        "--teacher-url",
        default="",
        metavar="URL",
        help="the server's address; its key is read from OPENAI_API_KEY, or from where -p teacher_key_env says",
    )
    _parameter_options(p)


def _data_curate(args) -> int:
    from ..core.runtime import project_root

    for what in (args.annotations, args.videos):
        if not Path(what).exists():
            raise UserError(f"{what}: no such file or folder")
    if args.teacher == "endpoint" and not (args.teacher_model and args.teacher_url):
        raise UserError("who is to answer? Give --teacher-model and --teacher-url, or --teacher precomputed")
    from_root = lambda path: os.path.relpath(path, project_root())
    source = {"path": from_root(args.annotations), "dataset": args.dataset} | _column_options(args, args.dataset)
    chosen = {
        "sources": [source],
        "video_root": from_root(args.videos),
        "teacher": args.teacher,
        "teacher_model": args.teacher_model,
        "teacher_url": args.teacher_url,
    }
    asked = {"frames": 64, "pixels": 128 * 28 * 28} if args.teacher == "endpoint" else {}  # the paper's; the notebook's own are the toy world's
    chosen |= asked | given_parameters(args, "curation")
    _check_key(chosen)
    return _run_stage(args, "nbs/01_curation.ipynb", chosen)


def _check_key(parameters: dict) -> None:
    "An endpoint's key is there, before any video is opened."
    name = parameters.get("teacher_key_env", "OPENAI_API_KEY")
    if parameters["teacher"] == "endpoint" and name and not os.environ.get(name):
        raise UserError(
            f'the environment variable {name} is empty: put the teacher\'s key there (it is stored nowhere), or for a server without keys say -p teacher_key_env ""'
        )


def add_push(commands) -> None:
    "`vtg-r1 push`: a finished run to the Hugging Face Hub."
    p = add_command(
        commands,
        "push",
        _push,
        "share a finished run on the Hugging Face Hub",
        """
vtg-r1 push outputs/grpo/mine me/my-policy --dry-run
vtg-r1 push outputs/grpo/mine me/my-policy --public
""",
        "the hub did not take it",
        "Upload a run's model (safetensors) or data with a card made from its manifest.",
    )
    p.add_argument("run", metavar="RUN_FOLDER", help="e.g. outputs/grpo/mine")
    p.add_argument("repo", metavar="OWNER/NAME", help="repository; made where it is missing")
    p.add_argument("--public", action="store_true", help="make a new repository public; private otherwise")
    p.add_argument("--dry-run", action="store_true", help="show exactly what would go, send nothing")


def _push(args) -> int:
    from httpx import HTTPError
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    from ..core.runtime import RunError, resolve
    from ..pages.hub import push

    try:
        report = push(resolve(args.run), args.repo, not args.public, args.dry_run)
    except RunError as e:
        raise UserError(e) from None
    except (HTTPError, HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled) as e:
        print(f"vtg-r1 push: the hub did not take it ({type(e).__name__}: {e}); nothing of the run has changed", file=sys.stderr)
        return 1
    if args.json:
        show_json(report)
        return 0
    if args.dry_run:
        print(report["card"] + "\n")
    for name, size in report["files"].items():
        print(f"{size:>14,d}  {name}")
    for name in report["left"]:
        print(f"{'stays':>14s}  {name}")
    print(
        report["url"] or f"dry run: {len(report['files'])} files, {sum(report['files'].values()):,d} bytes would go to {report['kind']} {args.repo}"
    )
    return 0


def add_demo(commands) -> None:
    "`vtg-r1 demo`: a page to ask a model on."
    p = add_command(
        commands,
        "demo",
        _demo,
        "a page in the browser: drop a video, type a sentence, see when it happens",
        """
vtg-r1 demo                                                         # the embedded toy model, with toy videos to try
vtg-r1 demo --model outputs/grpo/mine --open
vtg-r1 demo --before outputs/sft/mine --model outputs/grpo/mine     # a switch between the two
""",
        about="Serve a page on this machine: drop a video, type sentences, see the answers on a timeline under the player. Prints its address; Ctrl-C ends it. Needs: pip install 'vtg_r1[demo]'.",
    )
    p.add_argument(
        "--model", action="append", metavar="NAME", help="a run folder, a model folder, a hub id, or tiny (default); twice: before and after RL"
    )
    p.add_argument("--before", metavar="NAME", help="the model before RL, to compare with")
    p.add_argument("--device", metavar="NAME", help="cuda, cpu, …; default: the GPU where there is one")
    p.add_argument("--max-mb", type=int, default=200, metavar="N", help="size of an upload, megabytes (default 200)")
    p.add_argument("--max-minutes", type=float, default=10, metavar="N", help="length of a video (default 10)")
    _add_address(p)


def _add_address(p) -> None:
    p.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="default 127.0.0.1, this machine alone; any other lets the network in, without a password",
    )
    p.add_argument("--port", type=int, metavar="N", help="default: a free one")
    p.add_argument("--open", action="store_true", help="open the browser")


def _check_port(args) -> None:
    if args.port is not None and not 0 <= args.port <= 65535:
        raise UserError(f"--port {args.port}: must lie between 0 and 65535; 0, or leaving it out, takes a free one")


def _demo(args) -> int:
    _check_port(args)
    if args.before and not args.model:
        raise UserError(f"--before {args.before}: with what is it to be compared? Give the model after RL, --model NAME")
    quiet_libraries()
    try:
        import gradio  # noqa: F401
    except ImportError:
        raise UserError("the page needs Gradio: pip install 'vtg_r1[demo]'") from None
    from ..pages.demo import load_policies, serve

    names = ([args.before] if args.before else []) + (args.model or ["tiny"])
    try:
        policies = load_policies(names, lambda name: _load(name, args.device))
        how = {"host": args.host, "port": args.port, "max_mb": args.max_mb, "max_minutes": args.max_minutes, "browser": args.open}
        serve(policies, ready=lambda address: _tell(args, {"address": address}), **how)
    except (OSError, ImportError, ValueError) as e:
        raise UserError(_first_line(e)) from e
    return 0


def _tell(args, found: dict) -> None:
    "Where a page is, at once: the command goes on."
    show_json(found) if args.json else print(found.get("address") or found["html"])
    sys.stdout.flush()


def add_view(commands) -> None:
    "`vtg-r1 view FILE…`: a page to look through data and predictions."
    p = add_command(
        commands,
        "view",
        _view,
        "look through samples and predictions, keep or drop them",
        """
vtg-r1 view outputs/curation/mine/coldstart.jsonl --videos my_videos
vtg-r1 view samples.jsonl predictions_before.jsonl predictions.jsonl --html review.html
""",
        about="A page with truth, teacher and predictions of each query on one timeline, with filters, and marks that can be downloaded as JSONL. Served on this machine until Ctrl-C, or with --html written as a file.",
    )
    p.add_argument(
        "files", nargs="+", metavar="FILE.jsonl", help="samples, and any number of prediction files for them; each file is a lane under its name"
    )
    p.add_argument("--videos", metavar="DIR", help="root of the samples' videos; default: the folder videos beside the samples, where there is one")
    p.add_argument(
        "--html",
        metavar="OUT.html",
        help="write the page there; it opens without a server, links to the videos and carries frames of up to 60 of them",
    )
    _add_address(p)


def _view(args) -> int:
    from ..pages.review import beside, read_review, review_server, save_review
    from ..core.samples import SampleError

    _check_port(args)
    if args.videos and not Path(args.videos).is_dir():
        raise UserError(f"--videos {args.videos}: no such folder")
    try:
        lines, said = read_review(args.files)
        root, title = args.videos or beside(args.files), ", ".join(Path(f).name for f in args.files)
        server, missing = (
            (None, save_review(args.html, lines, said, root, title))
            if args.html
            else review_server(lines, said, root, title, args.host, args.port or 0)
        )
    except (SampleError, OSError, ImportError, ValueError) as e:
        raise UserError(e) from e
    for lane, rows in said.items():
        if lines and (strange := rows.keys() - lines.keys()):
            print(
                f"{lane}: {len(strange)} of {len(rows)} predictions are for no query of the samples, such as qid {min(strange)!r}; they are left out",
                file=sys.stderr,
            )
    if missing:
        print(f"{root}: {len(missing)} of the videos are not there, such as {missing[0]}", file=sys.stderr)
    where = {"html": args.html} if args.html else {"address": f"http://{args.host}:{server.server_port}/"}
    _tell(args, {**where, "queries": len(lines) or max(map(len, said.values())), "lanes": list(said), "missing_videos": missing})
    if server is None:
        return 0
    if args.open:
        import webbrowser

        webbrowser.open(where["address"])
    with server:
        server.serve_forever()
    return 0


def add_env(commands) -> None:
    "`vtg-r1 env`: what a bug report has to say of the machine."
    add_command(
        commands,
        "env",
        _env,
        "versions and devices, for bug reports",
        """
vtg-r1 env
vtg-r1 env --json > env.json
""",
        about="Versions, processor, memory and devices of this machine: what a bug report needs, and no name, path or key.",
    )


OPTIONAL = ("gradio", "openai", "vllm", "deepspeed", "bitsandbytes", "flash-attn", "liger-kernel", "trackio", "pandas", "nbdev")


def _env(args) -> int:
    import platform

    from ..runs.run import PACKAGES, package_version

    names = sorted(
        n for n in os.environ if n.startswith(("VTG_R1_", "HF_", "TRANSFORMERS_", "CUDA_", "NCCL_", "OMP_")) and "TOKEN" not in n and "KEY" not in n
    )
    quiet_libraries()
    about = {
        "vtg_r1": _own_version(),
        "commit": _own_commit(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": f"{platform.machine()}, {len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} cores",
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        **_devices(),
        "packages": {name: version for name in (*PACKAGES, *OPTIONAL) if (version := package_version(name)) or name in PACKAGES},
        "set": names,
    }
    if args.json:
        show_json(about)
        return 0
    flat = {
        **{k: v for k, v in about.items() if k not in ("packages", "set", "devices")},
        **{f"device {i}": d for i, d in enumerate(about["devices"])},
        **about["packages"],
        "set": ", ".join(about["set"]) or "none",
    }
    absent = {"commit": "none, no checkout", "cuda": "none"}
    print("\n".join(f"{name:<16}{absent.get(name, 'not installed') if value is None else value}" for name, value in flat.items()))
    return 0


def _own_commit() -> str | None:
    "The checkout's commit; of an installed package, which may lie in somebody else's repository, none."
    from ..runs.run import git_state

    package = Path(__file__).resolve().parents[1]
    settings = package.parent / "settings.ini"
    own = settings.is_file() and "lib_name = vtg_r1" in settings.read_text(encoding="utf-8", errors="replace").splitlines()
    return git_state(package)["commit"] if own else None


def _devices() -> dict:
    "The GPUs that torch sees."
    try:
        import torch
    except ImportError:
        return {"cuda": None, "devices": []}
    found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return {"cuda": torch.version.cuda, "devices": [f"{p.name}, {p.total_memory / 1e9:.0f} GB" for p in found]}


def _prefix(args) -> str:
    return " ".join(["vtg-r1", args.command, *([args.action] if hasattr(args, "action") else [])])


def _apart(argv: list[str]) -> list[str]:
    "`-p NAME=VALUE` as `-p NAME VALUE`."
    found: list[str] = []
    for word in argv:
        name, equals, value = word.partition("=")
        found += [name, value] if found and found[-1] in ("-p", "--parameter") and equals and name.isidentifier() else [word]
    return found


def main(argv: list[str] | None = None) -> int:
    "Run one command; the console script's entry point."
    args = build_parser().parse_args(_apart(sys.argv[1:] if argv is None else argv))
    try:
        code = args.handler(args)
        sys.stdout.flush()
        return code
    except UserError as e:
        print(f"{_prefix(args)}: {e}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{_prefix(args)}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `vtg-r1 … | head`: whoever reads has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
