"""What a new token costs: our decoding loop beside transformers' own, with the shared prefix and without it; then the seconds of each part of a training step.

    python perf/decoding.py [--repeats 5] [--quick] [--save outputs/reference/bench]
    python perf/decoding.py --gpu 3b --lora 16 --frames 31 --tokens 1024 --repeats 2     # on a GPU: a model of the published shape, bfloat16, with the CUDA graph

The ways take turns in one process and must sample the same tokens (on a GPU in bfloat16 the share of equal tokens is printed instead). Every token ends a response with a probability of about 2 %,
so responses have many lengths. A time is the median of the repeats, less that of reading the prompts. `ours, compiled` is compiled before the first repeat, which takes minutes.
torch's profiler counts what a token launches: operators that call no other operator, and kernels. On a GPU kernels are launches, and a CUDA graph is one. On a CPU they are the operators that
compute (views and empty tensors do not) and the C++ kernels of the compiled pass.
The limit is the time to read the weights and the prompts' cache once per token at the bandwidth of a copy. The last line, `decode: ratio ×`, is the time of transformers' loop behind the same cache
divided by ours.
"""

import argparse
import importlib.util
import json
import time
from functools import cache, partial
from pathlib import Path
from statistics import median

import shared_prefix
import torch
from torch import _inductor as inductor
from torch.profiler import ProfilerActivity, profile

ENDS = 0.02  # probability of a token that ends a response


def setting(frames: int, g: int, lora: int):
    "The model, the processor, the prompts read once, the prompt's index for each response, and the tokens that end a response."
    from vtg_r1.models.prefix_cache import base_model, read_prompts, same_prompts
    from vtg_r1.models.templates import processor_frames, prompt_text

    model, processor = shared_prefix.bench_model()
    rows = shared_prefix.rows_of(1, frames)
    if lora:
        from peft import get_peft_model

        from vtg_r1.models.loading import lora_config

        model = get_peft_model(model, lora_config(model, lora))
    model.eval()
    of, first, videos = same_prompts(rows)
    texts = [prompt_text(processor, rows[i]) for i in first]
    prompts = read_prompts(processor, base_model(model), texts, processor_frames([rows[i] for i in first]), videos, model.device)
    vocabulary = base_model(model).config.get_text_config().vocab_size
    ends = list(range(100, 100 + max(1, int(ENDS * vocabulary))))
    return model, processor, prompts, [i for i in of for _ in range(g)], ends


def ways_of(model, processor, prompts, of: list[int], ends: list[int]):
    "The ways to decode by name: functions that take the number of tokens and sample the responses."
    from vtg_r1.models.decoding import generate_shared

    pad = processor.tokenizer.pad_token_id
    how = dict(do_sample=True, top_k=0, temperature=1.0, eos_token_id=ends)

    def shared(**options):
        return lambda tokens, **more: generate_shared(model, prompts, of, pad, max_new_tokens=tokens, **{**how, **options, **more})

    def stock(**options):
        ids = torch.stack([prompts.ids[i] for i in of])
        kinds = {name: torch.stack([prompts.kinds[i][name] for i in of]) for name in prompts.kinds[0]}
        pixels = prompts.vision(of)
        inputs = dict(input_ids=ids, attention_mask=torch.ones_like(ids), **kinds, **pixels)
        return lambda tokens, **more: model.generate(**inputs, max_new_tokens=tokens, **{**how, **options, **more})[:, ids.shape[1] :]

    ways = {
        "stock generate": stock(),
        "stock, static cache": stock(cache_implementation="static", disable_compile=True),
        "transformers' loop, shared": shared(equal_passes=True),
        "ours": shared(),
        "ours, fixed shapes": shared(fixed_shapes=True),
        "ours, compiled": shared(compiled=True),
    }
    return ways


def sample(way, tokens: int, clock) -> tuple[torch.Tensor, float]:
    "Responses and seconds."
    torch.manual_seed(0)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = clock()
    with torch.no_grad():
        out = way(tokens)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return out, clock() - start


@cache
def computes(name: str) -> bool:
    "Whether an event of the profiler computes something: a kernel of the compiled pass, or an operator that is more than a view."
    if not name.startswith("aten::"):
        return "cpp_fused" in name
    if name.startswith(
        ("aten::empty", "aten::resize", "aten::_unsafe_view", "aten::detach", "aten::result_type", "aten::item", "aten::_local_scalar")
    ):
        return False
    operator = getattr(torch.ops.aten, name.removeprefix("aten::"))
    returned = [x.alias_info for overload in operator.overloads() for x in getattr(operator, overload)._schema.returns]
    return all(alias is None or alias.is_write for alias in returned)


def kernels_of(event) -> int:
    "The number of kernels of an event: those of its parts, or itself."
    return sum(kernels_of(part) for part in event.cpu_children) or int(computes(event.name))


def launched(way, tokens: int) -> tuple[int, int]:  # (operators, kernels)
    "What was launched: operators that call no other, and kernels."
    on_gpu = bool(shared_prefix.GPU)
    sample(way, tokens, time.perf_counter)  # what a first call compiles is not counted
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as found:
        sample(way, tokens, time.perf_counter)
    events = found.events()
    operators = sum(1 for e in events if not e.cpu_children and (e.name.startswith("aten::") or computes(e.name)))
    if on_gpu:
        return operators, sum(event.count for event in found.key_averages() if "Launch" in event.key)
    return operators, sum(kernels_of(e) for e in events if e.cpu_parent is None)


def rows_passed(model, way, tokens: int) -> list[int]:
    "The number of rows of each pass after that of the prompts."
    rows: list[int] = []
    hook = model.get_input_embeddings().register_forward_hook(lambda module, args, out: rows.append(len(args[0])))
    sample(way, tokens, time.perf_counter)
    hook.remove()
    return rows[1:]


def limit(model, prompts, clock) -> float:
    "Seconds to read the weights and the prompts' cache once."
    from vtg_r1.models.prefix_cache import base_model

    text = base_model(model).config.get_text_config()
    decoder = base_model(model).get_decoder()
    size = sum(p.numel() * p.element_size() for p in decoder.parameters())
    heads, width = text.num_key_value_heads, getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    size += sum(len(ids) for ids in prompts.ids) * 2 * text.num_hidden_layers * heads * width * next(decoder.parameters()).element_size()
    source = torch.ones(2**28 if shared_prefix.GPU else 2**25, device=model.device)
    copy = torch.empty_like(source)
    seconds = min(sample(lambda tokens: copy.copy_(source), 0, clock)[1] for _ in range(6))
    return size / (2 * source.numel() * 4 / seconds)  # a copy reads and writes


def step_parts(frames: int, tokens: int, g: int, clock) -> dict[str, float]:
    "Seconds of each part of a step of our trainer: one prompt, its group, responses of `tokens` tokens."
    from vtg_r1.models import prefix_cache

    rows, seconds = [row for row in shared_prefix.rows_of(1, frames) for _ in range(g)], dict[str, float]()
    trainer = shared_prefix.trainer_of(True, rows[:1], g, tokens)
    trainer.create_optimizer()

    def timed(part: str, work):
        def call(*args, **kwargs):
            found, seconds[part] = sample(lambda _: work(*args, **kwargs), 0, clock)
            return found

        return call

    trainer._tokenize_prompts = timed("preprocessing", trainer._tokenize_prompts)
    trainer._generate_single_turn = timed("rollout", trainer._generate_single_turn)
    trainer._calculate_rewards = timed("rewards", trainer._calculate_rewards)
    plain = prefix_cache.prefill
    prefix_cache.prefill = timed("prefill", plain)
    batch = timed("batch", trainer._generate_and_score_completions)(rows)
    prefix_cache.prefill = plain

    def update():
        with torch.enable_grad():
            trainer.compute_loss(trainer.model, batch).backward()
        trainer.optimizer.step()

    timed("update", update)()
    seconds["decoding"] = seconds["rollout"] - seconds["prefill"]
    seconds["rest"] = seconds.pop("batch") - seconds["preprocessing"] - seconds.pop("rollout") - seconds["rewards"]
    return seconds


def take_apart(frames: int, tokens: int, g: int, repeats: int, clock) -> list[dict]:
    "Print the median of each part of a step, and its share."
    steps = [step_parts(frames, tokens, g, clock) for _ in range(repeats)]
    parts = {part: median(step[part] for step in steps) for part in ("preprocessing", "prefill", "decoding", "rewards", "update", "rest")}
    for part, seconds in parts.items():
        print(f"decode  step: {part:22} {seconds:8.3f} s  {100 * seconds / sum(parts.values()):3.0f} % of {sum(parts.values()):.2f} s", flush=True)
    return [dict(bench="decode", part=part, C=tokens, G=g, seconds=seconds) for part, seconds in parts.items()]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--frames", type=int, default=15)
    parser.add_argument("--tokens", type=int, default=64, help="of the longest response")
    parser.add_argument("--rows", type=int, default=8, help="responses to the prompt")
    parser.add_argument("--lora", type=int, default=0, metavar="RANK", help="adapters on the decoder, not for the parts of a step")
    parser.add_argument("--quick", action="store_true", help="a fifth of the frames, one repeat")
    parser.add_argument("--cpu", action="store_true", help="processor time instead of the clock's")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--gpu", metavar="SIZE", default="", help="3b or 7b: on a GPU, with a model of that published shape")
    parser.add_argument("--save", help="folder for decode.json")
    args = parser.parse_args()
    if args.gpu and not torch.cuda.is_available():
        parser.error("--gpu needs a GPU, and torch finds none")
    torch.set_num_threads(args.threads)
    shared_prefix.GPU = args.gpu
    inductor.config.cpp.enable_kernel_profile = True  # else the profiler does not see the compiled kernels
    frames, repeats = (max(1, args.frames // 5), 1) if args.quick else (args.frames, args.repeats)
    clock = time.process_time if args.cpu else time.perf_counter
    model, processor, prompts, of, ends = setting(frames, args.rows, args.lora)
    ways, times, prefills, said = ways_of(model, processor, prompts, of, ends), {}, {}, {}
    sample(ways["ours, compiled"], args.tokens, clock)
    plain = {**ways, "ours, compiled": ways["ours, fixed shapes"]}  # reading the prompts, and passes with a hook, are not compiled
    for _ in range(repeats):
        for name, way in ways.items():
            prefills.setdefault(name, []).append(sample(plain[name], 1, clock)[1])
            said[name], seconds = sample(way, args.tokens, clock)
            times.setdefault(name, []).append(seconds)
    first, floor, found = said["stock generate"], limit(model, prompts, clock), []
    ended = torch.isin(first, torch.tensor(ends, device=first.device))
    lengths = torch.where(ended.any(1), ended.int().argmax(1) + 1, first.shape[1])
    for name, way in ways.items():
        steps = said[name].shape[1] - 1
        passed = rows_passed(model, plain[name], args.tokens)
        ms = 1000 * (median(times[name]) - median(prefills[name])) / steps
        counted = [launched(partial(way, eos_token_id=ends[:1]), tokens) for tokens in (3, 7)]  # every response goes on to its last token
        operators, kernels = ((more - few) / 4 for few, more in zip(*counted))
        padding, padding_text = 1 - int((lengths - 1).sum()) / sum(passed[-steps:]), ""
        if args.gpu and plain[name] is ways["ours, fixed shapes"]:  # a CUDA graph is replayed without the hook that counts
            padding, padding_text = None, "padding not counted"
        shape = min(said[name].shape[1], first.shape[1])
        same = float((said[name][:, :shape] == first[:, :shape]).float().mean())
        assert args.gpu or same == 1, f"{name} sampled other tokens than stock"
        row = dict(bench="decode", variant=name, P=len(prompts.ids[0]), C=args.tokens, G=args.rows, lora=args.lora, ms_per_token=ms, same_tokens=same)
        found.append(row | dict(operators=operators, kernels=kernels, padding=padding, seconds=median(times[name]), limit_ms=1000 * floor))
        print(
            f"decode  {name:28} {ms:8.2f} ms a token  {operators:5.0f} operators, {kernels:5.0f} kernels  {padding_text or f'{100 * padding:3.0f} % padding'}"
            f"  {100 * same:5.1f} % of stock's tokens  {median(times[name]):7.2f} s whole",
            flush=True,
        )
    print(f"decode  limit by reading weights and cache {1000 * floor:14.2f} ms a token")
    if importlib.util.find_spec("vllm") is None:
        print("decode  vLLM is not installed here")
    by = {row["variant"]: row["ms_per_token"] for row in found}
    ratio = by["transformers' loop, shared"] / by["ours"]
    found += take_apart(frames, args.tokens, args.rows, repeats, clock)
    if args.save:
        how = dict(threads=args.threads, repeats=repeats, clock="processor" if args.cpu else "wall", torch=torch.__version__)
        if args.gpu:
            how |= dict(gpu=torch.cuda.get_device_name(), size=args.gpu)
        file = Path(args.save, f"decode_{args.gpu}.json" if args.gpu else "decode.json")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({**how, "rows": found}, indent=1) + "\n")
    print(f"decode: {ratio:.2f} ×")


if __name__ == "__main__":
    main()
