"`vtg-r1 calibrate`: the agreement of its answers below which a model should not answer."

import hashlib
import json
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from ..core.atomic_files import write_json
from ..core.runtime import UserError, resolve, sha256
from ..core.samples import SampleError, write_jsonl
from .common import AsJson, command, print_json, quiet_libraries
from .ground import Device, load_model_and_processor

if TYPE_CHECKING:
    from ..models.sampled_answers import Calibration


@command(
    "calibrate",
    "vtg-r1 calibrate heldout.jsonl --videos my_videos --model outputs/grpo/mine --out calibration.json",
    "vtg-r1 calibrate heldout.jsonl --videos my_videos --model outputs/grpo/mine --samples 16 --coverage 0.95 --out calibration.json --json",
)
def calibrate_command(
    annotations: Annotated[str, Argument(metavar="HELDOUT.jsonl", help="samples that the model was not trained on, JSON lines of this project")],
    videos: Annotated[str, Option(metavar="DIR", help="root of the videos")],
    out: Annotated[str, Option(metavar="FILE.json", help="the calibration; FILE_predictions.jsonl beside it has the answers, for vtg-r1 review")],
    model: Annotated[str, Option(metavar="NAME", help="as ground takes it")] = "tiny",
    samples: Annotated[int, Option(min=2, metavar="N", help="answers per query")] = 8,
    temperature: Annotated[float, Option(min=0.01, metavar="T", help="of the answers")] = 1.0,
    coverage: Annotated[float, Option(min=0.01, max=0.999, metavar="SHARE", help="of the right answers that the threshold keeps")] = 0.9,
    right_tiou: Annotated[float, Option(min=0.01, max=1, metavar="TIOU", help="with the truth, from which an answer is right")] = 0.5,
    batch_size: Annotated[int, Option(min=1, metavar="N", help="queries per batch")] = 8,
    device: Device = None,
    as_json: AsJson = False,
) -> int:
    """Find the agreement below which a model should not answer. Each held-out query is answered several times; the threshold keeps the stated share of
    the right answers on new queries like these (split conformal), and refuses those that agree less. ground and demo take the file with --calibration."""
    from ..models.loading import check_model_exists

    check_model_exists(model)
    from ..data.sources import find_videos, read_annotations
    from ..models.abilities import require_encoding
    from ..models.generation import generate
    from ..models.ground import resolve_model
    from ..models.loading import model_fingerprint
    from ..models.sampled_answers import Calibration, calibrated, resumable_consensus

    quiet_libraries()
    place = Path(out)
    if place.suffix != ".json" or place.is_dir():
        raise UserError(f"--out {out}: name a file that ends in .json")
    try:
        queries = find_videos(read_annotations(annotations, video_root=videos), videos)
        folder, config = resolve_model(model)
        pair = load_model_and_processor(folder, device, config.chat_template_kwargs)
        require_encoding(model, pair[1], config.time_encoding, config.pixels, pair[0])
    except (SampleError, OSError, ImportError, ValueError) as e:
        raise UserError(e) from e
    view = config.view(resolve(videos))
    ask: Any = partial(generate, *pair, max_completion_length=config.max_completion_length, temperature=temperature, num_completions=samples)
    source, key = {"path": annotations, "sha256": sha256(resolve(annotations))}, model_fingerprint(folder)
    settings = [key, asdict(config), source["sha256"], str(resolve(videos)), samples, temperature, batch_size]
    part = place.with_name(f".{place.stem}_{hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]}.jsonl")  # a stopped call goes on in it
    rows = resumable_consensus(part, ask, queries, view, batch_size)
    failed = [row for row in rows if "error" in row]
    for row in failed:
        print(f"{row['qid']}: {row['error']}; it counts as not answered", file=sys.stderr)
    try:
        facts = calibrated(rows, queries, coverage, right_tiou, config.answers)
    except ValueError as e:
        raise UserError(f"{annotations}: {e} (tIoU of at least {right_tiou:g} with the truth)") from None
    made = Calibration(**facts, samples=samples, temperature=temperature, model=model, model_key=key, config=asdict(config), annotations=source)
    write_json(place, made.to_dict())
    refused = [bool(row["pred"]) and row["agreement"] < made.threshold for row in rows]
    write_jsonl(place.with_name(f"{place.stem}_predictions.jsonl"), [{**row, "refused": no} for row, no in zip(rows, refused)])
    part.unlink()
    if as_json:
        print_json(made.to_dict())
    else:
        _print_calibration(made)
    return 0


def _print_calibration(made: "Calibration") -> None:
    "Print the calibration for a person."
    print(f"threshold {made.threshold:.3f}: of {made.samples} answers at temperature {made.temperature:g}, the mean tIoU of their pairs")
    print(f"it keeps {made.coverage:.1%} of the right answers on new queries like these (from {made.right} right ones, tIoU ≥ {made.right_tiou:g})")
    if made.precision is not None:
        print(f"here {made.answered:.1%} of {made.queries} queries are answered, and {made.precision:.1%} of those answers are right")
