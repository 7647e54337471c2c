"""Peak memory and time of a GRPO or SFT step of Qwen2.5-VL-shaped models with random weights: what a preset needs on a GPU, without a checkpoint.

    python perf/memory.py --size 3b --frames 64 --num-generations 8 --response 1024 --lora 16      # LoRA on one GPU
    python perf/memory.py --size 3b --frames 64 --num-generations 8 --response 1024                # all weights
    python perf/memory.py --size 7b --frames 64 --num-generations 8 --response 1024 --lora 16 --attention flash_attention_2
    python perf/memory.py --size tiny --frames 4 --num-generations 4 --response 16 --steps 2       # on a CPU, to try the script

It trains through the project's own trainers on a video of noise. Random weights practically never end a response, so every one has the greatest length: for this number of visual tokens, memory and time
are upper bounds. The first step is left out of the time. Prints one JSON line, and on stderr one row for the table in perf/README.md. Running out of memory is a result too, and is printed as one.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch

VISION = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
    "tokens_per_second": 2,
}
TEXT = {"max_position_embeddings": 128000, "initializer_range": 0.02}
SIZES = {  # config.json of Qwen/Qwen2.5-VL-3B-Instruct and -7B-Instruct
    "tiny": ({}, {}),
    "3b": (
        {
            **TEXT,
            "vocab_size": 151936,
            "hidden_size": 2048,
            "intermediate_size": 11008,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "tie_word_embeddings": True,
        },
        {**VISION, "out_hidden_size": 2048},
    ),
    "7b": (
        {
            **TEXT,
            "vocab_size": 152064,
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "tie_word_embeddings": False,
        },
        {**VISION, "out_hidden_size": 3584},
    ),
}


def random_model(size: str, attention: str, device: str | None = None):
    "A model of a published shape with random weights, bfloat16 on a GPU, and the toy processor, whose vocabulary is smaller than the model's."
    from transformers import Qwen2_5_VLForConditionalGeneration

    from vtg_r1.models.loading import load_processor
    from vtg_r1.models.tiny import tiny_config

    processor, config = load_processor("tiny"), tiny_config()
    text, vision = SIZES[size]
    for part, values in ((config.text_config, text), (config.vision_config, vision)):
        for name, value in values.items():
            setattr(part, name, value)
    if text:
        config.tie_word_embeddings = text["tie_word_embeddings"]
        config.text_config.rope_parameters["mrope_section"], config.text_config.rope_parameters["rope_theta"] = [16, 24, 24], 1_000_000.0
        config.text_config.layer_types = ["full_attention"] * text["num_hidden_layers"]
    gpu = torch.cuda.is_available()
    torch.manual_seed(0)
    with torch.device(device or ("cuda" if gpu else "cpu")):
        model = Qwen2_5_VLForConditionalGeneration._from_config(config, attn_implementation=attention, dtype=torch.bfloat16 if gpu else torch.float32)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = processor.tokenizer.eos_token_id, processor.tokenizer.pad_token_id
    return model.eval(), processor


def noise_video(folder: Path, frames: int, pixels: int) -> None:
    "A square video of noise, one frame a second; its side is the largest multiple of 28 pixels within the budget."
    import av

    side = int(pixels**0.5) // 28 * 28
    noise = np.random.default_rng(0)
    with av.open(str(folder / "v.mp4"), "w") as f:
        stream = f.add_stream("libx264", rate=1, options={"preset": "ultrafast"})
        stream.width = stream.height = side
        stream.pix_fmt = "yuv420p"
        for _ in range(frames):
            f.mux(stream.encode(av.VideoFrame.from_ndarray(noise.integers(0, 256, (side, side, 3), np.uint8), format="rgb24")))
        f.mux(stream.encode())


def long_response(tokens: int, processor) -> str:
    "A response of so many tokens for SFT, with the one that ends it."
    from vtg_r1.core.prompts import response_text

    around = len(processor.tokenizer(response_text("", [1, 2]))["input_ids"]) + 1
    return response_text("x" * (tokens - around), [1, 2])  # the toy tokenizer has a token for each letter


def trainer_of(args, folder: Path):
    from vtg_r1.core.samples import Sample
    from vtg_r1.data.model_inputs import VideoInputConfig
    from vtg_r1.grpo import GRPOParams, grpo_trainer
    from vtg_r1.sft import SFTParams, sft_trainer

    model, processor = random_model(args.size, args.attention)
    noise_video(folder, args.frames, args.pixels)
    teacher = {"response": long_response(args.response, processor)}
    samples = [
        Sample(f"q{i}", "v.mp4", float(args.frames), f"something {i}", [[1.0, 2.0]], teacher=teacher)
        for i in range(max(args.prompts, 2) * args.steps)
    ]
    view = VideoInputConfig(str(folder), args.frames, args.pixels, "full", args.time_encoding)
    common = dict(steps=args.steps, lora_rank=args.lora, gradient_checkpointing=not args.no_checkpointing, learning_rate=1e-6)
    if args.stage == "sft":
        cold_start = SFTParams(batch_size=args.prompts, per_device_batch_size=1, **common)
        return sft_trainer(model, processor, samples, view, folder, cold_start)
    sizes = dict(prompts_per_step=args.prompts, num_generations=args.num_generations, max_completion_length=args.response)
    per_device = args.per_device_batch_size or args.num_generations
    decoding = dict(share_prefix=not args.stock, cuda_graph=args.cuda_graph, compile_decoding=args.compile)
    rl = GRPOParams(per_device_batch_size=per_device, warmup_steps=0, **decoding, **sizes, **common)
    return grpo_trainer(model, processor, samples, view, folder, rl)


def _clocked(trainer, seconds: list[float]) -> None:
    "Note how long a GRPO trainer takes for each generation batch: preprocessing, responses and rewards."
    if (generate := getattr(trainer, "_generate_and_score_completions", None)) is None:
        return

    def timed(inputs):
        start = time.perf_counter()
        out = generate(inputs)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
        return out

    trainer._generate_and_score_completions = timed


def measure(args) -> dict:
    "One run of a few steps: peak memory, median seconds of a step without the first, responses (SFT: samples) per second."
    from transformers import TrainerCallback

    from vtg_r1.train.trainer import fit

    ends, rollouts = [], []

    class Clock(TrainerCallback):
        def on_step_end(self, *_, **__):
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            ends.append(time.perf_counter())

    gpu = torch.cuda.is_available()
    found = {
        "device": torch.cuda.get_device_name() if gpu else "CPU",
        **{k: v for k, v in vars(args).items()},
        "error": None,
        "peak_gb": None,
        "step_seconds": None,
        "rollout_seconds": None,
        "per_second": None,
    }
    try:
        with tempfile.TemporaryDirectory() as folder:
            trainer = trainer_of(args, Path(folder))
            found["parameters"] = sum(p.numel() for p in trainer.model.parameters())
            trainer.add_callback(Clock())
            _clocked(trainer, rollouts)
            fit(trainer, args.size, {})
    except torch.cuda.OutOfMemoryError as e:
        found["error"] = f"out of memory: {str(e).splitlines()[0]}"
    peak = torch.cuda.max_memory_allocated() if gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    found["peak_gb"] = round(peak / 1e9, 2)
    if len(ends) > 1:
        found["step_seconds"] = round(median(np.diff(ends)), 3)
        found["rollout_seconds"] = round(median(rollouts[1:]), 3) if rollouts else None
        found["per_second"] = round(args.prompts * (args.num_generations if args.stage == "grpo" else 1) / found["step_seconds"], 3)
    return found


def row(found: dict) -> str:
    "The found numbers as a row of the table in perf/README.md."
    what = f"{found['size']}, {found['stage']}, {'LoRA ' + str(found['lora']) if found['lora'] else 'all weights'}, {found['frames']} frames of {found['pixels']} pixels, G {found['num_generations']}, responses {found['response']}, {found['time_encoding']}"
    numbers = (
        [found["error"]] * 3
        if found["error"]
        else [
            f"{found['step_seconds']} s per step" + (f", {found['rollout_seconds']} s of it for the responses" if found["rollout_seconds"] else ""),
            f"{found['peak_gb']} GB",
            found["per_second"],
        ]
    )
    return f"| {what} | {found['device']} | " + " | ".join(map(str, numbers)) + " |"


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--size", choices=SIZES, required=True)
    p.add_argument("--stage", choices=("grpo", "sft"), default="grpo")
    p.add_argument("--frames", type=int, default=64)
    p.add_argument("--pixels", type=int, default=128 * 28 * 28, help="a frame")
    p.add_argument("--prompts", type=int, default=1, help="queries (SFT: samples) a step")
    p.add_argument("--num-generations", type=int, default=8, help="G")
    p.add_argument("--per-device-batch-size", type=int, default=0, help="responses a forward pass; G by default")
    p.add_argument("--response", type=int, default=1024, help="tokens")
    p.add_argument("--lora", type=int, default=0, help="rank; 0 trains all weights")
    p.add_argument("--steps", type=int, default=4)
    p.add_argument("--time-encoding", choices=("native", "interleaved"), default="native")
    p.add_argument("--attention", default="sdpa", help="sdpa or flash_attention_2; share_prefix brings its own for the language model")
    p.add_argument("--stock", action="store_true", help="TRL's own trainer, every prompt once a response")
    p.add_argument("--cuda-graph", action="store_true", help="decode as one graph")
    p.add_argument("--compile", action="store_true", help="compile the pass that decodes a token")
    p.add_argument("--no-checkpointing", action="store_true", help="keep all activations")
    return p


def main(argv=None) -> dict:
    found = measure(parser().parse_args(argv))
    print(json.dumps(found))
    print(row(found), file=sys.stderr)
    return found


if __name__ == "__main__":
    main()
