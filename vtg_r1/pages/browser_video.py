"""Copies of videos that a browser can play. A child process with a time limit reads them: a decoder that crashes on a file takes nothing with it."""

import hashlib
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any
from uuid import uuid4

from ..video.cut import picture_packets
from ..video.decoders import Facts, MissingPicture, VideoError, open_container, picture_stream, read_facts

PLAYED = {"h264": ("mp4", "mov"), "vp8": ("webm",), "vp9": ("webm", "mp4"), "av1": ("webm", "mp4")}  # codec → containers that browsers play
MOST_COPIES = 20


def digest(path: str | Path) -> str:
    "BLAKE2s of a file's content, by which a copy is known."
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "blake2s").hexdigest()


def _last_used(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # another request has removed it
        return 0.0


def preview(
    path: str,  # a video
    folder: Path,  # for copies; it keeps the latest ones
) -> str:
    "The file itself if browsers play it, else an H.264 copy with the frame times of the reader; raises `VideoError`."
    folder.mkdir(exist_ok=True)
    copy = folder / f"{digest(path)}.mp4"
    if copy.exists():
        copy.touch()  # used now, so it is kept longest
        return str(copy)
    part = folder / f"{copy.name}.{uuid4().hex}.part"  # of its own: two requests may want the same copy
    command = [sys.executable, "-P", "-m", "vtg_r1.pages.browser_video", path, str(copy), str(part)]
    try:
        child = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        raise VideoError(path, "took longer than two minutes to be made playable") from None
    finally:
        part.unlink(missing_ok=True)  # of a child that was ended or crashed
    others = sorted((file for file in folder.glob("*.mp4") if file != copy), key=_last_used)
    for old in others[: 1 - MOST_COPIES]:
        old.unlink(missing_ok=True)
    if child.returncode:
        lines = child.stderr.strip().splitlines() or ["the decoder crashed"]
        raise VideoError(path, f"cannot be made playable ({lines[-1][:200]})")
    return str(copy) if copy.exists() else path


def playable(container: Any) -> bool:  # of PyAV
    "Whether browsers play an open container as it is."
    codec, kinds = picture_stream(container, Path(container.name)).codec_context, container.format.name
    if kinds == "matroska,webm":  # one name for both; the head of a WebM file says so
        with open(container.name, "rb") as f:
            kinds = "webm" if b"webm" in f.read(64) else "matroska"
    return any(kind in kinds for kind in PLAYED.get(codec.name, ())) and codec.pix_fmt in ("yuv420p", "yuvj420p")


def transcode(
    source: Any,  # an open container of PyAV
    part: str,  # the file to write
) -> None:
    "Write the pictures of an open container as H.264 of at most 480 lines: upright, and each at its second on the clock of the reader."
    video = Path(source.name)
    rate = picture_stream(source, video).average_rate or 25
    try:
        _write(video, read_facts(video), part, rate)
    except MissingPicture:
        _write(video, read_facts(video, by_decoding=True), part, rate)


def _write(video: Path, facts: Facts, part: str, rate: Any) -> None:
    import av

    with av.open(part, "w", format="mp4") as out:
        scale = min(1.0, 480 / facts.height)
        stream = out.add_stream("libx264", rate=rate, options={"preset": "ultrafast", "crf": "26"})
        stream.width, stream.height = (2 * max(1, round(side * scale / 2)) for side in (facts.width, facts.height))
        stream.pix_fmt, stream.codec_context.time_base = "yuv420p", Fraction(1, 90_000)
        for packet in picture_packets(video, facts, stream, 0.0, facts.duration):
            out.mux(packet)


def main(path: str, copy: str, part: str) -> None:
    "In the child: write a copy if one is needed."
    with open_container(Path(path)) as source:
        if not playable(source):
            transcode(source, part)
            os.replace(part, copy)


if __name__ == "__main__":
    main(*sys.argv[1:])
