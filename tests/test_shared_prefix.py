"Sharing prompts and videos changes the cost of a GRPO step and nothing else: log-probabilities, gradients, samples and whole runs against stock TRL, in float32."

import json
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import model_zoo
import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from test_prefix_cache import qwen2_vl, qwen3_vl
from trl import GRPOConfig, GRPOTrainer

from vtg_r1.core.runtime import set_seed
from vtg_r1.data.model_inputs import VideoInputConfig
from vtg_r1.grpo import GRPOParams, grpo_trainer
from vtg_r1.models.loading import load_model, load_processor, lora_config
from vtg_r1.models.prefix_cache import build_tree, same_prompts
from vtg_r1.models.sharing import SharingTest
from vtg_r1.models.tiny import build_tiny
from vtg_r1.train.shared_prefix import SharedPrefixGRPOTrainer
from vtg_r1.train.trainer import common_arguments, fit, resolved_config
from vtg_r1.train.video_inputs import VideoGRPOTrainer

TOLERANCE = 5e-6  # relative, float32
G = 3


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    "A folder with a tiny model of random weights: the reference model is loaded from there."
    folder = tmp_path_factory.mktemp("tiny")
    model, processor = build_tiny(0)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def video(seed: int, frames: int = 4, size=(28, 28)) -> list:
    noise = np.random.default_rng(seed)
    return [Image.fromarray(noise.integers(0, 256, (size[1], size[0], 3), np.uint8)) for _ in range(frames)]


def row(query: str, frames: list, first: str = "video") -> dict:
    "A dataset row; the video stands before the query or behind it."
    ask, shown = (
        [{"type": "text", "text": query}],
        [block for i in range(len(frames)) for block in ({"type": "text", "text": str(i)}, {"type": "image"})],
    )
    return {"prompt": [{"role": "user", "content": shown + ask if first == "video" else ask + shown}], "images": frames}


ROWS = {
    "mixed videos, ragged prompts": [row("when does the red circle appear?", video(0)), row("the cross", video(1, 6, (56, 28)))],
    "two queries on one video": [row("when does the red circle appear?", video(0)), row("the cross", video(0)), row("the red square", video(0, 5))],
    "two queries before one video": [row("when does the red circle appear?", video(0), "query"), row("the cross", video(0), "query")],
    "equal words about two videos": [row("the cross", video(0)), row("the cross", video(1))],
}


def spread(completion_ids, **columns):
    "A reward that differs between responses."
    return [float(sum(ids) % 7) for ids in completion_ids]


def trainer_of(kind, folder, tmp_path, rows, lora=None, checkpointing=False, **config):
    set_seed(0)
    data = Dataset.from_dict({"i": list(range(len(rows)))}).with_transform(lambda batch: {key: [rows[i][key] for i in batch["i"]] for key in rows[0]})
    config = {"per_device_train_batch_size": G * len(rows), "gradient_accumulation_steps": 1, "max_steps": 1, **config}
    args = GRPOConfig(
        **{**common_arguments(GRPOParams(gradient_checkpointing=checkpointing, per_device_batch_size=8), tmp_path), **config},
        num_generations=G,
        max_completion_length=8,
        temperature=1.0,
        top_k=0,
        loss_type="dapo",
        learning_rate=1e-3,
        max_grad_norm=0.0,
    )
    trainer = kind(load_model(str(folder)), [spread], args, train_dataset=data, processing_class=load_processor(str(folder)), peft_config=lora)
    trainer.eos_token_ids = list(range(300, 400))  # responses of many lengths
    torch.manual_seed(1)
    with torch.no_grad():  # away from the reference model, adapters away from zero
        for p in trainer.model.parameters():
            p.add_(0.02 * torch.randn_like(p) * p.requires_grad)
    return trainer


def step(trainer, rows, spoil=None) -> dict:
    "Everything one update is made of: samples, log-probabilities of policy, old policy and reference, loss, gradients."
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    torch.manual_seed(2)
    batch = trainer._generate_and_score_completions([r for r in rows for _ in range(G)])
    if spoil:
        spoil(batch)
    seen = []
    score = trainer._get_per_token_logps_and_entropies
    trainer._get_per_token_logps_and_entropies = lambda *args, **kwargs: seen.append(score(*args, **kwargs)) or seen[-1]
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    ((logps, entropies, _),) = seen
    grads = {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}
    return {
        "ids": batch["completion_ids"],
        "mask": batch["completion_mask"],
        "logps": logps.detach(),
        "entropies": entropies.detach(),
        "loss": loss.detach(),
        **grads,
        **{k: batch[k] for k in ("ref_per_token_logps", "old_per_token_logps") if k in batch},
    }


def distance(a: dict, b: dict) -> float:
    "The largest relative difference of any tensor, a gradient's in units of its norm or of a thousandth of the largest gradient's."
    assert a.keys() == b.keys()
    floor = 1e-3 * max(x.float().norm() for k, x in b.items() if "." in k)
    return max(float((a[k].float() - b[k].float()).norm() / b[k].float().norm().clamp(min=floor if "." in k else 1e-9)) for k in a)


def vector_distance(a: dict, b: dict) -> float:
    "The relative difference of the whole gradient vector."
    names = [k for k in b if "." in k]
    return float(torch.stack([(a[k] - b[k]).norm() for k in names]).norm() / torch.stack([b[k].norm() for k in names]).norm())


def test_the_step_that_is_compared_has_many_lengths_and_gradients(tiny, tmp_path):
    rows = ROWS["mixed videos, ragged prompts"]
    whole = step(trainer_of(GRPOTrainer, tiny, tmp_path, rows), rows)
    assert len(set(whole["mask"].sum(1).tolist())) > 3, "the responses should be of many lengths"
    assert sum(k.startswith("model.") for k in whole) > 60


CASES = {
    **{name: dict(rows=name) for name in ROWS},
    "reference model": dict(rows="two queries on one video", beta=0.1),
    "log-probabilities of the old policy": dict(rows="mixed videos, ragged prompts", num_iterations=2),
    "LoRA and reference": dict(rows="two queries on one video", beta=0.1, lora=True),
    "checkpointing": dict(rows="two queries on one video", checkpointing=True),
    "truncated responses masked": dict(rows="mixed videos, ragged prompts", mask_truncated_completions=True),
    "sequence level": dict(rows="equal words about two videos", importance_sampling_level="sequence"),
    "entropy bonus": dict(rows="mixed videos, ragged prompts", entropy_coef=0.05),
}


@pytest.mark.parametrize("case", CASES)
def test_one_update_equals_stock_trl(tiny, tmp_path, case):
    how = dict(CASES[case])
    rows = ROWS[how.pop("rows")]
    if how.pop("lora", False):
        how["lora"] = lora_config(load_model(str(tiny)), 4)
    stock, once = (step(trainer_of(kind, tiny, tmp_path, rows, **how), rows) for kind in (GRPOTrainer, SharedPrefixGRPOTrainer))
    assert torch.equal(once["ids"], stock["ids"]) and torch.equal(once["mask"], stock["mask"])
    assert distance(once, stock) < TOLERANCE


@pytest.mark.parametrize("how", [{}, dict(beta=0.1, num_iterations=2)], ids=["policy", "reference and old policy"])
def test_an_update_in_which_every_response_was_cut_off(tiny, tmp_path, how):
    rows, found = ROWS["two queries on one video"], []
    for kind in (GRPOTrainer, SharedPrefixGRPOTrainer):
        trainer = trainer_of(kind, tiny, tmp_path, rows, mask_truncated_completions=True, **how)
        trainer.eos_token_ids = [trainer._tokenizer.eos_token_id]
        trainer.generation_config.suppress_tokens += [trainer._tokenizer.eos_token_id, trainer._tokenizer.pad_token_id]  # none ends
        found.append(step(trainer, rows))
    stock, once = found
    assert stock["mask"].sum() == 0 and stock["loss"] == 0 == once["loss"]
    assert once.keys() == stock.keys() and all(once[k].isfinite().all() and not once[k].any() for k in once if "." in k)


def test_an_update_in_which_all_responses_to_a_prompt_were_cut_off(tiny, tmp_path):
    def spoil(batch):
        batch["completion_mask"][:G] = 0

    rows = ROWS["mixed videos, ragged prompts"]
    stock, once = (step(trainer_of(kind, tiny, tmp_path, rows), rows, spoil) for kind in (GRPOTrainer, SharedPrefixGRPOTrainer))
    assert distance(once, stock) < TOLERANCE


@pytest.mark.parametrize("family", [qwen2_vl, qwen3_vl])
def test_other_generations(family, tmp_path):
    for part in family():
        part.save_pretrained(tmp_path)
    rows = ROWS["two queries on one video"]
    stock, once = (step(trainer_of(trainer, tmp_path, tmp_path / "t", rows), rows) for trainer in (GRPOTrainer, SharedPrefixGRPOTrainer))
    assert torch.equal(once["ids"], stock["ids"]) and distance(once, stock) < TOLERANCE


def late(batch):
    batch["prompts"].positions[0][:, -1] += 2


def swapped(batch):
    batch["prompts"].pixels.reverse()


def disordered(batch):
    batch["of"] = batch["of"].flip(0)


@pytest.mark.parametrize("spoil", [late, swapped, disordered])
def test_a_spoiled_tree_shows(tiny, tmp_path, spoil):
    rows = ROWS["equal words about two videos"]
    stock, spoiled = (
        step(trainer_of(GRPOTrainer, tiny, tmp_path, rows), rows),
        step(trainer_of(SharedPrefixGRPOTrainer, tiny, tmp_path, rows), rows, spoil),
    )
    assert distance(spoiled, stock) > 1e-2


def run(kind, folder, tmp_path, rows, **how) -> tuple[dict, list]:
    "Weights and log after a short run."
    trainer = trainer_of(kind, folder, tmp_path, rows, max_steps=2, **how)
    trainer.train()
    return {f".{name}": p.detach() for name, p in trainer.model.named_parameters() if p.requires_grad}, [
        h["loss"] for h in trainer.state.log_history if "loss" in h
    ]


RUNS = {
    "accumulation": dict(per_device_train_batch_size=G, gradient_accumulation_steps=3),
    "iterations and reference": dict(num_iterations=2, beta=0.1),
}


@pytest.mark.parametrize("how", RUNS.values(), ids=RUNS)
def test_a_run_ends_where_stock_trl_ends(tiny, tmp_path, how):
    rows = ROWS["two queries on one video"]
    (stock, losses), (once, same) = (run(kind, tiny, tmp_path, rows, **how) for kind in (GRPOTrainer, SharedPrefixGRPOTrainer))
    start = {f".{name}": p for name, p in trainer_of(GRPOTrainer, tiny, tmp_path, rows).model.named_parameters()}
    assert (
        max(float((once[k] - stock[k]).norm() / (stock[k] - start[k]).norm()) for k in stock) < 5e-3
    )  # Adam divides by the gradient's size, noise included
    assert np.allclose(losses, same, atol=1e-5) and any(abs(x) > 1e-4 for x in losses)


RANKS = """
import json, sys, torch
from pathlib import Path
from transformers import TrainerCallback
sys.path.insert(0, sys.argv[1])
from test_shared_prefix import G, ROWS, GRPOTrainer, SharedPrefixGRPOTrainer, distance, trainer_of
torch.set_num_threads(1)
rows, found = ROWS["two queries on one video"] + ROWS["equal words about two videos"][:1], {}
for name, kind in {"stock": GRPOTrainer, "once": SharedPrefixGRPOTrainer}.items():
    trainer = trainer_of(kind, sys.argv[2], sys.argv[3], rows, per_device_train_batch_size=2 * G, ddp_backend="gloo")
    class Keep(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
            found[name] = {n.removeprefix("module."): p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    trainer.add_callback(Keep())
    trainer.train()
result = dict(ranks=trainer.accelerator.num_processes, distance=distance(found["once"], found["stock"]), tensors=len(found["stock"]))
if trainer.accelerator.process_index == 0: Path(sys.argv[3], "ranks.json").write_text(json.dumps(result))
"""


def test_two_processes(two_processes):
    found = json.loads((two_processes / "ranks.json").read_text())
    assert found["ranks"] == 2 and found["tensors"] > 60 and found["distance"] < TOLERANCE


SERVED = """
import json, sys, zlib
from pathlib import Path
from accelerate.utils import gather_object
from trl.generation.vllm_generation import VLLMGeneration
sys.path.insert(0, sys.argv[1])
import test_shared_prefix as t

t.G, asked = 4, []


def key(ids):
    return 300 + zlib.crc32(str(ids).encode()) % 200


class Client:
    "The server's side of TRL's client: each response begins with a token that says which prompt it answers."

    def image_features(self, images):
        return [{"mm_placeholders": {"image": [None] * len(shown)}} for shown in images]

    def generate(self, prompts, features, n, **how):
        asked.extend(prompts)
        said = [[key(ids), 7 + i] for ids in prompts for i in range(n)]
        return dict(prompt_ids=prompts, completion_ids=said, logprobs=[[[-1.0], [-1.0]] for _ in said])


class Served(VLLMGeneration):
    def _init_vllm(self):
        self.vllm_client = Client()


queries = [t.row(text, t.video(v)) for text, v in (("the cross", 0), ("the circle", 1), ("the red square", 0), ("the square", 1), ("the red cross", 2))]
trainer = t.trainer_of(t.SharedPrefixGRPOTrainer, sys.argv[2], sys.argv[3], queries, per_device_train_batch_size=10, ddp_backend="gloo")
trainer.vllm_generation = Served(trainer.model, trainer.accelerator, trainer.processing_class, mode="server", max_completion_length=8)
trainer.use_vllm, trainer.vllm_mode, trainer._last_loaded_step = True, "server", trainer.state.global_step
trainer.model.train()
mine = [q for q in queries for _ in range(4)][10 * trainer.accelerator.process_index :][:10]  # the third group lies in both processes
out = trainer._generate_and_score_completions(mine)
prompts = [ids[mask.bool()].tolist() for ids, mask in zip(out["prompt_ids"], out["prompt_mask"])]
right = gather_object([said[0] == key(ids) for said, ids in zip(out["completion_ids"].tolist(), prompts)])
if trainer.accelerator.process_index == 0: Path(sys.argv[3], "served.json").write_text(json.dumps(dict(right=right, asked=len(set(map(key, asked))))))
"""


@pytest.fixture(scope="module")
def two_processes(tiny, tmp_path_factory):
    "The folder in which both scripts, one after the other in the same two processes, left what they found."
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "both.py").write_text(RANKS + SERVED)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launch, *map(str, (folder / "both.py", Path(__file__).parent, tiny, folder))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def test_a_server_s_responses_return_to_their_prompts(two_processes):
    found = json.loads((two_processes / "served.json").read_text())
    assert found == dict(right=[True] * 20, asked=5)


def test_the_toy_run_equals_stock_trl(toy_samples, world, tmp_path):
    recipe = dict(steps=4, prompts_per_step=4, num_generations=4, per_device_batch_size=8, warmup_steps=0, max_completion_length=24)

    def fit(share_prefix):
        set_seed(0)
        view = VideoInputConfig(str(world / "videos"), 16, 28 * 28, "short")
        trainer = grpo_trainer(
            load_model("tiny"),
            load_processor("tiny"),
            toy_samples,
            view,
            tmp_path,
            GRPOParams(**recipe, share_prefix=share_prefix),
        )
        assert isinstance(trainer, SharedPrefixGRPOTrainer) == share_prefix
        trainer.train()
        return trainer.state.log_history[:-1]

    stock, once = fit(False), fit(True)
    for key in ("reward", "rewards/tiou_reward/mean", "completions/mean_length", "loss", "grad_norm"):
        a, b = ([h[key] for h in log] for log in (stock, once))
        assert np.allclose(a, b, rtol=1e-3, atol=1e-5), key


def test_native_video(toy_samples, world, tmp_path):
    "Stock TRL has no native video, so the peer is the model's own pass over whole sequences, one by one."
    set_seed(0)
    model, processor = build_tiny(0)
    view = VideoInputConfig(str(world / "videos"), 8, 28 * 28, "full", "native")
    params = GRPOParams(prompts_per_step=2, num_generations=G, per_device_batch_size=2 * G, max_completion_length=6)
    trainer = grpo_trainer(model, processor, toy_samples[:4], view, tmp_path, params)
    trainer.reward_funcs = [spread, trainer.reward_funcs[1]]
    rows = [trainer.train_dataset[i] for i in (0, 1) for _ in range(G)]
    trainer.model.train()
    batch = trainer._generate_and_score_completions(rows)
    trainer._prompts, trainer._of = batch["prompts"], batch["of"].tolist()
    ids, mask = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1), torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
    C = batch["completion_ids"].shape[1]
    with torch.no_grad():
        once, _, _ = trainer._get_per_token_logps_and_entropies(model, ids, mask, C)
    from vtg_r1.models.generation import model_inputs

    for i, r in enumerate(rows):
        whole = model_inputs(processor, [r], "cpu")
        said = batch["completion_ids"][i : i + 1]
        for key, fill in (("input_ids", said), ("attention_mask", torch.ones_like(said)), ("mm_token_type_ids", torch.zeros_like(said))):
            whole[key] = torch.cat([whole[key], fill.to(whole[key].dtype)], 1)
        with torch.no_grad():
            logits = model(**whole).logits[0, -C - 1 : -1]
        logps = logits.log_softmax(-1).gather(1, said.T)[:, 0] * batch["completion_mask"][i]
        assert torch.allclose(once[i], logps, atol=1e-5)
    assert rows[0]["fps"] and trainer._prompts.pixels[0].keys() == {"pixel_values_videos", "video_grid_thw"}
    trainer.current_gradient_accumulation_steps = 1
    trainer.compute_loss(trainer.model, batch).backward()
    assert any(p.grad is not None and p.grad.any() for p in model.parameters())


def test_native_video_that_cannot_be_shared_is_stock(toy_samples, world, tmp_path, capsys):
    logs = []
    for share_prefix in (True, False):
        set_seed(0)
        model, processor = build_tiny(0)
        model.config.text_config.attention_dropout = 1e-9
        view = VideoInputConfig(str(world / "videos"), 8, 28 * 28, "short", "native")
        params = GRPOParams(
            steps=1, prompts_per_step=2, num_generations=G, per_device_batch_size=2 * G, max_completion_length=6, share_prefix=share_prefix
        )
        trainer = grpo_trainer(model, processor, toy_samples[:4], view, tmp_path, params)
        trainer.reward_funcs = [spread, trainer.reward_funcs[1]]
        logs.append({key: row[key] for row in fit(trainer, "GRPO", {}) for key in ("loss", "grad_norm", "reward")})
        if share_prefix:
            assert isinstance(trainer, SharedPrefixGRPOTrainer)
            assert resolved_config(trainer, view)["sharing"] == asdict(SharingTest(False, "dropout draws other random numbers"))
    assert logs[0] == logs[1] and logs[0]["grad_norm"] > 0
    assert capsys.readouterr().out.count("share_prefix: this run is stock TRL, because dropout draws other random numbers") == 1


FAMILIES = {
    "qwen3_vl_moe": {},
    "qwen3_5": {},
    "qwen3_5 with LoRA and a reference": dict(lora=True, beta=0.1),
    "internvl": {},
    "gemma3": {},
    "gemma4": {},
    "glm46v": dict(checkpointing=True),
    "qwen3_5 with checkpointing": dict(checkpointing=True),
    "qwen3_5_moe": {},
}


def family_folder(case: str):
    return model_zoo.folder(case.split(" ")[0])


def short_responses(trainer):
    "Many end tokens (ids 100 to 199), so that responses have many lengths."
    trainer.eos_token_ids = list(range(100, 200))
    return trainer


@pytest.mark.parametrize("case", FAMILIES)
def test_families_learn_as_in_trl(case, tmp_path):
    "A mixture of experts learns its router loss too, which is TRL's default."
    rows, how = ROWS["two queries on one video"], dict(FAMILIES[case])
    if how.pop("lora", False):
        how["lora"] = lora_config(load_model(str(family_folder(case))), 4)
    once = short_responses(trainer_of(SharedPrefixGRPOTrainer, family_folder(case), tmp_path, rows, **how))
    assert once.sharing.shares and once.aux_loss_enabled == ("moe" in case)
    kind = VideoGRPOTrainer if case == "gemma4" else GRPOTrainer  # TRL's own pass of Gemma 4 is not transformers'
    stock = short_responses(trainer_of(kind, family_folder(case), tmp_path, rows, **how))
    shared, plain = step(once, rows), step(stock, rows)
    assert torch.equal(shared["ids"], plain["ids"]) and len(set(plain["mask"].sum(1).tolist())) > 2
    assert distance(shared, plain) < (1e-3 if "qwen3_5" in case else 5e-5)  # any one tensor
    assert vector_distance(shared, plain) < 5e-5  # TRL's padded batch rounds otherwise: test_sharing compares row by row


def test_a_router_that_counts_prefixes_once_shows(tmp_path, monkeypatch):
    rows, found = ROWS["two queries on one video"], []
    monkeypatch.setattr("vtg_r1.models.prefix_cache._rows_by_token", lambda tree: torch.ones(1, tree[-1].end, dtype=torch.long))
    for kind in (SharedPrefixGRPOTrainer, GRPOTrainer):
        found.append(step(short_responses(trainer_of(kind, family_folder("qwen3_vl_moe"), tmp_path, rows, router_aux_loss_coef=1.0)), rows))
    assert abs(found[0]["loss"] - found[1]["loss"]) > 1e-3


def test_a_video_is_preprocessed_and_encoded_once(tiny, tmp_path):
    rows, counts = ROWS["two queries on one video"], {}
    for kind in (GRPOTrainer, SharedPrefixGRPOTrainer):
        trainer, encoded, cut = trainer_of(kind, tiny, tmp_path, rows), [], []
        trainer.model.model.visual.register_forward_hook(lambda module, args, out: encoded.append(len(args[0])))
        images = trainer.processing_class.image_processor

        class Counting(type(images)):
            def __call__(self, images, **kwargs):
                cut.append(sum(map(len, images)))
                return super().__call__(images, **kwargs)

        images.__class__ = Counting
        step(trainer, rows)
        counts[kind] = (sum(cut), sum(encoded))
    assert counts[SharedPrefixGRPOTrainer] == (4 + 5, 2 * 4 * (4 + 5))  # frames preprocessed; 2 passes (rollout, update) × 4 patches × frames
    assert counts[GRPOTrainer] == (2 * G * (4 + 4 + 5), 2 * 4 * G * (4 + 4 + 5))


def test_frames_are_not_copied_with_the_prompts_that_trl_keeps(tiny, tmp_path):
    "TRL copies its prompts, and sends them to all processes for its log. Rewards get the prompts that they always got: with frames."
    rows, seen = ROWS["two queries on one video"], {}

    def images(prompts) -> list:
        return [block["image"] for prompt in prompts for turn in prompt for block in turn["content"] if block.get("image") is not None]

    def reward(prompts, completion_ids, **columns):
        seen["rewarded"] = images(prompts)
        return [float(sum(ids) % 7) for ids in completion_ids]

    for kind in (GRPOTrainer, SharedPrefixGRPOTrainer):
        trainer = trainer_of(kind, tiny, tmp_path, rows)
        trainer.reward_funcs = [reward]
        step(trainer, rows)
        seen[kind] = seen.pop("rewarded"), images(trainer._logs["prompt"])
    stock, ours = seen[GRPOTrainer], seen[SharedPrefixGRPOTrainer]
    assert len(stock[0]) == len(stock[1]) == len(ours[0]) == G * (4 + 4 + 5) and not ours[1]
    assert all(np.array_equal(a, b) for a, b in zip(stock[0], ours[0]))


def test_groups_of_other_sizes_and_orders(tiny, tmp_path):
    "Evaluation batches and resumed epochs hand rows over as they come."
    rows = ROWS["mixed videos, ragged prompts"]
    trainer = trainer_of(SharedPrefixGRPOTrainer, tiny, tmp_path, rows)
    trainer.model.eval()
    trainer.num_generations_eval = 1
    picked = [rows[i] for i in (1, 0, 1, 1)]
    torch.manual_seed(0)
    once = trainer._generate_and_score_completions(picked)
    stock = trainer_of(GRPOTrainer, tiny, tmp_path, rows)
    stock.model.eval()
    stock.num_generations_eval = 1
    torch.manual_seed(0)
    peer = stock._generate_and_score_completions(picked)
    assert once["of"].tolist() == [0, 1, 0, 0] and torch.equal(once["completion_ids"], peer["completion_ids"])


def broken(model):
    model.model.language_model.layers[0].forward = None


@pytest.mark.parametrize(
    "spoil, says",
    [
        (lambda m: setattr(m.config.text_config, "attention_dropout", 0.1), "dropout"),
        (model_zoo.keep_tree_out, "shared and plain passes of Qwen2_5_VLForConditionalGeneration differ"),
        (broken, "a shared pass of Qwen2_5_VLForConditionalGeneration fails .TypeError"),
    ],
)
def test_it_stays_stock_and_says_so(tmp_path, spoil, says, capsys):
    model, processor = build_tiny(0)
    spoil(model)
    args, data = (
        GRPOConfig(**common_arguments(GRPOParams(), tmp_path), num_generations=G, per_device_train_batch_size=G),
        Dataset.from_dict({"prompt": ["x"] * 3}),
    )
    trainer = SharedPrefixGRPOTrainer(model, [spread], args, train_dataset=data, processing_class=processor)
    assert re.search(f"this run is stock TRL, because .*{says}", capsys.readouterr().out)
    assert model.config.text_config._attn_implementation == "sdpa" and re.search(says, trainer.sharing.reason)
    assert resolved_config(trainer, VideoInputConfig("videos"))["sharing"] == asdict(trainer.sharing)


@pytest.mark.parametrize(
    "given, says",
    [
        (dict(cache_implementation="static"), "a cache of its own"),
        (dict(generation_kwargs=dict(cache_implementation="offloaded")), "a cache of its own"),
        (dict(generation_kwargs=dict(use_cache=False)), "or none"),
        (dict(generation_kwargs=dict(num_beams=2)), "by beam_sample"),
        (dict(generation_kwargs=dict(prompt_lookup_num_tokens=2)), "by assisted_generation"),
        (dict(generation_kwargs=dict(guidance_scale=1.5)), "guidance"),
        (dict(generation_kwargs=dict(prefill_chunk_size=8)), "in chunks"),
    ],
    ids=lambda x: str(x) if isinstance(x, dict) else "",
)
def test_a_run_that_generates_otherwise_stays_stock(tiny, tmp_path, given, says, capsys):
    trainer = trainer_of(SharedPrefixGRPOTrainer, tiny, tmp_path, ROWS["equal words about two videos"], **given)
    assert says in trainer.fallback_reason and f"this run is stock TRL, because {trainer.fallback_reason}" in capsys.readouterr().out


@pytest.mark.parametrize("setting", [dict(use_cache=False), dict(repetition_penalty=1.2)], ids=str)
def test_generation_settings_of_the_model_count(tiny, tmp_path, setting):
    rows, found = ROWS["equal words about two videos"], []
    for kind in (GRPOTrainer, SharedPrefixGRPOTrainer):
        model = load_model(str(tiny))
        model.generation_config.update(**setting)
        model.save_pretrained(tmp_path / "model")
        load_processor(str(tiny)).save_pretrained(tmp_path / "model")
        found.append(step(trainer_of(kind, tmp_path / "model", tmp_path, rows), rows))
    assert torch.equal(found[1]["ids"], found[0]["ids"]) and distance(found[1], found[0]) < TOLERANCE


def test_stock_is_stock(tiny, tmp_path):
    rows = ROWS["mixed videos, ragged prompts"]
    trainer = trainer_of(SharedPrefixGRPOTrainer, tiny, tmp_path, rows)
    trainer.fallback_reason = "a test wants it"
    assert distance(step(trainer, rows), step(trainer_of(GRPOTrainer, tiny, tmp_path, rows), rows)) == 0
    assert "prompts" not in trainer._prepare_inputs([r for r in rows for _ in range(G)])


def test_a_row_without_frames_is_named():
    with pytest.raises(ValueError, match="share_prefix=False"):
        same_prompts([{"prompt": "when?"}])


def test_prompts_are_told_apart_by_what_they_show():
    "Not by their words, nor by the identity of image objects."
    rows = [
        row("the cross", video(0)),
        row("the cross", video(0)),
        row("the cross", video(1)),
        row("the square", video(0)),
        {**row("the cross", video(0)), "fps": 2.0},
    ]
    assert same_prompts(rows) == ([0, 0, 1, 2, 3], [0, 2, 3, 4], [0, 1, 0, 2])


def test_a_tree_holds_no_padding():
    tree = build_tree([[3, 2], [1, 0], [4, 2, 3]], [None, [0, 1], [0, 0, 1]])
    assert tree[-1].end == 15 and sorted(torch.cat([level.at[level.real] for level in tree]).tolist()) == list(range(15))
    assert tree[1].mask.shape == (2, 1, 1, 4) and tree[1].mask[1, 0, 0].tolist() == [True, True, False, True]


def test_vision_is_bfloat16_wherever_the_run_is(tiny, tmp_path, monkeypatch):
    "Stock learns with a bfloat16 vision tower. What it samples with depends on transformers: 5.24 encodes pictures before the forward pass, 5.17 in it."
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")  # put back afterwards: the trainer's arguments set it
    rows, seen = ROWS["equal words about two videos"], {}
    for kind in (GRPOTrainer, SharedPrefixGRPOTrainer):
        trainer = trainer_of(kind, tiny, tmp_path, rows, bf16=True)
        types = seen[kind] = []
        trainer.model.model.visual.blocks[0].attn.qkv.register_forward_hook(lambda module, args, out: types.append(out.dtype))
        trainer.train()
    assert seen[SharedPrefixGRPOTrainer] == [torch.bfloat16, torch.bfloat16] and seen[GRPOTrainer][1] == torch.bfloat16
