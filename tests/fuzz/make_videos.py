"""At least 200 broken, odd or hostile video files, made from toy clips and, where they are there, real ones. Every name says what is wrong."""

import os
import struct
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

ATOMS = "ftyp moov mvhd trak tkhd edts elst mdia mdhd hdlr minf vmhd dinf dref stbl stsd avc1 avcC stts stss ctts stsc stsz stco mdat udta".split()  # noqa: SIM905
ENCODERS = [  # name, suffix, encoder, pixel format, options: undamaged files
    ("h264", "mp4", "libx264", "yuv420p", {}),
    ("h264 B-frames, open GOP", "mp4", "libx264", "yuv420p", {"x264-params": "bframes=4:b-pyramid=normal:open-gop=1:keyint=8"}),
    ("h264 interlaced", "mp4", "libx264", "yuv420p", {"x264-params": "interlaced=1"}),
    ("h264 4:4:4", "mp4", "libx264", "yuv444p", {}),
    ("h264 10-bit", "mp4", "libx264", "yuv420p10le", {}),
    ("h264 grey", "mp4", "libx264", "gray", {}),
    ("h264 transport stream", "ts", "libx264", "yuv420p", {}),
    ("h264 bare stream", "h264", "libx264", "yuv420p", {}),
    ("h264 in flv", "flv", "libx264", "yuv420p", {}),
    ("h264 in avi", "avi", "libx264", "yuv420p", {"x264-params": "bframes=0"}),
    ("hevc", "mp4", "libx265", "yuv420p", {"x265-params": "log-level=none:pools=1:frame-threads=1"}),
    ("hevc 10-bit", "mp4", "libx265", "yuv420p10le", {"x265-params": "log-level=none:pools=1:frame-threads=1"}),
    ("vp8", "webm", "libvpx", "yuv420p", {}),
    ("vp9", "webm", "libvpx-vp9", "yuv420p", {}),
    ("vp9 10-bit", "webm", "libvpx-vp9", "yuv420p10le", {}),
    ("vp9 in mp4", "mp4", "libvpx-vp9", "yuv420p", {}),
    ("av1", "mp4", "libsvtav1", "yuv420p", {"preset": "12"}),
    ("av1 10-bit", "webm", "libsvtav1", "yuv420p10le", {"preset": "12"}),
    ("gif", "gif", "gif", "rgb8", {}),
    ("apng", "apng", "apng", "rgb24", {}),
    ("mpeg4", "mp4", "mpeg4", "yuv420p", {}),
    ("mpeg2", "mpg", "mpeg2video", "yuv420p", {}),
    ("mjpeg", "avi", "mjpeg", "yuvj420p", {}),
    ("wmv", "asf", "wmv2", "yuv420p", {}),
    ("theora", "ogv", "libtheora", "yuv420p", {}),
    ("ffv1", "mkv", "ffv1", "yuv420p", {}),
    ("prores", "mov", "prores", "yuv422p10le", {}),
    ("raw pictures", "avi", "rawvideo", "yuv420p", {}),
]
SIZES = [(1, 1), (2, 2), (1, 64), (63, 47), (16, 4096), (4096, 16), (7680, 4320)]


def pictures(n: int, width: int, height: int) -> Iterator[np.ndarray]:
    "A moving gradient, `(height, width, 3)` uint8."
    y, x = np.mgrid[:height, :width]
    for i in range(n):
        yield np.stack([(x * 3 + 9 * i) % 256, (y * 3 + 5 * i) % 256, (x + y + 20 * i) % 256], -1).astype(np.uint8)


def encode(
    path: Path, codec="libx264", pix_fmt="yuv420p", options=None, n=24, size=(96, 64), milliseconds=None, sound=False, picture=True, **mux
) -> Path:
    "A video of `n` frames, 100 ms apart or at the times given; with `sound`, a silent track that begins at 0."
    with av.open(str(path), "w", options=mux) as out:
        if picture:
            stream = out.add_stream(codec, rate=10, options=options or {})
            stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
            stream.codec_context.thread_count = 1
            if milliseconds is not None:
                stream.codec_context.time_base = Fraction(1, 1000)
        if sound:
            _silence(out)
        for i, picture_ in enumerate(pictures(n if picture else 0, *size)):
            frame = av.VideoFrame.from_ndarray(picture_, format="rgb24")
            frame.pts, frame.time_base = (i, Fraction(1, 10)) if milliseconds is None else (milliseconds[i], Fraction(1, 1000))
            out.mux(stream.encode(frame))
        if picture:
            out.mux(stream.encode())
    return path


def _silence(out) -> None:
    stream = out.add_stream("aac", rate=16000)
    for k in range(20):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 16000, 1024 * k, Fraction(1, 16000)
        out.mux(stream.encode(frame))
    out.mux(stream.encode())


def atom_at(data: bytes, kind: str, nth: int = 0) -> int | None:
    "Position of the four letters of the `nth` atom of a kind, None without one; the four bytes before it are its size."
    at = -1
    for _ in range(nth + 1):
        if (at := data.find(kind.encode(), at + 1)) < 4:
            return None
    return at


def patched(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def broken_atoms(data: bytes) -> Iterator[tuple[str, bytes]]:
    "Each atom filled with zeros or ones, renamed, and with a false size."
    for kind in ATOMS:
        if (at := atom_at(data, kind)) is None:
            continue
        size = struct.unpack(">I", data[at - 4 : at])[0]
        inside = min(max(0, size - 8), len(data) - at - 4)
        yield f"{kind} zeroed", patched(data, at + 4, bytes(inside))
        yield f"{kind} all ones", patched(data, at + 4, b"\xff" * inside)
        yield f"{kind} renamed", patched(data, at, b"free")
        for name, lie in (("0", 0), ("7", 7), ("4 GB", 0xFFFFFFFF)):
            yield f"{kind} says size {name}", patched(data, at - 4, struct.pack(">I", lie))


def lying_fields(data: bytes) -> Iterator[tuple[str, bytes]]:
    "False values in single fields of an mp4. Offsets count from the four letters of the atom."
    fields = [
        ("stsz", 8, ">I", "sample size", (1, 2**31)),
        ("stsz", 12, ">I", "count", (0, 2**24, 2**32 - 1)),
        ("stts", 8, ">I", "entries", (2**28, 2**32 - 1)),
        ("stts", 12, ">I", "count", (2**31, 2**32 - 1)),
        ("stts", 16, ">I", "delta", (0, 2**31 - 1, 2**32 - 1)),
        ("stsc", 16, ">I", "samples a chunk", (0, 2**31)),
        ("stco", 12, ">I", "offset", (0, 2**32 - 1)),
        ("mdhd", 16, ">I", "timescale", (0, 1, 2**32 - 1)),
        ("mdhd", 20, ">I", "duration", (0, 2**32 - 1)),
        ("mvhd", 16, ">I", "timescale", (0, 1)),
        ("mvhd", 20, ">I", "duration", (0, 2**32 - 1)),
        ("elst", 16, ">i", "start", (-1, -(2**31), 2**31 - 1)),
        ("avc1", 28, ">I", "size", (0, 0x00010001, 0x40004000, 0xFFFFFFFF)),
        ("tkhd", 80, ">Q", "size", (0, 2**64 - 1)),
    ]
    for kind, offset, form, name, values in fields:
        if (at := atom_at(data, kind)) is None:
            continue
        for value in values:
            yield f"{kind} {name} {value:#x}", patched(data, at + offset, struct.pack(form, value))


def huge_picture(data: bytes) -> bytes:
    "The same mp4 with a header that declares 16384 × 16384 pixels; the pictures stay small."
    return patched(data, atom_at(data, "avc1") + 28, struct.pack(">HH", 16384, 16384))


def rotated(data: bytes, quarter: int) -> bytes:
    "The same mp4 with a header that asks players to rotate it by so many quarter turns."
    a, b, c, d = [(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)][quarter]
    return patched(data, atom_at(data, "tkhd") + 44, struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30))


def flipped(data: bytes, n: int, seed: int, start: float = 0.0) -> bytes:
    "`n` bytes replaced by noise, all behind the share `start` of the file."
    rng, out = np.random.default_rng(seed), bytearray(data)
    for at in rng.integers(int(start * len(data)), len(data), n):
        out[at] = int(rng.integers(256))
    return bytes(out)


def damaged(name: str, data: bytes) -> Iterator[tuple[str, bytes]]:
    "One file with the damage that bad storage, a broken download or a full disk causes."
    for tenth in range(10):
        yield f"{name} cut at {tenth}/10", data[: len(data) * tenth // 10]
    for n in (1, 10, 100, 1000):
        for seed in range(3):
            yield f"{name} {n} bytes flipped, {seed}", flipped(data, n, seed)
    for seed in range(2):
        yield f"{name} end flipped, {seed}", flipped(data, 300, seed, 0.6)
    middle = len(data) // 2
    yield f"{name} hole of zeros", patched(data, middle, bytes(len(data) // 5))
    yield f"{name} twice", data + data
    yield f"{name} shifted by 1", b"\0" + data
    yield f"{name} middle missing", data[:middle] + data[middle + len(data) // 10 :]


def impostors(folder: Path, good: bytes) -> Iterator[tuple[str, str, bytes]]:
    "(name, suffix, content) of files that are no video, and of playlists that point to other files or servers."
    secret = folder / "outside" / "secret.mp4"
    secret.parent.mkdir(exist_ok=True)
    secret.write_bytes(good)
    hls = "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{}\n#EXT-X-ENDLIST\n"
    for suffix in ("mp4", "m3u8"):
        yield f"playlist to a file, .{suffix}", suffix, hls.format(f"file://{secret}").encode()
        yield f"playlist to a server, .{suffix}", suffix, hls.format("http://127.0.0.1:9/x.ts").encode()
        yield f"ffconcat script, .{suffix}", suffix, f"ffconcat version 1.0\nfile {secret.name}\nfile '{secret}'\n".encode()
    yield "sdp session", "mp4", b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\na=rtpmap:96 H264/90000\n"
    yield (
        "dash manifest",
        "mp4",
        b"<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011'><Period><BaseURL>http://127.0.0.1:9/</BaseURL></Period></MPD>",
    )
    for name, content in (
        ("empty", b""),
        ("one byte", b"\0"),
        ("text", b"hello\n" * 100),
        ("html", b"<html><script>alert(1)</script></html>"),
        ("elf", b"\x7fELF" + bytes(5000)),
        ("zip", b"PK\x03\x04" + bytes(2000)),
        ("pickle", b"\x80\x04cos\nsystem\n(S'touch pwned'\ntR."),
        ("zeros", bytes(100_000)),
        ("ones", b"\xff" * 100_000),
        ("noise", np.random.default_rng(0).integers(0, 256, 100_000, np.uint8).tobytes()),
        ("subtitles", b"1\n00:00:00,000 --> 00:00:09,000\nhi\n"),
        ("half a header", good[:24]),
        ("nested atoms", b"".join(struct.pack(">I4s", 8 * (4000 - i), b"moov") for i in range(4000))),
    ):
        yield name, "mp4", content


def encoded(folder: Path, problems: list, few: bool) -> Iterator[tuple[str, Path, bool]]:
    "(name, file, whether it is good) of every codec that this build of PyAV can write, and of odd times and sizes; `problems` gets what it cannot write."

    def attempt(name: str, suffix: str, make: Callable[[Path], object], good: bool = True):
        path = folder / f"{name}.{suffix}".replace(" ", "_").replace("/", "-").replace(":", "")
        try:
            make(path)
        except (av.FFmpegError, ValueError, OSError) as e:
            return problems.append((name, f"cannot be written here: {type(e).__name__}: {e}"))
        return name, path, good

    jobs = [
        attempt(name, suffix, lambda p, c=codec, f=fmt, o=options: encode(p, c, f, o), name != "h264 bare stream")
        for name, suffix, codec, fmt, options in (ENCODERS[::9] if few else ENCODERS)
    ]
    for w, h in SIZES[:-1:2] if few else SIZES:
        jobs.append(
            attempt(
                f"{w}x{h}",
                "mp4",
                lambda p, s=(w, h): encode(p, "libx264", "yuv444p" if s[0] % 2 or s[1] % 2 else "yuv420p", {"preset": "ultrafast"}, 3, s),
            )
        )
    clocks = {
        "one frame": [0],
        "variable rate": [0, 40, 80, 900, 2000, 2040, 5000],
        "one frame an hour": [0, 3_600_000, 7_200_000],
        "thousand a second": list(range(200)),
        "starts at -1 s": [-1000, -500, 0, 500],
        "starts at 26 h": [93_600_000, 93_600_500, 93_601_000],
    }
    for name, ms in clocks.items():
        for suffix in ("mp4",) if few else ("mp4", "mkv"):
            jobs.append(
                attempt(
                    f"{name}, {suffix}",
                    suffix,
                    lambda p, ms=ms: encode(p, n=len(ms), milliseconds=ms, avoid_negative_ts="disabled"),
                    not name.startswith("starts at 26"),
                )
            )
    jobs.append(attempt("fragmented", "mp4", lambda p: encode(p, movflags="frag_keyframe+empty_moov")))
    jobs.append(attempt("no duration", "webm", lambda p: encode(p, "libvpx", live="1")))
    jobs.append(attempt("audio only", "mp4", lambda p: encode(p, picture=False, sound=True), False))
    jobs.append(attempt("audio only", "mkv", lambda p: encode(p, picture=False, sound=True), False))
    jobs.append(attempt("sound and picture", "mp4", lambda p: encode(p, sound=True)))
    jobs.append(attempt("zero frames", "mkv", lambda p: encode(p, n=0, sound=True), False))
    jobs.append(attempt("zero frames", "mp4", lambda p: encode(p, n=0, sound=True), False))
    yield from filter(None, jobs)


def special(folder: Path, good: Path) -> Iterator[tuple[str, Path, bool]]:
    "Paths that are not plain files, and good files with odd names."
    (folder / "folder.mp4").mkdir(exist_ok=True)
    os.mkfifo(folder / "pipe.mp4")
    (folder / "loop.mp4").symlink_to(folder / "loop.mp4")
    (folder / "zero.mp4").symlink_to("/dev/zero")
    with open(folder / "sparse.mp4", "wb") as f:
        f.truncate(2**40)  # a terabyte that takes no room
    for name in ("folder", "pipe", "loop", "zero", "sparse"):
        yield f"special: {name}", folder / f"{name}.mp4", False
    for i, name in enumerate(
        (
            "with space",
            "quote ' and \" too",
            "ünïcödé 视频",
            "new\nline",
            "-dash",
            "semi;colon && echo",
            "$(touch pwned)",
            "percent %s {0}",
            "a" * 200,
            "file:colon",
            "concat:a|b",
        )
    ):
        path = folder / f"{name}.mp4"
        path.write_bytes(good.read_bytes())
        yield f"name {i}: {name[:20]!r}", path, True
    path = Path(os.fsdecode(os.fsencode(folder) + b"/not\xffutf8.mp4"))
    path.write_bytes(good.read_bytes())
    yield "name: not utf-8", path, False


def make_variants(folder: Path, real: list[Path] = (), few: bool = False) -> tuple[list[tuple[str, Path, bool]], list[tuple[str, str]]]:
    "Every variant as (name, file, whether it must give frames), and (name, reason) of what could not be made here."
    folder.mkdir(parents=True, exist_ok=True)
    toy, front = encode(folder / "toy.mp4", sound=True), encode(folder / "front.mp4", movflags="faststart")
    problems, variants = [], []
    data = {
        "toy": toy.read_bytes(),
        "faststart": front.read_bytes(),
        "mkv": encode(folder / "toy.mkv").read_bytes(),
        "webm": encode(folder / "toy.webm", "libvpx-vp9").read_bytes(),
    }
    contents = [(name, ".mp4", d) for name, d in damaged("toy", data["toy"])] + [
        (n, ".mp4", d) for n, d in [*broken_atoms(data["toy"]), *lying_fields(front.read_bytes())]
    ]
    contents += [(n, "." + s, d) for n, s, d in impostors(folder, data["toy"])] + [("declares 16384x16384", ".mp4", huge_picture(data["toy"]))]
    contents += [(n, ".mp4", d) for n, d in damaged("faststart", data["faststart"])]
    for kind in ("mkv", "webm"):
        contents += [(n, "." + kind, d) for n, d in damaged(kind, data[kind])]
    for path in real:
        contents += [(n, path.suffix, d) for n, d in damaged(path.stem[:12], path.read_bytes())]
    if few:
        contents = contents[::20]
    for i, (name, suffix, content) in enumerate(contents):
        path = folder / f"{i:04d}{suffix}"
        path.write_bytes(content)
        variants.append((name, path, False))
    for quarter in range(4):
        path = folder / f"rotated{quarter}.mp4"
        path.write_bytes(rotated(data["faststart"], quarter))
        variants.append((f"rotated by {90 * quarter}", path, True))
    for kind, suffix in (("mp4", "mkv"), ("mp4", "txt"), ("mkv", "mp4"), ("webm", "mp4"), ("mp4", "")):
        path = folder / f"{kind}_as_{suffix}.{suffix}".rstrip(".")
        path.write_bytes(data["toy" if kind == "mp4" else kind])
        variants.append((f"{kind} named .{suffix}", path, True))
    good = list(encoded(folder, problems, few))
    return [*variants, *good, *worn(folder, good[::15] if few else good), *special(folder, toy), *((p.name, p, True) for p in real)], problems


def worn(folder: Path, good: list[tuple[str, Path, bool]]) -> Iterator[tuple[str, Path, bool]]:
    "Each encoded file cut short, with a few bytes of noise after its first fifth, and with many in its second half."
    for name, path, _ in good:
        data = path.read_bytes()
        for how, content in (
            ("cut at 6/10", data[: len(data) * 6 // 10]),
            ("20 bytes flipped", flipped(data, 20, 1, 0.2)),
            ("500 bytes flipped", flipped(data, 500, 2, 0.5)),
        ):
            new = folder / f"{how.replace('/', '-')} {path.name}"
            new.write_bytes(content)
            yield f"{name}, {how}", new, False
