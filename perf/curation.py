"""Peak memory and seconds of curation at the paper's scale: 150K synthetic candidates of six sources, a pool of 56K. A second run is killed at random points and resumed.

    python perf/curation.py                # 56K, three kills, about three minutes on one core
    python perf/curation.py --pool 1400    # the same, small

No teacher is asked: simulated answers are written one by one to the log that `vtg_r1.data.teacher` keeps, as if they had just arrived. So a kill can fall into every part of the work.
Exit code 1 if any output byte differs from the uninterrupted run's, an answer was asked for twice, a kill came too late, or memory passed the limit.
"""

import argparse
import hashlib
import json
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from vtg_r1.core.samples import Sample, write_jsonl
from vtg_r1.curation import SETS, CurationParams, answered, collect, dataset_card, iter_samples, sample_pool, work_folder, write_sets
from vtg_r1.data.model_inputs import VideoInputConfig
from vtg_r1.data.teacher import Log, Teacher, request_key
from vtg_r1.data.toyworld import toy_teacher

PAPER = {
    "hirest": 4_000,
    "queryd": 33_000,
    "tacos": 10_000,
    "didemo": 33_000,
    "internvid_vtime": 54_000,
    "grounded_videollm": 16_000,
}  # candidates (paper, section 3)
POOL = 56_000  # 40,000 of the first five, 16,000 of the last
TEACHER, VIEW = Teacher("synthetic", "http://localhost/v1", key_env=""), VideoInputConfig("videos")


def make_sources(folder: Path, scale: float, seed: int) -> None:
    "Write one JSONL per source, `scale` times the paper's size."
    rng = random.Random(seed)

    def rows(name, n):
        for i in range(n):
            duration = rng.uniform(20, 300)
            start = rng.uniform(0, 0.8 * duration)
            yield Sample(
                f"{name}_{i}",
                f"{name}/{i // 3}.mp4",
                duration,
                f"event {i} of {name}, told in a sentence of a usual length",
                [[start, start + rng.uniform(2, 0.2 * duration)]],
                name,
            )

    for name, n in PAPER.items():
        write_jsonl(folder / f"{name}.jsonl", rows(name, max(1, round(n * scale))))


def story(sample) -> tuple[dict, dict]:
    "The query and the script of one sample, from which the simulated teacher makes its answer."
    span = [int(sample.spans[0][0]), int(sample.spans[0][1]) + 1]
    event = {"name": sample.query, "spans": [span]}
    return {"span": span, "named": [event]}, {"seconds": span[1] + 15, "step": 1, "events": [event]}


def curate(folder: Path, scale: float, seed: int) -> dict:
    "Run all steps of curation. What an earlier, killed process finished is not done again."
    out, entries = folder / "out", [{"path": folder / f"{name}.jsonl"} for name in PAPER]
    out.mkdir(exist_ok=True)
    instance = [name for name in PAPER if name != "grounded_videollm"]
    quotas = [
        {"task": "instance grounding", "sources": instance, "total": round(40_000 * scale)},
        {"task": "query grounding", "sources": ["grounded_videollm"], "total": round(16_000 * scale)},
    ]
    work = work_folder(folder / "work", entries, quotas=quotas, seed=seed)
    reports = collect(entries, work)
    sources = sample_pool(work, quotas, seed)
    with Log(folder / "answers.jsonl") as log:
        for s in iter_samples(work / "pool.jsonl"):
            if (key := request_key(s, TEACHER, VIEW)) not in log.answered:
                log.add(
                    {"key": key, "qid": s.qid, **toy_teacher(s, {s.qid: story(s)}, seed), "usage": {"prompt_tokens": 9000, "completion_tokens": 600}}
                )
    params = CurationParams(teacher="endpoint", seed=seed)
    annotated = answered(work / "pool.jsonl", params, endpoint=(TEACHER, VIEW, folder / "answers.jsonl"))
    counts = write_sets(annotated, work / "excluded.jsonl", out, params)
    (out / "README.md").write_text(dataset_card(out, sources, reports, {"seed": seed}), encoding="utf-8")
    return {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, **counts}


def size(folder: Path) -> int:
    "Bytes of everything below a folder."
    return sum(f.stat().st_size for f in list(folder.rglob("*")) if f.is_file())


def child(folder: Path, args, kill_at: float | None = None) -> tuple[float, dict | None]:
    "Run `curate` in its own process, and kill it once its folder holds `kill_at` bytes. Returns seconds, and the result or None if it was killed."
    began = time.monotonic()
    command = [sys.executable, __file__, "--child", str(folder), "--pool", str(args.pool), "--seed", str(args.seed)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while kill_at is not None and process.poll() is None:
            try:
                reached = size(folder) >= kill_at
            except FileNotFoundError:
                continue  # a file was renamed in between
            if reached:
                process.send_signal(signal.SIGKILL)
                process.communicate()
                return time.monotonic() - began, None
            time.sleep(0.005)
        out, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"curation failed with exit code {process.returncode}")
    return time.monotonic() - began, json.loads(out)


def digests(folder: Path) -> dict[str, str]:
    return {name: hashlib.sha256((folder / "out" / name).read_bytes()).hexdigest() for name in (*SETS, "README.md")}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pool", type=int, default=POOL, help="samples that the teacher is asked about")
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit-mb", type=float, default=1024, help="peak memory that is allowed")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    scale = args.pool / POOL
    if args.child:
        print(json.dumps(curate(args.child, scale, args.seed)))
        return 0
    with tempfile.TemporaryDirectory() as tmp:
        whole, broken = Path(tmp) / "whole", Path(tmp) / "broken"
        for folder in (whole, broken):
            folder.mkdir()
            make_sources(folder, scale, args.seed)
        before = size(whole)
        seconds, result = child(whole, args)
        rng, killed = random.Random(args.seed), []
        for share in ((i + rng.random()) / args.kills for i in range(args.kills)):  # one random point in each part of the work
            after, ended = child(broken, args, kill_at=before + share * (size(whole) - before))
            if ended is not None:
                break
            answers = (broken / "answers.jsonl").read_bytes().count(b"\n") if (broken / "answers.jsonl").exists() else 0
            killed.append({"share_of_bytes_written": round(share, 2), "after_s": round(after, 1), "answers_on_disk": answers})
        resumed_s, resumed = child(broken, args)
        keys = [json.loads(line)["key"] for line in (broken / "answers.jsonl").read_text().splitlines() if line.endswith("}")]
        found = {
            "candidates": sum(max(1, round(n * scale)) for n in PAPER.values()),
            "pool": len(keys),
            "uninterrupted_s": round(seconds, 1),
            "peak_mb": round(result["peak_mb"]),
            "kills": killed,
            "resumed_s": round(resumed_s, 1),
            "resumed_peak_mb": round(resumed["peak_mb"]),
            "identical": digests(whole) == digests(broken),
            "asked_twice": len(keys) - len(set(keys)),
            **{n: result[n] for n in SETS},
        }
    print(json.dumps(found, indent=1))
    return (
        0
        if found["identical"]
        and not found["asked_twice"]
        and len(killed) == args.kills
        and max(found["peak_mb"], found["resumed_peak_mb"]) < args.limit_mb
        else 1
    )


if __name__ == "__main__":
    sys.exit(main())
