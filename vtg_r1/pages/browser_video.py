"""Copies of videos that a browser can play. A child process with a time limit reads them: a decoder that crashes on a file takes nothing with it."""

import hashlib
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

from ..video.decoders import VideoError, in_one_thread, open_container, picture_stream

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
    "The file itself if browsers play it, else an H.264 copy with the same frame times; raises `VideoError`."
    folder.mkdir(exist_ok=True)
    copy = folder / f"{digest(path)}.mp4"
    if copy.exists():
        copy.touch()  # used now, so it is kept longest
        return str(copy)
    command = [sys.executable, "-P", "-m", "vtg_r1.pages.browser_video", path, str(copy)]
    try:
        child = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        raise VideoError(path, "took longer than two minutes to be made playable") from None
    others = sorted((file for file in folder.glob("*.mp4") if file != copy), key=_last_used)
    for old in others[: 1 - MOST_COPIES]:
        old.unlink(missing_ok=True)
    if child.returncode:
        lines = child.stderr.strip().splitlines() or ["the decoder crashed"]
        raise VideoError(path, f"cannot be made playable ({lines[-1][:200]})")
    return str(copy) if copy.exists() else path


def playable(container: Any) -> bool:  # of PyAV
    "Whether browsers play an open container as it is."
    codec = picture_stream(container, Path(container.name)).codec_context
    return any(kind in container.format.name for kind in PLAYED.get(codec.name, ())) and codec.pix_fmt in ("yuv420p", "yuvj420p")


def transcode(
    source: Any,  # an open container of PyAV
    part: str,  # the file to write
) -> None:
    "Write the pictures of an open container as H.264 of at most 480 lines, each frame at its own time."
    import av

    with av.open(part, "w", format="mp4") as out:
        video = picture_stream(source, Path(source.name))
        scale = min(1.0, 480 / video.height)
        stream = out.add_stream("libx264", rate=video.average_rate or 25, options={"preset": "ultrafast", "crf": "26"})
        stream.width, stream.height = (2 * max(1, round(side * scale / 2)) for side in (video.width, video.height))
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = video.time_base or Fraction(1, 90_000)
        for frame in source.decode(video):
            out.mux(stream.encode(frame.reformat(stream.width, stream.height, "yuv420p", **in_one_thread())))
        out.mux(stream.encode())


def main(path: str, copy: str) -> None:
    "In the child: write a copy if one is needed."
    with open_container(Path(path)) as source:
        picture_stream(source, Path(path))
        if not playable(source):
            part = f"{copy}.{os.getpid()}.part"  # two requests may want the same copy
            transcode(source, part)
            os.replace(part, copy)


if __name__ == "__main__":
    main(*sys.argv[1:])
