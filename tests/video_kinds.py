"""Videos in the formats and damaged states that people have, made with ffmpeg, and a judge that reads them in order.

Every picture tells its number: ten bars across its upper half, black or white, are the bits. The lower half moves, so that codecs use inter-frame prediction."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np

WIDTH, HEIGHT, RATE, FRAMES = 160, 96, 10, 100
X264 = ("-c:v", "libx264", "-preset", "veryfast", "-g", "25", "-pix_fmt", "yuv420p")
SOUND = ("-f", "lavfi", "-i", "sine=frequency=440:sample_rate=16000:duration=10")


def picture(number: int) -> np.ndarray:
    "The grey picture `(HEIGHT, WIDTH)` of a number below 1024."
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    grey = 60 + (x + 3 * number) % 64 + (y * 2 + number) % 64
    bits = number >> (x * 10 // WIDTH) & 1
    grey[: HEIGHT // 2] = np.where(bits, 220, 30)[: HEIGHT // 2]
    return grey.astype(np.uint8)


def number_of(image: np.ndarray) -> int:
    "The number that a picture `(h, w, 3)` tells."
    grey = image.mean(-1)
    h, w = grey.shape
    bars = [
        grey[h // 8 : 3 * h // 8, int((k + 0.35) * w / 10) : max(int((k + 0.35) * w / 10) + 1, int((k + 0.65) * w / 10))].mean() for k in range(10)
    ]
    return sum((bar > 125) << k for k, bar in enumerate(bars))


def source(path: Path, frames: int = FRAMES, first: int = 0) -> Path:
    "Uncompressed pictures `first`, `first + 1`, …"
    chroma = bytes([128]) * (WIDTH * HEIGHT // 2)
    with open(path, "wb") as f:
        f.write(f"YUV4MPEG2 W{WIDTH} H{HEIGHT} F{RATE}:1 Ip A1:1 C420jpeg\n".encode())
        for number in range(first, first + frames):
            f.write(b"FRAME\n" + picture(number).tobytes() + chroma)
    return path


class Maker:
    "Makes the files in a folder; encoded and copied ones are kept and not made again."

    def __init__(self, folder: Path):
        self.folder = folder
        self.src = source(folder / "src.y4m")
        self.recipes: dict[str, tuple[object, ...]] = {}  # file name → arguments of ffmpeg

    def ff(self, *args: object) -> None:
        done = subprocess.run(
            ["ffmpeg", "-v", "error", "-y", "-threads", "1", *map(str, args)], check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        if done.returncode:
            raise RuntimeError(f"ffmpeg {' '.join(map(str, args))}: {done.stderr[-600:]}")

    def kept(self, name: str, *args: object) -> Path:
        "A file of ffmpeg's, made by the first call; a call of other arguments for the same name is an error."
        out = self.folder / name
        if self.recipes.setdefault(name, args) != args:
            raise ValueError(f"{name} is asked for with {args}, and before with {self.recipes[name]}: give one of them another name")
        if not out.exists():
            self.ff(*args, out)
        return out

    def encoded(self, name: str, *args: str) -> Path:
        "The source through an encoder."
        return self.kept(name, "-i", self.src, *args)

    def two_passes(self, name: str, *args: str) -> Path:
        "The source through an encoder twice; libvpx makes hidden pictures only where a first pass has measured the source."
        log = str(self.folder / f"{name}.log")
        if not (self.folder / name).exists():
            self.ff("-i", self.src, *args, "-pass", "1", "-passlogfile", log, "-f", "null", "-")
        return self.encoded(name, *args, "-pass", "2", "-passlogfile", log)

    def with_sound(self, name: str, *args: str) -> Path:
        return self.kept(name, "-i", self.src, *SOUND, *args)

    def copied(self, name: str, of: Path, start: float | None = None, *args: str) -> Path:
        "A file's packets from `start` on, not encoded again."
        seek = () if start is None else ("-ss", start)
        return self.kept(name, *seek, "-i", of, "-c", "copy", *args)

    def joined(self, name: str, *parts: Path) -> Path:
        out = self.folder / name
        out.write_bytes(b"".join(part.read_bytes() for part in parts))
        return out

    def shortened(self, name: str, of: Path, first: float = 0.0, last: float = 1.0) -> Path:
        "The bytes of a file from one share of its length to another."
        data, out = of.read_bytes(), self.folder / name
        out.write_bytes(data[int(first * len(data)) : int(last * len(data))])
        return out

    # ---- the kinds ----

    def base(self) -> Path:
        return self.encoded("h264.mp4", *X264)

    def x265(self, suffix: str, *args: str) -> Path:
        return self.encoded(
            f"hevc.{suffix}", "-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=none:keyint=25:pools=1:frame-threads=1", *args
        )

    def other_size(self, suffix: str, *args: str) -> Path:
        out = self.folder / f"other_size.{suffix}"
        if not out.exists():
            part = source(self.folder / "part.y4m", 50, 100)
            self.ff("-i", part, "-vf", "scale=128:128", *args, out)
        return out

    def kinds(self) -> dict[str, Callable[[], Path]]:
        e, c, X = self.encoded, self.copied, X264
        mpeg2 = ("-c:v", "mpeg2video", "-b:v", "800k", "-g", "12")
        vp9 = ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-g", "25")
        av1 = ("-c:v", "libsvtav1", "-preset", "12", "-g", "25")
        open_gop = ("-x264-params", "open-gop=1:keyint=20:bframes=3:b-pyramid=normal")
        ts = lambda: e("h264.ts", *X)
        avi = lambda: e("mpeg4.avi", "-c:v", "mpeg4", "-b:v", "800k")
        mts = ("-f", "mpegts", "-mpegts_m2ts_mode", "1")
        hidden = ("-g", "50", "-auto-alt-ref", "1", "-lag-in-frames", "16")  # alt-ref frames: decoded, never shown
        vp9_hidden = lambda: self.two_passes("vp9_arf.webm", "-c:v", "libvpx-vp9", *hidden, "-cpu-used", "6")
        kinds: dict[str, Callable[[], Path]] = {
            # containers and codecs
            "h264 mp4": self.base,
            "h264 mov": lambda: e("h264.mov", *X),
            "h264 mkv": lambda: e("h264.mkv", *X),
            "h264 ts": ts,
            "h264 m2ts": lambda: e("h264.m2ts", *X, *mts),
            "h264 mts": lambda: e("h264.mts", *X, *mts),
            "h264 avi": lambda: e("h264.avi", *X),
            "h264 avi without B-frames": lambda: e("h264_b0.avi", *X, "-bf", "0"),
            "h264 flv": lambda: e("h264.flv", *X),
            "h264 mpg": lambda: e("h264.mpg", *X, "-f", "mpeg"),
            "h264 bare": lambda: e("bare.h264", *X),
            "h264 nut": lambda: e("h264.nut", *X),
            "h264 3gp": lambda: e("h264.3gp", *X),
            "hevc mp4": lambda: self.x265("mp4"),
            "hevc mkv": lambda: self.x265("mkv"),
            "hevc ts": lambda: self.x265("ts"),
            "hevc bare": lambda: self.x265("hevc"),
            "hevc closed mp4": lambda: e("closed_hevc.mp4", "-c:v", "libx265", "-x265-params", "log-level=none:keyint=25:no-open-gop=1:pools=1"),
            "av1 mp4": lambda: e("av1.mp4", *av1),
            "av1 webm": lambda: e("av1.webm", *av1),
            "av1 mkv": lambda: e("av1.mkv", *av1),
            "av1 ivf": lambda: e("av1.ivf", *av1),
            "vp8 webm": lambda: e("vp8.webm", "-c:v", "libvpx", "-g", "25", "-deadline", "realtime"),
            "vp8 webm hidden pictures": lambda: self.two_passes("vp8_arf.webm", "-c:v", "libvpx", *hidden, "-deadline", "good", "-cpu-used", "4"),
            "vp9 webm": lambda: e("vp9.webm", *vp9),
            "vp9 mp4": lambda: e("vp9.mp4", *vp9),
            "vp9 hidden pictures": vp9_hidden,
            "mpeg1 mpg": lambda: e("mpeg1.mpg", "-r", "25", "-c:v", "mpeg1video", "-b:v", "800k", "-bf", "2"),
            "mpeg2 mpg": lambda: e("mpeg2.mpg", *mpeg2, "-bf", "2"),
            "mpeg2 vob": lambda: e("mpeg2.vob", *mpeg2, "-bf", "2", "-f", "vob"),
            "mpeg2 ts": lambda: e("mpeg2.ts", *mpeg2),
            "mpeg2 ts B-frames": lambda: e("mpeg2_b.ts", *mpeg2, "-bf", "2"),
            "mpeg2 mp4": lambda: e("mpeg2.mp4", *mpeg2, "-bf", "2"),
            "mpeg2 mxf": lambda: e("mpeg2.mxf", "-r", "25", *mpeg2),
            "mpeg2 bare": lambda: e("bare.m2v", *mpeg2, "-bf", "2"),
            "mpeg4 mp4": lambda: e("mpeg4.mp4", "-c:v", "mpeg4", "-b:v", "800k", "-bf", "2"),
            "mpeg4 avi": avi,
            "mpeg4 avi B-frames": lambda: e("mpeg4_b.avi", "-c:v", "mpeg4", "-b:v", "800k", "-bf", "2"),
            "mpeg4 avi with DivX's tag": lambda: e("divx.avi", "-c:v", "mpeg4", "-b:v", "800k", "-bf", "2", "-vtag", "DIVX"),
            "mpeg4 bare": lambda: e("bare.m4v", "-c:v", "mpeg4", "-b:v", "800k", "-bf", "2"),
            "msmpeg4 avi": lambda: e("msmpeg4.avi", "-c:v", "msmpeg4", "-b:v", "800k"),
            "wmv1": lambda: e("wmv1.wmv", "-c:v", "wmv1", "-b:v", "800k"),
            "wmv2": lambda: e("wmv2.wmv", "-c:v", "wmv2", "-b:v", "800k"),
            "wmv2 avi": lambda: e("wmv2.avi", "-c:v", "wmv2", "-b:v", "800k"),
            "flv1": lambda: e("flv1.flv", "-c:v", "flv1", "-b:v", "800k"),
            "theora": lambda: e("theora.ogv", "-c:v", "libtheora", "-b:v", "800k", "-g", "25"),
            "prores mov": lambda: e("prores.mov", "-c:v", "prores"),
            "prores 4444 with alpha": lambda: e("prores4.mov", "-c:v", "prores_ks", "-profile:v", "4", "-pix_fmt", "yuva444p10le"),
            "mjpeg avi": lambda: e("mjpeg.avi", "-c:v", "mjpeg", "-q:v", "3"),
            "mjpeg mov": lambda: e("mjpeg.mov", "-c:v", "mjpeg", "-q:v", "3"),
            "qtrle mov": lambda: e("qtrle.mov", "-c:v", "qtrle"),
            "png mov": lambda: e("png.mov", "-c:v", "png"),
            "ffv1 mkv": lambda: e("ffv1.mkv", "-c:v", "ffv1"),
            "ffv1 avi": lambda: e("ffv1.avi", "-c:v", "ffv1"),
            "huffyuv avi": lambda: e("huff.avi", "-c:v", "huffyuv"),
            "zmbv avi": lambda: e("zmbv.avi", "-c:v", "zmbv", "-g", "30"),
            "dnxhd mov": lambda: e("dnx.mov", "-vf", "scale=320:192", "-c:v", "dnxhd", "-profile:v", "dnxhr_lb", "-pix_fmt", "yuv422p"),
            "raw avi": lambda: e("raw.avi", "-c:v", "rawvideo", "-frames:v", "40"),
            "raw y4m": lambda: self.src,
            "gif": lambda: e("v.gif"),
            "gif of uneven delays": lambda: e("delays.gif", "-vf", "select='eq(mod(n,7),0)+lt(n,20)'", "-vsync", "vfr"),
            "apng": lambda: e("v.apng", "-f", "apng"),
            # the structure of the stream
            "open GOP mp4": lambda: e("open.mp4", *X, *open_gop),
            "open GOP mkv": lambda: e("open.mkv", *X, *open_gop),
            "open GOP ts": lambda: e("open.ts", *X, *open_gop),
            "open GOP mpeg2 mkv": lambda: e("open2.mkv", *mpeg2, "-bf", "2"),
            "B-frames pyramid": lambda: e("pyramid.mp4", *X, "-x264-params", "bframes=8:b-pyramid=normal:b-adapt=0:keyint=60"),
            "one long group": lambda: e("long.mp4", *X, "-g", "1000"),
            "all key frames": lambda: e("intra.mp4", *X, "-g", "1"),
            "groups of two": lambda: e("two.mp4", *X, "-x264-params", "keyint=2:bframes=1:b-adapt=0"),
            "intra refresh mp4": lambda: e("refresh.mp4", *X, "-x264-params", "intra-refresh=1:keyint=20:bframes=0"),
            "intra refresh ts": lambda: e("refresh.ts", *X, "-x264-params", "intra-refresh=1:keyint=20:bframes=0"),
            "interlaced h264": lambda: e("ilace.mp4", *X, "-x264-params", "interlaced=1"),
            "interlaced h264 ts": lambda: e("ilace264.ts", *X, "-x264-params", "interlaced=1"),
            "interlaced mpeg2 ts": lambda: e("ilace.ts", *mpeg2, "-flags", "+ildct+ilme"),
            "interlaced mpeg2 mpg": lambda: e("ilace.mpg", *mpeg2, "-flags", "+ildct+ilme", "-bf", "2"),
            "4:4:4 odd size": lambda: e("odd.mp4", "-vf", "scale=161:97", *X[:-2], "-pix_fmt", "yuv444p"),
            "10 bit": lambda: e("ten.mp4", *X[:-2], "-pix_fmt", "yuv420p10le"),
            "vp9 with alpha": lambda: e("alpha.webm", *vp9, "-pix_fmt", "yuva420p"),
            "grey": lambda: e("grey.mp4", *X[:-2], "-pix_fmt", "gray"),
            # clocks
            "variable rate mp4": lambda: e("vfr.mp4", "-vf", "select='lt(mod(n,11),4)'", "-vsync", "vfr", *X),
            "variable rate mkv": lambda: e("vfr.mkv", "-vf", "select='lt(mod(n,11),4)'", "-vsync", "vfr", *X),
            "variable rate ts": lambda: e("vfr.ts", "-vf", "select='lt(mod(n,11),4)'", "-vsync", "vfr", *X),
            "variable rate wmv": lambda: e("vfr.wmv", "-vf", "select='lt(mod(n,11),4)'", "-vsync", "vfr", "-c:v", "wmv2", "-b:v", "800k"),
            "three frames in 19 s": lambda: e("screen.mp4", "-vf", "select='lt(n,3)',setpts='(N+gt(N,1)*198)/TB/10.5'", "-vsync", "vfr", *X),
            "starts at 100 s mkv": lambda: c("offset.mkv", self.base(), None, "-output_ts_offset", "100"),
            "starts at 100 s ts": lambda: c("offset.ts", self.base(), None, "-output_ts_offset", "100"),
            "starts at 100 s mp4": lambda: c("offset.mp4", self.base(), None, "-output_ts_offset", "100"),
            "starts before zero mkv": lambda: c("negative.mkv", self.base(), None, "-output_ts_offset", "-3", "-avoid_negative_ts", "disabled"),
            "starts before zero mp4": lambda: c("negative.mp4", self.base(), None, "-output_ts_offset", "-3", "-avoid_negative_ts", "disabled"),
            "clock wraps ts": lambda: c("wrap.ts", self.base(), None, "-output_ts_offset", "95438"),
            "clock wraps late ts": lambda: self.late_wrap(),
            "picture after the sound mp4": lambda: self.late_picture("late.mp4"),
            "picture after the sound mkv": lambda: self.late_picture("late.mkv"),
            "picture after the sound ts": lambda: self.late_picture("late.ts"),
            "sound after the picture mp4": lambda: self.late_picture("late_sound.mp4", -1.5),
            "with sound mp4": lambda: self.with_sound("sound.mp4", *X),
            "with sound avi": lambda: self.with_sound("sound.avi", *X, "-bf", "0"),
            "one frame mp4": lambda: e("one.mp4", "-frames:v", "1", *X),
            "one frame mkv": lambda: e("one.mkv", "-frames:v", "1", *X),
            "one frame ts": lambda: e("one.ts", "-frames:v", "1", *X),
            "two frames mp4": lambda: e("twof.mp4", "-frames:v", "2", *X),
            "three frames webm": lambda: e("three.webm", "-frames:v", "3", *vp9),
            "three hours": lambda: e("hours.mp4", "-vf", "setpts=N*108/TB", "-vsync", "vfr", *X),
            "three hours ts": lambda: e("hours.ts", "-vf", "setpts=N*108/TB", "-vsync", "vfr", *X),
            # cut without encoding
            **{
                f"cut at {at} {suffix}": (lambda at=at, suffix=suffix: c(f"cut{at}.{suffix}", self.base(), at))
                for at in (1.3, 3.0, 5.7)
                for suffix in ("mp4", "mkv", "ts", "mov", "flv")
            },
            "cut hevc mp4": lambda: c("cut_hevc.mp4", self.x265("mp4"), 3.3),
            "cut hevc mkv": lambda: c("cut_hevc.mkv", self.x265("mkv"), 3.3),
            "cut hevc ts": lambda: c("cut_hevc.ts", self.x265("ts"), 3.3),
            "cut open GOP mp4": lambda: c("cut_open.mp4", e("open.mp4", *X, *open_gop), 3.3),
            "cut open GOP mkv": lambda: c("cut_open.mkv", e("open.mkv", *X, *open_gop), 3.3),
            "cut open GOP ts": lambda: c("cut_open.ts", e("open.ts", *X, *open_gop), 3.3),
            "cut ts": lambda: c("cut_ts.ts", ts(), 3.3),
            "cut ts to mp4": lambda: c("cut_ts.mp4", ts(), 3.3),
            "cut vp9 webm": lambda: c("cut_vp9.webm", e("vp9.webm", *vp9), 3.3),
            "cut vp9 mp4": lambda: c("cut_vp9.mp4", e("vp9.mp4", *vp9), 3.3),
            "cut av1 mp4": lambda: c("cut_av1.mp4", e("av1.mp4", *av1), 3.3),
            "cut av1 webm": lambda: c("cut_av1.webm", e("av1.webm", *av1), 3.3),
            "cut mpeg2 mpg": lambda: c("cut.mpg", e("mpeg2.mpg", *mpeg2, "-bf", "2"), 3.3),
            "cut mpeg2 ts": lambda: c("cut_mpeg2.ts", e("mpeg2_b.ts", *mpeg2, "-bf", "2"), 3.3),
            "cut mpeg4 avi": lambda: c("cut.avi", e("mpeg4_b.avi", "-c:v", "mpeg4", "-b:v", "800k", "-bf", "2"), 3.3),
            "cut mpeg4 mp4": lambda: c("cut_mpeg4.mp4", e("mpeg4.mp4", "-c:v", "mpeg4", "-b:v", "800k", "-bf", "2"), 3.3),
            "cut wmv": lambda: c("cut.wmv", e("wmv2.wmv", "-c:v", "wmv2", "-b:v", "800k"), 3.3),
            "cut intra refresh": lambda: c("cut_refresh.mp4", e("refresh.mp4", *X, "-x264-params", "intra-refresh=1:keyint=20:bframes=0"), 3.3),
            "cut with sound mp4": lambda: c("cut_sound.mp4", self.with_sound("sound.mp4", *X), 3.3),
            "cut with sound ts": lambda: c("cut_sound.ts", self.with_sound("sound.mp4", *X), 3.3),
            "cut twice": lambda: c("cut_twice.mp4", c("cut_once.mp4", self.base(), 1.3), 2.9),
            "cut at both ends": lambda: c("cut_ends.mp4", self.base(), 3.3, "-t", "2.1"),
            "cut to fragments": lambda: c("cut_frag.mp4", self.base(), 3.3, "-movflags", "frag_keyframe+empty_moov"),
            "cut with its clock": lambda: c("cut_copyts.mkv", self.base(), 3.3, "-copyts"),
            # joined, broken, arranged
            "joined ts, other size": lambda: self.joined("joined.ts", ts(), self.other_size("ts", *X)),
            "joined ts, same clock": lambda: self.joined("joined_same.ts", ts(), ts()),
            "joined mpg": lambda: self.joined("joined.mpg", e("mpeg2.mpg", *mpeg2, "-bf", "2"), self.other_size("mpg", *mpeg2, "-bf", "2")),
            "joined bare h264": lambda: self.joined("joined.h264", e("bare.h264", *X), self.other_size("h264", *X)),
            "joined by concat mkv": lambda: self.concat("concat.mkv", *X),
            "joined by concat mp4": lambda: self.concat("concat.mp4", *X),
            "fragmented mp4": lambda: c("frag.mp4", self.base(), None, "-movflags", "frag_keyframe+empty_moov+default_base_moof"),
            "fragmented mp4, each frame": lambda: c("frag_every.mp4", self.base(), None, "-movflags", "frag_every_frame+empty_moov"),
            "faststart mp4": lambda: c("fast.mp4", self.base(), None, "-movflags", "faststart"),
            "truncated faststart mp4": lambda: self.shortened("trunc.mp4", c("fast.mp4", self.base(), None, "-movflags", "faststart"), 0, 0.7),
            "truncated ts": lambda: self.shortened("trunc.ts", ts(), 0, 0.71),
            "truncated mkv": lambda: self.shortened("trunc.mkv", e("h264.mkv", *X), 0, 0.7),
            "truncated avi": lambda: self.shortened("trunc.avi", avi(), 0, 0.7),
            "begins within a group ts": lambda: self.shortened("head.ts", ts(), 0.31, 1),
            "begins within a group mpg": lambda: self.shortened("head.mpg", e("mpeg2.mpg", *mpeg2, "-bf", "2"), 0.31, 1),
            "begins within a group hevc ts": lambda: self.shortened("head_hevc.ts", self.x265("ts"), 0.31, 1),
            "anamorphic mp4": lambda: e("wide.mp4", "-vf", "setsar=2/1", *X),
            "anamorphic mkv": lambda: e("wide.mkv", "-vf", "setsar=1/2", *X),
            "anamorphic mpeg2 ts": lambda: e("wide.ts", "-aspect", "16:9", *mpeg2),
            "rotated": lambda: c("rotated.mp4", self.base(), None, "-metadata:s:v", "rotate=90"),
            "rotated by 180": lambda: c("rotated180.mp4", self.base(), None, "-metadata:s:v", "rotate=180"),
            "two streams mp4": lambda: self.two_streams("streams.mp4"),
            "two streams mkv": lambda: self.two_streams("streams.mkv"),
            "two streams ts": lambda: self.two_streams("streams.ts"),
            "cover first mp4": lambda: self.cover("cover_first.mp4", True),
            "cover first mkv": lambda: self.cover("cover_first.mkv", True),
            "cover last mp4": lambda: self.cover("cover_last.mp4", False),
            # others
            "mpeg4 mkv B-frames": lambda: e("mpeg4_b.mkv", "-c:v", "mpeg4", "-b:v", "800k", "-bf", "2"),
            "avi copied to mkv": lambda: c("from_avi.mkv", avi()),
            "msmpeg4 avi copied to mkv": lambda: c("from_ms.mkv", e("msmpeg4.avi", "-c:v", "msmpeg4", "-b:v", "800k")),
            "hevc mov": lambda: self.x265("mov", "-tag:v", "hvc1"),
            "h263 3gp": lambda: e("h263.3gp", "-vf", "scale=176:144", "-c:v", "h263", "-b:v", "800k"),
            "real media": lambda: e("rv.rm", "-c:v", "rv20", "-b:v", "800k"),
            "dv": lambda: e("v.dv", "-vf", "scale=720:576", "-r", "25", "-c:v", "dvvideo", "-pix_fmt", "yuv420p"),
            "cinepak avi": lambda: e("cinepak.avi", "-frames:v", "30", "-c:v", "cinepak"),
            "svq1 mov": lambda: e("svq1.mov", "-c:v", "svq1"),
            "flashsv flv": lambda: e("flashsv.flv", "-c:v", "flashsv"),
            "jpeg2000 mov": lambda: e("j2k.mov", "-c:v", "jpeg2000", "-frames:v", "40"),
            "mjpeg mp4": lambda: e("mjpeg.mp4", "-c:v", "mjpeg", "-q:v", "3"),
            "vp9 hidden pictures cut": lambda: c("arf_cut.webm", vp9_hidden(), 3.3),
            "live webm": lambda: e("live.webm", *vp9, "-f", "webm", "-live", "1"),
            "mkv without an index": lambda: c("live.mkv", self.base(), None, "-live", "1"),
            "mp4 without an edit list": lambda: c("no_edits.mp4", self.base(), None, "-use_editlist", "0"),
            "mp4 of negative offsets": lambda: c("negative_cts.mp4", self.base(), None, "-movflags", "negative_cts_offsets"),
            "dash mp4": lambda: c("dash.mp4", self.base(), None, "-movflags", "dash+frag_keyframe+empty_moov"),
            "segment of ts": lambda: self.segment("ts"),
            "segment of mkv": lambda: self.segment("mkv"),
            "segment of mp4": lambda: self.segment("mp4"),
            "cut after reading": lambda: self.cut_after("after.mp4"),
            "cut after reading, from any picture ts": lambda: self.cut_after("after.ts", "-copyinkf"),
            "cut after reading, from any picture mp4": lambda: self.cut_after("after_any.mp4", "-copyinkf"),
            "cut mov hevc": lambda: c("cut_hevc.mov", self.x265("mov", "-tag:v", "hvc1"), 4.9),
            "cut ffv1 mkv": lambda: c("cut_ffv1.mkv", e("ffv1.mkv", "-c:v", "ffv1"), 4.9),
            "cut prores mov": lambda: c("cut_prores.mov", e("prores.mov", "-c:v", "prores"), 4.9),
            "cut variable rate": lambda: c("cut_vfr.mp4", e("vfr.mp4", "-vf", "select='lt(mod(n,11),4)'", "-vsync", "vfr", *X), 3.3),
            "cut long group": lambda: c("cut_long.mp4", e("long.mp4", *X, "-g", "1000"), 6.1),
            "cut pyramid": lambda: c("cut_pyramid.mp4", e("pyramid.mp4", *X, "-x264-params", "bframes=8:b-pyramid=normal:b-adapt=0:keyint=60"), 4.4),
            "cut groups of two": lambda: c("cut_two.mp4", e("two.mp4", *X, "-x264-params", "keyint=2:bframes=1:b-adapt=0"), 4.45),
            "cut joined by concat": lambda: c("cut_concat.mp4", self.concat("concat.mkv", *X), 8.3),
            "joined flv": lambda: self.joined("joined.flv", e("h264.flv", *X), self.other_size("flv", *X)),
            "joined hevc ts": lambda: self.joined("joined_hevc.ts", self.x265("ts"), self.x265("ts")),
            "joined with a late clock ts": lambda: self.joined("joined_late.ts", c("offset.ts", self.base(), None, "-output_ts_offset", "100"), ts()),
            "fast clock": lambda: e("fps1000.mkv", "-vf", "settb=1/1000,setpts=N", "-r", "1000", *X),
            "subtitles first": lambda: self.subtitled("subtitled.mkv"),
            "cut hevc closed mp4": lambda: c(
                "cut_closed_hevc.mp4", e("closed_hevc.mp4", "-c:v", "libx265", "-x265-params", "log-level=none:keyint=25:no-open-gop=1:pools=1"), 4.4
            ),
            "pictures lost ts": lambda: self.with_a_hole("hole.ts", ts()),
        }
        return kinds

    def late_picture(self, name: str, by: float = 1.4) -> Path:
        "Sound and picture; the picture begins `by` seconds later, with a negative `by` the sound."
        out = self.folder / name
        offsets = (("-itsoffset", by), ()) if by > 0 else ((), ("-itsoffset", -by))
        self.ff(*offsets[0], "-i", self.base(), *offsets[1], *SOUND, "-c:v", "copy", out)
        return out

    def segment(self, suffix: str) -> Path:
        "The second of several pieces; its clock goes on from the first."
        self.ff("-i", self.base(), "-c", "copy", "-f", "segment", "-segment_time", "3", "-reset_timestamps", "0", self.folder / f"segment%d.{suffix}")
        return self.folder / f"segment1.{suffix}"

    def cut_after(self, name: str, *args: str) -> Path:
        "ffmpeg reads from the start and copies from 3.3 s on; with `-copyinkf` also packets before the next key frame."
        out = self.folder / name
        self.ff("-i", self.base(), "-ss", "3.3", "-c", "copy", *args, out)
        return out

    def subtitled(self, name: str) -> Path:
        out, text = self.folder / name, self.folder / "s.srt"
        text.write_text("1\n00:00:00,000 --> 00:00:02,000\nhi\n")
        self.ff("-i", text, "-itsoffset", "2", "-i", self.base(), "-map", "0", "-map", "1", "-c", "copy", "-c:s", "srt", out)
        return out

    def with_a_hole(self, name: str, of: Path) -> Path:
        "A transport stream of which a second is lost, packet by packet."
        data, out = of.read_bytes(), self.folder / name
        begin, end = (int(share * len(data)) // 188 * 188 for share in (0.45, 0.55))
        out.write_bytes(data[:begin] + data[end:])
        return out

    def late_wrap(self) -> Path:
        "A recording of 200 s, a picture every two seconds, whose clock of 33 bits wraps after 170 s."
        slow = self.encoded("slow.mp4", "-vf", "setpts=N*2/TB", "-vsync", "vfr", *X264)
        return self.copied("wrap_late.ts", slow, None, "-output_ts_offset", "95272")

    def concat(self, name: str, *args: str) -> Path:
        "Two recordings of different size in one file, by ffmpeg's concat."
        out, listing = self.folder / name, self.folder / f"{name}.txt"
        listing.write_text(f"file '{self.encoded('h264.ts', *args)}'\nfile '{self.other_size('ts', *args)}'\n")
        self.ff("-f", "concat", "-safe", "0", "-i", listing, "-c", "copy", out)
        return out

    def two_streams(self, name: str) -> Path:
        out = self.folder / name
        self.ff("-i", self.base(), "-f", "lavfi", "-i", "testsrc=s=320x240:r=10:d=10", "-map", "0:v", "-map", "1:v", *X264, out)
        return out

    def cover(self, name: str, first: bool) -> Path:
        "A film and a still picture. An mp4 marks it as its cover and lists it last; in an mkv it is a stream like others, only not the default one."
        out = self.folder / name
        jpeg = self.folder / "cover.jpg"
        self.ff("-f", "lavfi", "-i", "testsrc=s=640x480:d=1", "-frames:v", "1", jpeg)
        order = ("-map", "1", "-map", "0") if first else ("-map", "0", "-map", "1")
        self.ff("-i", self.base(), "-i", jpeg, *order, "-c", "copy", f"-disposition:v:{int(not first)}", "attached_pic", out)
        return out


# ---- the judge: it decodes every picture in order and knows nothing of the package ----


def in_order(path: Path, width: int, height: int) -> tuple[list[float], np.ndarray]:
    "Seconds on the player's clock and pictures `(N, height, width, 3)`, as players show them; a cover or a still picture beside it is not the film."
    seconds: list[float | None] = []
    images = []
    with av.open(str(path)) as f:
        streams = [s for s in f.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
        stream = next((s for s in streams if s.disposition & av.stream.Disposition.default), streams[0])
        origin = (f.start_time or 0) / av.time_base
        stream.codec_context.thread_count = 1
        steps = []
        for packet in f.demux(stream):
            steps.append(packet.duration)
            try:
                frames = packet.decode()
            except av.InvalidDataError:
                continue
            for frame in frames:
                turns = round(frame.rotation / 90) % 4
                size = (width, height) if turns % 2 == 0 else (height, width)
                images.append(np.rot90(frame.to_ndarray(format="rgb24", width=size[0], height=size[1]), turns))
                seconds.append(None if frame.pts is None else float(frame.pts * stream.time_base) - origin)
        step = float(np.median(steps) * stream.time_base)  # read before the file closes, which frees the stream
        frame_by_frame = f.format.name in ("avi", "mpegvideo", "m4v", "h264", "hevc")
    known = next((n for n, t in enumerate(seconds) if t is not None), 0)
    seconds[known] = seconds[known] or 0.0
    for n in range(known - 1, -1, -1):
        seconds[n] = seconds[n + 1] - step
    for n, t in enumerate(seconds):
        seconds[n] = seconds[n - 1] + step if t is None else t
    if frame_by_frame:  # no presentation times: pictures are shown in turn, the first at the start
        seconds = [n * step for n in range(len(seconds))]
    return continued(seconds), np.stack(images)


def continued(seconds: list[float]) -> list[float]:
    """Removes jumps: where the clock goes back by over 0.5 s, or ahead by over an hour (ffmpeg takes a restart for a wrap of the 33-bit clock), seconds
    continue after the last picture."""
    shift, out = 0.0, []
    steps = [b - a for a, b in zip(seconds, seconds[1:]) if b > a]
    for t, following in zip(seconds, [*seconds[1:], seconds[-1]]):
        if out and t + shift < out[-1] < following + shift:  # one late picture among others, which players do not show
            out.append(out[-1])
            continue
        if out and not -0.5 <= t + shift - out[-1] <= 3600:
            shift = out[-1] + float(np.median(steps)) - t
        out.append(t + shift)
    return out


def wrong_pictures(
    path: Path, frames: np.ndarray, times: np.ndarray, margin: float = 1.0, truth: tuple[list[float], np.ndarray] | None = None
) -> list[tuple[float, float]]:
    """For each wrong picture: its stated second, and the distance in seconds to the picture that fits better. Wrong: another picture's mean absolute
    difference (0–255) is lower by more than `margin`. `truth`: the result of `in_order` at this size."""
    seconds, images = truth or in_order(path, frames.shape[2], frames.shape[1])
    clock = np.array(seconds)
    wrong = []
    for frame, t in zip(frames.astype(np.int16), times):
        shown = np.flatnonzero(clock <= t + 1e-4)
        shown = shown[clock[shown] == clock[shown].max()] if len(shown) else np.array([0])
        distance = np.array([np.abs(frame - image).mean() for image in images])
        best = int(distance.argmin())
        if distance[shown].min() > distance[best] + margin:
            wrong.append((float(t), float(clock[best] - t)))
    return wrong


def clock_error(frames: np.ndarray, times: np.ndarray) -> float:
    "Largest difference between the seconds that pass between pictures and the seconds that their numbers tell."
    told = np.array([number_of(frame) for frame in frames]) / RATE
    return float(np.abs((told - told[0]) - (times - times[0])).max())


def table(rows: list[tuple[str, str, int, int, float]]) -> Iterator[str]:
    "Lines of (file, backend, wrong pictures, pictures, largest clock error)."
    yield f"{'file':32s} {'read by':10s} {'wrong':>10s}  {'clock error':>11s}"
    for name, backend, wrong, of, error in rows:
        yield f"{name:32s} {backend:10s} {wrong:4d} of {of:3d}  {error:9.3f} s"
