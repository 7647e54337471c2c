"""What reading a video once saves outside training: loading frames beside qwen_vl_utils, and several queries on one video beside asking them one by one or in a batch.

    OMP_NUM_THREADS=1 python perf/prefix_cache.py [frames|evaluation …] [--repeats 5] [--threads 1] [--cpu] [--videos FOLDER] [--save FOLDER]

The variants take turns in one process; a time is the median of the repeats. Peak memory is measured in a separate process that runs one variant once. `frames` needs `pip install qwen-vl-utils`.
Every benchmark prints a table and a last line `name: ratio ×`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from math import exp, log
from pathlib import Path
from statistics import mean, median

import numpy as np

FRAMES, PIXELS = 64, 128 * 28 * 28  # the paper's


def clock(work, now=time.perf_counter) -> float:
    start = now()
    work()
    return now() - start


def peak(*what: str) -> float:
    "Peak memory in GB (2³⁰ bytes) of a process that runs one variant once."
    out = subprocess.run([sys.executable, __file__, "--child", json.dumps(what)], capture_output=True, text=True, check=True)
    return float(out.stdout.split()[-1])


# ---- frames ----


def synthetic(path: Path, seconds: int = 120, size=(854, 480), rate: int = 30) -> Path:
    "Two minutes of 480p: a drifting gradient with a moving square, H.264 with a keyframe every ten seconds."
    import av

    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=rate, options={"preset": "veryfast", "g": str(10 * rate)})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for i in range(seconds * rate):
            picture = np.stack([(x + 3 * i) % 256, (y + x // 2 + 2 * i) % 256, (x // 3 + y) % 256], -1).astype(np.uint8)
            left = 40 + 5 * i % (size[0] - 140)
            picture[200:280, left : left + 80] = (255, 255 - i % 256, 0)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode())
    return path


def qwen(path: str):
    "The other way: qwen_vl_utils' own loader, with its decord reader."
    os.environ["FORCE_QWENVL_VIDEO_READER"] = "decord"
    from qwen_vl_utils import fetch_video

    return fetch_video(dict(video=path, nframes=FRAMES, max_pixels=PIXELS, min_pixels=28 * 28))


def ours(path: str, folder: str, backend: str = "pyav"):
    "Frames and their seconds, through a new cache object, as in a new process; `folder` may hold frames already."
    from vtg_r1.video import reader as video
    from vtg_r1.video.cache import FrameCache

    video._facts_in_process.cache_clear()
    return video.read_frames(path, FRAMES, PIXELS, cache=FrameCache(folder), backend=backend, limits=None)


def cold(path: str, backend: str = "pyav"):
    return ours(path, tempfile.mkdtemp(), backend)


def unchecked(path: str):
    "What an earlier reader did: decord's times, and the pictures that decord gives for its indices, without any check."
    from vtg_r1.video import decoders, reader

    clock = decoders.decord_unchecked(Path(path), np.array([0]), 28, 28)[1]
    info = reader.probe(path)  # known already
    return decoders.decord_unchecked(Path(path), reader.pick_frames(clock, FRAMES), *reader.fit_size(info.width, info.height, PIXELS))


def resampling(path: str) -> tuple[float, float, float, float]:
    "How far our pixels are from torchvision's antialiased bicubic and from its bilinear, on the same decoded frames and size: mean difference (levels of 256) and PSNR (dB) of each."
    import torch
    from torchvision.transforms.functional import InterpolationMode, resize

    from vtg_r1.video import decoders
    from vtg_r1.video import reader as video

    info = video.probe(path)
    picked = video.pick_frames(info.times, 16).tolist()
    small = video.read_frames(path, 16, PIXELS)[0].astype(float)
    facts = decoders.read_facts(Path(path))
    full = torch.tensor(decoders.BACKENDS["pyav"].frames(Path(path), facts, np.array(picked), info.width, info.height)).permute(0, 3, 1, 2)
    out = []
    for mode in (InterpolationMode.BICUBIC, InterpolationMode.BILINEAR):
        difference = small - resize(full, small.shape[1:3], mode, antialias=True).permute(0, 2, 3, 1).numpy()
        out += [float(np.abs(difference).mean()), float(10 * np.log10(255**2 / (difference**2).mean()))]
    return tuple(out)


def frames(args) -> list[dict]:
    "Loading 64 frames: cold (decode, resize, check, put into the cache), warm (from the cache), and what the checks cost, beside qwen_vl_utils."
    home, rows = Path(tempfile.mkdtemp()), []
    clips = sorted(p for p in Path(args.videos).iterdir() if p.suffix in (".mp4", ".mkv", ".webm")) if args.videos else []
    if not clips:
        print("frames: no real clips (give --videos, or set VTG_R1_SHARED): the synthetic one alone", flush=True)
    for path in [*map(str, clips), str(home / "synthetic_480p_120s.mp4")]:
        if path.startswith(str(home)):
            synthetic(Path(path))
        kept = tempfile.mkdtemp()
        same = ours(path, kept), cold(path)
        assert all(np.array_equal(a, b) for a, b in zip(*same))
        time.sleep(max(0.0, 2.1 - (time.time() - os.stat(path).st_ctime)))  # the cache notes the digest of a file only when the file is 2 s old
        ours(path, kept)
        variants = {
            "qwen_vl_utils": lambda p=path: qwen(p),
            "cold": lambda p=path: cold(p),
            "warm": lambda p=path, k=kept: ours(p, k),
            "decord": lambda p=path: cold(p, "decord"),
            "unchecked": lambda p=path: unchecked(p),
        }
        times = {v: [] for v in variants}
        for _ in range(args.repeats):
            for v, work in variants.items():
                times[v].append(clock(work, args.now))
        row = dict(
            bench="frames", video=Path(path).name, **{v: median(t) for v, t in times.items()}, times=times, synthetic=path.startswith(str(home))
        )
        row |= dict(zip(("bicubic_mean", "bicubic_psnr", "bilinear_mean", "bilinear_psnr"), resampling(path)))
        rows.append(row)
        print(
            f"frames  {row['video'][:28]:28} qwen_vl_utils {row['qwen_vl_utils']:6.3f} s  cold {row['cold']:6.3f} s {row['qwen_vl_utils'] / row['cold']:5.1f} ×  warm {1000 * row['warm']:6.1f} ms {row['qwen_vl_utils'] / row['warm']:6.1f} ×"
            f"  decord {row['decord']:6.3f} s, unchecked {row['unchecked']:6.3f} s"
            f"   from bicubic {row['bicubic_mean']:.2f} levels, {row['bicubic_psnr']:.1f} dB; from bilinear {row['bilinear_mean']:.2f}, {row['bilinear_psnr']:.1f} dB",
            flush=True,
        )
    heads = [r for r in rows if not r["synthetic"]] or rows
    ratio = {v: exp(mean(log(r["qwen_vl_utils"] / r[v]) for r in heads)) for v in ("cold", "warm", "decord", "unchecked")}
    largest = max(heads, key=lambda r: r["qwen_vl_utils"])["video"]
    path = next((str(p) for p in clips if p.name == largest), str(home / largest))
    print(f"frames  peak memory on {largest}: " + ", ".join(f"{v} {peak('frames', v, path, kept):.2f} GB" for v in ("qwen_vl_utils", "cold")))
    print(f"frames  with decord: {ratio['decord']:.2f} × cold where it is trusted, else PyAV after it; {ratio['unchecked']:.2f} × without any check")
    print(f"frames: {ratio['cold']:.2f} × cold, {ratio['warm']:.1f} × warm (geometric mean of {len(heads)} clips)", flush=True)
    return rows


# ---- evaluation ----


def bench_model():
    "The training benchmarks' model; it never ends an answer early."
    import shared_prefix

    model, processor = shared_prefix.bench_model()
    model.generation_config.eos_token_id = None
    return model.eval(), processor


def questions(n: int, frames: int, seed: int = 0) -> list[dict]:
    "Queries on one video of 448×224 noise, 128 tokens a frame, frames first."
    from PIL import Image

    noise = np.random.default_rng(seed)
    video = [Image.fromarray(noise.integers(0, 256, (224, 448, 3), np.uint8)) for _ in range(frames)]
    blocks = [block for t in range(frames) for block in ({"type": "text", "text": str(t)}, {"type": "image"})]
    asked = ["the red circle", "a blue square appears", "the green cross", "when the white triangle is gone", "the yellow circle at the top"]
    return [dict(prompt=[{"role": "user", "content": [*blocks, {"type": "text", "text": asked[i % 5]}]}], images=list(video)) for i in range(n)]


def answer(variant: str, model, processor, shown: list[dict], c: int) -> list[str]:
    from vtg_r1.models.generation import generate

    if variant == "one by one":
        return [text for s in shown for text in generate(model, processor, [s], c, share_prefix=False)]
    return generate(model, processor, shown, c, share_prefix=variant == "shared prefix")


VARIANTS = ("one by one", "batched", "shared prefix")


def evaluation(args) -> list[dict]:
    "Greedy answers to several queries on one video."
    model, processor = bench_model()
    rows, head = [], None
    for n, pictures, c in ((5, 15, 64), (5, 15, 16), (5, 31, 64), (2, 15, 64)):
        shown, times, said = questions(n, pictures), {v: [] for v in VARIANTS}, {}
        for _ in range(args.repeats):
            for v in VARIANTS:
                times[v].append(clock(lambda: said.update({v: answer(v, model, processor, shown, c)}), args.now))
        assert said["one by one"] == said["batched"] == said["shared prefix"], "the variants answer differently"
        p = processor(text=[processor.apply_chat_template(shown[0]["prompt"], add_generation_prompt=True)], images=[shown[0]["images"]])["input_ids"][
            0
        ]
        seconds = {v: median(t) for v, t in times.items()}
        for v in VARIANTS:
            rows.append(
                dict(
                    bench="evaluation",
                    P=len(p),
                    C=c,
                    queries=n,
                    variant=v,
                    seconds=seconds[v],
                    times=times[v],
                    peak_gb=peak("evaluation", v, n, pictures, c),
                )
            )
            print(
                f"evaluation  P {len(p):5} C {c:3}  {n} queries  {v:10} {seconds[v]:7.2f} s ({min(times[v]):.2f}–{max(times[v]):.2f})  {rows[-1]['peak_gb']:5.2f} GB  {seconds[v] / seconds['shared prefix']:5.2f} × the time",
                flush=True,
            )
        head = head or [seconds[v] / seconds["shared prefix"] for v in VARIANTS]
    print(f"evaluation: {head[0]:.2f} × (one by one), {head[1]:.2f} × (batched)", flush=True)
    return rows


BENCHES = {"frames": frames, "evaluation": evaluation}


def child(kind: str, variant: str, *case):
    if kind == "evaluation":
        n, pictures, c = case
        answer(variant, *bench_model(), questions(n, pictures), c)
    else:
        {"qwen_vl_utils": qwen, "cold": cold}[variant](case[0])
    print(
        int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 2**20
    )  # not ru_maxrss, which a child inherits from the parent that started it


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(BENCHES)}; all by default")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cpu", action="store_true", help="processor time instead of wall time, for a machine that others use too")
    shared = os.environ.get("VTG_R1_SHARED")
    parser.add_argument("--videos", default=f"{shared}/data/videos" if shared else "", help="folder of real clips")
    parser.add_argument("--save", help="folder for a JSON a benchmark")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.now = time.process_time if args.cpu else time.perf_counter
    import torch

    torch.set_num_threads(args.threads)
    if args.child:
        return child(*json.loads(args.child))
    if strange := set(args.names) - set(BENCHES):
        parser.error(f"no benchmark {', '.join(strange)}; there are {', '.join(BENCHES)}")
    for name in args.names or BENCHES:
        rows = BENCHES[name](args)
        if args.save:
            Path(args.save).mkdir(parents=True, exist_ok=True)
            Path(args.save, f"{name}.json").write_text(
                json.dumps(
                    dict(threads=args.threads, repeats=args.repeats, clock="processor" if args.cpu else "wall", torch=torch.__version__, rows=rows),
                    indent=1,
                )
                + "\n"
            )


if __name__ == "__main__":
    main()
