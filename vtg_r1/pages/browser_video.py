"""What a browser can play. Files of strangers are looked at in a child process with a time limit: a decoder that crashes on one takes nothing with it."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from ..video.decoders import VideoError, open_container, picture_stream

PLAYED = {"h264": ("mp4", "mov"), "vp8": ("webm",), "vp9": ("webm", "mp4"), "av1": ("webm", "mp4")}  # codec → containers that browsers play


def digest(path: str | Path) -> str:
    "BLAKE2s of a file's content, by which a copy is known."
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "blake2s").hexdigest()


def _used(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # another request was faster
        return 0.0


def preview(path: str, folder: Path) -> str:
    "The file itself where browsers play it, else an H.264 copy in `folder`, with the same clock; raises `VideoError`."
    folder.mkdir(exist_ok=True)
    copy = folder / f"{digest(path)}.mp4"
    if copy.exists():
        return str(copy)
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "vtg_r1.pages.browser_video", path, str(copy)], check=False, capture_output=True, text=True, timeout=120
        )
    except subprocess.TimeoutExpired:
        raise VideoError(path, "took longer than two minutes to be made playable") from None
    for old in sorted((f for f in folder.glob("*.mp4") if f != copy), key=_used)[:-19]:  # copies are quickly made again
        old.unlink(missing_ok=True)
    if done.returncode:
        raise VideoError(path, f"cannot be made playable ({(done.stderr.strip().splitlines() or ['the decoder crashed'])[-1][:200]})")
    return str(copy) if copy.exists() else path


def playable(container) -> bool:
    "Whether browsers play an open container as it is."
    codec = container.streams.best("video").codec_context
    return any(kind in container.format.name for kind in PLAYED.get(codec.name, ())) and codec.pix_fmt in ("yuv420p", "yuvj420p")


def transcode(source, part: str) -> None:
    "Write the picture of an open container as H.264 of at most 480 lines, every frame at its own time."
    import av

    with av.open(part, "w", format="mp4") as out:
        seen = source.streams.best("video")
        scale = min(1.0, 480 / seen.height)
        stream = out.add_stream("libx264", rate=seen.average_rate or 25, options={"preset": "ultrafast", "crf": "26"})
        stream.width, stream.height = (2 * max(1, round(side * scale / 2)) for side in (seen.width, seen.height))
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = seen.time_base
        for frame in source.decode(seen):
            out.mux(stream.encode(frame.reformat(stream.width, stream.height, "yuv420p")))
        out.mux(stream.encode())


def main(path: str, copy: str) -> None:
    "In the child: a copy where one is needed."
    with open_container(Path(path)) as source:
        picture_stream(source, Path(path))
        if not playable(source):
            part = f"{copy}.{os.getpid()}.part"  # two requests may want the same copy
            transcode(source, part)
            os.replace(part, copy)


if __name__ == "__main__":
    main(*sys.argv[1:])
