"What the trainers get and save: loss mask, prompts, responses, advantages, adapters, batch sizes, decoded videos, sampled parts."

import dataclasses
import itertools
import shutil

import numpy as np
import pytest
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import BatchSampler

from vtg_r1.core.prompts import completion_text
from vtg_r1.core.runtime import UserError
from vtg_r1.core.samples import Sample, SampleError, write_jsonl
from vtg_r1.data.model_inputs import VideoInputConfig, training_set
from vtg_r1.data.sources import read_annotations
from vtg_r1.data.toyworld import read_scripts, toy_teacher
from vtg_r1.difficulty import DifficultyParams, Policy, _rollouts_folder, advise
from vtg_r1.grpo import GRPOParams, advantages, decode_videos, grpo_trainer
from vtg_r1.models.loading import load_model, load_processor, model_path
from vtg_r1.runs.run import start_run
from vtg_r1.sft import SFTParams, sft_trainer, target_response
from vtg_r1.train.stage_data import StageData, subsample
from vtg_r1.train.trainer import fit, save_policy
from vtg_r1.video.reader import read_frames


@pytest.fixture(scope="module")
def view(world):
    return VideoInputConfig(str(world / "videos"), 16, 28 * 28, "short")


@pytest.fixture(scope="module")
def taught(world, toy_samples):
    scripts = read_scripts(world)
    return [dataclasses.replace(s, teacher=toy_teacher(s, scripts)) for s in toy_samples]


def test_sft_loss_is_on_the_response_alone(taught, view, tmp_path):
    model, processor = load_model("tiny", device="cpu"), load_processor("tiny")
    trainer = sft_trainer(model, processor, taught[:4], view, tmp_path, SFTParams(batch_size=4, per_device_batch_size=4))
    batch = next(iter(trainer.get_train_dataloader()))
    learned = {processor.tokenizer.decode(row[row != -100]) for row in batch["labels"]}
    assert learned == {target_response(s) + "<|im_end|>" for s in taught[:4]}


@pytest.mark.parametrize("count, given", [(7, {"epochs": 2.0}), (7, {"steps": 3}), (9, {"epochs": 1.5}), (8, {"epochs": 2.0})])
def test_samples_seen_are_the_rows_of_all_forward_passes(taught, view, tmp_path, count, given):
    params = SFTParams(batch_size=4, per_device_batch_size=2, **given)
    trainer, rows = sft_trainer(load_model("tiny", device="cpu"), load_processor("tiny"), taught[:count], view, tmp_path, params), []
    compute_loss = trainer.compute_loss
    trainer.compute_loss = lambda model, inputs, **kwargs: rows.append(len(inputs["labels"])) or compute_loss(model, inputs, **kwargs)
    log = fit(trainer, "SFT", {})
    assert params.samples_seen(count, len(log), 1) == sum(rows)


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("count", range(1, 40, 2))
def test_samples_seen_equal_the_batches_of_accelerate(count, processes):
    "Two samples per forward pass and two passes per update in each process, for two epochs and one update more."
    params, order = SFTParams(batch_size=4 * processes, per_device_batch_size=2), BatchSampler(range(count), 2, False)
    shards = [order] if processes == 1 else [BatchSamplerShard(order, processes, rank) for rank in range(processes)]
    batches = [sum(map(len, of_one_pass)) for of_one_pass in zip(*shards, strict=True)]
    updates = [sum(batches[i : i + 2]) for i in range(0, len(batches), 2)]
    seen = [params.samples_seen(count, steps, processes) for steps in range(1, 2 * len(updates) + 2)]
    assert seen == list(itertools.accumulate([*updates, *updates, updates[0]]))


def test_an_sft_sample_without_a_teacher_is_named_in_the_error(toy_samples, view):
    with pytest.raises(SampleError, match=toy_samples[0].qid):
        training_set(toy_samples, view, target_response)[0]


def test_advantages_are_distances_from_the_group_mean_in_group_deviations():
    "Computed by hand: two groups of mean 0.2 and population deviation 0.4, one of equal rewards, one of mean 0.7 and deviation 0.1."
    groups = [[1, 0, 0, 0, 0], [0.7, 0.7, 0.7, 0.7, 0.7], [0, 0, 0, 0, 1]]
    np.testing.assert_allclose(advantages(groups), [[2, -0.5, -0.5, -0.5, -0.5], [0] * 5, [-0.5, -0.5, -0.5, -0.5, 2]])
    np.testing.assert_allclose(advantages([[0.6, 0.8]]), [[-1, 1]])


def test_grpo_and_evaluation_have_the_same_prompts(toy_samples, view):
    from vtg_r1.data.model_inputs import build_prompt

    row, prompt, sample = training_set(toy_samples, view)[0], build_prompt(toy_samples[0], view), toy_samples[0]
    assert row["prompt"] == prompt["prompt"] and row["spans"] == sample.spans
    frames, times = read_frames(f"{view.video_root}/{sample.video}", 16, 28 * 28)
    assert len(frames) == 16 and all(np.array_equal(image, frame) for image, frame in zip(row["images"], frames, strict=True))
    assert all(np.array_equal(image, frame) for image, frame in zip(prompt["images"], frames, strict=True))
    texts = [part["text"] for part in prompt["prompt"][-1]["content"] if part["type"] == "text"]
    assert texts == [sample.query, *(f"{time:g}" for time in times)]


@pytest.mark.parametrize("template", ["qwen3_template", "lfm2_2_5_template"])
def test_rewards_get_the_whole_response_with_any_response_template(toy_samples, view, tmp_path, template):
    """With a response template TRL parses a response: reasoning goes into another field, and of several blocks only the last is kept.

    The rewards must get the text as it was sampled."""
    from trl import chat_template_utils

    model, processor = load_model("tiny", device="cpu"), load_processor("tiny")
    processor.tokenizer.response_template = {**getattr(chat_template_utils, template), "start_anchor": "<|im_start|>a"}
    good = "<think>red circle</think><time>[1, 2]</time>"
    responses = [good, f"red{good}", f"<think>red</think>{good}", "<think>red circle"]
    params = GRPOParams(steps=1, prompts_per_step=1, num_generations=4, per_device_batch_size=4, share_prefix=False)
    trainer, rewarded = grpo_trainer(model, processor, toy_samples, view, tmp_path, params), []

    def rollout(prompts, trainer):
        ids = [[*processor.tokenizer(text)["input_ids"], processor.tokenizer.eos_token_id] for text in responses]
        asked = processor.apply_chat_template(prompts, add_generation_prompt=True, tokenize=True, return_dict=True)["input_ids"]
        return {"prompt_ids": asked, "completion_ids": ids, "logprobs": [[0.0] * len(x) for x in ids]}

    trainer.rollout_func, reward = rollout, trainer.reward_funcs[1]
    trainer.reward_funcs[1] = lambda completions, **columns: rewarded.extend(map(completion_text, completions)) or reward(completions, **columns)
    (log,) = fit(trainer, "GRPO", {})
    assert rewarded == responses and log["rewards/format_reward/mean"] == 0.25
    assert processor.tokenizer.response_template  # the template is still there, and is saved with the model


def test_the_manifest_records_every_file_of_a_stage(world, tmp_path, monkeypatch):
    from vtg_r1.core.runtime import sha256
    from vtg_r1.difficulty import build_curriculum
    from vtg_r1.runs.run import read_manifest, start_run
    from vtg_r1.train import stage_data as training
    from vtg_r1.train.training_parameters import TrainingParams

    for name, (_, settings) in training.TOY_EVAL_SETS.items():
        monkeypatch.setitem(training.TOY_EVAL_SETS, name, (6, settings))
    run = start_run("grpo", "a", {"seed": 0}, tmp_path)
    file, scored = world / "samples.jsonl", tmp_path / "difficulty" / "d" / "rl_scored.jsonl"
    params = TrainingParams(annotations=str(file), eval_annotations="toy", video_root=str(world / "videos"), outputs_dir=str(tmp_path))
    data = training.stage_data(run, params, "rl.jsonl")
    scored.parent.mkdir(parents=True)
    write_jsonl(scored, [dataclasses.replace(s, difficulty=dict(policy="p", ious=[0.5], mean_iou=0.5, pass_rate=1.0)) for s in data.train])
    build_curriculum(run, data.train, "difficulty_range", {}, difficulty=str(scored.parent))
    inputs, held = read_manifest(run.path)["inputs"], tmp_path / "toyworld"
    assert set(inputs) == {
        "annotations",
        "eval_annotations",
        "difficulty",
        *(f"eval_annotations_ood-{n}" for n in ("pairings", "slower", "relation", "overlap")),
    }
    for role, path in (("annotations", file), ("eval_annotations", held / "held-out-in-domain/samples.jsonl"), ("difficulty", scored)):
        assert inputs[role]["sha256"] == sha256(path)


def test_impossible_batches_are_refused(toy_samples, view, tmp_path):
    with pytest.raises(UserError, match="per_device_batch_size · processes = 3 must divide prompts_per_step · num_generations = 32"):
        GRPOParams(prompts_per_step=4, per_device_batch_size=3)
    with pytest.raises(UserError, match="batch_size 8 must be a multiple of per_device_batch_size · processes = 3"):
        SFTParams(batch_size=8, per_device_batch_size=3)
    with pytest.raises(UserError, match="= 32 must divide .* = 16"):
        GRPOParams(prompts_per_step=2, per_device_batch_size=4).accumulation_steps(8)
    with pytest.raises(UserError, match="fewer than prompts_per_step"):
        grpo_trainer(None, None, toy_samples, view, tmp_path, GRPOParams(prompts_per_step=500, per_device_batch_size=8))


def test_lora_trains_adapters_only_and_is_saved_merged(toy_samples, view, tmp_path):
    import torch

    model, processor = load_model("tiny", device="cpu"), load_processor("tiny")
    before = {n: p.clone() for n, p in model.named_parameters()}
    sizes = dict(prompts_per_step=2, num_generations=4, per_device_batch_size=8, max_completion_length=16)
    params = GRPOParams(steps=2, learning_rate=1e-2, warmup_steps=0, lora_rank=4, **sizes)
    trainer = grpo_trainer(model, processor, toy_samples, view, tmp_path / "t", params)
    assert {n.split(".")[-3] for n, p in trainer.model.named_parameters() if p.requires_grad} == {"lora_A", "lora_B"}
    log = fit(trainer, "lora", {"reward": "reward"})
    assert len(log) == 2
    merged = load_model(str(save_policy(trainer.model, processor, tmp_path / "model")), device="cpu")
    moved = {n for n, p in merged.named_parameters() if not torch.equal(p, before[n])}
    assert moved and all("language_model" in n and "proj" in n for n in moved)


def test_a_missing_model_folder_is_not_looked_up_on_the_hub():
    with pytest.raises(FileNotFoundError, match="no config.json"):
        load_model("outputs/sft/gone/model")


def test_a_run_folder_may_be_given_in_place_of_its_model_folder(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/manifest.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="a run without a model .no config.json in .*run/model"):
        load_processor(str(tmp_path / "run"))
    shutil.copytree(model_path("tiny"), tmp_path / "run/model")
    assert model_path(str(tmp_path / "run")) == str(tmp_path / "run/model") and load_processor(str(tmp_path / "run")).tokenizer


def test_a_file_without_a_usable_record_says_why(tmp_path):
    (tmp_path / "mine.csv").write_text("video,query,start,end\nv.mp4,a person eats,1,2\n")
    with pytest.raises(SampleError, match="none of its 1 records.*duration"):
        read_annotations(str(tmp_path / "mine.csv"), "csv")


def test_all_weights_are_trained_in_float32_and_saved_in_the_precision_they_were_read_in(taught, view, tmp_path):
    import torch

    from vtg_r1.train.trainer import save_trained

    processor = load_processor("tiny")
    recipe = dict(
        epochs=3, batch_size=4, per_device_batch_size=4, learning_rate=1e-6, save_steps=2
    )  # a checkpoint is saved in float32; the final model must not be
    trainer = sft_trainer(load_model("tiny", dtype="bfloat16"), processor, taught[:4], view, tmp_path, SFTParams(**recipe))
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    fit(trainer, "SFT", {})
    moved = sum(int((p != before[n]).sum()) for n, p in trainer.model.named_parameters()) / sum(p.numel() for p in before.values())
    assert moved > 0.5  # in bfloat16 a step of 1e-6 would change only weights near zero
    save_trained(trainer, processor, tmp_path / "model")
    from safetensors.torch import load_file

    assert {v.dtype for v in load_file(tmp_path / "model" / "model.safetensors").values()} == {torch.bfloat16}
    lora = SFTParams(**recipe, lora_rank=4)
    adapted = sft_trainer(load_model("tiny", dtype="bfloat16"), processor, taught[:4], view, tmp_path / "lora", lora)
    assert {("lora_" in n, p.dtype) for n, p in adapted.model.named_parameters()} == {(False, torch.bfloat16), (True, torch.float32)}


def test_rollouts_are_not_taken_up_when_a_video_file_has_changed(world, toy_samples, tmp_path):
    shutil.copytree(world / "videos", tmp_path / "videos")
    run, params = start_run("difficulty", "a", {}, tmp_path), DifficultyParams(outputs_dir=str(tmp_path))
    run.record(policy={"path": "tiny", "key": "k"})
    policy = Policy(lambda prompts: [], "tiny", toy_samples[:2], VideoInputConfig(str(tmp_path / "videos")))
    first = _rollouts_folder(run, params, policy)
    assert _rollouts_folder(run, params, policy) == first
    shutil.copyfile(world / "videos" / toy_samples[-1].video, tmp_path / "videos" / toy_samples[0].video)
    assert _rollouts_folder(run, params, policy) != first


def test_every_clip_of_a_video_is_decoded_before_training(world, toy_samples, tmp_path):
    clips = [dataclasses.replace(toy_samples[0], qid=str(i), clip=clip) for i, clip in enumerate((None, [0.0, 4.0], [4.0, 8.0], [4.0, 8.0]))]
    view, run = VideoInputConfig(str(world / "videos"), 3, 28 * 28, "short", cache=str(tmp_path / "cache")), start_run("grpo", "a", {}, tmp_path)
    decode_videos(run, GRPOParams(), StageData(clips, view, []))
    assert (run.manifest["decode"]["videos"], run.manifest["decode"]["frames"]) == (1, 9)


def test_videos_that_do_not_fit_into_the_cache_push_nothing_out(world, toy_samples, tmp_path, capsys):
    "The set is twice as large as the cache. What was decoded first stays in the cache, and every video is decoded."
    samples = sorted({s.video: s for s in toy_samples}.values(), key=lambda s: s.video)
    view = VideoInputConfig(
        str(world / "videos"), 3, 28 * 28, "short", cache=str(tmp_path / "cache"), cache_gb=1e-9 * len(samples) / 2 * (3 * 28 * 28 * 3 + 8192)
    )

    def entries(part):
        run = start_run("grpo", str(len(part)), {}, tmp_path)
        decode_videos(run, GRPOParams(), StageData(part, view, []))
        assert run.manifest["decode"]["frames"] == 3 * len(part)
        return {path.name for path in (tmp_path / "cache").glob("*.frames")}

    first = entries(samples[:3])
    assert len(first) == 3 and "the cache holds" not in capsys.readouterr().out
    kept = entries(samples)
    assert first < kept and len(kept) <= len(samples) / 2 and "the cache holds" in capsys.readouterr().out


def test_a_server_without_a_port_is_refused():
    with pytest.raises(UserError, match="'vllm_server' is 'gpu1': give HOST:PORT"):
        GRPOParams(vllm_server="gpu1")


def test_a_subsample_of_many_kinds_has_the_wanted_size_and_mix():
    "Twenty samples of fifty equal kinds are 0.4 of each kind. If every share were rounded, none would be taken."
    pool = [Sample(f"{kind}_{i}", "v.mp4", 10.0, "x", [[1, 2]], source=str(kind)) for kind in range(50) for i in range(20)]
    part, of_another_kind = subsample(pool, 20, by=("source",))
    assert len({s.source for s in part}) == len(part) == 20 and of_another_kind == 0
    assert subsample(pool, 75, by=("source",))[1] == 0


@pytest.mark.parametrize("taught", [True, False])
def test_only_sets_without_a_teacher_are_advised_to_get_one(taught, toy_samples):
    rollouts = {"policy": "p", "ious": [0.2, 0.8], "mean_iou": 0.5, "pass_rate": 0.5, "consensus": None}
    teacher = {"model": "m", "span": [1.0, 2.0], "iou": 0.5} if taught else None
    sentences = advise([dataclasses.replace(s, difficulty=rollouts, teacher=teacher) for s in toy_samples[:4]]).sentences
    assert any("annotate with a teacher" in sentence for sentence in sentences) is not taught
