"""Every family of `model_zoo` on every path, against plain transformers calls written here. This file makes the table in docs/models.md.

pytest -m long tests/test_matrix.py                # measures every row, and compares it with docs/models.md
python tests/test_matrix.py > docs/models.md       # writes the table again"""

import contextlib
import dataclasses
import json
import subprocess
import sys
import tempfile
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from model_zoo import FAMILIES, folder
from transformers import AutoModelForImageTextToText, AutoProcessor

from vtg_r1.core.runtime import UserError, project_root, set_seed
from vtg_r1.core.samples import load_samples, write_jsonl
from vtg_r1.data.model_inputs import ENCODINGS, VideoInputConfig, build_prompt
from vtg_r1.data.toyworld import make_world, read_scripts, toy_teacher
from vtg_r1.grpo import GRPOParams, grpo_trainer
from vtg_r1.models.abilities import measure_encoding
from vtg_r1.models.generation import generate, model_inputs
from vtg_r1.models.ground import InferenceConfig, ground
from vtg_r1.models.loading import linear_layers, load_model, load_processor
from vtg_r1.runs.run import read_manifest
from vtg_r1.sft import SFTParams, sft_trainer

TABLE = project_root() / "docs" / "models.md"
TILING = {  # family → the processor's option that cuts an image into tiles; it is turned off
    "internvl": "crop_to_patches",
    "smolvlm": "do_image_splitting",
    "idefics3": "do_image_splitting",
    "ovis2": "crop_to_patches",
    "minicpmv4_6": "slice_mode",
}
# what a generation prompt opens; CLOSED: it closes an empty thought at once; ENDS: the token that ends a turn, where it is not <|im_end|>
OPENS = {name: "<think>\n" for name in ("qwen3_vl_thinking", "qwen3_5", "qwen3_8", "qwen3_5_moe")} | {"glm4v": "<think>"}
CLOSED = ("qwen3_5_small", "minicpmv4_6")
ENDS = {"llava_next_video": "</s>", "smolvlm": "<end_of_utterance>", "idefics3": "<end_of_utterance>", "gemma3": "<end_of_turn>", "gemma4": "<turn|>"}
ENDS |= {"glm4v": "<|user|>", "glm46v": "<|user|>", "mistral3": "</s>"}
FAST = ("qwen3_vl_thinking", "internvl")  # few enough for `make test`
TOLERANCE = 1e-5
OTHER_POSITIONS = ("qwen2_5_vl",)  # the installed transformers gives their native video other positions than they were trained with
# Families with linear attention: it sums in float32 along the sequence, so padding or other rows move plain log-probabilities by up to 2e-5.
LINEAR = (
    "qwen3_5",
    "qwen3_5_small",
    "qwen3_8",
    "qwen3_5_moe",
    "minicpmv4_6",
)


WIDE = 3  # the axis of MiniCPM's `pixel_values` (1, channels, height, width) along which it puts pictures side by side


class World:
    "Two queries about two clips of the toy world, with a teacher's response."

    def __init__(self, home: Path) -> None:
        world = make_world(home / "world", videos=4, seed=5)
        scripts = read_scripts(world)
        self.taught = [dataclasses.replace(s, teacher=toy_teacher(s, scripts)) for s in load_samples(world / "samples.jsonl")]
        self.samples = [self.taught[0], next(s for s in self.taught if s.video != self.taught[0].video)]
        self.root = str(world / "videos")

    def view(self, encoding: str) -> VideoInputConfig:
        return VideoInputConfig(self.root, 4, 784, "full", encoding, cache="")


# --- plain transformers: of this package it uses only the words of the prompt and the frames ---


def published_positions(theirs, config, input_ids: torch.Tensor, **layout) -> tuple[torch.Tensor, torch.Tensor]:  # (3, 1, L), (1, 1)
    "For one row, in place of `get_rope_index`: Qwen2.5-VL's published rule. The text after a video continues behind the video's largest position."
    if layout.get("video_grid_thw") is None:
        return theirs(input_ids, **layout)
    ids, (steps, height, width) = input_ids[0].tolist(), layout["video_grid_thw"][0].tolist()
    first, merge = ids.index(config.video_token_id), config.vision_config.spatial_merge_size
    per_step = float(layout["second_per_grid_ts"][0]) * config.vision_config.tokens_per_second
    places = [(i, i, i) for i in range(first)]
    for t in range(steps):
        places += [(first + int(t * per_step), first + y, first + x) for y in range(height // merge) for x in range(width // merge)]
    behind = max(map(max, places)) + 1
    places += [(behind + i,) * 3 for i in range(len(ids) - len(places))]
    return torch.tensor(places).T[:, None], torch.tensor([[max(map(max, places)) + 1 - len(ids)]])


class Plain:
    "A family as its model card would use it."

    def __init__(self, name: str) -> None:
        self.name = name
        self.processor = AutoProcessor.from_pretrained(folder(name))
        self.model = AutoModelForImageTextToText.from_pretrained(folder(name), dtype=torch.float32).eval()
        self.tokenizer = self.processor.tokenizer
        if name in OTHER_POSITIONS:
            core = self.model.model
            core.get_rope_index = partial(published_positions, core.get_rope_index, core.config)

    def inputs(self, row: dict, **arguments) -> dict:
        "The inputs of one prompt, through the processor's own chat template call."
        messages = [{**m, "content": [dict(part) for part in m["content"]]} for m in row["prompt"]]
        parts = [part for m in messages for part in m["content"]]
        extra = {}
        if "images" in row:
            for part, image in zip([p for p in parts if p["type"] == "image"], row["images"]):
                part["image"] = image
            if self.name in TILING:
                extra = {"images_kwargs": {TILING[self.name]: False}}
        else:
            (part,) = [p for p in parts if p["type"] == "video"]
            part["video"] = np.stack([np.asarray(f) for f in row["video"]])
            count = len(row["video"])
            clock = dict(total_num_frames=count, fps=row["fps"], frames_indices=list(range(count)))
            extra = {"do_sample_frames": False, "video_metadata": [clock]}
        kwargs = dict(add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt", **arguments)
        return dict(self.processor.apply_chat_template([messages], processor_kwargs={"padding": True, **extra}, **kwargs))

    def greedy(self, inputs: dict, count: int) -> list[int]:
        options = dict(do_sample=False, max_new_tokens=count, repetition_penalty=1.0)
        with torch.no_grad():
            return self.model.generate(**inputs, **options)[0, inputs["input_ids"].shape[1] :].tolist()

    def behind(self, inputs: dict, response: list[int], before: int = 0, after: int = 0) -> dict:
        "The inputs with a response behind the prompt, and padding before and after."
        ids = inputs["input_ids"]
        padded = [self.tokenizer.pad_token_id] * before, [*response, *[self.tokenizer.pad_token_id] * after]
        left, right = (torch.tensor([part], dtype=torch.long) for part in padded)
        whole = {**inputs, "input_ids": torch.cat([left, ids, right], 1)}
        for key, x in inputs.items():
            if key != "input_ids" and torch.is_tensor(x) and x.shape == ids.shape and not x.is_floating_point():
                end = torch.zeros_like(right)
                end[:, : len(response)] = key == "attention_mask"
                whole[key] = torch.cat([torch.zeros_like(left), x, end], 1)
        return whole

    def logps(self, inputs: dict, response: list[int]) -> torch.Tensor:
        "Log-probabilities of the tokens of a response behind a prompt, (C,)."
        logits = self.model(**self.behind(inputs, response)).logits[0, inputs["input_ids"].shape[1] - 1 : -1].log_softmax(-1)
        return logits.gather(1, torch.tensor(response)[:, None])[:, 0]

    def logps_together(self, inputs: list[dict], responses: list[list[int]]) -> list[torch.Tensor]:
        "The same of several rows, by one call with the usual padding: prompts on the left, responses on the right."
        prompts, longest = [one["input_ids"].shape[1] for one in inputs], max(map(len, responses))
        rows = [self.behind(one, r, max(prompts) - n, longest - len(r)) for one, r, n in zip(inputs, responses, prompts)]
        axis = {"pixel_values": WIDE} if self.name == "minicpmv4_6" else {}
        whole = {key: torch.cat([torch.as_tensor(row[key]) for row in rows], axis.get(key, 0)) for key in rows[0]}
        logits = self.model(**whole).logits.log_softmax(-1)
        places = [max(prompts) - 1 + torch.arange(len(r)) for r in responses]
        return [row[at, torch.tensor(r)] for row, at, r in zip(logits, places, responses)]

    def target(self, response: str) -> list[int]:
        "The tokens that SFT should teach behind the prompt."
        if self.name in OPENS:
            response = response.removeprefix("<think>")
        end = self.tokenizer.convert_tokens_to_ids(ENDS.get(self.name, "<|im_end|>"))
        return [*self.tokenizer(response, add_special_tokens=False)["input_ids"], end]


# --- cells ---


def close(a: torch.Tensor, b: torch.Tensor, what: str) -> None:
    distance = float((a - b).abs().max())
    assert distance < TOLERANCE, f"{what} differ by {distance:.2g}"


def check_inference(plain: Plain, world: World, encoding: str) -> str:
    "Token ids, greedy text and log-probabilities are equal; another clip and another frame rate change the logits."
    model, processor = load_model(str(folder(plain.name)), "cpu"), load_processor(str(folder(plain.name)))
    rows = [build_prompt(s, world.view(encoding)) for s in world.samples]
    opened = OPENS.get(plain.name, "<think>\n\n</think>\n\n" if plain.name in CLOSED else "")
    written = generate(model, processor, rows, 12, share_prefix=False)
    batch = model_inputs(processor, rows, "cpu")
    for row, text, ids, mask in zip(rows, written, batch["input_ids"], batch["attention_mask"].bool()):
        inputs = plain.inputs(row)
        assert ids[mask].tolist() == inputs["input_ids"][0].tolist(), "other ids"
        expected = plain.tokenizer.decode(plain.greedy(inputs, 12), skip_special_tokens=True)
        assert text == opened + expected or (plain.name in CLOSED and text == expected), "other text"
    other = {**rows[0], **({"images": rows[1]["images"][:4]} if encoding == "interleaved" else {"video": rows[1]["video"]})}
    slower = {**rows[0], "fps": 0.1}
    if encoding == "interleaved":
        times = iter(range(100))
        content = [dict(p, text=str(7 * next(times))) if p["type"] == "text" and i < 8 else p for i, p in enumerate(rows[0]["prompt"][1]["content"])]
        slower = {**rows[0], "prompt": [rows[0]["prompt"][0], {"role": "user", "content": content}]}
    with torch.no_grad():
        first, clip, rate = (model(**model_inputs(processor, [row], "cpu")).logits[0, -1] for row in (rows[0], other, slower))
        reference = plain.model(**plain.inputs(rows[0])).logits[0, -1]
    close(first.log_softmax(-1), reference.log_softmax(-1), "log-probabilities")
    assert not torch.equal(first, clip) and not torch.equal(first, rate), "another clip or rate gives the same logits"
    return "ok"


def check_sft(plain: Plain, world: World, encoding: str, rank: int) -> str:
    "The taught tokens and the loss are equal; with LoRA every adapter gets a gradient."
    model, processor = load_model(str(folder(plain.name)), "cpu"), load_processor(str(folder(plain.name)))
    params = SFTParams(epochs=1, batch_size=2, per_device_batch_size=2, lora_rank=rank, learning_rate=1e-3)
    with tempfile.TemporaryDirectory() as home:
        trainer = sft_trainer(model, processor, world.samples, world.view(encoding), home, params)
        rows = [trainer.train_dataset[i] for i in range(2)]
        try:
            batch = trainer.data_collator(rows)
        except UserError as e:
            assert plain.name in CLOSED and "enable_thinking" in str(e)
            return "refused: the prompt closes the thought"
        losses, tokens = [], 0
        for row, sample, ids, labels in zip(rows, world.samples, batch["input_ids"], batch["labels"]):
            inputs, taught = plain.inputs(row), plain.target(sample.teacher["response"])
            prompt = inputs["input_ids"][0].tolist()
            assert ids[: len(prompt) + len(taught)].tolist() == prompt + taught, "the target does not stand behind the generation prompt"
            assert labels[labels != -100].tolist() == taught, "other targets"
            losses.append(-plain.logps(inputs, taught))
            tokens += len(taught)
        trainer.model.eval()
        labels = batch.pop("labels")
        logits = trainer.model(**batch).logits[:, :-1].flatten(0, 1)  # not out.loss: a mixture of experts adds a loss of its own
        loss = torch.nn.functional.cross_entropy(logits, labels[:, 1:].flatten(), ignore_index=-100)
        close(loss, torch.cat(losses).sum() / tokens, "losses")
        loss.backward()
        check_adapters(trainer.model, linear_layers(plain.model).names if rank else [])
        trainer.train()
        assert np.isfinite(trainer.state.log_history[0]["loss"])
    return "ok"


def check_adapters(model: torch.nn.Module, names: list[str]) -> None:
    "Exactly the named layers have an adapter, and every adapter got a gradient; without names there is none."
    adapters = {n.partition(".lora_B")[0].removeprefix("base_model.model."): p for n, p in model.named_parameters() if "lora_B" in n}
    assert sorted(adapters) == sorted(names), "adapters on other layers"
    assert all(p.grad is not None and bool(p.grad.any()) for p in adapters.values()), "an adapter gets no gradient"


def check_grpo(plain: Plain, world: World, encoding: str, rank: int) -> str:
    "For rollouts of two prompts, the log-probabilities of their tokens and (without LoRA) the gradient vector of an update are equal."
    set_seed(0)
    model, processor = load_model(str(folder(plain.name)), "cpu"), load_processor(str(folder(plain.name)))
    sizes = dict(prompts_per_step=2, num_generations=2, per_device_batch_size=4, max_completion_length=6)
    params = GRPOParams(steps=1, share_prefix=False, lora_rank=rank, **sizes)
    with tempfile.TemporaryDirectory() as home:
        trainer = grpo_trainer(model, processor, world.samples, world.view(encoding), home, params)
        trainer.current_gradient_accumulation_steps = 1
        rows = [trainer.train_dataset[i] for i in (0, 0, 1, 1)]
        trainer.model.train()
        out = trainer._generate_and_score_completions(rows)
        out["advantages"] = torch.tensor([1.0, -0.5, 0.25, -0.75])
        trainer.model.zero_grad()
        trainer.compute_loss(trainer.model, out).backward()
        ids, mask = out["completion_ids"], out["completion_mask"].bool()
        whole, seen = (torch.cat([out[f"prompt_{k}"], out[f"completion_{k}"]], 1) for k in ("ids", "mask"))
        with torch.no_grad():
            size = len(rows) if plain.name in LINEAR else 3
            logps = trainer._get_per_token_logps_and_entropies(trainer.model, whole, seen, ids.shape[1], batch_size=size)[0]
        inputs, responses = [plain.inputs(row) for row in rows], [response[real].tolist() for response, real in zip(ids, mask)]
        if plain.name in LINEAR:
            reference = plain.logps_together(inputs, responses)
        else:
            reference = [plain.logps(*one) for one in zip(inputs, responses)]
        for theirs, real, mine in zip(reference, mask, logps):
            close(mine[real], theirs.detach(), "log-probabilities")
        check_adapters(trainer.model, linear_layers(plain.model).names if rank else [])
        if rank:
            return "ok"
        plain.model.zero_grad()
        loss = -sum((a * (r - r.detach()).exp()).sum() for a, r in zip(out["advantages"], reference)) / mask.sum()
        loss.backward()
        names = {n for n, p in plain.model.named_parameters() if p.grad is not None}
        ours = {n: p.grad for n, p in trainer.model.named_parameters() if p.grad is not None}
        assert set(ours) == names, "other parameters have gradients"
        theirs = {n: p.grad for n, p in plain.model.named_parameters() if n in names}
        a, b = (torch.cat([g[n].flatten() for n in sorted(names)]) for g in (ours, theirs))
        distance = float((a - b).norm() / b.norm())
        assert distance < TOLERANCE, f"gradient vectors differ by {distance:.2g}"
    return "ok"


def check_refused(plain: Plain, world: World, encoding: str) -> str:
    "Inference and both trainers, with and without LoRA, refuse with one line that names a remedy."
    processor = load_processor(str(folder(plain.name)))
    problem = measure_encoding(processor, encoding, 784, plain.model).problem
    ask = partial(ground, load_model(str(folder(plain.name)), "cpu"), processor, Path(world.root) / world.samples[0].video, ["a circle"])
    attempts = [partial(ask, InferenceConfig(frames=4, pixels=784, style="full", time_encoding=encoding))]
    attempts += [partial(make, plain, world, encoding, rank) for make in (check_sft, check_grpo) for rank in (0, 4)]
    for attempt in attempts:
        with pytest.raises(UserError, match="use (time_encoding|another model)") as e:
            attempt()
        assert problem in str(e.value) and "\n" not in str(e.value)
    return f"refused: {problem.split(':')[0].split(' (')[0].removeprefix('it ').removeprefix('its ')}"


def cells(name: str, encoding: str, world: World) -> list[str]:
    "A row of the table: inference, SFT, SFT with LoRA, GRPO, GRPO with LoRA."
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = Plain(name)
        if measure_encoding(load_processor(str(folder(name))), encoding, 784, plain.model).problem:
            return [check_refused(plain, world, encoding)] * 5
        rows = [check_inference(plain, world, encoding)]
        rows += [check_sft(plain, world, encoding, rank) for rank in (0, 4)]
        return rows + [check_grpo(plain, world, encoding, rank) for rank in (0, 4)]


# --- the table ---

HEAD = """# Which models work, and on which path

Made by `python tests/test_matrix.py > docs/models.md`; `pytest -m long tests/test_matrix.py` checks that it still holds. Every model is tiny and has random weights, and its config, model and processor classes are those of transformers.

- *interleaved*: each frame is an image after its time as text. *native*: the model's own video input. *has no clock*: that input does not tell the model how far apart the frames are.
- *ok* compares with plain transformers calls that are written in the test. Token ids are equal; other numbers agree to 1e-5.
  - inference: greedy text and the log-probabilities of the first token; another clip and another frame rate must change them.
  - SFT: the taught tokens and their mean loss. GRPO: the log-probabilities of the rollouts' tokens and, without LoRA, the whole gradient vector of an update.
  - LoRA: the expected layers have an adapter, and every adapter gets a gradient.
- The plain calls take one row at a time. In families with linear attention padding and other rows change float32 sums, so for GRPO their plain call takes the whole batch. For qwen2_5_vl's native video the plain calls use the positions of the published checkpoints; transformers 5.3 to 5.24 has others.
- *refused*: the command or stage ends before it answers or trains, with one line that names what works instead.
- *GRPO* is TRL's trainer without a shared prefix; [sharing](sharing.md) has the families that share one.
- *LoRA reaches*: the share of the decoder's parameters, without embeddings, that are in linear layers on which LoRA goes.

`vtg-r1 check-model` measures a model of your own.

| family | encoding | inference | SFT | SFT, LoRA | GRPO | GRPO, LoRA | LoRA reaches |
|---|---|---|---|---|---|---|---|"""


def line(name: str, encoding: str, row: list[str]) -> str:
    model = load_model(str(folder(name)), "cpu")
    return f"| {name} | {encoding} | {' | '.join(row)} | {100 * linear_layers(model).share:.0f} % |"


def table(world: World) -> str:
    return "\n".join([HEAD, *(line(name, encoding, cells(name, encoding, world)) for name in FAMILIES for encoding in ENCODINGS)]) + "\n"


@pytest.fixture(scope="module")
def small_world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("matrix"))


@pytest.mark.slow
@pytest.mark.parametrize("name", FAST)
def test_the_rows_of_two_families_in_the_table_are_what_is_measured(name, small_world):
    lines = TABLE.read_text(encoding="utf-8").splitlines()
    for encoding in ENCODINGS:
        assert line(name, encoding, cells(name, encoding, small_world)) in lines


@pytest.mark.long
@pytest.mark.parametrize("name", FAMILIES)
def test_every_row_of_the_table_is_what_is_measured(name, small_world):
    lines = TABLE.read_text(encoding="utf-8").splitlines()
    for encoding in ENCODINGS:
        assert line(name, encoding, cells(name, encoding, small_world)) in lines


@pytest.mark.long
@pytest.mark.parametrize("name", ["qwen3_vl", "qwen3_5", "internvl", "gemma4"])
def test_the_stages_finish_on_a_model_given_by_its_folder(name, small_world, tmp_path):
    "Notebooks 03, 04, 05 and 07 by `vtg-r1 run`. 04 and 05 start from the model of 03, and 07 from that of 05."
    first, last = small_world.samples
    write_jsonl(tmp_path / "own.jsonl", [s for s in small_world.taught if s.video == first.video])
    write_jsonl(tmp_path / "held.jsonl", [last])
    common = dict(annotations=tmp_path / "own.jsonl", video_root=small_world.root, outputs_dir=tmp_path / "outputs", run_name="a", threads=1)
    common |= dict(frames=4, pixels=1568, prompt_style="full", max_completion_length=12)
    training = dict(learning_rate=1e-4, eval_annotations=tmp_path / "held.jsonl", eval_batch_size=2, figures=False, eval_limit=1)
    stages = {
        "03_sft": dict(model=folder(name), steps=1, batch_size=2, per_device_batch_size=2, lora_rank=4, **training),
        "04_difficulty": dict(model=tmp_path / "outputs/sft/a/model", num_rollouts=2, batch_size=2, figures=False),
        "05_grpo": dict(model=tmp_path / "outputs/sft/a/model", steps=2, prompts_per_step=2, num_generations=2, per_device_batch_size=4, **training),
        "07_benchmarks": dict(model=tmp_path / "outputs/grpo/a/model", benchmark="samples", batch_size=2),
    }
    for stage, parameters in stages.items():
        pairs = [word for key, value in {**common, **parameters}.items() for word in ("-p", key, str(value))]
        command = [sys.executable, "-m", "vtg_r1.cli", "run", f"nbs/{stage}.ipynb", *pairs, "--json"]
        done = subprocess.run(command, cwd=project_root(), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        result = json.loads(done.stdout.splitlines()[-1])
        assert result["status"] == "finished"
        assert not read_manifest(Path(result["run"]))["abilities"]["encodings"]["interleaved"]["problem"]


def test_the_table_has_every_family_and_no_other():
    rows = [text.split(" | ") for text in TABLE.read_text(encoding="utf-8").splitlines() if text.startswith("| ") and not text.startswith("| family")]
    assert [(row[0].removeprefix("| "), row[1]) for row in rows] == [(name, encoding) for name in FAMILIES for encoding in ENCODINGS]
    assert len(FAMILIES) >= 18 and all(cell == "ok" or cell.startswith("refused: ") for row in rows for cell in row[2:7])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as home, contextlib.redirect_stdout(sys.stderr):  # trainers print
        text = table(World(Path(home)))
    print(text, end="")
