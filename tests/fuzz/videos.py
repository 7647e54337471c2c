"""Reads every variant of `make_videos` with every backend, as training does. Each must give frames or a `VideoError` within the limits, and this process must survive."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vtg_r1.video.decoders import VideoError, installed
from vtg_r1.video.reader import probe, read_frames
from vtg_r1.video.sandbox import ResourceLimits

from .make_videos import make_variants

LIMITS = ResourceLimits(seconds=10, gigabytes=3)
OWN = ("longer than", "made the decoder", "more memory", "its decoder was", "its decoder hangs")  # words of the sandbox, which a decoder does not use


def outcome(path: Path, backend: str) -> tuple[str, str, np.ndarray | None]:
    "(kind, message, times) of one file and one backend; the kind is frames, refused, stopped, crashed or hung."
    start = time.monotonic()
    try:
        frames, times = read_frames(path, 8, 4 * 784, backend=backend, limits=LIMITS)
        info = probe(path, backend, LIMITS)
        assert frames.dtype == np.uint8 and frames.ndim == 4 and len(frames) == len(times) > 0 and frames[0].size <= 3 * 4 * 784, frames.shape
        assert np.isfinite(times).all() and (np.diff(times) >= 0).all() and times[0] >= 0 and info.duration >= times[-1], times
    except VideoError as e:
        kind = "crashed" if "unexpected" in e.reason else "stopped" if any(say in e.reason for say in OWN) else "refused"
        allowed = 2 * len(installed()) * LIMITS.seconds + 10  # the sandbox tries twice when the machine stalls, and the other backends are tried too
        return ("hung" if time.monotonic() - start > allowed else kind), e.reason, None
    except Exception as e:  # any other exception is a fault
        return "crashed", f"{type(e).__name__}: {e}", None
    return "frames", f"{len(frames)} of {len(info)} frames, {info.width}x{info.height}, {times[0]:.2f} to {times[-1]:.2f} s", times


def examine(folder: Path, real: list[Path] = (), few: bool = False) -> Iterator[tuple[str, str, str, str]]:
    "(variant, backend, kind, message). A good file is lost if no backend reads it, or if two backends give it different times."
    variants, unmade = make_variants(folder, real, few)
    for name, why in unmade:
        yield name, "-", "not made", why
    for name, path, good in variants:
        found = {}
        for backend in installed():
            found[backend] = outcome(path, backend)
            if not good:  # at once: whoever waits for a row then waits for one backend only
                yield name, backend, *found[backend][:2]
        if good:
            times = [t for _, _, t in found.values() if t is not None]
            agree = all(len(t) == len(times[0]) and np.abs(t - times[0]).max() < 5e-3 for t in times)
            for backend, (kind, words, _) in found.items():
                yield name, backend, kind if times and agree else "lost", words
