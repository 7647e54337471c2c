"`vtg-r1 push|demo|review`: a run on the Hub, a page to ask a model, a page to look through data and predictions."

import sys
import threading
import webbrowser
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from ..core.runtime import UserError, resolve
from .common import AsJson, CommandFailed, command, first_line, print_json, quiet_libraries
from .ground import CalibrationFile, Device, Samples, load_model_and_processor, read_sampling

Host = Annotated[str, Option(metavar="ADDRESS", help="127.0.0.1 is this machine only; any other lets the network in, without a password")]
Port = Annotated[int, Option(min=0, max=65535, metavar="N", help="0 takes a free one")]
OpenBrowser = Annotated[bool, Option("--open", help="open the browser")]


@command(
    "push",
    "vtg-r1 push outputs/grpo/mine me/my-policy --dry-run",
    "vtg-r1 push outputs/grpo/mine me/my-policy --public",
    fails="the Hub did not take it",
)
def push_command(
    run: Annotated[str, Argument(metavar="RUN_FOLDER", help="e.g. outputs/grpo/mine")],
    repo: Annotated[str, Argument(metavar="OWNER/NAME", help="repository; made if it does not exist")],
    public: Annotated[bool, Option("--public", help="make a new repository public; without it, private")] = False,
    dry_run: Annotated[bool, Option("--dry-run", help="list exactly what would be sent, send nothing")] = False,
    as_json: AsJson = False,
) -> int:
    "Share a finished run on the Hugging Face Hub. Upload a run's model (safetensors) or data with a card made from its manifest."
    from httpx import HTTPError
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    from ..pages.hub import push

    try:
        report = push(resolve(run), repo, not public, dry_run)
    except (HTTPError, HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled) as e:
        reason = " ".join(str(e).split())  # the Hub's own messages have several lines
        raise CommandFailed(f"the Hub did not take it ({type(e).__name__}: {reason}); nothing of the run has changed") from e
    if as_json:
        print_json(report)
        return 0
    if dry_run:
        print(report["card"] + "\n")
    for name, size in report["files"].items():
        print(f"{size:>14,d}  {name}")
    for name in report["left"]:
        print(f"{'stays':>14s}  {name}")
    total = sum(report["files"].values())
    print(report["url"] or f"dry run: {len(report['files'])} files, {total:,d} bytes would go to {report['kind']} {repo}")
    return 0


@command(
    "demo",
    "vtg-r1 demo                                                         # the embedded toy model, with toy videos to try",
    "vtg-r1 demo --model outputs/grpo/mine --open",
    "vtg-r1 demo --before outputs/sft/mine --model outputs/grpo/mine     # a switch between the two",
    "vtg-r1 demo --model outputs/grpo/mine --calibration calibration.json # how sure each answer is, and none that is not",
)
def demo(
    model: Annotated[list[str], Option(metavar="NAME", help="as ground takes it; tiny by default; twice: before and after RL")] = [],
    before: Annotated[str | None, Option(metavar="NAME", help="the model before RL, to compare with")] = None,
    samples: Samples = None,
    calibration: CalibrationFile = None,
    device: Device = None,
    max_mb: Annotated[int, Option(min=1, metavar="N", help="maximum size of an upload, megabytes")] = 200,
    max_minutes: Annotated[float, Option(min=0, metavar="N", help="maximum length of a video")] = 10,
    host: Host = "127.0.0.1",
    port: Port = 0,
    open_browser: OpenBrowser = False,
    as_json: AsJson = False,
) -> int:
    """Serve a page in the browser: drop a video, type a sentence, see when it happens. Prints its address; Ctrl-C ends it.
    Needs: pip install 'vtg_r1[demo]'."""
    if before and not model:
        raise UserError(f"--before {before}: needs the model after RL to compare with, --model NAME")
    quiet_libraries()
    try:
        import gradio  # noqa: F401
    except ImportError:
        raise UserError("the page needs Gradio: pip install 'vtg_r1[demo]'") from None
    from ..models.ground import resolve_model
    from ..pages.demo import load_models, running_page

    names = model or ["tiny"]
    if before:
        names = [before, *names]
    if calibration and len(names) > 1:
        raise UserError(f"--calibration {calibration}: is of one model, and the page shows {len(names)}; leave out the other")
    try:
        sampling = read_sampling(samples, calibration, *resolve_model(names[-1]))
        models = load_models(names, lambda name, arguments: load_model_and_processor(name, device, arguments))
        with running_page(models, host, port, max_mb, max_minutes, open_browser, sampling) as address:
            _print_place({"address": address}, as_json)
            threading.Event().wait()
    except (OSError, ImportError, ValueError) as e:
        raise UserError(first_line(e)) from e
    return 0


def _print_place(place: dict[str, object], as_json: bool) -> None:
    "Print the address or file of a page at once, since the command goes on."
    if as_json:
        print_json(place)
    else:
        print(next(iter(place.values())), flush=True)


@command(
    "review",
    "vtg-r1 review outputs/curation/mine/coldstart.jsonl --videos my_videos",
    "vtg-r1 review samples.jsonl predictions_before.jsonl predictions.jsonl --html review.html",
    old_name="view",
)
def review(
    files: Annotated[list[str], Argument(metavar="FILE.jsonl...", help="samples, and prediction files for them; each of these is a lane")],
    videos: Annotated[str | None, Option(metavar="DIR", help="root of the videos; default: the folder videos beside the samples")] = None,
    html: Annotated[str | None, Option(metavar="OUT.html", help="write the page to this file, with links to the videos")] = None,
    host: Host = "127.0.0.1",
    port: Port = 0,
    open_browser: OpenBrowser = False,
    as_json: AsJson = False,
) -> int:
    """Look through samples and predictions, keep or drop them. A page with truth, teacher and predictions of each query on one timeline, with filters,
    and marks that can be downloaded as JSONL. It is served on this machine until Ctrl-C, which needs pip install 'vtg_r1[demo]'; with --html it
    is written as a file."""
    from ..core.samples import SampleError
    from ..pages.review import ReviewServer, beside, read_review, save_review

    if videos and not Path(videos).is_dir():
        raise UserError(f"--videos {videos}: no such folder")
    for folder in filter(Path.is_dir, map(Path, files)):
        inside = sorted(file.name for file in folder.glob("*.jsonl"))
        raise UserError(f"{folder} is a folder: give files of it, {', '.join(inside) or 'of which none ends in .jsonl'}")
    server = None
    try:
        lines, predictions = read_review(files)
        root = videos or beside(files)
        title = ", ".join(Path(file).name for file in files)
        if html:
            place, missing = {"html": html}, save_review(html, lines, predictions, root, title)
        else:
            server = ReviewServer(lines, predictions, root, title, host, port)
            place, missing = {"address": server.address}, server.missing
    except (SampleError, OSError, ImportError, ValueError) as e:
        raise UserError(e) from e
    for lane, rows in predictions.items():
        strange = rows.keys() - lines.keys()
        if lines and strange:
            problem = f"{len(strange)} of {len(rows)} predictions are for no query of the samples, such as qid {min(strange)!r}; they are left out"
            print(f"{lane}: {problem}", file=sys.stderr)
    if missing:
        print(f"{root}: {len(missing)} of the videos are missing, such as {missing[0]}", file=sys.stderr)
    queries = len(lines) or max(map(len, predictions.values()))
    _print_place({**place, "queries": queries, "lanes": list(predictions), "missing_videos": missing}, as_json)
    if server:
        if open_browser:
            webbrowser.open(server.address)
        server.run()
    return 0
