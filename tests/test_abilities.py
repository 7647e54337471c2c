"""What a model can do is measured.

A time encoding says how frame times reach the model: "interleaved" writes them before each frame, "native" is the processor's own video input. An encoding that would be silently
wrong is refused: *no clock* means that other times give the same inputs, or the same logits. An *opening* is what the generation prompt already writes of the response, such as "<think>"; it is
used as it is. LoRA reaches linear layers."""

import json
import re
from types import SimpleNamespace

import pytest
import torch
from model_zoo import FAMILIES, build, folder
from test_video import write

from vtg_r1.cli import main
from vtg_r1.core.prompts import grounding_prompt, is_well_formed, parse_span, think_text
from vtg_r1.core.runtime import RunError, UserError
from vtg_r1.core.samples import Sample
from vtg_r1.data.model_inputs import VideoInputConfig, build_messages
from vtg_r1.grpo import GRPOParams, grpo_trainer, with_prompt_opening
from vtg_r1.models.abilities import _bare_ids, _why_unusable, measure, measure_encoding, record_abilities, require_encoding
from vtg_r1.models.generation import first_axes, join_inputs, model_inputs
from vtg_r1.models.ground import InferenceConfig, ground
from vtg_r1.models.loading import linear_layers, load_model, load_processor, lora_config, outside_decoder
from vtg_r1.models.templates import (
    behind_opening,
    end_of_turn,
    foreign_opening,
    noise_frames,
    noise_prompt,
    opening,
    prompt_text,
    stop_ids,
    target_ids,
    template_arguments,
    with_opening,
)
from vtg_r1.models.tiny import build_tiny
from vtg_r1.rewards import format_reward, tiou_reward
from vtg_r1.runs.run import read_manifest, start_run
from vtg_r1.sft import SFTParams, sft_trainer
from vtg_r1.train.checks import max_prompt_tokens

PIXELS = 784
REFUSED = {  # family → (interleaved, native): how the problem begins; empty where the encoding works
    "qwen2_vl": ("", "it has no clock"),
    "internvl": ("", "it has no clock"),
    "llava_onevision": ("its chat template puts the frames before all text", "it has no clock"),
    "idefics3": ("", "Idefics3Processor makes no pixels"),
    "mistral3": ("", "it cannot take such a prompt (TemplateError"),
    "glm4v": ("", ""),
}
RESPONSE = "<think>it is gone at 8</think><time>[3, 8]</time>"


def pair(name):
    return load_model(str(folder(name)), "cpu"), load_processor(str(folder(name)))


@pytest.mark.parametrize("name", REFUSED)
def test_an_encoding_that_a_family_cannot_use_is_refused_with_its_problem(name):
    model, processor = pair(name)
    for encoding, problem in zip(("interleaved", "native"), REFUSED[name]):
        measured = measure_encoding(processor, encoding, PIXELS, model).problem
        assert measured.startswith(problem) and bool(measured) == bool(problem)
        if problem:
            with pytest.raises(UserError, match="; (use time_encoding '|time_encoding '.*' does not work either)"):
                require_encoding(name, processor, encoding, PIXELS, model)


def test_the_step_of_the_native_clock_is_measured():
    steps = {}
    for name in ("qwen2_5_vl", "qwen3_vl", "glm4v", "smolvlm"):
        model, processor = pair(name)
        abilities = measure_encoding(processor, "native", PIXELS, model)
        steps[name] = abilities.clock_step
    assert steps == {"qwen2_5_vl": 0.5, "qwen3_vl": 0.2, "glm4v": 1.0, "smolvlm": 1.0}


class StandIn:
    "A processor whose output is changed by `change`."

    def __init__(self, inner, change):
        self.inner, self.change = inner, change

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def __call__(self, **kwargs):
        return self.change(self.inner, kwargs)


def grey(inner, kwargs):
    "Every clip looks the same."
    inputs = inner(**kwargs)
    for name in ("pixel_values", "pixel_values_videos"):
        if name in inputs:
            inputs[name] = torch.zeros_like(inputs[name])
    return inputs


def dropped(inner, kwargs):
    "The frames are left out."
    return inner.tokenizer([text.replace("<|image_pad|>", "") for text in kwargs["text"]], padding=True, return_tensors="pt")


def timeless(inner, kwargs):
    "Every number in the prompt is the same, and so is every rate."
    text = ["".join("0" if c.isdigit() else c for c in t) for t in kwargs["text"]]
    clocks = {"video_metadata": [dict(m, fps=1.0) for m in kwargs["video_metadata"]]} if "video_metadata" in kwargs else {}
    return inner(**{**kwargs, "text": text, **clocks})


BAD = {grey: "it is blind", dropped: "no pixels", timeless: "it has no clock"}


@pytest.mark.parametrize("change", BAD)
def test_a_blind_or_timeless_processor_is_refused_by_grpo_sft_and_ground(change, toy_samples, world, tmp_path):
    model, processor = build_tiny(0)
    bad, view = StandIn(processor, change), VideoInputConfig(str(world / "videos"), 4, PIXELS, "short")
    with pytest.raises(UserError, match=BAD[change]):
        grpo_trainer(model, bad, toy_samples[:4], view, tmp_path, GRPOParams(prompts_per_step=2, num_generations=2, per_device_batch_size=4))
    with pytest.raises(UserError, match=BAD[change]):
        sft_trainer(model, bad, toy_samples[:4], view, tmp_path, SFTParams(batch_size=4, per_device_batch_size=4))
    with pytest.raises(UserError, match=BAD[change]):
        ground(model, bad, world / "videos" / toy_samples[0].video, ["the red circle"], InferenceConfig(4, PIXELS, "short", max_completion_length=4))
    require_encoding("tiny", processor, "interleaved", PIXELS, model)  # the unchanged processor is accepted


def test_a_model_that_ignores_its_pixels_is_blind():
    "Only a pass of the model shows it: the processor alone has no problem."
    model, processor = build_tiny(0)
    assert not measure_encoding(processor, "interleaved", PIXELS, model).problem
    model.model.visual.register_forward_hook(
        lambda module, inputs, out: type(out)({k: torch.zeros_like(v) if torch.is_tensor(v) else v for k, v in out.items()})
    )
    assert measure_encoding(processor, "interleaved", PIXELS, model).problem == "it is blind: two different clips give the same logits"
    assert not measure_encoding(processor, "interleaved", PIXELS).problem


def test_a_model_is_measured_though_an_earlier_one_had_its_address(monkeypatch):
    monkeypatch.setattr("vtg_r1.models.abilities.id", lambda x: 0, raising=False)  # as after the earlier one is gone
    model, processor = build_tiny(0)
    require_encoding("tiny", processor, "interleaved", PIXELS, model)
    blind = build_tiny(0)[0]
    blind.model.visual.register_forward_hook(
        lambda module, inputs, out: type(out)({k: torch.zeros_like(v) if torch.is_tensor(v) else v for k, v in out.items()})
    )
    with pytest.raises(UserError, match="it is blind"):
        require_encoding("tiny", processor, "interleaved", PIXELS, blind)


def test_prompts_processed_one_by_one_join_to_the_batch_of_all():
    for name in ("qwen3_vl", "gemma4", "minicpmv4_6", "mistral3", "smolvlm"):
        processor = pair(name)[1]
        prompts = [noise_prompt("interleaved", noise_frames(n, size), 1.0) for n, size in ((2, (84, 56)), (3, (56, 84)))]
        alone = [model_inputs(processor, [p], "cpu") for p in prompts]
        rows = [0, 0, 1]
        joined = join_inputs(processor, [prompts[i] for i in rows], [alone[i] for i in rows])
        together = model_inputs(processor, [prompts[i] for i in rows], "cpu")
        assert joined.keys() == together.keys() and all(torch.equal(joined[k], together[k]) for k in joined), name
    assert first_axes(pair("smolvlm")[1], "interleaved")["pixel_values"] == "prompt"  # one row per prompt, not per frame


# --- templates ---


@pytest.mark.parametrize(
    ("name", "opens", "ends"),
    [
        ("qwen3_vl", "", "<|im_end|>"),
        ("qwen3_vl_thinking", "<think>\n", "<|im_end|>"),
        ("qwen3_5", "<think>\n", "<|im_end|>"),
        ("qwen3_5_small", "<think>\n\n</think>\n\n", "<|im_end|>"),
        ("qwen3_8", "<think>\n", "<|im_end|>"),
        ("gemma4", "", "<turn|>"),
        ("internvl", "", "<|im_end|>"),
        ("glm4v", "<think>", "<|user|>"),
        ("glm46v", "", "<|user|>"),
    ],
)
def test_a_perfect_response_earns_full_rewards_whatever_thought_its_prompt_opens(name, opens, ends):
    "Decoded, the tokens that SFT teaches are judged like the target they were made from."
    model, processor = pair(name)
    opened, end = opening(processor), end_of_turn(processor, stop_ids(model, processor))
    assert opened == opens and processor.tokenizer.convert_ids_to_tokens(end) == ends
    target = RESPONSE if "</think>" not in opened else RESPONSE.replace("it is gone at 8", "")
    ids = target_ids(processor, target, stop_ids(model, processor))
    assert ids[-1] == end and end not in ids[:-1]
    written = processor.tokenizer.decode(ids, skip_special_tokens=True)
    judged = with_opening(written, opened)
    assert is_well_formed(judged) and parse_span(judged) == [3, 8] and think_text(judged) == think_text(target) and judged.count("</think>") == 1
    completion = [[{"role": "assistant", "content": written}]]
    assert with_prompt_opening(format_reward, opened)(completions=completion) == [1.0]
    assert with_prompt_opening(tiou_reward, opened)(completions=completion, spans=[[[3.0, 8.0]]]) == [1.0]


OTHER_TAGS = {  # what a generation prompt ends with → how a response closes it
    "<thinking>\n": "</thinking>",
    "[THINK]": "[/THINK]",
    "<|channel|>analysis<|message|>": "<|end|>",
    "◁think▷": "◁/think▷",
    "<unused94>thought\n": "<unused95>",
    "Answer: ": "",
}


def opens_with(text, folder):
    "Saves a model whose generation prompt ends in `text`; returns its processor."
    model, processor = build("qwen3_vl")
    processor.chat_template += "{%- if add_generation_prompt -%}{{ '" + text.replace("\n", "\\n") + "' }}{%- endif -%}"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return processor


def prompt_opens(folder, capsys):
    "The line of `vtg-r1 check-model` about what the prompt opens."
    capsys.readouterr()
    assert main(["check-model", str(folder), "--pixels", "784"]) == 0
    return next(line for line in capsys.readouterr().out.splitlines() if line.startswith("prompt opens"))


@pytest.mark.parametrize("opens", OTHER_TAGS)
def test_an_opening_that_is_not_think_is_named(opens, tmp_path, capsys):
    "Its responses earn no format reward, so `check-model` says it."
    processor = opens_with(opens, tmp_path)
    assert foreign_opening(processor) == opens and opening(processor) == ""
    assert f"{opens!r}, which is not <think>: the format reward is 0 for a response that goes on in it" in prompt_opens(tmp_path, capsys)
    # goes on in the tag; goes on, then thinks; begins its own <think>
    assert format_reward([f"it is gone at 8{OTHER_TAGS[opens]}<time>[3, 8]</time>", f"so{OTHER_TAGS[opens]}{RESPONSE}", RESPONSE]) == [0.0, 0.0, 1.0]


@pytest.mark.parametrize("opens", ["<thinking>\n\n</thinking>\n\n", "[THINK][/THINK]", "◁think▷◁/think▷", "<|channel>thought\n<channel|>"])
def test_a_thought_that_is_closed_in_other_tags_is_named(opens, tmp_path, capsys):
    assert foreign_opening(opens_with(opens, tmp_path)) == opens
    assert f"{opens!r}, a closed thought, but not in <think>: responses are judged without it" in prompt_opens(tmp_path, capsys)


@pytest.mark.parametrize("name", FAMILIES)
def test_of_all_families_only_gemma4_begins_with_a_thought_in_other_tags(name):
    assert foreign_opening(build(name)[1]) == ("<|channel>thought\n<channel|>" if name.startswith("gemma4") else "")


def test_a_response_that_never_closes_the_opened_thought_has_no_answer():
    reward = with_prompt_opening(tiou_reward, "<think>\n")
    assert reward(completions=["it may be <time>[3, 8]</time>"], spans=[[[3.0, 8.0]]]) == [0.0]
    assert reward(completions=["so</think><time>[3, 8]</time>"], spans=[[[3.0, 8.0]]]) == [1.0] and reward.__name__ == "tiou_reward"


def test_reasoning_behind_a_closed_thought_is_refused_with_the_argument_that_opens_it():
    "SFT cannot teach reasoning after a prompt that already closed the thought; the error names the remedy."
    with pytest.raises(UserError, match="enable_thinking: true.*or sft_target teacher_span"):
        behind_opening(RESPONSE, "<think>\n\n</think>\n\n")
    processor = load_processor(str(folder("qwen3_5_small")), {"enable_thinking": True})
    assert opening(processor) == "<think>\n" and behind_opening(RESPONSE, opening(processor)) == RESPONSE.removeprefix("<think>")
    assert with_opening(RESPONSE, "<think>\n\n</think>\n\n") == RESPONSE  # a response that begins its own thought stays as it is


def test_template_arguments_are_defaults_that_a_saved_processor_keeps(tmp_path):
    processor = load_processor(str(folder("qwen3_8")), {"enable_thinking": False, "reasoning_effort": "low"})
    processor.save_pretrained(tmp_path)
    load_model(str(folder("qwen3_8")), "cpu").save_pretrained(tmp_path)
    again = load_processor(str(tmp_path))
    text = again.apply_chat_template(grounding_prompt("x", [0.0]), add_generation_prompt=True, tokenize=False)
    assert (
        "Reasoning effort: low" in text
        and text.endswith("</think>\n\n")
        and template_arguments(again.chat_template) == {"enable_thinking", "reasoning_effort"}
    )
    assert again.apply_chat_template(grounding_prompt("x", [0.0]), add_generation_prompt=True, tokenize=False, enable_thinking=True).endswith(
        "<think>\n"
    )
    with pytest.raises(ValueError, match="takes no enable_thnking; it takes enable_thinking, reasoning_effort"):
        load_processor(str(folder("qwen3_8")), {"enable_thnking": False})


# --- tokens ---


@pytest.mark.parametrize("name", ["internvl", "gemma4", "qwen3_vl"])
def test_the_bound_of_a_prompts_tokens_holds_for_every_shape(name):
    processor, view = pair(name)[1], VideoInputConfig("", 4, 64 * 28 * 28, "full")
    sample = Sample("q", "v.mp4", 9.0, "the red circle", [[0.0, 1.0]])
    bound, text = max_prompt_tokens(processor, [sample], view), prompt_text(processor, dict(prompt=build_messages(sample, [9999.9] * 4, view)))
    for size in ((224, 224), (256, 192), (296, 168), (168, 296)):
        prompt = dict(prompt=grounding_prompt("the red circle", [0.0, 1.1, 2.2, 3.3]), images=noise_frames(4, size))
        tokens = model_inputs(processor, [prompt], "cpu")["input_ids"].shape[1]
        assert tokens <= bound and tokens - len(_bare_ids(processor, prompt)) <= bound - len(text.encode())  # in all, and of the frames alone


def test_frames_are_not_cut_into_tiles():
    tokens = measure_encoding(pair("internvl")[1], "interleaved", 128 * 28 * 28).frame_tokens
    assert len(set(tokens.values())) == 1 and tokens["16:9"] < 10  # measured: 6.25


# --- LoRA and 4 bits ---


def test_lora_reaches_the_linear_layers_of_a_decoder_and_the_rest_is_named():
    for name, leaf in (("glm46v", "gate_up_proj"), ("qwen3_5", "in_proj_qkv"), ("smolvlm", "q_proj"), ("gemma4", "per_layer_input_gate")):
        model = build(name)[0]
        layers, config = linear_layers(model), lora_config(model, 4)
        assert any(n.endswith(leaf) for n in config.target_modules) and layers.share > 0.95
    layers = linear_layers(build("qwen3_vl_moe")[0])
    assert "19.7 % of the decoder's parameters; it does not reach Qwen3VLMoeTextExperts.gate_up_proj" in layers.describe()
    model = build("internvl")[0]
    model.get_decoder = lambda: model.model.language_model.norm
    with pytest.raises(RunError, match="no linear layer, so LoRA would train nothing"):
        lora_config(model)


@pytest.mark.parametrize("name", FAMILIES)
def test_all_but_the_decoder_is_kept_out_of_4_bits(name):
    model = build(name)[0]
    outside, decoder = outside_decoder(model), {id(p) for p in model.get_decoder().parameters()}
    kept = {id(p) for module in outside for p in model.get_submodule(module).parameters()}
    tied = {id(model.get_output_embeddings().weight)}
    assert kept | decoder >= {id(p) for n, p in model.named_parameters() if isinstance(model.get_submodule(n.rpartition(".")[0]), torch.nn.Linear)}
    assert not (kept & decoder) - tied


# --- the measured abilities: check-model and manifest ---


def test_check_model_prints_the_record_and_says_by_its_exit_code_whether_anything_works(capsys):
    assert main(["check-model", str(folder("qwen3_5")), "--pixels", "784", "--chat-template-kwargs", "{enable_thinking: false}", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["usable"] == ["interleaved", "native"] and record["opening"] == "<think>\n\n</think>\n\n" and record["remedy"] == ""
    assert record["linear"]["layers"] == 23 and record["encodings"]["native"]["clock_step"] == 0.2
    assert main(["check-model", str(folder("llava_onevision")), "--pixels", "784"]) == 1
    printed = capsys.readouterr().out
    assert "cannot be used: it has no clock" in printed and "remedy" in printed
    assert main(["check-model", "no/such/folder"]) == 2


def test_check_model_prints_each_value_in_the_same_column(capsys):
    assert main(["check-model", "tiny", "--pixels", "784"]) == 0
    lines = capsys.readouterr().out.splitlines()
    columns = {re.match(r".*?\S(?=  )", line)[0]: re.match(r".*?\S  +", line).end() for line in lines}
    assert "shared prefix, interleaved" in columns and len(columns) == len(lines) and len(set(columns.values())) == 1, columns


def test_the_manifest_of_a_run_keeps_the_record(tmp_path):
    model, processor = pair("smolvlm")
    run = start_run("sft", "a", {"seed": 0}, tmp_path)
    record_abilities(run, "smolvlm", model, processor, VideoInputConfig("", 4, PIXELS, "full", "native"))
    kept = read_manifest(run.path)["abilities"]
    assert kept["encodings"]["native"]["clock_step"] == 1.0 and kept["end_of_turn"] == "<end_of_utterance>"
    assert measure(model, processor, ("native",), PIXELS).as_dict()["encodings"] == kept["encodings"]


def test_ground_refuses_an_encoding_in_one_line_that_names_the_usable_one(tmp_path, capsys):
    write(tmp_path / "v.mp4", [500 * i for i in range(8)])
    arguments = ["ground", str(tmp_path / "v.mp4"), "x", "--model", str(folder("internvl")), "--pixels", "784", "--max-completion-length", "4"]
    assert main([*arguments, "--time-encoding", "native"]) == 2
    error = capsys.readouterr().err
    assert "it has no clock" in error and "use time_encoding 'interleaved'" in error and error.count("\n") == 1
    assert main(arguments) in (0, 1)  # 1: the random model's response holds no span


class OnAnotherDevice:
    "A model whose weights are on another device than the prompts; its logits are random, so that any two prompts seem to differ."

    device = torch.device("meta")

    def __call__(self, logits_to_keep, **inputs):
        assert all(x.device == self.device for x in inputs.values() if torch.is_tensor(x))
        return SimpleNamespace(logits=torch.rand(1, 1, 4))


def test_a_model_on_another_device_is_measured_too():
    processor = load_processor("tiny")
    for encoding in ("interleaved", "native"):
        assert _why_unusable(processor, encoding, OnAnotherDevice()) == ""


@pytest.mark.parametrize(
    "idiom",
    [
        "{% if enable_thinking is not defined %}{% set enable_thinking = true %}{% endif %}",
        "{% if not enable_thinking is defined %}{% set enable_thinking = true %}{% endif %}",
        "{% if enable_thinking is undefined %}{% set enable_thinking = true %}{% endif %}",
        "{% set enable_thinking = enable_thinking | default(true) %}",
    ],
)
def test_an_argument_with_a_default_is_an_argument(idiom):
    text = (
        idiom
        + "{% if messages[0].role == 'system' %}{% set system_message = messages[0].content %}{% endif %}{{ enable_thinking }}{{ system_message }}"
    )
    assert template_arguments(text) == {"enable_thinking"}


def test_a_template_that_leaves_the_system_message_out_is_refused():
    "The model would not read how to answer, and every reward would be zero."
    _, processor = build("qwen3_vl")
    assert not measure_encoding(processor, "interleaved").problem
    kept = processor.chat_template
    processor.chat_template = "{%- set messages = messages | rejectattr('role', 'equalto', 'system') | list -%}" + kept
    assert "leaves out the system message" in measure_encoding(processor, "interleaved").problem
    both = r"or the query; time_encoding 'native' does not work either \(for the same reason\): use a chat template that writes the system message and the query$"
    with pytest.raises(UserError, match=both):
        require_encoding("mine", processor, "interleaved")


def test_each_problem_has_its_own_remedy(capsys):
    _, processor = build("qwen3_vl")
    kept = processor.chat_template
    for template, remedies in {
        re.sub(r"<\|vision_start\|><\|(image|video)_pad\|><\|vision_end\|>", "", kept): ["use a chat template that writes images and videos"] * 2,
        "{{ raise_exception('no') }}" + kept: ["mend its chat template, which fails, or use another model"] * 2,
        kept: ["", ""],
    }.items():
        processor.chat_template = template
        assert [measure_encoding(processor, encoding).remedy for encoding in ("interleaved", "native")] == remedies
    model, blind = build_tiny(0)
    with pytest.raises(
        UserError, match=r"two different clips give the same inputs; time_encoding 'interleaved' does not work either .*: use another model$"
    ):
        require_encoding("mine", StandIn(blind, grey), "native", PIXELS, model)
    both = "for interleaved use a chat template that keeps each image behind its time; or for native use another model"
    assert main(["check-model", str(folder("llava_onevision")), "--pixels", "784"]) == 1
    assert both in capsys.readouterr().out
    assert main(["check-model", str(folder("internvl")), "--pixels", "784", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["remedy"] == "use time_encoding 'interleaved'" and record["encodings"]["native"]["remedy"] == "use another model"


def test_a_truncated_file_of_weights_is_an_error_of_one_line(tmp_path, capsys):
    "An interrupted download leaves one. `check-model` refuses it, and so does the estimate of a dry run."
    from vtg_r1.train.estimate import billions

    model, processor = build_tiny()
    model.save_pretrained(tmp_path / "m")
    processor.save_pretrained(tmp_path / "m")
    weights = tmp_path / "m/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    capsys.readouterr()
    assert main(["check-model", str(tmp_path / "m")]) != 0
    out, err = capsys.readouterr()
    assert err.count("\n") == 1 and "cannot be loaded" in err and not out
    with pytest.raises(UserError, match=r"model\.safetensors: is no whole file of weights"):
        billions(str(tmp_path / "m"))


def test_a_template_with_an_error_is_an_error_of_one_line(tmp_path, capsys):
    model, processor = build_tiny()
    processor.chat_template = "{% if %}"
    model.save_pretrained(tmp_path / "m")
    processor.save_pretrained(tmp_path / "m")
    capsys.readouterr()
    assert main(["check-model", str(tmp_path / "m")]) != 0
    out, err = capsys.readouterr()
    assert err.strip().count("\n") == 0 and "template" in err and not out
