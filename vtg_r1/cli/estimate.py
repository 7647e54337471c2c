"`vtg-r1 estimate -f FILE`: hours and memory of a GRPO run by card, from measured steps."

import json
import re
from importlib.resources import files
from typing import Annotated, Any

from typer import Option

from ..core.runtime import UserError
from ..runs.parameters import from_mapping
from .common import AsJson, command, print_json
from .run import Pairs, ParameterFiles, read_given, stage_params

CARDS = {  # memory in GB, its bandwidth in TB/s, dense bfloat16 in TFLOPS: the makers' data sheets
    "H200": (141, 4.8, 989),
    "H100": (80, 3.35, 989),
    "A100 80 GB": (80, 2.0, 312),
    "A100 40 GB": (40, 1.6, 312),
    "L40S": (48, 0.86, 362),
    "RTX 4090": (24, 1.0, 165),
}
CPU = "two CPU cores"
COMPARED = ("frames", "pixels", "num_generations", "prompts_per_step", "max_completion_length")


def measured_rows() -> list[dict[str, Any]]:
    "Steps that were measured (perf/README.md): their settings, seconds and GB."
    rows: list[dict[str, Any]] = json.loads((files("vtg_r1") / "assets" / "measured.json").read_text(encoding="utf-8"))
    return rows


def billions(model: str) -> float:
    "Parameters in billions by a model's name, such as Qwen/Qwen2.5-VL-3B-Instruct; 0 is the embedded model."
    if model in ("", "tiny"):
        return 0.0
    size = re.search(r"(\d+(?:\.\d+)?)[bB](?![a-z])", model)
    if size is None:
        raise UserError(f"model {model!r}: its name does not say its size; give a name such as Qwen/Qwen2.5-VL-3B-Instruct for the estimate")
    return float(size[1])


def nearest_row(size: float) -> dict[str, Any]:
    "The measured step whose model is nearest in size; the toy step is for the embedded model alone."
    rows = [row for row in measured_rows() if bool(row["billions"]) == bool(size)]
    return min(rows, key=lambda row: abs(row["billions"] - size))


def step_on(card: str, params: Any, row: dict[str, Any], size: float) -> dict[str, Any]:
    "Seconds and GB of a step, and what of it differs from the measured one."
    differences = [name for name in COMPARED if getattr(params, name) != row[name]]
    if card != row["card"]:
        differences.append("card")
    if not size <= row["billions"] <= 1.3 * size:  # names round down: Qwen2.5-VL-3B has 3.75 billion parameters
        differences.append("model")
    if bool(params.lora_rank) != row["adapters"]:
        differences.append("lora_rank")
    longer = params.max_completion_length / row["max_completion_length"]
    queries = params.prompts_per_step * params.num_generations / (row["prompts_per_step"] * row["num_generations"])
    prompt = params.frames * params.pixels / (row["frames"] * row["pixels"])
    if not row["billions"]:  # its parts were not measured apart
        return dict(card=card, step_seconds=row["step_seconds"] * queries * prompt * longer, decoding_seconds=None, gb=None, differs=differences)
    decoding, rest = row["decoding_seconds"] * longer, (row["step_seconds"] - row["decoding_seconds"]) * queries * prompt
    decoding, rest = _on_other_card(card, row, decoding, rest, size, params.max_completion_length)
    cached = (params.prompts_per_step - 1) * row["gb_per_further_query"] * prompt
    gb = row["peak_gb"] + cached if params.lora_rank and not params.quantize else None  # all weights and 4 bits: not measured
    return dict(card=card, step_seconds=decoding + rest, decoding_seconds=decoding, gb=gb, differs=differences)


def _on_other_card(card: str, row: dict[str, Any], decoding: float, rest: float, size: float, tokens: int) -> tuple[float, float]:
    "Seconds of decoding and of the rest. Decoding is bound by launches, as measured, or else by reading the weights; the rest by arithmetic."
    _, bandwidth, speed = CARDS[card]
    reading = 2e9 * size / (bandwidth * 1e12) * tokens
    return max(decoding, reading), rest * max(1.0, size / row["billions"]) * CARDS[row["card"]][2] / speed


def estimate_run(params: Any, card: str = "") -> list[dict[str, Any]]:  # a row for each card
    "Hours and GB of a GRPO run."
    size = billions(params.model)
    row = nearest_row(size)
    cards = [card] if card else (list(CARDS) if size else [CPU])
    rows = []
    for name in cards:
        step = step_on(name, params, row, size)
        fits = None
        if step["gb"] is not None and name in CARDS:
            fits = step["gb"] <= CARDS[name][0]
        rows.append({**step, "hours": params.steps * step["step_seconds"] / 3600, "fits": fits})
    return rows


@command(
    "estimate",
    "vtg-r1 estimate -f configs/single_gpu_lora.yaml -p model Qwen/Qwen2.5-VL-3B-Instruct",
    "vtg-r1 estimate -f configs/single_gpu_lora.yaml -p model Qwen/Qwen2.5-VL-7B-Instruct -p steps 200 --card H100 --json",
)
def estimate(
    pairs: Pairs = [],
    files: ParameterFiles = [],
    card: Annotated[str, Option(metavar="NAME", help=f"one of {', '.join(CARDS)}; all by default")] = "",
    as_json: AsJson = False,
) -> int:
    "Hours and memory of a GRPO run on one card, before it begins: from measured steps, and extrapolated where the run differs from them."
    params_class = stage_params("grpo")
    assert params_class is not None
    params: Any = from_mapping(params_class, read_given("grpo", files, pairs))
    if card and card not in CARDS:
        raise UserError(f"--card {card!r}: give one of {', '.join(CARDS)}")
    rows = estimate_run(params, card)
    if as_json:
        print_json(rows)
        return 0
    shape = f"{params.prompts_per_step} queries × {params.num_generations} responses of at most {params.max_completion_length} tokens"
    print(f"GRPO, {params.steps} steps of {shape}; without cold start and held-out scores")
    for row in rows:
        print(_line(row))
    return 0


def _line(row: dict[str, Any]) -> str:
    memory = "memory not measured"
    if row["gb"] is not None:
        memory = f"{row['gb']:.0f} GB"
    if row["fits"] is False:
        memory += ", more than the card has"
    origin = "as measured"
    if row["differs"]:
        origin = f"extrapolated over {', '.join(row['differs'])}"
    seconds = f"{row['step_seconds']:.1f} s per step"
    if row["decoding_seconds"] is not None:
        seconds += f", {row['decoding_seconds']:.1f} of it decoding"
    return f"{row['card']:<14}{row['hours']:8.2f} hours  {seconds}; {memory}; {origin}"
