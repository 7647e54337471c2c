"`vtg-r1 estimate -f FILE`: hours and memory of a GRPO run by card, from measured steps."

from typing import Annotated, Any

from typer import Option

from ..core.runtime import UserError
from ..runs.parameters import from_mapping
from ..train.estimate import CARDS, billions, estimate_run
from .common import AsJson, command, print_json
from .run import Pairs, ParameterFiles, read_given, stage_params


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
    if card and not billions(params.model):
        raise UserError(f"--card {card}: the embedded model was measured on two CPU cores only; give -p model, or leave --card out")
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
