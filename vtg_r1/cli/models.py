"`vtg-r1 check-model MODEL`: measure what a model can do here."

import re
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from ..core.runtime import UserError
from .common import AsJson, command, first_line, print_json, quiet_libraries
from .ground import Device, load_model_and_processor, read_mapping

if TYPE_CHECKING:
    from ..models.abilities import Abilities, EncodingAbilities


@command(
    "check-model",
    "vtg-r1 check-model Qwen/Qwen3-VL-4B-Instruct",
    "vtg-r1 check-model my/model --chat-template-kwargs '{enable_thinking: false}' --json",
    fails="no time encoding works with this model, the table says why",
)
def check_model(
    model: Annotated[str, Argument(metavar="MODEL", help="a model folder, a run folder, a hub id, or tiny")],
    pixels: Annotated[int, Option(min=784, metavar="N", help="pixel budget per frame")] = 100352,
    chat_template_kwargs: Annotated[str, Option(metavar="YAML", help="arguments of the model's chat template")] = "{}",
    device: Device = None,
    as_json: AsJson = False,
) -> int:
    """Measure what a model can do before hours are spent on it: whether it sees the video and knows the time in each encoding, what a frame costs, what
    its chat template opens and ends with, which layers LoRA reaches. It is loaded and asked about frames of noise; no video is needed."""
    quiet_libraries()
    arguments = read_mapping(chat_template_kwargs, "--chat-template-kwargs")
    from ..models.abilities import measure, remedy
    from ..models.loading import model_path

    try:
        path = model_path(model)
    except FileNotFoundError as e:
        raise UserError(e) from e
    loaded = load_model_and_processor(path, device, arguments)
    try:
        abilities = measure(*loaded, pixels=pixels)
    except Exception as e:  # whatever a template or a processor raises
        raise UserError(f"model {model!r} cannot be measured, its chat template or its processor fails: {first_line(e)}") from e
    usable = [name for name, encoding in abilities.encodings.items() if not encoding.problem]
    if as_json:
        print_json({"model": model, "usable": usable, "remedy": remedy(abilities.encodings), **abilities.as_dict()})
    else:
        lines = table(abilities)
        width = max(map(len, lines)) + 2
        for name, value in lines.items():
            print(f"{name:<{width}}{value}")
    return int(not usable)


def _one_encoding(encoding: "EncodingAbilities") -> str:
    "A line about one time encoding."
    if encoding.problem:
        return f"cannot be used: {encoding.problem}"
    clock = "its clock has steps of unknown size"
    if encoding.clock_step is not None:
        clock = f"clock in steps of at most {encoding.clock_step:g} s"
    tokens = ", ".join(f"{ratio} {count:g}" for ratio, count in encoding.frame_tokens.items())
    return f"works, {clock}; tokens per frame: {tokens}"


_CLOSING_TAG = re.compile(r"[<\[◁]\|?/|<\w+\|>")  # </thinking>, [/THINK], ◁/think▷, <channel|>


def _opening(abilities: "Abilities") -> str:
    "What the generation prompt writes of a response, and what this means for training."
    other = abilities.foreign_opening
    if _CLOSING_TAG.search(other):
        return (
            f"{other!r}, a closed thought, but not in <think>: responses are judged without it, and the format reward asks for a <think> of their own"
        )
    if other:
        return (
            f"{other!r}, which is not <think>: the format reward is 0 for a response that goes on in it, since it pays only for tags that the response "
            "writes itself; give a chat template, or --chat-template-kwargs, that opens <think> or nothing"
        )
    if "</think>" in abilities.opening:
        return f"{abilities.opening!r}, a closed thought: reasoning cannot be taught behind it (03_sft, sft_target response)"
    return repr(abilities.opening) if abilities.opening else "nothing of the response"


def table(abilities: "Abilities") -> dict[str, Any]:
    "The lines that are printed for a person, by name."
    from ..models.abilities import remedy

    lines: dict[str, Any] = {name: _one_encoding(encoding) for name, encoding in abilities.encodings.items()}
    lines["prompt opens"] = _opening(abilities)
    lines["turn ends with"] = abilities.end_of_turn
    lines["template takes"] = ", ".join(abilities.template_arguments) or "no arguments"
    lines["LoRA"] = abilities.linear.describe()
    for name, test in abilities.sharing.items():
        lines[f"shared prefix, {name}"] = test.reason or "yes"
    fix = remedy(abilities.encodings)
    if fix:
        lines["remedy"] = fix
    return lines
