"`vtg-r1 ground VIDEO QUERY`: when something happens in a video."

import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Argument, Option, echo

from ..core.runtime import PROCESS_FACTS, UserError
from .common import AsJson, command, first_line, print_json, quiet_libraries

if TYPE_CHECKING:
    from ..models.ground import Answer, InferenceConfig, Sampling

SAMPLES_HELP = "ask each query N times, answer by consensus, and say how far the answers agree; default: once, greedily"
CALIBRATION_HELP = "of vtg-r1 calibrate: refuse an answer that agrees less than its threshold; it says how often to ask"
Samples = Annotated[int | None, Option(min=2, metavar="N", help=SAMPLES_HELP)]
CalibrationFile = Annotated[str | None, Option(metavar="FILE", help=CALIBRATION_HELP)]
Device = Annotated[str | None, Option(metavar="NAME", help="cuda, cpu, …; default: the GPU if there is one")]


@command(
    "ground",
    'vtg-r1 ground clip.mp4 "the second red circle"                         # the embedded toy model',
    'vtg-r1 ground match.mp4 "a goal" "the fans leave" --model outputs/grpo/mine --json',
    'vtg-r1 ground match.mp4 "a goal" --model Qwen/Qwen2.5-VL-7B-Instruct --clip goal.mp4',
    'vtg-r1 ground match.mp4 "a goal" --model outputs/grpo/mine --calibration calibration.json',
    fails="a query has no answer: no span within the video is read, or --calibration refuses it",
)
def ground_command(
    video: Annotated[str, Argument(metavar="VIDEO", help="any file that FFmpeg reads")],
    queries: Annotated[list[str], Argument(metavar="QUERY...", help="sentences to find, asked one by one; the video is read once")],
    model: Annotated[str, Option(metavar="NAME", help="a run folder, a model folder, a hub id, or tiny, the embedded toy model")] = "tiny",
    clip: Annotated[str | None, Option(metavar="OUT.mp4", help="cut the span out, with its sound; of several queries OUT-1.mp4, …")] = None,
    frames: Annotated[int | None, Option(min=1, metavar="N", help="maximum frames; default: as the model was trained, else 64")] = None,
    fps: Annotated[
        float | None, Option(min=0, metavar="N", help="maximum frames per second; default: as the model was trained, else no limit")
    ] = None,
    pixels: Annotated[int | None, Option(min=784, metavar="N", help="pixels per frame; default: as the model was trained, else 100352")] = None,
    style: Annotated[
        Literal["full", "short", "direct", "short_direct"] | None, Option(help="prompt; default: as the model was trained, else full, the paper's")
    ] = None,
    time_encoding: Annotated[
        Literal["interleaved", "native"] | None, Option(help="text timestamps, or the model's video input; default: as trained, else interleaved")
    ] = None,
    max_completion_length: Annotated[int | None, Option(min=1, metavar="TOKENS", help="default: as the model was trained, else 2048")] = None,
    chat_template_kwargs: Annotated[
        str | None, Option(metavar="YAML", help="arguments of the model's chat template, such as '{enable_thinking: false}'; default: as trained")
    ] = None,
    samples: Samples = None,
    calibration: CalibrationFile = None,
    device: Device = None,
    as_json: AsJson = False,
) -> int:
    """Find when something happens in a video. Prints the span in seconds and the reasoning. A run folder is asked as it was trained, the embedded
    model as it was made, any other model as the paper asks, but with times as text. With --samples it is asked several times, and says how far the
    answers agree."""
    from ..models.loading import check_model_exists

    _refuse_empty(queries)
    check_model_exists(model)
    from ..models.ground import ground, resolve_model
    from ..video.decoders import VideoError
    from ..video.reader import probe

    quiet_libraries()
    options = dict(frames=frames, fps=fps, pixels=pixels, style=style, time_encoding=time_encoding, max_completion_length=max_completion_length)
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    if chat_template_kwargs is not None:
        given["chat_template_kwargs"] = read_mapping(chat_template_kwargs, "--chat-template-kwargs")
    try:
        info = probe(video)
        outs = _clip_files(clip, video, len(queries))
        folder, config = resolve_model(model)
        config = replace(config, **given)
        sampling = read_sampling(samples, calibration, folder, config)
        pair = load_model_and_processor(folder, device, config.chat_template_kwargs)
        _say_if_dense(*pair, video, info.duration, config)
        answers = ground(*pair, video, queries, config, sampling)
        clips = _cut_clips(video, answers, outs)
    except (VideoError, FileNotFoundError, PermissionError, ImportError, ValueError) as e:
        raise UserError(e) from e
    _say_who_read(model)
    if as_json:
        rows = [{**asdict(answer), "clip": file} for answer, file in zip(answers, clips)]
        print_json({"video": video, "duration": round(info.duration, 3), "model": model, "answers": rows})
    else:
        for answer, file in zip(answers, clips):
            _print_answer(answer, file, sampling)
    return int(not all(answer.span or answer.spans == [] for answer in answers))


def _cut_clips(video: str, answers: "Sequence[Answer]", outs: Sequence[Path | None]) -> list[str | None]:
    "Cut the first span of each answer into its file; where there are more, a line on stderr says so."
    from ..video.cut import cut

    clips: list[str | None] = []
    for answer, out in zip(answers, outs):
        clips.append(str(cut(video, out, answer.span)) if out and answer.span else None)
        if clips[-1] and len(answer.spans or []) > 1:
            echo(f"{out} has the first of {len(answer.spans or [])} spans", err=True)
    return clips


def _refuse_empty(queries: list[str]) -> None:
    "Raise `UserError` if a query has no word."
    for number, query in enumerate(queries, 1):
        if not query.strip():
            raise UserError(f"query {number} is empty: say in words what to look for")


def _say_who_read(model: str) -> None:
    "Say on stderr that the embedded model knows only shapes, and which videos were read by another than the first backend, and why."
    if model == "tiny":
        print("model tiny is the embedded one, which knows only coloured shapes; for other videos give --model", file=sys.stderr)
    for file, reason in PROCESS_FACTS.get("videos_switched", {}).items():
        print(f"{file}: {reason}", file=sys.stderr)


def read_sampling(samples: int | None, calibration: str | None, model: str, config: "InferenceConfig") -> "Sampling | None":
    "How often a model is asked, by --samples and --calibration; None for one greedy answer."
    from ..models.ground import Sampling
    from ..models.loading import model_fingerprint
    from ..models.sampled_answers import check_calibration, read_calibration

    if calibration is None:
        return Sampling(samples) if samples else None
    made = read_calibration(calibration)
    if samples not in (None, made.samples):
        raise UserError(f"--samples {samples}: {calibration} was made with {made.samples}; leave --samples out, or calibrate with {samples}")
    check_calibration(made, calibration, model_fingerprint(model), asdict(config))
    return Sampling(made.samples, made.temperature, made.threshold)


def _say_if_dense(model: Any, processor: Any, video: str, duration: float, config: "InferenceConfig") -> None:
    "Say on stderr if the model's own clock is too coarse for as many frames."
    from ..core.samples import Sample
    from ..models.clock import dense_note

    path = Path(video).resolve()
    note, _ = dense_note(model, processor, [Sample("", path.name, duration, "", [[0.0, duration]])], config.view(path.parent))
    if note:
        echo(note, err=True)


def read_mapping(text: str, option: str) -> dict[str, Any]:
    "A mapping that an option gives as YAML."
    from ..runs.parameters import load_yaml

    try:
        value = load_yaml(text)
    except ValueError as e:
        raise UserError(f"{option} {text!r}: {first_line(e)}") from e
    if not isinstance(value, dict):
        raise UserError(f"{option} {text!r}: write a mapping, such as '{{enable_thinking: false}}'")
    return value


def load_model_and_processor(model: str, device: str | None, chat_template_kwargs: dict[str, Any] | None = None) -> tuple[Any, Any]:
    "Model and processor; a hub id or folder that cannot be loaded is a `UserError`."
    from ..models.loading import check_model_exists, load_model, load_processor

    check_model_exists(model)
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        return load_model(model, device), load_processor(model, chat_template_kwargs)
    except UserError:
        raise
    except Exception as e:  # whatever files, configurations and missing packages raise
        raise UserError(f"model {model!r} cannot be loaded: {first_line(e)}") from e


def _clip_files(clip: str | None, video: str, count: int) -> list[Path | None]:
    "The file of each query's clip; `UserError` if it is a folder or the video itself."
    if clip is None:
        return [None] * count
    path = Path(clip)
    files = [path]
    if count > 1:
        files = [path.with_name(f"{path.stem}-{number}{path.suffix}") for number in range(1, count + 1)]
    for file in files:
        if file.is_dir():
            raise UserError(f"--clip {file}: is a folder; name a file in it, such as {file / 'clip.mp4'}")
        if file.exists() and file.samefile(video):
            raise UserError(f"--clip {clip}: would overwrite the video")
    return list(files)


def _spans_text(spans: list[list[float]]) -> str:
    "Such as `1.00 – 2.50, 7.00 – 8.00 s`."
    return ", ".join(f"{start:.2f} – {end:.2f}" for start, end in spans) + " s"


def _print_answer(answer: "Answer", clip: str | None, sampling: "Sampling | None") -> None:
    "One answer for a person."
    reasoning, agreement = answer.reasoning, ""
    if sampling:
        agreement = f"  (agreement {answer.agreement:.2f} of {sampling.samples} answers)"
    if answer.span:
        print(f"{_spans_text(answer.spans or [answer.span])}  {answer.query}{agreement}")
    elif answer.refused and sampling:
        print(
            f"not sure  {answer.query}  (agreement {answer.agreement:.2f} of {sampling.samples} answers, below {sampling.threshold:.2f}; "
            f"it would be {_spans_text(answer.refused)})"
        )
    elif answer.spans == []:
        print(f"not in the video  {answer.query}{agreement}")
    else:
        print(f"no span  {answer.query}{agreement}")
        reasoning = reasoning or f"the response: {answer.response.strip()[:300]}"
    for line in reasoning.splitlines():
        print(f"    {line}")
    if clip:
        print(f"    {clip}")
