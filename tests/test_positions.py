"The rotary positions of native video are those worked out by hand, in every path, whatever the installed transformers computes."

import copy
import pickle
import re
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
import transformers as tf
from test_prefix_cache import qwen2_vl

from vtg_r1.core.runtime import UserError, project_root, set_seed
from vtg_r1.data.model_inputs import VideoInputConfig, build_prompt
from vtg_r1.data.toyworld import read_scripts, toy_teacher
from vtg_r1.grpo import GRPOParams, grpo_trainer
from vtg_r1.models.generation import generate, model_inputs
from vtg_r1.models.loading import load_model, load_processor
from vtg_r1.models.positions import mrope_positions, require_checkpoint_positions, use_checkpoint_positions, why_positions_unknown
from vtg_r1.models.tiny import build_tiny, tiny_config
from vtg_r1.sft import SFTParams, sft_trainer
from vtg_r1.train.trainer import fit

TEXT, IMAGE, VIDEO = 0, 1, 2


def positions_of(kinds, images=None, videos=None, seconds=None, per_second=None, mask=None):
    "Positions in time, height and width, each a list of rows of tokens."
    kinds = torch.tensor(kinds)
    mask = torch.ones_like(kinds) if mask is None else torch.tensor(mask)
    grids = [None if grid is None else torch.tensor(grid) for grid in (images, videos)]
    seconds = None if seconds is None else torch.tensor(seconds)
    return mrope_positions(kinds, mask, *grids, 2, seconds, per_second).tolist()


def row(*args, **kwargs):
    "Positions in time, height and width of the tokens of one row."
    return [axis[0] for axis in positions_of([args[0]], *args[1:], **kwargs)]


def test_text_after_a_video_continues_behind_its_largest_time():
    time, height, width = row([TEXT] * 5 + [VIDEO] * 5 + [TEXT] * 3, videos=[[5, 2, 2]], seconds=[2.0], per_second=4)
    assert time == [0, 1, 2, 3, 4, 5, 13, 21, 29, 37, 38, 39, 40]
    assert height == width == [0, 1, 2, 3, 4, 5, 5, 5, 5, 5, 38, 39, 40]


def test_text_continues_behind_the_width_where_that_is_larger_than_the_time():
    time, height, width = row([TEXT] * 2 + [VIDEO] * 12 + [TEXT], videos=[[2, 2, 12]], seconds=[1.5], per_second=2)
    assert time == [0, 1] + [2] * 6 + [5] * 6 + [8]
    assert height == [0, 1] + [2] * 12 + [8]
    assert width == [0, 1] + [2, 3, 4, 5, 6, 7] * 2 + [8]


def test_each_frame_counts_its_rows_and_columns_from_the_start_of_the_video():
    time, height, width = row([TEXT] + [VIDEO] * 12 + [TEXT] * 2, videos=[[2, 4, 6]], seconds=[3.0], per_second=2)
    assert time == [0] + [1] * 6 + [7] * 6 + [8, 9]
    assert height == [0] + [1, 1, 1, 2, 2, 2] * 2 + [8, 9]
    assert width == [0] + [1, 2, 3] * 4 + [8, 9]


def test_seconds_times_positions_per_second_are_rounded_down_after_the_multiplication():
    kinds, videos = [VIDEO] * 5 + [TEXT], [[5, 2, 2]]
    assert row(kinds, videos=videos, seconds=[1.3], per_second=2)[0] == [0, 2, 5, 7, 10, 11]
    assert row(kinds, videos=videos, seconds=[0.25], per_second=2)[0] == [0, 0, 1, 1, 2, 3]
    assert row(kinds, videos=videos, per_second=4)[0] == [0, 4, 8, 12, 16, 17]  # no seconds: one per step
    assert row(kinds, videos=videos)[0] == [0, 1, 2, 3, 4, 5]  # Qwen2-VL counts steps


def test_an_image_and_two_videos_with_text_between_them():
    kinds = [TEXT] + [IMAGE] * 4 + [TEXT] + [VIDEO] * 3 + [TEXT] * 2 + [VIDEO] * 4 + [TEXT]
    time, height, width = row(kinds, images=[[1, 4, 4]], videos=[[3, 2, 2], [2, 2, 4]], seconds=[1.0, 0.5], per_second=4)
    assert time == [0, 1, 1, 1, 1, 3, 4, 8, 12, 13, 14, 15, 15, 17, 17, 18]
    assert height == [0, 1, 1, 2, 2, 3, 4, 4, 4, 13, 14, 15, 15, 15, 15, 18]
    assert width == [0, 1, 2, 1, 2, 3, 4, 4, 4, 13, 14, 15, 16, 15, 16, 18]


def test_frames_with_text_between_them_are_blocks_of_their_own():
    kinds = [TEXT, VIDEO, VIDEO, TEXT, VIDEO, VIDEO, TEXT, TEXT]
    time, height, width = row(kinds, videos=[[2, 2, 4]])
    assert time == height == [0, 1, 1, 3, 4, 4, 6, 7]
    assert width == [0, 1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_takes_no_positions(side):
    short, long = [TEXT] + [VIDEO] * 2 + [TEXT], [TEXT] * 2 + [VIDEO] * 3 + [TEXT] * 2
    pad = [0] * 3
    kinds = [pad + short if side == "left" else short + pad, long]
    mask = [pad + [1] * 4 if side == "left" else [1] * 4 + pad, [1] * 7]
    time, height, _ = positions_of(kinds, videos=[[2, 2, 2], [3, 2, 2]], seconds=[1.0, 2.0], per_second=2, mask=mask)
    expected = [0, 1, 3, 4]
    assert time == [pad + expected if side == "left" else expected + pad, [0, 1, 2, 6, 10, 11, 12]]
    assert height[1] == [0, 1, 2, 2, 2, 11, 12]


def test_tokens_that_fit_no_grid_are_an_error():
    with pytest.raises(ValueError, match="a run of 7 vision tokens is neither a grid of 2 x 2 x 2 tokens nor one of its frames"):
        row([VIDEO] * 7, videos=[[2, 4, 4]])
    with pytest.raises(ValueError, match="fewer grids"):
        row([VIDEO] * 8 + [TEXT] + [VIDEO] * 8, videos=[[2, 4, 4]])


# --- the model ---


def plain_tiny():
    "A model with the embedded model's architecture, as transformers makes it: without our rule of positions."
    torch.manual_seed(0)
    return tf.Qwen2_5_VLForConditionalGeneration(tiny_config()).eval()


KINDS = torch.tensor([[TEXT] * 5 + [VIDEO] * 5 + [TEXT] * 3])
LAYOUT = dict(video_grid_thw=torch.tensor([[5, 2, 2]]), second_per_grid_ts=torch.tensor([2.0]))


def of_model(model):
    "What the model gives for the first example above: positions, and how far they run ahead of the tokens."
    return model.model.get_rope_index(torch.zeros_like(KINDS), mm_token_type_ids=KINDS, **LAYOUT)


def test_a_loaded_model_follows_the_rule_and_the_installed_one_does_not():
    model, stock = load_model("tiny", device="cpu"), plain_tiny()
    positions, ahead = of_model(model)
    assert positions[0, 0, -3:].tolist() == [38, 39, 40] and ahead.tolist() == [[41 - 13]]
    assert of_model(stock)[0][0, 0, -3:].tolist() == [6, 7, 8]  # remove this line when transformers gives 38, 39, 40 itself
    for changed in (copy.deepcopy(model), use_checkpoint_positions(model), use_checkpoint_positions(stock)):
        assert torch.equal(of_model(changed)[0], positions)
    assert type(model.model).__mro__.count(tf.Qwen2_5_VLModel) == 1 and str(type(model.model)) == str(tf.Qwen2_5_VLModel)
    with pytest.raises(pickle.PicklingError):
        pickle.dumps(model.model)  # an error is better than a copy without the rule


def test_adapters_and_saving_keep_the_rule(tmp_path):
    from peft import get_peft_model

    from vtg_r1.models.loading import lora_config

    model = plain_tiny()
    model = get_peft_model(model, lora_config(model, 4))
    assert not why_positions_unknown(model)
    assert of_model(use_checkpoint_positions(model).get_base_model())[0][0, 0, -3:].tolist() == [38, 39, 40]
    build_tiny(0)[0].save_pretrained(tmp_path)
    assert of_model(load_model(str(tmp_path), device="cpu"))[0][0, 0, -3:].tolist() == [38, 39, 40]
    assert '"Qwen2_5_VLForConditionalGeneration"' in (tmp_path / "config.json").read_text()


def empty(name: str):
    "A model of a class of transformers without weights, two layers deep."
    model_class = getattr(tf, name)
    config = model_class.config_class()
    text = config.get_text_config()
    text.num_hidden_layers = config.vision_config.depth = 2
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[-2:]
    with torch.device("meta"):
        return model_class(config)


@pytest.mark.parametrize("name", ["Qwen3VL", "Qwen3VLMoe", "Qwen3_5", "Glm4v", "Glm46V"])
def test_families_with_timestamps_keep_the_positions_of_transformers(name):
    model = empty(f"{name}ForConditionalGeneration")
    core = type(model.model)
    assert not why_positions_unknown(model)
    require_checkpoint_positions(model)
    assert type(model.model) is core


@pytest.mark.parametrize("name", ["Qwen2VL", "Qwen2_5_VL"])
def test_families_without_timestamps_are_given_the_rule(name):
    model = empty(f"{name}ForConditionalGeneration")
    core = type(model.model)
    require_checkpoint_positions(model)
    assert type(model.model) is not core and issubclass(type(model.model), core)


def test_an_unknown_rule_of_positions_is_refused_for_native_video_and_not_for_interleaved(native, toy_samples, tmp_path):
    class Another(tf.Qwen2_5_VLModel):
        def get_rope_index(self, *args, **kwargs):
            positions, ahead = super().get_rope_index(*args, **kwargs)
            return 2 * positions, ahead

    model, processor = plain_tiny(), load_processor("tiny")
    model.model.__class__, model.config.model_type = Another, "another_vl"
    said = re.escape(
        f"transformers {tf.__version__} gives native video of model type 'another_vl' follow no rule that is known here: use time_encoding 'inter"
    )
    prompt = build_prompt(toy_samples[0], native)
    interleaved = replace(native, time_encoding="interleaved")
    for share_prefix in (False, True):
        with pytest.raises(UserError, match=said):
            generate(model, processor, [prompt], 2, share_prefix=share_prefix)
        assert generate(model, processor, [build_prompt(toy_samples[0], interleaved)], 2, share_prefix=share_prefix)
    with pytest.raises(UserError, match=said):
        sft_trainer(model, processor, toy_samples[:2], native, tmp_path, SFTParams())
    params = GRPOParams(share_prefix=False, prompts_per_step=2, num_generations=2, per_device_batch_size=4)
    with pytest.raises(UserError, match=said):
        grpo_trainer(model, processor, toy_samples[:2], native, tmp_path, params)


# --- every path ---


@pytest.fixture(scope="module")
def native(world):
    return VideoInputConfig(str(world / "videos"), 8, 28 * 28, "short", "native")


def by_hand(model, ids, grid, seconds):
    "Time positions of a sequence with one video, worked out without the code under test."
    is_video = (ids == model.config.video_token_id).tolist()
    start, tokens = is_video.index(True), sum(is_video)
    per_frame = int(grid[1] * grid[2]) // 4
    ticks = getattr(model.config.vision_config, "tokens_per_second", None)
    step = 1.0 if ticks is None else seconds * ticks
    video = [start + int(k * step + 1e-4) for k in range(int(grid[0])) for _ in range(per_frame)]
    behind = max(*video, start + int(max(grid[1], grid[2])) // 2 - 1) + 1
    return [*range(start), *video, *range(behind, behind + len(ids) - start - tokens)]


@contextmanager
def watched(model):
    "Tokens, mask and time positions of every pass through a model."
    passes = []

    def outer(module, args, kwargs):
        ids = kwargs.get("input_ids", args[0] if args else None)
        passes.append(dict(ids=ids, mask=kwargs.get("attention_mask"), tree="tree" in kwargs))

    def inner(module, args, kwargs):
        passes[-1]["time"] = kwargs["position_ids"][-3]

    handles = [
        model.register_forward_pre_hook(outer, with_kwargs=True),
        model.model.language_model.register_forward_pre_hook(inner, with_kwargs=True),
    ]
    yield passes
    for handle in handles:
        handle.remove()


def rows_with_video(model, passes):
    """(Tokens, time positions) of every row with a video in every pass, without padding.

    A row of a shared pass packs several prompts: it is cut two tokens behind its first video."""
    for entry in passes:
        if entry["ids"] is None:
            continue
        for i, ids in enumerate(entry["ids"]):
            keep = torch.ones_like(ids).bool() if entry["mask"] is None or entry["tree"] else entry["mask"][i].bool()
            video = (ids == model.config.video_token_id) & keep
            if video.any():
                if entry["tree"]:
                    first = int(video.int().argmax())
                    keep[first + int(video[first:].int().cumprod(0).sum()) + 2 :] = False
                yield ids[keep], entry["time"][i][keep].tolist()


def check(model, passes, batch, minimum):
    "At least `minimum` rows passed, and each has the positions worked out by hand for one of the videos of the batch."
    count = 0
    for ids, time in rows_with_video(model, passes):
        seconds = batch.get("second_per_grid_ts", [1.0] * len(batch["video_grid_thw"]))
        candidates = [by_hand(model, ids, grid, float(s)) for grid, s in zip(batch["video_grid_thw"], seconds)]
        assert time in candidates, (time, candidates)
        count += 1
    assert count >= minimum


@pytest.fixture(params=[lambda: build_tiny(0), qwen2_vl], ids=["qwen2_5_vl", "qwen2_vl"])
def family(request):
    set_seed(0)
    return request.param()


def test_positions_in_generation(family, native, toy_samples):
    model, processor = family
    prompts = [build_prompt(s, native) for s in (toy_samples[0], toy_samples[-1])]
    batch = model_inputs(processor, prompts, "cpu")
    last = []
    for i, ids in enumerate(batch["input_ids"]):
        seconds = float(batch["second_per_grid_ts"][i]) if "second_per_grid_ts" in batch else 1.0
        last.append(by_hand(model, ids[batch["attention_mask"][i].bool()], batch["video_grid_thw"][i], seconds)[-1])
    generate(model, processor, prompts, 1)  # here the self-test of sharing makes its own passes, once
    for share_prefix in (False, True):
        with watched(model) as passes:
            generate(model, processor, prompts, 3, share_prefix=share_prefix)
        check(model, passes, batch, 1)
        new = [entry["time"][:, 0].tolist() for entry in passes if entry["time"].shape[-1] == 1]
        ahead = 0 if share_prefix else 1  # a shared pass leaves the last token of each prompt to the first step
        assert new[:2] == [[n + ahead + k for n in last] for k in range(2)]


def test_positions_in_a_forward_pass(family, native, toy_samples):
    model, processor = family
    require_checkpoint_positions(model)
    batch = model_inputs(processor, [build_prompt(s, native) for s in (toy_samples[0], toy_samples[-1])], "cpu")
    with watched(model) as passes, torch.inference_mode():
        model(**batch)
    check(model, passes, batch, 2)


def test_positions_in_sft(family, world, native, toy_samples, tmp_path):
    model, processor = family
    scripts = read_scripts(world)
    taught = [replace(s, teacher=toy_teacher(s, scripts)) for s in toy_samples[:2]]
    params = SFTParams(epochs=1, batch_size=2, per_device_batch_size=2)
    if model.config.model_type == "qwen2_vl":
        with pytest.raises(UserError, match="no clock"):
            sft_trainer(model, processor, taught, native, tmp_path, params)
        return
    trainer = sft_trainer(model, processor, taught, native, tmp_path, params)
    batch = model_inputs(processor, [build_prompt(s, native) for s in taught], "cpu")
    with watched(model) as passes:
        fit(trainer, "cold start", {})
    check(model, passes, batch, 2)


@pytest.mark.parametrize("share_prefix", [False, True])
def test_positions_in_grpo_and_in_its_reference(family, native, toy_samples, tmp_path, share_prefix):
    model, processor = family
    model.save_pretrained(tmp_path / "policy")
    model = load_model(str(tmp_path / "policy"), device="cpu")  # TRL loads the reference from this folder
    sizes = dict(prompts_per_step=2, num_generations=2, per_device_batch_size=4, max_completion_length=6)
    params = GRPOParams(steps=1, warmup_steps=0, share_prefix=share_prefix, beta=0.01, **sizes)
    if model.config.model_type == "qwen2_vl":
        with pytest.raises(UserError, match="no clock"):
            grpo_trainer(model, processor, toy_samples[:2], native, tmp_path, params)
        return
    trainer = grpo_trainer(model, processor, toy_samples[:2], native, tmp_path, params)
    trainer.reward_funcs = [lambda completion_ids, **kwargs: [float(sum(ids) % 7) for ids in completion_ids], trainer.reward_funcs[1]]
    batch = model_inputs(processor, [build_prompt(s, native) for s in toy_samples[:2]], "cpu")
    with watched(model) as passes, watched(trainer.ref_model) as of_reference:
        fit(trainer, "GRPO", {})
    check(model, passes, batch, 2)
    check(trainer.ref_model, of_reference, batch, 1)


def test_check_fails_for_the_positions_of_the_installed_transformers(native, toy_samples):
    model, processor = plain_tiny(), load_processor("tiny")
    batch = model_inputs(processor, [build_prompt(toy_samples[0], native)], "cpu")
    with watched(model) as passes, torch.inference_mode():
        model(**batch)
    with pytest.raises(AssertionError):
        check(model, passes, batch, 1)


def test_the_code_in_the_report_to_transformers_prints_what_the_report_says(capsys):
    text = (project_root() / "docs/upstream/transformers.md").read_text(encoding="utf-8")
    code, printed = re.search(r"```python\n(.*?)```\n\n```\n(.*?)```", text, re.DOTALL).groups()
    exec(compile(code, "the report", "exec"), {})
    version = re.compile(r"^transformers .*$", re.MULTILINE)
    assert version.sub("", capsys.readouterr().out) == version.sub("", printed)
