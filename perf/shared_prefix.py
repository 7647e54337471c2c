"""What reading a prompt once per group saves: update, rollout and whole train() of SharedPrefixGRPOTrainer beside stock TRL, on a 4-layer model with the proportions of Qwen2.5-VL-3B.

    python perf/shared_prefix.py [update|rollout|train|anatomy|grid …] [--repeats 5] [--quick] [--save outputs/reference/bench]
    python perf/shared_prefix.py update rollout --gpu 3b --repeats 3      # a model of the published shape with random weights, bfloat16, all activations kept

The variants of a benchmark take turns in one process; a time is the median of the repeats. Peak memory is measured in a separate process that does one repeat of one variant.
On a GPU the variants run one after another, each after one repeat that is not counted, and peak memory is what torch allocated.
Every benchmark prints a table and a last line `name: ratio ×`.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch

GPU = ""  # size of `memory.SIZES` to measure on a GPU


def bench_model(seed: int = 0):
    "A model and its processor: the architecture of Qwen2.5-VL-3B at an eighth of its width, with 4 layers in the decoder and 4 in the vision tower; on a GPU a published shape."
    if GPU:
        from memory import random_model

        return random_model(GPU, "sdpa")
    from transformers import Qwen2_5_VLForConditionalGeneration

    from vtg_r1.models.loading import load_processor
    from vtg_r1.models.tiny import tiny_config

    processor, config = load_processor("tiny"), tiny_config()
    text = dict(
        hidden_size=256,
        intermediate_size=1376,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=16384,
        initializer_range=0.02,
    )
    vision = dict(depth=4, hidden_size=160, intermediate_size=428, num_heads=4, out_hidden_size=256, window_size=112, fullatt_block_indexes=[3])
    for part, given in ((config.text_config, {**text, "layer_types": ["full_attention"] * 4}), (config.vision_config, vision)):
        for key, value in given.items():
            setattr(part, key, value)
    config.text_config.rope_parameters["mrope_section"] = [8, 12, 12]
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    return model, processor


def rows_of(prompts: int, frames: int, seed: int = 0) -> list[dict]:
    "Dataset rows: videos of 448×224 noise, 128 tokens a frame, frames first."
    from PIL import Image

    noise = np.random.default_rng(seed)
    videos = [[Image.fromarray(noise.integers(0, 256, (224, 448, 3), np.uint8)) for _ in range(frames)] for _ in range(prompts)]
    shown = [block for t in range(frames) for block in ({"type": "text", "text": str(t)}, {"type": "image"})]
    return [
        {"prompt": [{"role": "user", "content": [*shown, {"type": "text", "text": f"when does the red circle appear? {i}"}]}], "images": video}
        for i, video in enumerate(videos)
    ]


def spread(completion_ids, **columns):
    "A made-up reward that differs between responses."
    return [float(sum(ids) % 7) for ids in completion_ids]


def trainer_of(once: bool, rows: list[dict], g: int, c: int, given: list | None = None, micro: int | None = None, steps: int = 1):
    "A trainer on the benchmark's model; `given` responses take the place of a rollout."
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    from vtg_r1.train.shared_prefix import SharedPrefixGRPOTrainer
    from vtg_r1.train.trainer import common_arguments
    from vtg_r1.train.training_parameters import TrainingParams

    kind = SharedPrefixGRPOTrainer if once else GRPOTrainer

    class Trainer(kind):
        def _generate_single_turn(self, *args, **kwargs):
            return (given, None) if given else super()._generate_single_turn(*args, **kwargs)

    n, micro = len(rows) * g, micro or len(rows) * g
    args = GRPOConfig(
        **{**common_arguments(TrainingParams(), tempfile.mkdtemp()), "bf16": bool(GPU), "use_cpu": not GPU},
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=n // micro,
        num_generations=g,
        max_completion_length=c,
        temperature=1.0,
        top_k=0,
        loss_type="dapo",
        learning_rate=1e-4,
        max_steps=steps,
        generation_kwargs=dict(min_new_tokens=c),
    )
    data = Dataset.from_dict({"i": list(range(len(rows)))}).with_transform(lambda batch: {key: [rows[i][key] for i in batch["i"]] for key in rows[0]})
    model, processor = bench_model()
    trainer = Trainer(model, [spread], args, train_dataset=data, processing_class=processor)
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    return trainer


def responses(n: int, c: int, ragged: bool = False) -> list[list[int]]:
    "Random responses of `c` tokens; `ragged` ones of a quarter of that to `c`."
    noise = np.random.default_rng(1)
    return [noise.integers(100, 500, noise.integers(c // 4, c + 1) if ragged else c).tolist() for _ in range(n)]


def update_variant(variant: str, frames: int, c: int, g: int, ragged: bool = False):
    "A function that does one forward and backward pass of a group."
    from trl.trainer.utils import split_pixel_values_by_grid, split_tensor_dict, unsplit_pixel_values_by_grid

    rows = rows_of(1, frames)
    trainer = trainer_of(variant == "shared prefix", rows, g, c, responses(g, c, ragged))
    batch = trainer._generate_and_score_completions([row for row in rows for _ in range(g)])
    parts = (
        [batch]
        if variant != "stock, row by row"
        else [unsplit_pixel_values_by_grid(b) for b in split_tensor_dict(split_pixel_values_by_grid(batch), g)]
    )

    def work():
        trainer.model.zero_grad()
        for part in parts:
            trainer.compute_loss(trainer.model, part).backward()
        return float(sum(p.grad.norm() ** 2 for p in trainer.model.parameters() if p.grad is not None)) ** 0.5

    return work, batch["prompt_ids"].shape[1]


def rollout_variant(variant: str, frames: int, c: int, g: int, ragged: bool = False):
    "A function that samples a group's responses."
    rows = rows_of(1, frames)
    trainer = trainer_of(variant == "shared prefix", rows, g, c)
    batch = [row for row in rows for _ in range(g)]
    kept = {}

    def keep(*args, **kwargs):
        kept["args"] = args
        return responses(g, c), None

    rollout, trainer._generate_single_turn = trainer._generate_single_turn, keep
    trainer._generate_and_score_completions(batch)

    def work():
        torch.manual_seed(0)
        return rollout(*kept["args"])[0]

    return work, len(kept["args"][0][0])


def train_variant(variant: str, frames: int, c: int, g: int, ragged: bool = False):
    "A function that trains for one step on two prompts: preprocessing, rollout, updates in micro-batches of a group or of a row, AdamW."
    rows = rows_of(2, frames)

    def work():
        trainer = trainer_of(variant == "shared prefix", rows, g, c, micro=1 if variant == STOCK[1] else g)
        trainer.train()
        return [h for h in trainer.state.log_history if "loss" in h][0]["grad_norm"]

    return work, 128 * frames + 40


STOCK = ("stock, batched", "stock, row by row")
KINDS = {"update": update_variant, "rollout": rollout_variant, "train": train_variant, "grid": update_variant}
CASES = {  # (frames, C, G, ragged, variants)
    "update": [(15, 64, 8, False, (*STOCK, "shared prefix")), (31, 300, 8, False, (STOCK[1], "shared prefix"))],
    "rollout": [(15, 64, 8, False, ("stock", "shared prefix"))],
    "train": [(15, 64, 8, False, (*STOCK, "shared prefix"))],
    "grid": [
        (f, c, g, False, (STOCK[1], "shared prefix"))  # the update at other lengths and group sizes
        for f, c, g in ((3, 64, 8), (7, 64, 8), (15, 64, 2), (15, 64, 4), (15, 16, 8), (15, 256, 8), (15, 64, 16))
    ],
}


def peak(kind: str, variant: str, case: tuple) -> float:
    "Peak memory in GB of a process that does one repeat."
    command = [sys.executable, __file__, "--child", json.dumps([kind, variant, *case[:4]]), "--threads", str(torch.get_num_threads())]
    out = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(out.stdout.split()[-1])


def measure_on_gpu(kind: str, case: tuple, repeats: int) -> list[dict]:
    "One row per variant, one after another. What each computes is noted and not compared, since bfloat16 agrees to a few per mille only."
    import gc

    rows = []
    for variant in case[4]:
        work, p = KINDS[kind](variant, *case[:4])
        times, error, said = [], None, None
        try:
            work()
            torch.cuda.reset_peak_memory_stats()
            for _ in range(repeats):
                torch.cuda.synchronize()
                start = time.perf_counter()
                said = work()
                torch.cuda.synchronize()
                times.append(time.perf_counter() - start)
        except torch.cuda.OutOfMemoryError as e:
            error = str(e).splitlines()[0]
        c, g = case[1:3]
        said = said if isinstance(said, float) else None
        rows.append(
            dict(bench=kind, P=p, C=c, G=g, variant=variant, seconds=median(times) if times else float("inf"), times=times, error=error)
            | dict(peak_gb=torch.cuda.max_memory_allocated() / 2**30, limit=g * (p + c) / (p + g * c), found=said)
        )
        del work
        gc.collect()
        torch.cuda.empty_cache()
    return rows


def measure(kind: str, case: tuple, repeats: int, clock, memory: bool = True) -> list[dict]:
    "One row per variant. They take turns, and must compute the same."
    if GPU:
        return measure_on_gpu(kind, case, repeats)
    made = {variant: KINDS[kind](variant, *case[:4]) for variant in case[4]}
    times, said = {v: [] for v in made}, {}
    for _ in range(repeats):
        for v, (work, _) in made.items():
            start = clock()
            said[v] = work()
            times[v].append(clock() - start)
    first = next(iter(said.values()))
    for v, x in said.items():
        assert x == first if isinstance(x, list) else abs(x - first) < 1e-4 * abs(first), f"{kind}: {v} found {x}, not {first}"
    (_, p), (_, c, g, *_) = next(iter(made.values())), case
    memory = {v: peak(kind, v, case) if memory else None for v in made}
    return [
        dict(bench=kind, P=p, C=c, G=g, variant=v, seconds=median(times[v]), times=times[v], peak_gb=memory[v], limit=g * (p + c) / (p + g * c))
        for v in made
    ]


def bench(kind: str, repeats: int, quick: bool, clock) -> list[dict]:
    "Print a table of all cases of a kind, and for the first case the time of the faster stock variant divided by ours."
    rows, head = [], None
    for case in CASES[kind]:
        case = (max(1, case[0] // 5), *case[1:]) if quick else case
        found = measure(kind, case, repeats, clock, memory=kind != "grid")
        once, stock = found[-1], min(found[:-1], key=lambda r: r["seconds"])
        for r in found:
            memory = f"{r['peak_gb']:5.2f} GB" if r["peak_gb"] else ""
            print(
                f"{kind:8} P {r['P']:5} C {r['C']:4} G {r['G']:3}  {r['variant']:18} {r['seconds']:8.2f} s ({min(r['times'], default=0):.2f}–{max(r['times'], default=0):.2f})  {memory}"
                + (f"  {r['seconds'] / once['seconds']:5.2f} × the time" if r is not once else f"  (token limit {r['limit']:.1f})"),
                flush=True,
            )
        head = head or stock["seconds"] / once["seconds"]
        rows += found
    print(f"{kind}: {head:.2f} ×", flush=True)
    return rows


def preprocess_variant(variant: str, frames: int, c: int, g: int, ragged: bool = False):
    "A function that does all of a generation batch except generating: processor, rewards, advantages."
    rows = rows_of(1, frames)
    trainer = trainer_of(variant == "shared prefix", rows, g, c, responses(g, c, ragged))

    def work():
        return trainer._generate_and_score_completions([row for row in rows for _ in range(g)])["completion_ids"].tolist()

    return work, 0


def anatomy(repeats: int, quick: bool, clock) -> list[dict]:
    "The parts of a step of one prompt and its group; stock's update is the one row by row, its faster way."
    frames, c, g, _, _ = CASES["update"][0]
    frames, rows = max(1, frames // 5) if quick else frames, []

    def timed(kind, c, variants):
        return {r["variant"].split(",")[0]: r["seconds"] for r in measure(kind, (frames, c, g, False, variants), repeats, clock, memory=False)}

    once = ("stock", "shared prefix")
    first, whole = timed("rollout", 1, once), timed("rollout", c, once)
    parts = {
        "preprocessing": timed("preprocess", c, once),
        "prefill": first,
        "decoding": {v: whole[v] - first[v] for v in once},
        "update": timed("update", c, (STOCK[1], once[1])),
    }
    for part, seconds in parts.items():
        rows += [dict(bench="anatomy", variant=v, part=part, seconds=seconds[v]) for v in once]
        print(
            f"anatomy  {part:14} {seconds[once[0]]:8.2f} s {seconds[once[1]]:8.2f} s  {seconds[once[0]] / seconds[once[1]]:5.2f} × the time",
            flush=True,
        )
    stock, ours = (sum(r["seconds"] for r in rows if r["variant"] == v) for v in once)
    print(f"anatomy: {stock / ours:.2f} ×", flush=True)
    return rows


KINDS["preprocess"] = preprocess_variant
BENCHES = {
    kind: lambda args, kind=kind: bench(kind, args.repeats, args.quick, time.process_time if args.cpu else time.perf_counter) for kind in CASES
}
BENCHES["anatomy"] = lambda args: anatomy(args.repeats, args.quick, time.process_time if args.cpu else time.perf_counter)


def main():
    global GPU
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(BENCHES)}; all but grid by default")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a fifth of the frames")
    parser.add_argument(
        "--cpu", action="store_true", help="processor time instead of the clock's: for a machine that others use too, with one thread"
    )
    parser.add_argument("--save", help="folder for a JSON a benchmark")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--gpu", metavar="SIZE", default="", help="3b or 7b: on a GPU, with a model of that published shape")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    GPU = args.gpu
    if args.child:
        kind, variant, *case = json.loads(args.child)
        KINDS[kind](variant, *case)[0]()
        own = (
            Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]
        )  # not ru_maxrss, which a child inherits from the parent that started it
        return print(int(own) / 2**20)
    if strange := set(args.names) - set(BENCHES):
        parser.error(f"no benchmark {', '.join(strange)}; there are {', '.join(BENCHES)}")
    for name in args.names or [name for name in BENCHES if name != "grid"]:
        rows = BENCHES[name](args)
        if args.save:
            Path(args.save).mkdir(parents=True, exist_ok=True)
            how = dict(threads=args.threads, repeats=args.repeats, clock="processor" if args.cpu else "wall", torch=torch.__version__)
            if args.gpu:
                how |= dict(gpu=torch.cuda.get_device_name(), size=args.gpu)
                rows = [{**r, "seconds": r["seconds"] if r["times"] else None} for r in rows]
            Path(args.save, f"{name}_{args.gpu}.json" if args.gpu else f"{name}.json").write_text(json.dumps({**how, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
