"Queries that share one pass of their video get the logits and tokens of queries asked one by one. Deliberate faults change the logits."

import inspect
import json
import os
from functools import partial

import numpy as np
import pytest
import torch
import transformers as tf
from PIL import Image

from vtg_r1.core.samples import Sample
from vtg_r1.data.model_inputs import VideoInputConfig
from vtg_r1.models.generation import by_video, generate, model_inputs, predict, resumable_predict
from vtg_r1.models.loading import load_processor, lora_config
from vtg_r1.models.prefix_cache import Prompts, cache_name, pack_prompts, read_prompts, same_prompts, shared_decoding
from vtg_r1.models.templates import processor_frames, prompt_text
from vtg_r1.models.tiny import build_tiny, tiny_config

QUERIES = (  # (video, query)
    (0, "the red circle"),
    (1, "the blue square appears"),
    (0, "a green cross is gone at the left"),
    (1, "white"),
    (0, "the red circle"),
    (2, "the red circle"),
)


def tokens(config, **other):
    "Keyword arguments for the configuration of another family: the tiny model's token ids and vocabulary, and smaller sizes."
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    text = {k: getattr(config.text_config, k) for k in ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")}
    text |= dict(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
        initializer_range=0.1,
    )
    return dict(text_config=text | other, tie_word_embeddings=False, **{n: getattr(config, n) for n in names})


def qwen2_5_vl():
    return build_tiny(0)


def qwen2_vl():
    plain = load_processor("tiny")
    processor = tf.Qwen2VLProcessor(
        image_processor=plain.image_processor, tokenizer=plain.tokenizer, video_processor=plain.video_processor, chat_template=plain.chat_template
    )
    common = tokens(tiny_config(), rope_parameters=dict(rope_type="default", rope_theta=1e4, mrope_section=[2, 3, 3]))
    vision = dict(depth=2, embed_dim=64, hidden_size=64, num_heads=2, mlp_ratio=2, patch_size=14, spatial_merge_size=2, temporal_patch_size=2)
    torch.manual_seed(0)
    return tf.Qwen2VLForConditionalGeneration(tf.Qwen2VLConfig(vision_config=vision, **common)).eval(), processor


def qwen3_vl():
    plain = load_processor("tiny")
    common = tokens(
        tiny_config(),
        head_dim=16,
        rope_parameters=dict(rope_type="default", rope_theta=1e4, mrope_section=[4, 2, 2], mrope_interleaved=True),
    )
    vision = dict(
        depth=2,
        hidden_size=64,
        intermediate_size=128,
        num_heads=2,
        out_hidden_size=64,
        patch_size=16,
        spatial_merge_size=2,
        temporal_patch_size=2,
        num_position_embeddings=64,
        deepstack_visual_indexes=[0, 1],
        initializer_range=0.06,
    )
    torch.manual_seed(0)
    model = tf.Qwen3VLForConditionalGeneration(tf.Qwen3VLConfig(vision_config=vision, **common)).eval()
    return model, tf.Qwen3VLProcessor(
        image_processor=tf.Qwen2VLImageProcessor(patch_size=16, min_pixels=1024, max_pixels=128 * 1024),
        tokenizer=plain.tokenizer,
        chat_template=plain.chat_template,
        video_processor=tf.Qwen3VLVideoProcessor(patch_size=16, size=dict(shortest_edge=1024, longest_edge=64 * 1024)),
    )


@pytest.fixture(scope="module", params=[qwen2_5_vl, qwen2_vl, qwen3_vl], ids=lambda make: make.__name__)
def family(request):
    return request.param()


@pytest.fixture(scope="module")
def tiny():
    return qwen2_5_vl()


@pytest.fixture(scope="module")
def videos():
    noise = np.random.default_rng(0)
    return [[Image.fromarray(noise.integers(0, 256, (56, side, 3), np.uint8)) for _ in range(n)] for n, side in ((6, 56), (6, 56), (4, 84))]


def ask(videos, style="full", encoding="interleaved", queries=QUERIES):
    'Prompts as `build_prompt` makes them, about videos of noise. Style "full" puts the frames before the query, style "short" behind it.'
    out = []
    for v, text in queries:
        frames = (
            [{"type": "video"}]
            if encoding == "native"
            else [b for i in range(len(videos[v])) for b in ({"type": "text", "text": str(i)}, {"type": "image"})]
        )
        content = [*frames, {"type": "text", "text": text}] if style == "full" else [{"type": "text", "text": text}, *frames]
        shown = dict(prompt=[{"role": "user", "content": content}])
        out.append({**shown, "video": list(videos[v]), "fps": 1.0 + v} if encoding == "native" else {**shown, "images": list(videos[v])})
    return out


def read(model, processor, shown, videos=None) -> tuple[Prompts, list[int]]:
    "(The distinct prompts of a batch; for each row the index of its prompt among them.) `videos`: other video numbers, to make a fault."
    of, first, video_of_prompt = same_prompts(shown)
    distinct = [shown[i] for i in first]
    texts = [prompt_text(processor, p) for p in distinct]
    return read_prompts(processor, model, texts, processor_frames(distinct), videos or video_of_prompt), of


def usual_logits(model, processor, shown):
    "Next-token logits of each prompt by itself."
    with torch.inference_mode():
        return torch.cat([model(**model_inputs(processor, [s], "cpu"), logits_to_keep=1).logits[:, -1] for s in shown])


def shared_logits(model, prompts, of, shift=0):
    "Next-token logits of rows that continue from one shared pass; a `shift` makes their positions wrong."
    last = torch.stack([prompts.ids[i][-1:] for i in of])
    positions = torch.stack([prompts.positions[i][:, -1:] for i in of], 1) + shift
    with torch.inference_mode(), shared_decoding(model, prompts, of, encode_once=True) as cache:
        return model(input_ids=last, position_ids=positions, **{cache_name(): cache}, logits_to_keep=1).logits[:, -1]


def far(a, b):
    "The largest difference, as a share of the largest value of `b`."
    return float((a - b).abs().max() / b.abs().max())


WAYS = [(style, encoding) for style in ("full", "short") for encoding in ("interleaved", "native")]


@pytest.mark.parametrize("style,encoding", WAYS)
def test_logits_and_tokens_are_those_of_asking_one_by_one(family, videos, style, encoding):
    model, processor = family
    shown = ask(videos, style, encoding)
    assert far(shared_logits(model, *read(model, processor, shown)), usual_logits(model, processor, shown)) < 1e-5
    alone = [text for s in shown for text in generate(model, processor, [s], 12, share_prefix=False)]
    assert generate(model, processor, shown, 12) == alone == generate(model, processor, shown, 12, share_prefix=False)
    assert len(set(alone)) > 1


@pytest.mark.parametrize("style,encoding", WAYS)
def test_rollouts_draw_the_same_tokens_with_the_same_seed(tiny, videos, style, encoding):
    model, processor = tiny
    shown, rollouts = ask(videos, style, encoding), []
    for share_prefix, prompts, samples in (
        (True, shown, 4),
        (False, [s for s in shown for _ in range(4)], 1),
    ):  # repeated here as well, to check how `generate` repeats
        torch.manual_seed(3)
        rollouts.append(generate(model, processor, prompts, 10, temperature=1.0, num_completions=samples, share_prefix=share_prefix))
    assert rollouts[0] == rollouts[1] and len(rollouts[0]) == 4 * len(shown) and len(set(rollouts[0])) > len(shown)


@pytest.mark.parametrize("share_prefix", [True, False])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_sampling_settings_in_a_checkpoints_generation_config_are_ignored(tiny, videos, share_prefix, temperature):
    (model, processor), shown = tiny, ask(videos)

    def answers():
        torch.manual_seed(3)
        return generate(model, processor, shown, 12, temperature=temperature, share_prefix=share_prefix)

    usual, own = answers(), model.generation_config
    settings = [dict(repetition_penalty=1.5), dict(min_p=0.9), dict(no_repeat_ngram_size=1), dict(temperature=9.0), dict(top_k=1), dict(top_p=0.1)]
    settings += [
        dict(sequence_bias=[[[74], 50.0]]),
        dict(bad_words_ids=[[i] for i in range(60, 90)]),
        dict(num_return_sequences=3),
    ]  # ids of single characters: 74 is d, 60 to 89 are V to s
    settings += [dict(return_dict_in_generate=True), dict(prompt_lookup_num_tokens=2), dict(exponential_decay_length_penalty=[2, 9.0])]
    for setting in settings:
        model.generation_config = tf.GenerationConfig(**{**own.to_dict(), "do_sample": True, **setting})
        try:
            assert answers() == usual, setting
        finally:
            model.generation_config = own


@pytest.mark.parametrize("encoding", ["interleaved", "native"])
def test_wrong_positions_change_the_logits(tiny, videos, encoding):
    model, processor = tiny
    shown = ask(videos, "full", encoding)
    usual = usual_logits(model, processor, shown)
    assert far(shared_logits(model, *read(model, processor, shown), shift=2), usual) > 1e-3


def test_without_given_positions_the_model_takes_those_of_the_prompts_it_read_last(tiny, videos):
    "So the positions must be given: with them the logits are right, without them they are not."
    model, processor = tiny
    other = ask(videos, "full", "native", [(0, "the red circle"), (0, "white")])
    shown = [{**s, "fps": 0.25} for s in other]  # a long video: its time runs ahead of its tokens
    usual = usual_logits(model, processor, shown)
    prompts, of = read(model, processor, shown)
    width = max(map(len, prompts.ids))
    padded = [torch.nn.functional.pad(ids, (width - len(ids), 0)) for ids in prompts.ids]
    mask = [torch.nn.functional.pad(torch.ones_like(ids), (width - len(ids), 0)) for ids in prompts.ids]
    positions = torch.stack([torch.nn.functional.pad(p, (width - p.shape[1], 0)) for p in prompts.positions], 1)
    for given in (dict(position_ids=positions), {}):
        read(model, processor, other)
        start = dict(input_ids=torch.stack(padded), attention_mask=torch.stack(mask), **given)
        first = dict(max_new_tokens=1, do_sample=False, output_logits=True, return_dict_in_generate=True)
        with torch.inference_mode(), shared_decoding(model, prompts, of) as cache:
            out = model.generate(**start, **{cache_name(): cache}, **first)
        difference = far(out.logits[0], usual)
        assert difference < 1e-5 if given else difference > 1e-3


def test_two_videos_with_equal_prompts_are_kept_apart(tiny, videos):
    model, processor = tiny
    shown = ask(videos, queries=[(0, "white"), (1, "white"), (0, "white")])
    text = [prompt_text(processor, s) for s in shown]
    assert text[0] == text[1] and same_prompts(shown) == ([0, 1, 0], [0, 1], [0, 1])
    usual = usual_logits(model, processor, shown)
    assert far(shared_logits(model, *read(model, processor, shown)), usual) < 1e-5
    confused = read(model, processor, shown, videos=[0, 0])  # as if equal words meant an equal video
    assert far(shared_logits(model, *confused)[1], usual[1]) > 1e-3


@pytest.mark.parametrize("style", ["full", "short"])
def test_each_video_is_preprocessed_and_encoded_once(tiny, videos, style, monkeypatch):
    model, processor = tiny
    shown = ask(videos, style)
    prompts, _ = read(model, processor, shown)
    counted = dict(pictures=0, patches=0, tokens=[])
    plain = type(processor.image_processor).__call__

    def pictures(self, images, *args, **kwargs):
        counted["pictures"] += sum(map(len, images))
        return plain(self, images, *args, **kwargs)

    monkeypatch.setattr(type(processor.image_processor), "__call__", pictures)

    def patches(module, args, kwargs):
        counted["patches"] += len(args[0] if args else kwargs["hidden_states"])

    def tokens(module, args, kwargs):
        counted["tokens"].append(kwargs["inputs_embeds"].shape[:2].numel())

    hooks = [
        model.model.visual.register_forward_pre_hook(patches, with_kwargs=True),
        model.model.language_model.register_forward_pre_hook(tokens, with_kwargs=True),
    ]
    try:
        generate(model, processor, shown, 1, temperature=1.0, num_completions=8)
    finally:
        [hook.remove() for hook in hooks]
    by_video = [[prompts.ids[i].tolist() for i, v in enumerate(prompts.videos) if v == video] for video in range(3)]
    assert [len(ids) for ids in by_video] == [2, 2, 1]  # of six rows two ask the same
    common = [len(os.path.commonprefix(ids)) if style == "full" and len(ids) > 1 else 0 for ids in by_video]
    once = sum(n + sum(len(ids) - 1 - n for ids in group) for n, group in zip(common, by_video))
    assert counted["pictures"] == 16 and counted["tokens"] == [once, 8 * len(shown)]  # then one token per rollout
    # style short shows a video once per prompt; before 5.20 transformers also encodes it each time
    if style == "full" or "mm_encoder_outputs" in inspect.signature(model.forward).parameters:
        assert counted["patches"] == 6 * 16 + 6 * 16 + 4 * 24  # frames × patches of each video


def test_an_adapter_answers_the_same_with_and_without_sharing(videos):
    from peft import get_peft_model

    model, processor = build_tiny(1)
    model = get_peft_model(model, lora_config(model, 4))
    for name, p in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.3)
    shown = ask(videos)
    with_adapter = generate(model, processor, shown, 10)
    assert with_adapter == generate(model, processor, shown, 10, share_prefix=False)
    with model.disable_adapter():
        assert generate(model, processor, shown, 10) != with_adapter


@pytest.mark.parametrize(
    "ids, lengths, parents",  # 9: vision token; lengths, parents: as in `PackedPrompts`
    [
        ([[9, 2, 3]], [[2]], [None]),
        ([[9, 2, 3], [9, 2, 3, 4]], [[2], [0, 1]], [None, [0, 0]]),
        ([[1, 9, 6], [1, 9, 7]], [[2]], [None]),
        ([[1, 9, 9, 9, 5, 6], [1, 9, 9, 9, 5, 7, 8]], [[5], [0, 1]], [None, [0, 0]]),
        ([[1, 9, 9, 2], [1, 9, 9, 3, 4]], [[3], [0, 1]], [None, [0, 0]]),
        ([[1, 9, 5, 9, 2], [1, 9, 6, 9, 2]], [[4, 4]], [None]),
        ([[5, 6, 9, 9, 9, 2], [5, 7, 9, 9, 9, 2]], [[5, 5]], [None]),
    ],
    ids=[
        "one prompt",
        "one continues the other",
        "only the last token differs",
        "query behind the frames",
        "equal up to the end of the frames",
        "other words between the frames",
        "query before the frames",
    ],
)
def test_a_shared_prefix_holds_the_whole_video_and_no_prompts_last_token(ids, lengths, parents):
    tokens = [torch.tensor(row) for row in ids]
    ends = [max(i for i, token in enumerate(row) if token == 9) + 1 for row in ids]  # tokens up to the last vision token
    positions = [torch.arange(len(row)).expand(3, -1) for row in ids]
    packed = pack_prompts(Prompts(tokens, positions, [{}] * len(ids), [{}] * len(ids), [0] * len(ids), ends), list(range(len(ids))))
    assert sorted(packed.leaves) == list(range(len(ids))) and max(packed.leaves.values()) < len(lengths[-1])
    assert packed.lengths == lengths and packed.parents == parents and packed.ids.shape[1] == sum(map(sum, lengths))


def test_equal_words_about_two_videos_are_two_prefixes():
    ids = [torch.tensor([1, 9, 9, 5])] * 2
    packed = pack_prompts(Prompts(ids, [torch.arange(4).expand(3, -1)] * 2, [{}] * 2, [{}] * 2, [0, 1], [3, 3]), [0, 1])
    assert packed.lengths == [[3, 3]] and packed.heads == [0, 1]


# ---- samples in any order ----


def test_batches_hold_a_videos_samples_together():
    samples = [
        Sample(f"q{i}", f"v{v}.mp4", 9.0, "x", [[1.0, 2.0]], clip=clip)
        for i, (v, clip) in enumerate([(0, None), (1, None), (0, None), (2, None), (0, (0.0, 5.0)), (1, None), (0, None)])
    ]
    batches = [[s.qid for s in b] for b in by_video(samples, 3)]
    assert batches == [["q0", "q2", "q6"], ["q1", "q5", "q3"], ["q4"]]
    assert (
        sorted(q for b in by_video(samples, 2) for q in [s.qid for s in b]) == [s.qid for s in samples] and max(map(len, by_video(samples, 2))) == 2
    )


def test_predictions_come_in_the_order_of_the_samples(tmp_path, tiny, world, toy_samples):
    model, processor = tiny
    few = [s for s in toy_samples if s.video in sorted({s.video for s in toy_samples})[:4]]
    samples = [few[i] for i in np.random.default_rng(0).permutation(len(few))]
    view = VideoInputConfig(str(world / "videos"), 8, 784, "full")
    rows = predict(model, processor, samples, view, 6, 8)
    assert [r["qid"] for r in rows] == [s.qid for s in samples]
    assert rows == predict(model, processor, samples, view, 6, 8, share_prefix=False)
    file = tmp_path / "p.jsonl"
    assert resumable_predict(file, partial(generate, model, processor, max_completion_length=8), samples, view, 6) == rows
    assert [json.loads(line) for line in file.read_text().splitlines()] == rows
