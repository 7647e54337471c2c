"""`make fuzz`: hostile videos, annotation files and responses. Each part runs in a child process that this one watches. The last line is `tried N survived N crashed N hung N lost N`.

PYTHONPATH=tests python -m fuzz [videos|annotations|responses|lines …] [--few]
"""

import argparse
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

PARTS = {"videos": 540, "lines": 150, "annotations": 60, "responses": 190}  # seconds after which a part begins nothing new
QUIET = 180  # seconds without a line after which a part counts as hung: a file may take 10 s per backend, to read and to probe, and each twice
GIGABYTES = 4.0  # 10⁹ bytes of address space for the process of a part: a hostile file must not make it grow
BAD = ("crashed", "hung", "lost")


def real_clips() -> list[Path]:
    "Two small clips of the shared folder, one of them Matroska, where it is there."
    videos = Path(os.environ.get("VTG_R1_SHARED", "/nowhere")) / "data/videos"
    return [p for name in ("playing_guitar.mp4", "flipping_a_pancake.mkv") if (p := videos / name).is_file()]


def videos(folder: Path, few: bool) -> Iterator[tuple]:
    from .videos import examine

    yield from examine(folder, [] if few else real_clips(), few)


def annotations(folder: Path, few: bool) -> Iterator[tuple]:
    "Every reader on mutated excerpts."
    from .annotations import cases, examine, examine_samples

    for i, (name, file, content) in enumerate(cases(5 if few else 60)):
        path = folder / file
        path.write_bytes(content)
        for reader, look in ((name, lambda n=name, p=path: examine(n, p)), ("samples", lambda p=path: examine_samples(p))):
            try:
                yield f"{file} {i}", reader, look(), ""
            except AssertionError as e:
                yield f"{file} {i}", reader, "lost" if "lost" in str(e) else "crashed", str(e)
            except Exception as e:  # any other exception is a fault
                yield f"{file} {i}", reader, "crashed", f"{type(e).__name__}: {e} {traceback.format_exc(limit=-1)[-300:]}"


def lines(folder: Path, few: bool) -> Iterator[tuple]:
    "Very long lines and very many records."
    from .annotations import examine, examine_samples

    size = 10**6 if few else 10**8
    shapes = {
        "one line": b"x" * max(size, 2 * 10**7),
        "one string": b'"' + b"x" * size + b'"',
        "open brackets": b"[" * size,
        "empty lists": b"[" + b"[]," * (size // 3) + b"[]]",
        "numbers": b"1\n" * (size // 20),
        "blank lines": b"\n" * size,
        "long query": b'{"qid": "' + b"q" * size + b'"}\n',
        "spaces": b" " * size,
        "hashes": b"v 1 2" + b"#" * size,
        "commas": b"video,query\n" + b"," * (size // 10),
        "quote": b'a,b\n"' + b"x" * size,
    }
    for shape, content in shapes.items():
        (folder / "whole").write_bytes(content)
        for name, file in (("jsonl", "a.jsonl"), ("activitynet", "a.json"), ("charades_sta", "a.txt"), ("csv", "a.csv"), ("samples", "s.jsonl")):
            if not (folder / file).exists():
                os.link(folder / "whole", folder / file)  # the same bytes, rewritten for every shape
            try:
                yield (
                    shape,
                    name,
                    examine_samples(folder / file) if name == "samples" else examine(name, folder / file, 60),
                    f"{len(content) / 1e6:.0f} MB",
                )
            except Exception as e:  # any exception is a fault, MemoryError too
                yield shape, name, "crashed", f"{type(e).__name__}: {str(e)[:300]}"


def responses(folder: Path, few: bool) -> Iterator[tuple]:
    "A hundred thousand completions (5,000 with `few`), and long ones. One that takes more than a millisecond to read counts as hung."
    from vtg_r1.core.prompts import READINGS

    from .responses import fuzzed, milliseconds, paid, read, timed

    batch, rng = [], random.Random(1)
    for i, response in enumerate(fuzzed(5000 if few else 100_000), 1):
        slow = max(milliseconds(lambda r=response, reading=reading: read(r, reading)) for reading in READINGS)
        yield f"response {i}", "parser", "hung" if slow > 1 else "read", f"{slow:.2f} ms" if slow > 1 else ""
        batch.append(response)
        if len(batch) == 250:
            try:
                paid(batch, rng)
            except Exception as e:  # any exception is a fault
                yield f"responses to {i}", "rewards", "crashed", f"{type(e).__name__}: {e}"
            batch = []
    for name, slow, problem in timed():
        yield name, "long", "crashed" if problem else "hung" if slow > 1 else "read", problem or f"{slow:.2f} ms"


def work(part: str, few: bool, folder: str) -> None:
    "Print a part's outcomes, one JSON line each, within limits of memory and time; an alarm ends the process after `QUIET` seconds without a line."
    resource.setrlimit(resource.RLIMIT_AS, (int(GIGABYTES * 1e9),) * 2)
    start, end = time.monotonic(), "done"
    signal.alarm(QUIET)
    for row in globals()[part](Path(folder), few):
        print(json.dumps(row), flush=True)
        signal.alarm(QUIET)
        if time.monotonic() - start > PARTS[part]:
            end = "out of time"
            break
    print(json.dumps(end), flush=True)


def watched(part: str, few: bool) -> Iterator[tuple]:
    "The outcomes of a part's process, and one more row if it crashed or hung."
    before, row = "the start", None
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(
            [sys.executable, "-m", "fuzz", "--part", part, "--folder", folder, *(["--few"] if few else [])], stdout=subprocess.PIPE, text=True
        ) as process,
    ):
        for line in process.stdout:
            if not isinstance(row := json.loads(line), str):
                before = row[0]
                yield tuple(row)
    if row == "out of time":
        print(f"{part}: began nothing new after {PARTS[part]} s; the last was {before}")
    elif row != "done":
        yield (
            f"after {before}",
            part,
            "hung" if process.returncode == -signal.SIGALRM else "crashed",
            f"the process of this part ended with {process.returncode}",
        )


def table(rows: list[tuple], part: str) -> None:
    "Print all rows of `videos` and `lines`, the bad rows of the other parts, and the counts of every outcome."
    whole = part in ("videos", "lines")
    for name, who, kind, words in rows:
        if whole or kind in BAD:
            print(f"{name[:44]:44s}  {who:17s}  {kind:12s}  {' '.join(words.split())[:110]}")
    for who in dict.fromkeys(r[1] for r in rows):
        print(f"{part}: {who:17s} " + ", ".join(f"{n:,} {kind}" for kind, n in Counter(r[2] for r in rows if r[1] == who).most_common()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=", ".join(PARTS))
    parser.add_argument("--few", action="store_true", help="a small selection, as `make test` runs it")
    for inner in ("--part", "--folder"):
        parser.add_argument(inner, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        return work(args.part, args.few, args.folder) or 0
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    count = Counter()
    for part in args.parts or PARTS:
        rows = list(watched(part, args.few))
        table(rows, part)
        count.update(r[2] for r in rows if r[2] != "not made")
    print(
        "tried {} survived {} crashed {} hung {} lost {}".format(count.total(), count.total() - sum(count[b] for b in BAD), *(count[b] for b in BAD))
    )
    return int(any(count[b] for b in BAD))


if __name__ == "__main__":
    sys.exit(main())
