"`vtg-r1 difficulty`: what rollouts before RL say about a policy and its samples."

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from ..core.runtime import UserError
from ..core.samples import SampleError, load_samples
from .common import AsJson, command, print_json

if TYPE_CHECKING:
    from ..difficulty import Advice

NAMES = {
    "sampled_mIoU": "mean tIoU of sampled answers",
    "p_right": "p(right): chance of a right answer",
    "pass_at_k": "pass@K: questions with a right answer among their rollouts",
    "zero_std": "zero-std groups: no gradient",
    "zero_std_wrong": "zero-std groups among the questions with a mean tIoU below 0.5",
}


@command(
    "difficulty",
    "vtg-r1 difficulty outputs/difficulty/20260101-120000",
    "vtg-r1 difficulty outputs/difficulty/20260101-120000 --advise",
    "vtg-r1 difficulty rl_scored.jsonl --right 0.7 --advise --json",
)
def difficulty_command(
    scored: Annotated[str, Argument(metavar="RUN", help="a run of 04_difficulty, which makes the rollouts, or its rl_scored.jsonl")],
    right: Annotated[float, Option(metavar="TIOU", min=0.01, max=1, help="tIoU from which an answer is right")] = 0.5,
    advice: Annotated[bool, Option("--advise", help="also say where on the regime map this is, and what to do first")] = False,
    as_json: AsJson = False,
) -> int:
    """Print p(right), pass@K, zero-std groups and the estimated share of wrong labels of a policy and its RL samples. With --advise, look both up on
    the regime map of 06_ablations, which is of a toy world: it gives directions, not points."""
    from ..difficulty import advise, scored_file

    path = scored_file(scored)
    if not path.is_file():
        raise UserError(f"{path}: no such file; give a run of 04_difficulty, or its rl_scored.jsonl")
    try:
        samples = load_samples(path)
        if not samples:
            raise SampleError("holds no sample")
        result = advise(samples, right)
    except SampleError as e:
        raise UserError(f"{path}: {e}") from None
    if as_json:
        document = asdict(result)
        if not advice:
            document = {name: document[name] for name in ("metrics", "label_noise")}
        print_json({"n": len(samples), **document})
        return 0
    _print(result, len(samples), advice)
    return 0


def _print(result: "Advice", n: int, advice: bool) -> None:
    for name, text in NAMES.items():
        print(f"{result.metrics[name]:6.1f} %  {text}")
    if result.label_noise:
        noise, low, high = result.label_noise
        print(f"{noise:6.1f} %  labels that are wrong, estimated from label, teacher and policy [{low:.1f}, {high:.1f}]")
    else:
        missing = "needs samples with a teacher's answer (01_curation) that 04_difficulty has scored, and some agreement of the two"
        print(f"     ?    labels that are wrong: {missing}")
    print(f"n = {n} samples")
    if not advice:
        return
    for cell in result.place:
        print(_cell_text(cell))
    print(*result.sentences, sep="\n")


def _cell_text(cell: dict) -> str:
    "A cell of the map as a line."
    text = f"map: base {cell['base_miou']:.0f} mIoU, {100 * cell['label_noise']:g} % wrong labels ({cell['label_errors']}), {cell['steps']} steps: "
    text += f"right labels are worth {cell['predicted']:+.0f} points by theory"
    if "measured" in cell:
        return text + f", {cell['measured']:+.0f} measured ({cell['verdict']}, {cell['seeds']} seeds)"
    return text + ", not measured yet"
