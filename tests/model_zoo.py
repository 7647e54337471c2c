"""Tiny models of many families for the tests: real config, model and processor classes of transformers, random weights, templates written anew.

`build(name)` gives (model, processor) in eval mode; `folder(name)` is a folder with both, saved once per session. A family's template copies those parts of the
public one on which this project depends: where images and videos stand, what the generation prompt opens, and which token ends a turn."""

import atexit
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers as tf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

Pair = tuple[Any, Any]  # model, processor
FAMILIES: dict[str, Callable[[], Pair]] = {}  # name → builder
CORPUS = [
    "the red circle appears at the left, then the blue square is gone; a green cross, [12.5, 30.0] first reason step by step inside seconds frames"
] * 4


def family(build_family: Callable[[], Pair]) -> Callable[[], Pair]:
    "Add a builder under its own name."
    FAMILIES[build_family.__name__] = build_family
    return build_family


# --- tokenizers ---


def tokenizer(named: dict[str, str], others: tuple[str, ...] = (), eos: str = "<|im_end|>", bos: str | None = None) -> Any:
    """A byte-level BPE of about 350 tokens, trained here, with a family's special tokens: `named` are attributes such as image_token, `others` are not.
    Where there is a `bos`, the tokenizer puts it in front by itself, as the public ones do; so do the templates."""
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    special = list(dict.fromkeys(filter(None, ("<|endoftext|>", bos, eos, *named.values(), *others))))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tok.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=256 + len(special) + 80, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    )
    tok.add_tokens(["<think>", "</think>"])
    if bos:
        tok.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, tok.token_to_id(bos))])
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=tok,
        eos_token=eos,
        bos_token=bos,
        pad_token="<|endoftext|>",
        padding_side="left",
        extra_special_tokens=named,
    )


def text_config(tok: Any, **changes: Any) -> dict[str, Any]:
    "Keyword arguments for the configuration of a decoder of two layers."
    return (
        dict(
            vocab_size=len(tok),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            max_position_embeddings=8192,
            tie_word_embeddings=False,
            initializer_range=0.2,
            bos_token_id=tok.bos_token_id,
            eos_token_id=tok.eos_token_id,
            pad_token_id=tok.pad_token_id,
        )
        | changes
    )


def finish(model_class: Any, config: Any, processor: Any, stops: tuple[str, ...] = ()) -> Pair:
    "The model with random weights, in eval mode, and its processor; `stops` end a generation beside the tokenizer's end of sequence."
    torch.manual_seed(0)
    model = model_class(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if not torch.isfinite(parameter).all() or not parameter.any():
                parameter.normal_(std=0.02)  # not initialised, or zero: then its inputs would not matter
    tok = processor.tokenizer
    ids = [tok.eos_token_id, *(tok.convert_tokens_to_ids(stop) for stop in stops)]
    model.generation_config.eos_token_id = ids if len(ids) > 1 else ids[0]
    model.generation_config.pad_token_id, model.generation_config.bos_token_id = tok.pad_token_id, tok.bos_token_id
    return model, processor


# --- templates ---


def chatml(
    image: str, video: str | None, opening: str = "", system: str = "", assistant: str = "{{ part.text }}", hoist: bool = False, gap: str = "\n"
) -> str:
    """A ChatML template with a family's texts for an image and a video; without `video` a video writes nothing.

    `hoist` puts all images before all text; `gap` stands behind the name of a role; `opening` is what the generation prompt adds."""
    shows = "{%- if part.type == 'image' -%}" + image
    if video is not None:
        shows += "{%- elif part.type == 'video' -%}" + video
    text = "{%- elif part.type == 'text' -%}{%- if message.role == 'assistant' -%}" + assistant + "{%- else -%}{{ part.text }}{%- endif -%}"
    parts = "{%- for part in message.content -%}" + shows + text + "{%- endif -%}{%- endfor -%}"
    if hoist:
        parts = (
            "{%- for part in message.content -%}" + shows + "{%- endif -%}{%- endfor -%}"
            "{%- for part in message.content -%}{%- if part.type == 'text' -%}{{ part.text }}{%- endif -%}{%- endfor -%}"
        )
    head = ""
    if system:
        head = "{%- if messages[0].role != 'system' -%}<|im_start|>system\n" + system + "<|im_end|>\n{%- endif -%}"
    return (
        head
        + "{%- for message in messages -%}{{- '<|im_start|>' + message.role + '"
        + gap.replace("\n", "\\n")
        + "' -}}{%- if message.content is string -%}{%- set content = [{'type': 'text', 'text': message.content}] -%}{%- else -%}{%- set content = message.content -%}{%- endif -%}"
        + parts.replace("message.content -%}", "content -%}")
        + "{{- '<|im_end|>\n' -}}{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}"
        + opening
        + "{%- endif -%}"
    )


SPLIT_THOUGHT = (  # an assistant turn of a thinking template: the reasoning between its own line breaks, then the answer
    "{%- if '</think>' in part.text -%}{{- '<think>\n' + part.text.split('</think>')[0].split('<think>')[-1].strip() + '\n</think>\n\n' + part.text.split('</think>')[-1].lstrip() -}}"
    "{%- else -%}{{- part.text -}}{%- endif -%}"
)
OPEN = "{{- '<think>\n' -}}"
SWITCHED_OPEN = (
    "{%- if enable_thinking is defined and enable_thinking is false -%}{{- '<think>\n\n</think>\n\n' -}}{%- else -%}{{- '<think>\n' -}}{%- endif -%}"
)
SWITCHED_CLOSED = (
    "{%- if enable_thinking is defined and enable_thinking is true -%}{{- '<think>\n' -}}{%- else -%}{{- '<think>\n\n</think>\n\n' -}}{%- endif -%}"
)
ALWAYS_THOUGHT = (
    "{{- '<think>\n' + (message.reasoning_content or '') + '\n</think>\n\n' + part.text -}}"  # Qwen3.8: reasoning comes in a field of its own
)
EFFORT = "{%- if reasoning_effort is defined -%}{{- '<|im_start|>system\nReasoning effort: ' + reasoning_effort + '<|im_end|>\n' -}}{%- endif -%}"

# --- Qwen ---

QWEN = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}
QWEN_MORE = ("<|im_start|>", "<|vision_start|>", "<|vision_end|>")
QWEN_IMAGE, QWEN_VIDEO = "<|vision_start|><|image_pad|><|vision_end|>", "<|vision_start|><|video_pad|><|vision_end|>"


def qwen_ids(tok: Any) -> dict[str, int]:
    names = dict(image_token_id="image_pad", video_token_id="video_pad", vision_start_token_id="vision_start", vision_end_token_id="vision_end")
    return {key: tok.convert_tokens_to_ids(f"<|{name}|>") for key, name in names.items()}


def qwen2_processor(processor_class: Any, template: str) -> Any:
    size = dict(shortest_edge=28 * 28, longest_edge=64 * 28 * 28)
    return processor_class(
        image_processor=tf.Qwen2VLImageProcessor(size=size),
        tokenizer=tokenizer(QWEN, QWEN_MORE),
        video_processor=tf.Qwen2VLVideoProcessor(size=size),
        chat_template=template,
    )


@family
def qwen2_vl() -> Pair:
    processor = qwen2_processor(tf.Qwen2VLProcessor, chatml(QWEN_IMAGE, QWEN_VIDEO, system="You are a helpful assistant."))
    tok = processor.tokenizer
    vision = dict(depth=2, embed_dim=32, hidden_size=32, num_heads=2, mlp_ratio=2, patch_size=14, spatial_merge_size=2, temporal_patch_size=2)
    text = text_config(tok, rope_parameters=dict(rope_type="default", rope_theta=1e4, mrope_section=[2, 1, 1]))
    text.pop("head_dim")
    config = tf.Qwen2VLConfig(text_config=text, vision_config=vision, **qwen_ids(tok))
    return finish(tf.Qwen2VLForConditionalGeneration, config, processor)


@family
def qwen2_5_vl() -> Pair:
    processor = qwen2_processor(tf.Qwen2_5_VLProcessor, chatml(QWEN_IMAGE, QWEN_VIDEO, system="You are a helpful assistant."))
    tok = processor.tokenizer
    vision = dict(
        depth=2, hidden_size=32, intermediate_size=64, num_heads=2, out_hidden_size=32, patch_size=14, window_size=28, fullatt_block_indexes=[1]
    )
    vision |= dict(spatial_merge_size=2, temporal_patch_size=2, tokens_per_second=2, initializer_range=0.1)
    text = text_config(tok, rope_parameters=dict(rope_type="default", rope_theta=1e4, mrope_section=[2, 1, 1]))
    text.pop("head_dim")
    config = tf.Qwen2_5_VLConfig(text_config=text, vision_config=vision, **qwen_ids(tok))
    return finish(tf.Qwen2_5_VLForConditionalGeneration, config, processor)


def qwen3_processor(template: str) -> Any:
    size = dict(shortest_edge=32 * 32, longest_edge=64 * 32 * 32)
    return tf.Qwen3VLProcessor(
        image_processor=tf.Qwen2VLImageProcessor(patch_size=16, size=size),
        tokenizer=tokenizer(QWEN, QWEN_MORE),
        video_processor=tf.Qwen3VLVideoProcessor(patch_size=16, size=size),
        chat_template=template,
    )


def qwen3_vision(**changes: Any) -> dict[str, Any]:
    vision = dict(depth=2, hidden_size=32, intermediate_size=64, num_heads=2, out_hidden_size=32, patch_size=16, spatial_merge_size=2)
    return vision | dict(temporal_patch_size=2, num_position_embeddings=64, initializer_range=0.1) | changes


MROPE = dict(rope_type="default", rope_theta=1e4, mrope_section=[2, 1, 1], mrope_interleaved=True)


def qwen3_vl_of(template: str) -> Pair:
    processor = qwen3_processor(template)
    tok = processor.tokenizer
    vision = qwen3_vision(deepstack_visual_indexes=[0, 1])
    config = tf.Qwen3VLConfig(text_config=text_config(tok, rope_parameters=MROPE), vision_config=vision, **qwen_ids(tok))
    return finish(tf.Qwen3VLForConditionalGeneration, config, processor)


@family
def qwen3_vl() -> Pair:
    return qwen3_vl_of(chatml(QWEN_IMAGE, QWEN_VIDEO))


@family
def qwen3_vl_thinking() -> Pair:
    "The Thinking checkpoints: every generation prompt opens a thought."
    return qwen3_vl_of(chatml(QWEN_IMAGE, QWEN_VIDEO, OPEN, assistant=SPLIT_THOUGHT))


@family
def qwen3_vl_moe() -> Pair:
    processor = qwen3_processor(chatml(QWEN_IMAGE, QWEN_VIDEO))
    tok = processor.tokenizer
    text = text_config(tok, rope_parameters=MROPE, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, decoder_sparse_step=1)
    config = tf.Qwen3VLMoeConfig(text_config=text, vision_config=qwen3_vision(deepstack_visual_indexes=[0, 1]), **qwen_ids(tok))
    return finish(tf.Qwen3VLMoeForConditionalGeneration, config, processor)


def qwen3_5_text(tok: Any, **changes: Any) -> dict[str, Any]:
    "Two layers of linear attention, then one of full attention."
    linear = dict(linear_key_head_dim=8, linear_value_head_dim=8, linear_num_key_heads=2, linear_num_value_heads=4, linear_conv_kernel_dim=4)
    rope = dict(rope_type="default", rope_theta=1e4, mrope_section=[2, 1, 1], mrope_interleaved=True, partial_rotary_factor=0.5)
    layers = ["linear_attention", "linear_attention", "full_attention"]
    return text_config(tok, num_hidden_layers=3, layer_types=layers, head_dim=16, rope_parameters=rope, **linear, **changes)


def qwen3_5_of(template: str) -> Pair:
    processor = qwen3_processor(template)
    tok = processor.tokenizer
    config = tf.Qwen3_5Config(text_config=qwen3_5_text(tok), vision_config=qwen3_vision(), **qwen_ids(tok))
    return finish(tf.Qwen3_5ForConditionalGeneration, config, processor)


@family
def qwen3_5() -> Pair:
    "Qwen3.5 of 4B and larger: the prompt opens a thought unless an argument forbids it."
    return qwen3_5_of(chatml(QWEN_IMAGE, QWEN_VIDEO, SWITCHED_OPEN, assistant=SPLIT_THOUGHT))


@family
def qwen3_5_small() -> Pair:
    "Qwen3.5 of 2B and smaller: the prompt closes the thought unless an argument asks for one."
    return qwen3_5_of(chatml(QWEN_IMAGE, QWEN_VIDEO, SWITCHED_CLOSED, assistant=SPLIT_THOUGHT))


@family
def qwen3_8() -> Pair:
    "Qwen3.8's template on the same architecture: earlier thoughts stay, in a field of their own, and the reasoning effort is an argument."
    return qwen3_5_of(EFFORT + chatml(QWEN_IMAGE, QWEN_VIDEO, SWITCHED_OPEN, assistant=ALWAYS_THOUGHT))


@family
def qwen3_5_moe() -> Pair:
    processor = qwen3_processor(chatml(QWEN_IMAGE, QWEN_VIDEO, SWITCHED_OPEN, assistant=SPLIT_THOUGHT))
    tok = processor.tokenizer
    experts = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, shared_expert_intermediate_size=32)
    text = qwen3_5_text(tok, **experts)
    text.pop("intermediate_size")
    config = tf.Qwen3_5MoeConfig(text_config=text, vision_config=qwen3_vision(), **qwen_ids(tok))
    return finish(tf.Qwen3_5MoeForConditionalGeneration, config, processor)


# --- InternVL ---


@family
def internvl() -> Pair:
    named = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>", "video_token": "<video>"}
    tok = tokenizer(named, ("<|im_start|>",))
    processor = tf.InternVLProcessor(
        image_processor=tf.GotOcr2ImageProcessor(size=dict(height=56, width=56), crop_to_patches=True),
        tokenizer=tok,
        video_processor=tf.InternVLVideoProcessor(size=dict(height=56, width=56)),
        image_seq_length=4,
        chat_template=chatml("<IMG_CONTEXT>\n", "<video>\n"),
    )
    vision = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=(56, 56), patch_size=(14, 14))
    config = tf.InternVLConfig(
        text_config=dict(model_type="qwen2", **text_config(tok)),
        vision_config=vision | dict(initializer_range=0.1),
        image_token_id=tok.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        tie_word_embeddings=False,
    )
    return finish(tf.InternVLForConditionalGeneration, config, processor)


# --- LLaVA ---

LLAVA = {"image_token": "<image>", "video_token": "<video>"}


@family
def llava_onevision() -> Pair:
    tok = tokenizer(LLAVA, ("<|im_start|>",))
    processor = tf.LlavaOnevisionProcessor(
        image_processor=tf.LlavaOnevisionImageProcessor(size=dict(height=56, width=56), image_grid_pinpoints=[[56, 56], [56, 112], [112, 56]]),
        tokenizer=tok,
        video_processor=tf.LlavaOnevisionVideoProcessor(size=dict(height=56, width=56)),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=chatml("<image>\n", "<video>\n", hoist=True, gap=" "),
    )
    vision = dict(model_type="siglip_vision_model", hidden_size=32, intermediate_size=64, patch_size=14, image_size=56, num_hidden_layers=2)
    config = tf.LlavaOnevisionConfig(
        text_config=dict(model_type="qwen2", **text_config(tok)),
        vision_config=vision | dict(num_attention_heads=2, vision_use_head=False),
        image_token_index=tok.image_token_id,
        video_token_index=tok.video_token_id,
        image_grid_pinpoints=[[56, 56], [56, 112], [112, 56]],
    )
    return finish(tf.LlavaOnevisionForConditionalGeneration, config, processor)


VICUNA = (
    "{%- for message in messages -%}{%- if message.role == 'user' -%}USER: {% elif message.role == 'assistant' %}ASSISTANT: {% endif -%}"
    "{%- if message.content is string -%}{{ message.content }}{%- else -%}"
    "{%- for part in message.content -%}{%- if part.type == 'image' -%}{{- '<image>\n' -}}{%- elif part.type == 'video' -%}{{- '<video>\n' -}}{%- endif -%}{%- endfor -%}"
    "{%- for part in message.content -%}{%- if part.type == 'text' -%}{{ part.text }}{%- endif -%}{%- endfor -%}{%- endif -%}"
    "{%- if message.role == 'assistant' -%}</s>{%- else -%}{{- ' ' -}}{%- endif -%}{%- endfor -%}{%- if add_generation_prompt -%}ASSISTANT:{%- endif -%}"
)


@family
def llava_next_video() -> Pair:
    tok = tokenizer(LLAVA, eos="</s>", bos="<s>")
    grid = [[56, 112], [112, 56], [112, 112]]
    processor = tf.LlavaNextVideoProcessor(
        video_processor=tf.LlavaNextVideoVideoProcessor(size=dict(shortest_edge=56), crop_size=dict(height=56, width=56)),
        image_processor=tf.LlavaNextImageProcessor(size=dict(shortest_edge=56), crop_size=dict(height=56, width=56), image_grid_pinpoints=grid),
        tokenizer=tok,
        chat_template=VICUNA,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    vision = dict(model_type="clip_vision_model", hidden_size=32, intermediate_size=64, patch_size=14, image_size=56, num_hidden_layers=3)
    config = tf.LlavaNextVideoConfig(
        text_config=dict(model_type="llama", **text_config(tok)),
        vision_config=vision | dict(num_attention_heads=2, projection_dim=32),
        image_token_index=tok.image_token_id,
        video_token_index=tok.video_token_id,
        image_grid_pinpoints=grid,
    )
    return finish(tf.LlavaNextVideoForConditionalGeneration, config, processor)


# --- SmolVLM and Idefics ---

UTTERANCES = (
    "<|im_start|>{%- for message in messages -%}{{- message.role | capitalize -}}{{- ': ' -}}"
    "{%- if message.content is string -%}{{ message.content }}{%- else -%}"
    "{%- for part in message.content -%}{%- if part.type == 'text' -%}{{ part.text }}{%- elif part.type == 'image' -%}<image>{%- endif -%}{%- endfor -%}{%- endif -%}"
    "{{- '<end_of_utterance>\n' -}}{%- endfor -%}{%- if add_generation_prompt -%}Assistant:{%- endif -%}"
)
SMOL = {"image_token": "<image>", "fake_image_token": "<fake_token_around_image>", "global_image_token": "<global-img>"}
ROWS = tuple(f"<row_{i}_col_{j}>" for i in range(1, 5) for j in range(1, 5))


def smol_parts(named: dict[str, str]) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    "Tokenizer, vision configuration and the sizes of an image processor: images of 56 x 56 pixels, patches of 14 pixels, four tokens per image."
    tok = tokenizer(named, ("<|im_start|>", *SMOL.values(), *ROWS), eos="<end_of_utterance>")
    vision = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, patch_size=14, image_size=56)
    return tok, vision, dict(size=dict(longest_edge=112), max_image_size=dict(longest_edge=56))


@family
def smolvlm() -> Pair:
    tok, vision, sizes = smol_parts(SMOL | {"end_of_utterance_token": "<end_of_utterance>", "video_token": "<video>"})
    processor = tf.SmolVLMProcessor(
        image_processor=tf.SmolVLMImageProcessor(**sizes),
        tokenizer=tok,
        video_processor=tf.SmolVLMVideoProcessor(**sizes, num_frames=64, fps=1),
        image_seq_len=4,
        chat_template=UTTERANCES,
    )
    config = tf.SmolVLMConfig(
        text_config=dict(model_type="llama", **text_config(tok)), vision_config=vision, image_token_id=tok.image_token_id, scale_factor=2
    )
    return finish(tf.SmolVLMForConditionalGeneration, config, processor)


@family
def idefics3() -> Pair:
    tok, vision, sizes = smol_parts({})
    processor = tf.Idefics3Processor(tf.Idefics3ImageProcessor(**sizes), tok, image_seq_len=4, chat_template=UTTERANCES)
    image = tok.convert_tokens_to_ids("<image>")
    config = tf.Idefics3Config(text_config=dict(model_type="llama", **text_config(tok)), vision_config=vision, image_token_id=image, scale_factor=2)
    return finish(tf.Idefics3ForConditionalGeneration, config, processor)


# --- Gemma ---

GEMMA3_TEMPLATE = (
    "{{ bos_token }}{%- if messages[0].role == 'system' -%}{%- set first = messages[0].content[0].text + '\n\n' -%}{%- set turns = messages[1:] -%}"
    "{%- else -%}{%- set first = '' -%}{%- set turns = messages -%}{%- endif -%}"
    "{%- for message in turns -%}{%- if message.role == 'assistant' -%}{%- set role = 'model' -%}{%- else -%}{%- set role = message.role -%}{%- endif -%}"
    "{{- '<start_of_turn>' + role + '\n' + (first if loop.first else '') -}}"
    "{%- if message.content is string -%}{{ message.content | trim }}{%- else -%}"
    "{%- for part in message.content -%}{%- if part.type == 'image' -%}<start_of_image>{%- elif part.type == 'text' -%}{{ part.text | trim }}{%- endif -%}{%- endfor -%}{%- endif -%}"
    "{{- '<end_of_turn>\n' -}}{%- endfor -%}{%- if add_generation_prompt -%}{{- '<start_of_turn>model\n' -}}{%- endif -%}"
)


@family
def gemma3() -> Pair:
    named = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    tok = tokenizer(named, ("<start_of_turn>", "<end_of_turn>"), eos="<eos>", bos="<bos>")
    processor = tf.Gemma3Processor(tf.Gemma3ImageProcessor(size=dict(height=56, width=56)), tok, chat_template=GEMMA3_TEMPLATE, image_seq_length=4)
    layers = ["sliding_attention", "sliding_attention", "full_attention"]
    text = text_config(tok, num_hidden_layers=3, layer_types=layers, sliding_window=64, query_pre_attn_scalar=8, tie_word_embeddings=True)
    vision = dict(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, patch_size=14, image_size=56, vision_use_head=False
    )
    config = tf.Gemma3Config(
        text_config=text,
        vision_config=vision,
        mm_tokens_per_image=4,
        boi_token_index=tok.boi_token_id,
        eoi_token_index=tok.eoi_token_id,
        image_token_index=tok.image_token_id,
    )
    return finish(tf.Gemma3ForConditionalGeneration, config, processor, ("<end_of_turn>",))


GEMMA4_TEMPLATE = (
    "{{ bos_token }}{%- for message in messages -%}{%- if message.role == 'assistant' -%}{%- set role = 'model' -%}{%- else -%}{%- set role = message.role -%}{%- endif -%}"
    "{{- '<|turn>' + role + '\n' -}}{%- if loop.first and enable_thinking is defined and enable_thinking is true -%}<|think|>{%- endif -%}"
    "{%- if message.content is string -%}{{ message.content | trim }}{%- else -%}{%- for part in message.content -%}"
    "{%- if part.type == 'image' -%}<|image|>{%- elif part.type == 'video' -%}<|video|>{%- elif part.type == 'text' -%}{{ part.text | trim }}{%- endif -%}{%- endfor -%}{%- endif -%}"
    "{{- '<turn|>\n' -}}{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|turn>model\n' -}}"
    "{%- if not (enable_thinking is defined and enable_thinking is true) -%}{{- '<|channel>thought\n<channel|>' -}}{%- endif -%}{%- endif -%}"
)


@family
def gemma4() -> Pair:
    named = {"image_token": "<|image|>", "boi_token": "<|image>", "eoi_token": "<image|>"}
    named |= {"audio_token": "<|audio|>", "boa_token": "<|audio>", "eoa_token": "<audio|>"}
    others = ("<|video|>", "<|turn>", "<turn|>", "<|think|>", "<|channel>", "<channel|>")
    tok = tokenizer(named, others, eos="<eos>", bos="<bos>")
    processor = tf.Gemma4Processor(
        feature_extractor=tf.Gemma4AudioFeatureExtractor(),
        image_processor=tf.Gemma4ImageProcessor(patch_size=4, max_soft_tokens=70, pooling_kernel_size=2),
        tokenizer=tok,
        video_processor=tf.Gemma4VideoProcessor(patch_size=4, max_soft_tokens=70, pooling_kernel_size=2),
        chat_template=GEMMA4_TEMPLATE,
        image_seq_length=70,
    )
    layers = ["sliding_attention", "sliding_attention", "full_attention"]
    text = text_config(
        tok,
        num_hidden_layers=3,
        layer_types=layers,
        sliding_window=64,
        global_head_dim=16,
        initializer_range=0.1,  # smaller weights round less: at 0.2 log-probabilities were 1.05e-5 apart
        hidden_size_per_layer_input=8,
        vocab_size_per_layer_input=len(tok),
        tie_word_embeddings=True,
        use_bidirectional_attention="vision",
    )
    vision = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, head_dim=16)
    config = tf.Gemma4Config(
        text_config=text,
        vision_config=vision | dict(patch_size=4, pooling_kernel_size=2, position_embedding_size=256),
        audio_config=None,
        boi_token_id=tok.boi_token_id,
        eoi_token_id=tok.eoi_token_id,
        image_token_id=tok.image_token_id,
        video_token_id=tok.convert_tokens_to_ids("<|video|>"),
        boa_token_id=tok.boa_token_id,
        eoa_token_index=tok.eoa_token_id,
        audio_token_id=tok.audio_token_id,
    )
    return finish(tf.Gemma4ForConditionalGeneration, config, processor, ("<turn|>",))


# --- GLM ---

GLM = {"image_token": "<|image|>", "video_token": "<|video|>"}
GLM_MORE = ("[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>", "<|begin_of_image|>", "<|end_of_image|>")


def glm_template(opening: str = "") -> str:
    "A turn has no end of its own: the next role's token ends it."
    return (
        "[gMASK]<sop>{%- for message in messages -%}{{- '<|' + message.role + '|>\n' -}}{%- if message.content is string -%}{{ message.content }}{%- else -%}"
        "{%- for part in message.content -%}{%- if part.type == 'image' -%}<|begin_of_image|><|image|><|end_of_image|>"
        "{%- elif part.type == 'video' -%}<|begin_of_video|><|video|><|end_of_video|>{%- else -%}{{ part.text }}{%- endif -%}{%- endfor -%}{%- endif -%}"
        "{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|assistant|>\n' -}}" + opening + "{%- endif -%}"
    )


def glm_of(version: str, opening: str) -> Pair:
    tok = tokenizer(GLM, (*GLM_MORE, "<|begin_of_video|>", "<|end_of_video|>"), eos="<|endoftext|>")
    size = dict(size=dict(shortest_edge=28 * 28, longest_edge=64 * 28 * 28))
    parts = {
        name: getattr(tf, f"{version}{kind}") for name, kind in {"image": "ImageProcessor", "video": "VideoProcessor", "both": "Processor"}.items()
    }
    video = dict(size=dict(shortest_edge=28 * 28, longest_edge=1024 * 28 * 28), max_image_size=dict(longest_edge=1024 * 28 * 28))
    processor = parts["both"](
        image_processor=parts["image"](**size), tokenizer=tok, video_processor=parts["video"](**video), chat_template=glm_template(opening)
    )
    vision = dict(depth=2, hidden_size=32, intermediate_size=64, num_heads=2, out_hidden_size=32, patch_size=14, image_size=56)
    vision |= dict(spatial_merge_size=2, temporal_patch_size=2, initializer_range=0.1)
    text = text_config(tok, rope_parameters=dict(rope_type="default", rope_theta=1e4, mrope_section=[2, 1, 1], partial_rotary_factor=1.0))
    ids = {
        f"{kind}_{edge}_token_id": tok.convert_tokens_to_ids(f"<|{word}_of_{kind}|>")
        for kind in ("image", "video")
        for edge, word in (("start", "begin"), ("end", "end"))
    }
    ids |= {"image_token_id": tok.image_token_id, "video_token_id": tok.video_token_id}
    text.pop("head_dim")
    if version == "Glm46V":
        text, vision = {"model_type": "glm4v_text", **text}, {"model_type": "glm4v_vision", **vision}
    config = getattr(tf, f"{version}Config")(text_config=text, vision_config=vision, **ids)
    return finish(getattr(tf, f"{version}ForConditionalGeneration"), config, processor, ("<|user|>", "<|observation|>"))


@family
def glm4v() -> Pair:
    "GLM-4.1V-Thinking: its clock has whole seconds."
    return glm_of("Glm4v", "{{- '<think>' -}}")


@family
def glm46v() -> Pair:
    return glm_of("Glm46V", "{%- if enable_thinking is defined and enable_thinking is false -%}{{- '<think></think>\n' -}}{%- endif -%}")


# --- Mistral 3 ---

MISTRAL_TEMPLATE = (
    "{{ bos_token }}{%- for message in messages -%}{%- if message.role == 'system' -%}"
    "[SYSTEM_PROMPT]{% if message.content is string %}{{ message.content }}{% else %}{{ message.content[0].text }}{% endif %}[/SYSTEM_PROMPT]"
    "{%- elif message.role == 'user' -%}[INST]{%- if message.content is string -%}{{ message.content }}{%- else -%}{%- for part in message.content -%}"
    "{%- if part.type == 'text' -%}{{ part.text }}{%- elif part.type == 'image' -%}[IMG]{%- else -%}{{ raise_exception('Only text and image parts are supported') }}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}[/INST]{%- else -%}"
    "{%- if message.content is string -%}{{ message.content }}{%- else -%}{{ message.content[0].text }}{%- endif -%}{{ eos_token }}{%- endif -%}{%- endfor -%}"
)


@family
def mistral3() -> Pair:
    named = {"image_token": "[IMG]", "image_break_token": "[IMG_BREAK]", "image_end_token": "[IMG_END]"}
    tok = tokenizer(named, ("[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"), eos="</s>", bos="<s>")
    processor = tf.PixtralProcessor(
        image_processor=tf.PixtralImageProcessor(patch_size=14, size=dict(longest_edge=112)),
        tokenizer=tok,
        patch_size=14,
        spatial_merge_size=2,
        chat_template=MISTRAL_TEMPLATE,
    )
    vision = dict(model_type="pixtral", hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, head_dim=16, patch_size=14)
    config = tf.Mistral3Config(
        text_config=dict(model_type="mistral", sliding_window=None, **text_config(tok)),
        vision_config=vision | dict(image_size=112, initializer_range=0.1),
        image_token_index=tok.image_token_id,
        spatial_merge_size=2,
        tie_word_embeddings=False,
    )
    return finish(tf.Mistral3ForConditionalGeneration, config, processor)


# --- VideoLLaMA 3, Ovis 2, MiniCPM-V ---


@family
def video_llama_3() -> Pair:
    tok = tokenizer({"image_token": "<image>", "video_token": "<video>"}, ("<|im_start|>",))
    size = dict(size=dict(shortest_edge=14 * 14, longest_edge=64 * 28 * 28))
    processor = tf.VideoLlama3Processor(
        image_processor=tf.VideoLlama3ImageProcessor(**size),
        tokenizer=tok,
        video_processor=tf.VideoLlama3VideoProcessor(**size),
        chat_template=chatml("<image>\n", "<video>\n"),
    )
    vision = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, patch_size=14, initializer_range=0.1)
    config = tf.VideoLlama3Config(
        text_config=dict(model_type="qwen2", **text_config(tok)),
        vision_config=vision,
        image_token_id=tok.image_token_id,
        video_token_id=tok.video_token_id,
    )
    return finish(tf.VideoLlama3ForConditionalGeneration, config, processor)


@family
def ovis2() -> Pair:
    indicators = ("<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>")
    tok = tokenizer({"image_token": "<image>"}, ("<|im_start|>", "<IMG_ATOM>", *indicators))
    processor = tf.Ovis2Processor(
        tf.Ovis2ImageProcessor(size=dict(height=56, width=56), crop_to_patches=True), tok, chat_template=chatml("<image>\n", None), image_seq_length=4
    )
    vision = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14, vocab_size=64)
    config = tf.Ovis2Config(
        text_config=dict(model_type="qwen2", **text_config(tok, tie_word_embeddings=True)),
        vision_config=vision | dict(hidden_stride=2, num_visual_indicator_tokens=5, initializer_range=0.1),
        image_token_id=tok.convert_tokens_to_ids("<IMG_ATOM>"),
        visual_indicator_token_ids=tok.convert_tokens_to_ids(list(indicators)),
        vocab_size=len(tok),
        hidden_size=32,
    )
    return finish(tf.Ovis2ForConditionalGeneration, config, processor)


@family
def minicpmv4_6() -> Pair:
    named = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>", "image_start_token": "<image>", "image_end_token": "</image>"}
    named |= {
        "slice_start_token": "<slice>",
        "slice_end_token": "</slice>",
        "image_id_start_token": "<image_id>",
        "image_id_end_token": "</image_id>",
    }
    tok = tokenizer(named, ("<|im_start|>",))
    sizes = dict(scale_resolution=56, patch_size=14)
    processor = tf.MiniCPMV4_6Processor(
        image_processor=tf.MiniCPMV4_6ImageProcessor(**sizes),
        video_processor=tf.MiniCPMV4_6VideoProcessor(**sizes, do_sample_frames=False),
        tokenizer=tok,
        chat_template=chatml("<|image_pad|>\n", "<|video_pad|>\n", SWITCHED_CLOSED, assistant=SPLIT_THOUGHT),
    )
    text = qwen3_5_text(tok)
    text["rope_parameters"] = dict(rope_type="default", rope_theta=1e4, partial_rotary_factor=0.5)
    vision = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14)
    config = tf.MiniCPMV4_6Config(
        text_config=dict(model_type="qwen3_5_text", **text),
        vision_config=vision,
        insert_layer_id=0,
        image_size=56,
        image_token_id=tok.image_token_id,
        video_token_id=tok.video_token_id,
    )
    return finish(tf.MiniCPMV4_6ForConditionalGeneration, config, processor)


# --- the zoo ---


def build(name: str) -> Pair:
    "A fresh model with the family's fixed random weights, and its processor."
    return FAMILIES[name]()


@cache
def _root() -> Path:
    root = Path(tempfile.mkdtemp(prefix="model-zoo-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    return root


@cache
def folder(name: str) -> Path:
    "A family's model and processor saved as a user would have them; made once in this process."
    model, processor = build(name)
    path = _root() / name
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return path


def keep_tree_out(model: Any) -> None:
    "Make a language model ignore the tree of a shared pass: its layers do not get it."
    forward = model.model.language_model.forward
    model.model.language_model.forward = lambda *args, tree=None, **kwargs: forward(*args, **kwargs)
