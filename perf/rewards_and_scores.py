"""Time to compute the rewards of 100,000 completions and the scores of 100,000 predictions on one core, beside a plain loop over pairs as in released evaluators, and TRL's own format reward.

OMP_NUM_THREADS=1 python perf/rewards_and_scores.py [N]
"""

import json
import random
import sys
import tempfile
import time
from pathlib import Path

from vtg_r1 import rewards
from vtg_r1.core.metrics import mean_ap, overlaps
from vtg_r1.core.stats import bootstrap_ci
from vtg_r1.data.official_benchmarks import load_benchmark, score
from vtg_r1.data.predictions import read_predictions

GOAL = 2.0  # seconds for 100,000


def clock(work, repeat: int = 3) -> float:
    "Best processor time of a few tries, seconds."
    times = []
    for _ in range(repeat):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def loop_overlaps(preds, gts):
    "IoU and IoP one pair at a time, as NExT-GQA's evaluator computes them."
    for (s, e), row in zip(preds, gts):
        for gs, ge in row:
            inter = max(0.0, min(e, ge) - max(s, gs))
            _ = inter / (max(e, ge) - min(s, gs)) if inter else 0.0, inter / (e - s) if e > s else 0.0


def report(title: str, rows: list[tuple[str, float]], n: int):
    print(f"\n{title}, n = {n:,}")
    for name, seconds in rows:
        print(f"  {name:44s} {seconds:7.2f} s {1e6 * seconds / n:8.2f} µs each {'' if seconds * 100_000 / n < GOAL else '  OVER THE GOAL'}")


def main(n: int):
    rng = random.Random(0)
    thought = "The scene opens on a kitchen. At 3 s a person enters; by 9 s the lamp is on and stays on. " * 4
    spans = [[[float(s := rng.randrange(20)), s + rng.uniform(1, 9)]] for _ in range(n)]
    texts = [f"<think>{thought}</think><time>[{rng.uniform(0, 15):.1f}, {rng.uniform(15, 30):.1f}]</time><answer>B</answer>" for _ in range(n)]
    columns = dict(spans=spans, duration=[30.0] * n, answer=["B"] * n, completion_ids=[[1] * 9] * n)
    names = [name for name in rewards.__all__ if name.endswith(("_reward", "_penalty"))]
    rows = [(name, clock(lambda f=getattr(rewards, name): f(texts, **columns))) for name in names]
    report("rewards", rows, n)
    from trl.rewards import think_format_reward

    chats = [[{"role": "assistant", "content": t}] for t in texts]
    peer = clock(lambda: think_format_reward(chats))
    print(f"  TRL's think_format_reward: {peer:.2f} s, {peer / dict(rows)['format_reward']:.2f}× the time of format_reward")

    preds = [[a, a + rng.uniform(0, 10)] for a in (rng.uniform(0, 20) for _ in range(n))]
    fast, slow = clock(lambda: overlaps(preds, spans)), clock(lambda: loop_overlaps(preds, spans))
    iou, _ = overlaps(preds, spans)
    report(
        "metrics",
        [
            ("IoU and IoP", fast),
            ("the same, pair by pair in a loop", slow),
            ("mAP, one prediction, one truth", clock(lambda: mean_ap([[p] for p in preds], spans))),
            ("bootstrap interval, 200 resamples", clock(lambda: bootstrap_ci(iou, resamples=200), 1)),
        ],
        n,
    )
    with tempfile.TemporaryDirectory() as folder:
        truth, said, texts_file = (Path(folder) / name for name in ("charades_sta_test.txt", "spans.jsonl", "responses.jsonl"))
        truth.write_text("".join(f"v{i} {row[0][0]} {row[0][1]}##someone sits.\n" for i, row in enumerate(spans)))
        said.write_text("".join(json.dumps({"qid": f"v{i}_{i}", "pred": [p]}) + "\n" for i, p in enumerate(preds)))
        texts_file.write_text("".join(json.dumps({"qid": f"v{i}_{i}", "response": t}) + "\n" for i, t in enumerate(texts)))
        samples, _ = load_benchmark("charades_sta", truth)
        report(
            "prediction file to metrics",
            [
                (f"read and score {kind}", clock(lambda f=file: score("charades_sta", samples, read_predictions(f, samples)), 1))
                for kind, file in (("spans", said), ("whole responses", texts_file))
            ],
            n,
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
