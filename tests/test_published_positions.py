"""Native positions and log-probabilities against earlier versions of transformers: the one that a family's checkpoints were published with, and for some a later one.

The versions are installed into folders of their own: this takes minutes and needs the package index."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers as tf
from PIL import Image
from safetensors.torch import save_file
from test_positions import empty
from test_prefix_cache import read, shared_logits

from vtg_r1.models.generation import generate, model_inputs
from vtg_r1.models.loading import load_model, load_processor
from vtg_r1.models.positions import require_checkpoint_positions
from vtg_r1.models.tiny import tiny_config

pytestmark = pytest.mark.long

VERSIONS = {  # version → the older packages that it needs; the others are those of this environment
    "4.49.0": ["tokenizers==0.21.4", "huggingface_hub==0.36.0"],
    "4.57.6": ["tokenizers==0.22.2", "huggingface_hub==0.36.0"],
    "5.2.0": ["tokenizers==0.22.2", "huggingface_hub==1.4.0"],
}

REFERENCE = """
import importlib, sys
from types import SimpleNamespace
import torch, transformers

def namespace(x):
    return SimpleNamespace(**{k: namespace(v) for k, v in x.items()}) if isinstance(x, dict) else x

jobs, results = torch.load(sys.argv[1], weights_only=False), dict(version=transformers.__version__)
for key, (family, config, inputs) in jobs["positions"].items():
    module = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
    owner = next(c for c in vars(module).values() if isinstance(c, type) and "get_rope_index" in vars(c))
    results[key] = [owner.get_rope_index(SimpleNamespace(config=namespace(config)), **x)[0] for x in inputs]
if jobs["batches"]:
    model = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(jobs["folder"], torch_dtype=torch.float64).eval()
    with torch.inference_mode():
        results["logits"] = [model(**x).logits for x in jobs["batches"]]
        results["tokens"] = [model.generate(**x, max_new_tokens=8, do_sample=False)[:, x["input_ids"].shape[1]:] for x in jobs["batches"]]
torch.save(results, sys.argv[2])
"""


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    "A function that runs jobs under another version of transformers."
    folders = {}

    def run(version: str, **jobs):
        folder = tmp_path_factory.mktemp(version)
        if version not in folders:
            site = folder / "site"
            packages = [f"transformers=={version}", *VERSIONS[version]]
            pip = subprocess.run(
                [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site), *packages], capture_output=True, text=True
            )
            if pip.returncode:
                pytest.skip(f"{packages} cannot be installed here: {pip.stderr[-300:]}")
            folders[version] = site
        torch.save({"positions": {}, "batches": [], **jobs}, folder / "jobs.pt")
        env = {**os.environ, "PYTHONPATH": str(folders[version]), "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-c", REFERENCE, str(folder / "jobs.pt"), str(folder / "results.pt")]
        out = subprocess.run(command, capture_output=True, text=True, env=env)
        assert out.returncode == 0, out.stderr[-3000:]
        results = torch.load(folder / "results.pt", weights_only=False)
        assert results.pop("version") == version
        return results

    return run


# --- positions: the token ids of a made-up vocabulary ---

START, END, IMAGE, VIDEO, VIDEO_START, VIDEO_END, WORD = range(3, 10)
CONFIG = dict(
    image_token_id=IMAGE,
    video_token_id=VIDEO,
    vision_start_token_id=START,
    image_start_token_id=START,
    video_start_token_id=VIDEO_START,
    video_end_token_id=VIDEO_END,
    vision_config=dict(spatial_merge_size=2, tokens_per_second=2),
)


def sequence(style: str, draw) -> tuple[list[tuple[int, int]], list, list]:
    "(Token, kind) pairs of a random prompt with images and videos as a family's processor lays them out (`style`); then the grids of both."
    pairs, images, videos = [], [], []

    def words(most: int) -> None:
        pairs.extend([(WORD, 0)] * int(draw.integers(1, most)))

    def block(token: int, kind: int, count: int) -> None:
        pairs.extend([(START, 0), *[(token, kind)] * count, (END, 0)])

    words(9)
    for _ in range(int(draw.integers(1, 4))):
        t, h, w = (int(n) for n in draw.integers(1, (9, 4, 5)))
        if draw.random() < 0.3:
            block(IMAGE, 1, h * w)
            images.append([1, 2 * h, 2 * w])
        else:
            videos.append([t, 2 * h, 2 * w])
            if style == "whole":
                block(VIDEO, 2, t * h * w)
            elif style == "timestamps":
                for _ in range(t):
                    words(4)
                    block(VIDEO, 2, h * w)
            else:
                pairs.append((VIDEO_START, 0))
                for _ in range(t):
                    block(IMAGE, 2, h * w)
                    words(4)
                pairs.append((VIDEO_END, 0))
        words(9)
    return pairs, images, videos


def examples(style: str, count: int, seconds=None) -> list[dict[str, torch.Tensor]]:
    "Random batches of two rows, padded left or right."
    batches = []
    for seed in range(count):
        draw = np.random.default_rng(seed)
        rows, images, videos = [], [], []
        while not videos:
            rows, images, videos = [], [], []
            for _ in range(2):
                pairs, more_images, more_videos = sequence(style, draw)
                rows.append(pairs)
                images += more_images
                videos += more_videos
        width = max(map(len, rows))
        padded = [[(0, 0)] * (width - len(r)) + r if seed % 2 else r + [(0, 0)] * (width - len(r)) for r in rows]
        batch = dict(
            input_ids=torch.tensor([[token for token, _ in r] for r in padded]),
            mm_token_type_ids=torch.tensor([[kind for _, kind in r] for r in padded]),
            attention_mask=torch.tensor([[int(token > 0) for token, _ in r] for r in padded]),
            image_grid_thw=torch.tensor(images) if images else None,
            video_grid_thw=torch.tensor(videos),
        )
        if seconds:
            batch["second_per_grid_ts"] = torch.tensor(draw.choice(seconds, len(videos)), dtype=torch.float32)
        batches.append(batch)
    return batches


FRACTIONAL = [0.25, 0.52, 0.7, 1.3, 2.0, 2.0 / 3, 3.1]
CASES = [  # version, family, class, layout of videos, seconds per step
    ("4.49.0", "qwen2_vl", "Qwen2VL", "whole", None),
    ("4.49.0", "qwen2_5_vl", "Qwen2_5_VL", "whole", FRACTIONAL),
    ("4.57.6", "qwen2_vl", "Qwen2VL", "whole", None),
    ("4.57.6", "qwen2_5_vl", "Qwen2_5_VL", "whole", [1.0, 2.0, 3.0]),  # cuts seconds to whole numbers, unlike the published 4.49
    ("4.57.6", "qwen3_vl", "Qwen3VL", "timestamps", None),
    ("4.57.6", "qwen3_vl_moe", "Qwen3VLMoe", "timestamps", None),
    ("4.57.6", "glm4v", "Glm4v", "glm", None),
    ("5.2.0", "glm46v", "Glm46V", "glm", None),
    ("5.2.0", "qwen3_5", "Qwen3_5", "timestamps", None),
]


@pytest.mark.parametrize("version", VERSIONS)
def test_positions_are_those_of_the_published_version(version, reference):
    wanted = {f"{family}": (family, style, name, seconds) for v, family, name, style, seconds in CASES if v == version}
    batches = {key: examples(style, 40, seconds) for key, (_, style, _, seconds) in wanted.items()}
    jobs = {
        key: (family, CONFIG, [{k: x for k, x in b.items() if k != "mm_token_type_ids"} for b in batches[key]])
        for key, (family, *_) in wanted.items()
    }
    published = reference(version, positions=jobs)
    for key, (family, _, name, _) in wanted.items():
        model = empty(f"{name}ForConditionalGeneration")
        model.config.vision_config.spatial_merge_size = 2
        if family == "qwen2_5_vl":
            model.config.vision_config.tokens_per_second = 2
        installed = [model.model.get_rope_index(**b)[0] for b in batches[key]]
        require_checkpoint_positions(model)
        different = 0
        for batch, theirs, before in zip(batches[key], published[key], installed, strict=True):
            real = batch["attention_mask"].bool()
            ours, _ = model.model.get_rope_index(**batch)
            assert torch.equal(ours[:, real], theirs[:, real]), (version, family)
            different += not torch.equal(before[:, real], theirs[:, real])
        print(f"{family}: 40 of 40 batches as in transformers {version}; transformers {tf.__version__} by itself: {40 - different}")


# --- log-probabilities ---


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    "A folder with a random Qwen2.5-VL in the form of the published checkpoints: flat configuration, the old names of the weights."
    folder = tmp_path_factory.mktemp("checkpoint")
    config = tiny_config()
    config.vision_config.tokens_per_second = 2
    torch.manual_seed(0)
    model = tf.Qwen2_5_VLForConditionalGeneration(config)
    names = {"model.visual.": "visual.", "model.language_model.": "model."}
    weights = {}
    for name, x in model.state_dict().items():
        if name == "lm_head.weight":
            continue  # tied
        for new, old in names.items():
            if name.startswith(new):
                name = old + name.removeprefix(new)
        weights[name] = x.detach().clone()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    text, vision = config.text_config, config.vision_config
    text_fields = (
        "hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads vocab_size rms_norm_eps hidden_act "
        "max_position_embeddings attention_dropout max_window_layers use_sliding_window initializer_range"
    ).split()
    vision_fields = (
        "depth hidden_size intermediate_size num_heads out_hidden_size patch_size spatial_merge_size temporal_patch_size window_size "
        "fullatt_block_indexes tokens_per_second hidden_act"
    ).split()
    flat = dict(
        model_type="qwen2_5_vl",
        architectures=["Qwen2_5_VLForConditionalGeneration"],
        tie_word_embeddings=True,
        rope_theta=text.rope_parameters["rope_theta"],
        rope_scaling=dict(type="mrope", mrope_section=text.rope_parameters["mrope_section"]),
        vision_config={**{n: getattr(vision, n) for n in vision_fields}, "in_chans": vision.in_channels, "model_type": "qwen2_5_vl"},
        **{n: getattr(text, n) for n in text_fields},
        **{n: getattr(config, n) for n in ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")},
        eos_token_id=text.eos_token_id,
        pad_token_id=text.pad_token_id,
    )
    (folder / "config.json").write_text(json.dumps(flat, indent=1), encoding="utf-8")
    processor = load_processor("tiny")
    template = processor.chat_template
    processor.chat_template = template.replace(
        "<|video_pad|>", "<|vision_start|><|video_pad|><|vision_end|>"
    )  # the first versions find videos by these tokens
    assert processor.chat_template != template
    processor.save_pretrained(folder)
    return folder


def prompts(rates: list[float]) -> list[dict]:
    "Prompts about videos of noise at these rates."
    draw, out = np.random.default_rng(0), []
    for i, fps in enumerate(rates):
        frames = [Image.fromarray(draw.integers(0, 256, (28 * (1 + i % 2), 56, 3), np.uint8)) for _ in range(6 + 2 * (i % 3))]
        content = [{"type": "video"}, {"type": "text", "text": ["the red circle", "white"][i % 2]}]
        out.append(dict(prompt=[{"role": "user", "content": content}], video=frames, fps=fps))
    return out


@pytest.mark.parametrize(("version", "rates"), [("4.49.0", [1.0, 0.7, 2.0, 0.3, 3.1, 1.3]), ("4.57.6", [1.0, 2.0, 0.5, 1.0, 2.0, 0.25])])
def test_log_probabilities_and_tokens_are_those_of_the_published_version(version, rates, checkpoint, reference):
    model, processor = load_model(str(checkpoint), device="cpu").double(), load_processor(str(checkpoint))
    asked = prompts(rates)
    batches = [model_inputs(processor, asked[i : i + 2], "cpu") for i in range(0, len(asked), 2)]
    batches += [model_inputs(processor, [p], "cpu") for p in asked]
    theirs = reference(version, folder=str(checkpoint), batches=[{k: x for k, x in b.items() if k != "mm_token_type_ids"} for b in batches])
    core = type(model.model)
    furthest, stock = 0.0, 0.0
    for batch, logits in zip(batches, theirs["logits"], strict=True):
        real = batch["attention_mask"].bool()
        for model_class in (core, tf.Qwen2_5_VLModel):
            model.model.__class__ = model_class
            with torch.inference_mode():
                ours = model(**batch).logits
            far = float((ours.log_softmax(-1) - logits.log_softmax(-1))[real].abs().max())
            if model_class is core:
                furthest = max(furthest, far)
            else:
                stock = max(stock, far)
    model.model.__class__ = core
    shared = shared_logits(model, *read(model, processor, asked)).log_softmax(-1)
    alone = torch.cat([x[:, -1] for x in theirs["logits"][-len(asked) :]]).log_softmax(-1)
    far_shared = float((shared - alone).abs().max())
    texts = [text for tokens in theirs["tokens"][-len(asked) :] for text in processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)]
    for share_prefix in (False, True):
        assert generate(model, processor, asked, 8, share_prefix=share_prefix) == texts
    print(f"transformers {version}: log-probs {furthest:.1e}, shared prefix {far_shared:.1e}; transformers {tf.__version__} by itself {stock:.1e}")
    assert furthest < 1e-6 and far_shared < 1e-6 and stock > 1e-3
