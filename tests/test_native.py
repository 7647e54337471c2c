"""The times that a model is given are those of the video stream, in both encodings, at constant and at variable frame rates.

Native video reaches rollouts and updates whole."""

import dataclasses

import model_zoo
import numpy as np
import pytest
import torch
from test_prefix_cache import qwen2_vl, qwen3_vl

from vtg_r1.core.runtime import UserError, set_seed
from vtg_r1.core.samples import Sample
from vtg_r1.data.model_inputs import VideoInputConfig, build_prompt
from vtg_r1.data.toyworld import read_scripts, toy_teacher, write_video
from vtg_r1.grpo import GRPOParams, grpo_trainer
from vtg_r1.models.generation import generate, model_inputs
from vtg_r1.models.loading import load_model, load_processor
from vtg_r1.models.templates import stop_ids
from vtg_r1.models.tiny import build_tiny
from vtg_r1.sft import SFTParams, sft_trainer
from vtg_r1.train.trainer import fit
from vtg_r1.train.video_inputs import sft_collator
from vtg_r1.video.reader import probe

RATES = {  # milliseconds at which the frames are shown
    "constant": [500 * i for i in range(12)],
    "variable": [0, 40, 80, 900, 2000, 2040, 5000, 5100, 9000],
    "many, with pauses": [*range(0, 600, 40), *range(6000, 6600, 40), 12000],
    "a late picture": [1400 + 500 * i for i in range(8)],
}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    "Videos whose frame i has grey level 8·i: a frame tells its own index."
    from test_video import write

    folder = tmp_path_factory.mktemp("rates")
    for name, shown in RATES.items():
        write(folder / f"{name}.mp4", shown, audio_from=0 if name == "a late picture" else None)
    return folder


def on_display(path, seconds: float) -> set[int]:
    "The frames that a player may show then, give or take 3 ms; before the first frame, the first."
    times = probe(path).times
    return {max(0, int(np.searchsorted(times, s, side="right")) - 1) for s in (seconds - 3e-3, seconds + 3e-3)}


def which(image) -> int:
    "The index of a frame, by its grey level."
    return round(float(np.asarray(image).mean()) / 8)


@pytest.mark.parametrize("name", RATES)
@pytest.mark.parametrize("frames", [6, 64])
def test_interleaved_writes_the_second_at_which_the_frame_is_shown(videos, name, frames):
    path = videos / f"{name}.mp4"
    shown = build_prompt(Sample("q", path.name, 13.0, "x", [[0, 1]]), VideoInputConfig(str(videos), frames, 28 * 28, "full"))
    blocks = shown["prompt"][1]["content"]
    seconds = [float(text["text"]) for text, image in zip(blocks, blocks[1:]) if image["type"] == "image"]
    times = probe(path).times
    assert len(seconds) == len(shown["images"])
    for s, image in zip(seconds, shown["images"]):
        assert abs(times[which(image)] - s) <= 0.051  # seconds are written to a tenth


@pytest.mark.parametrize("name", RATES)
@pytest.mark.parametrize("frames", [6, 64])
def test_native_positions_are_those_of_the_second_at_which_the_frame_is_on_display(videos, name, frames):
    path = videos / f"{name}.mp4"
    model, processor = build_tiny(0)
    shown = build_prompt(Sample("q", path.name, 13.0, "x", [[0, 1]]), VideoInputConfig(str(videos), frames, 28 * 28, "full", "native"))
    batch = model_inputs(processor, [shown], "cpu")
    second = float(batch["second_per_grid_ts"][0])
    assert second == pytest.approx(processor.video_processor.temporal_patch_size / shown["fps"])  # the processor's own reading of the clock
    for k, image in enumerate(shown["video"]):
        s = k / shown["fps"]
        if name == "a late picture" and frames == 6:  # its six frames are spread evenly from the first picture on, but the clock starts at 0
            assert abs(probe(path).times[which(image)] - s) <= (1.4 + 1e-9 if k == 0 else 1 / shown["fps"])
        else:
            assert which(image) in on_display(path, s), (k, s)
    assert (len(shown["video"]) - 1) / shown["fps"] == pytest.approx(probe(path).times[-1], abs=0.01)
    positions = model.model.get_rope_index(
        batch["input_ids"], batch["mm_token_type_ids"], video_grid_thw=batch["video_grid_thw"], second_per_grid_ts=batch["second_per_grid_ts"]
    )[0][0, 0]
    video = positions[batch["input_ids"][0] == model.config.video_token_id]
    ticks = (video - video[0]).tolist()
    per_second = model.config.vision_config.tokens_per_second
    assert sorted(set(ticks)) == sorted({int(k * second * per_second + 1e-4) for k in range(int(batch["video_grid_thw"][0, 0]))})


@pytest.fixture(scope="module")
def native(world):
    return VideoInputConfig(str(world / "videos"), 8, 28 * 28, "short", "native")


def test_sft_on_native_video_teaches_the_response_alone_and_trains_the_vision_tower(world, toy_samples, native, tmp_path):
    set_seed(0)
    scripts = read_scripts(world)
    taught = [dataclasses.replace(s, teacher=toy_teacher(s, scripts)) for s in toy_samples[:4]]
    model, processor = build_tiny(0)
    params = SFTParams(epochs=6, batch_size=4, per_device_batch_size=2, learning_rate=3e-3)
    trainer = sft_trainer(model, processor, taught, native, tmp_path, params)
    batch = sft_collator(processor, stop_ids(model, processor))([trainer.train_dataset[0], trainer.train_dataset[3]])
    learned = [processor.tokenizer.decode(row[row != -100]) for row in batch["labels"]]
    assert learned == [taught[i].teacher["response"] + "<|im_end|>" for i in (0, 3)]
    asked = model_inputs(processor, [build_prompt(taught[i], native) for i in (0, 3)], "cpu")
    for key in ("pixel_values_videos", "video_grid_thw", "second_per_grid_ts"):
        assert torch.equal(batch[key], asked[key])  # the video is as in evaluation
    before = {n: p.clone() for n, p in model.named_parameters()}
    log = fit(trainer, "cold start", {})
    assert log[-1]["loss"] < log[0]["loss"] - 0.5
    assert any(not torch.equal(p, before[n]) for n, p in model.named_parameters() if "visual" in n)


def qwen2_5_vl():
    return load_model("tiny", device="cpu"), load_processor("tiny")


@pytest.mark.parametrize("family", [qwen2_5_vl, qwen3_vl])
def test_grpo_on_native_video_trains_the_same_with_and_without_a_shared_prefix(family, toy_samples, native, tmp_path):
    "The trainer that reads every video once gives the same numbers as the trainer of TRL that was extended to native video."
    logs = []
    for once in (False, True):
        set_seed(0)
        model, processor = family()
        before = {n: p.clone() for n, p in model.named_parameters()}
        sizes = dict(prompts_per_step=2, num_generations=4, per_device_batch_size=4, max_completion_length=24)
        params = GRPOParams(steps=2, learning_rate=1e-3, warmup_steps=0, share_prefix=once, **sizes)
        trainer = grpo_trainer(model, processor, toy_samples[:4], native, tmp_path / str(once), params)
        trainer.reward_funcs = [
            lambda completion_ids, **kwargs: [float(sum(ids) % 7) for ids in completion_ids],
            trainer.reward_funcs[1],
        ]  # any reward that varies
        logs.append([(row["loss"], row["grad_norm"], row["completions/mean_length"]) for row in fit(trainer, "GRPO", {})])
        assert type(trainer).__name__ == ("SharedPrefixNativeGRPOTrainer" if once else "VideoGRPOTrainer")
        assert any(not torch.equal(p, before[n]) for n, p in model.named_parameters() if "visual" in n)
    np.testing.assert_allclose(logs[1], logs[0], rtol=2e-3, atol=1e-4)
    assert all(row[1] > 0.01 for row in logs[0])


def test_native_video_without_a_clock_is_refused(toy_samples, native, tmp_path):
    "Qwen2-VL's positions count frames, not seconds: a model cannot learn when anything happens."
    params = GRPOParams(steps=1, prompts_per_step=2, num_generations=2, per_device_batch_size=4)
    with pytest.raises(UserError, match="it has no clock.*use time_encoding 'interleaved'"):
        grpo_trainer(*qwen2_vl(), toy_samples[:4], native, tmp_path, params)
    with pytest.raises(UserError, match="it has no clock.*use time_encoding 'interleaved'"):
        sft_trainer(*qwen2_vl(), toy_samples[:4], native, tmp_path, SFTParams(batch_size=4, per_device_batch_size=4))


def test_the_configuration_refuses_native_video_with_vllm():
    with pytest.raises(UserError, match="time_encoding 'interleaved' with vllm"):
        GRPOParams(time_encoding="native", vllm="colocate")


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is a GPU")
def test_a_server_of_rollouts_needs_a_gpu(toy_samples, world, tmp_path):
    "TRL sends weights by NCCL only. Without our check that would be an error only after the server had started."
    params = GRPOParams(vllm="server", prompts_per_step=2, num_generations=4, per_device_batch_size=4)
    with pytest.raises(UserError, match="weights are sent by NCCL, which needs a GPU"):
        grpo_trainer(*build_tiny(0), toy_samples[:4], VideoInputConfig(str(world / "videos"), 8, 784, "short"), tmp_path, params)


@pytest.mark.parametrize("share_prefix", [True, False])
def test_the_trainer_refuses_native_video_with_vllm(toy_samples, native, share_prefix, tmp_path):
    params = GRPOParams(share_prefix=share_prefix, prompts_per_step=2, num_generations=4, per_device_batch_size=4)
    trainer = grpo_trainer(*build_tiny(0), toy_samples[:4], native, tmp_path, params)
    trainer.use_vllm = True
    del trainer.generation_config  # TRL makes it only where the model itself generates
    with pytest.raises(ValueError, match="interleaved encoding"):
        trainer._generate_and_score_completions([trainer.train_dataset[0]] * 4)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "qwen3_5", "glm4v"])
@pytest.mark.parametrize("rate", [1, 25])
def test_a_clip_of_one_frame_is_given_as_two_frames(family, rate, tmp_path):
    "Families that merge frames in pairs cannot take a single frame."
    write_video(tmp_path / "one.mp4", np.full((1, 56, 84, 3), 90, np.uint8), rate)
    model, processor = model_zoo.build(family)
    view = VideoInputConfig(str(tmp_path), 8, 56 * 84, time_encoding="native")
    prompt = build_prompt(Sample("q", "one.mp4", 1.0 / rate, "the red circle", [[0.0, 1.0 / rate]]), view)
    assert len(prompt["video"]) == 2 and prompt["video"][0] is prompt["video"][1] and prompt["fps"] == 1.0
    assert len(generate(model, processor, [prompt], 4)) == 1
