"""Every frame is the picture of its second, for every kind of file.

The judge compares contents with those of a reader of its own, which decodes in order (video_kinds.py)."""

import json
import os
import random
import re
import shutil
import subprocess
import sys
import threading
import time
import warnings
import wave
from pathlib import Path

import av
import numpy as np
import pytest
from video_kinds import RATE, X264, Maker, clock_error, in_order, number_of, picture, table, wrong_pictures

from vtg_r1.core.runtime import PROCESS_FACTS, project_root
from vtg_r1.runs.run import read_manifest, start_run
from vtg_r1.video import sandbox
from vtg_r1.video.cache import FrameCache
from vtg_r1.video.cut import cut
from vtg_r1.video.decoders import BACKENDS, VideoError, decord_unchecked, read_facts
from vtg_r1.video.reader import pick_frames, probe, read_frames
from vtg_r1.video.sandbox import ResourceLimits, run_sandboxed

pytestmark = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed: it makes the videos of these tests")
PIXELS = 2 * 16 * 28 * 28  # per frame, enough to read the bars
# kinds (how their names begin) whose numbers, drawn into the pictures, are not in step with the seconds
NUMBERS_ARE_NO_CLOCK = (
    "three",
    "clock wraps late",
    "joined ts, same clock",
    "joined hevc ts",
    "joined with a late clock",
    "pictures lost",
    "rotated",
    "variable rate",
    "fast clock",
)
FEW = (
    "h264 mp4",
    "h264 ts",
    "hevc mkv",
    "mpeg4 avi B-frames",
    "wmv2",
    "gif of uneven delays",
    "open GOP mkv",
    "cut at 3.0 mp4",
    "cut hevc mp4",
    "joined ts, other size",
    "three hours",
    "picture after the sound ts",
    "cover first mp4",
    "begins within a group ts",
    "fast clock",
)


@pytest.fixture(scope="module")
def maker(tmp_path_factory) -> Maker:
    return Maker(tmp_path_factory.mktemp("video_kinds"))


def judged(name: str, path: Path) -> tuple[str, str, int, int, float]:
    "(Kind, backend, number of wrong pictures, number of pictures, error of the clock in seconds) for a file, by the default reader."
    before = dict(PROCESS_FACTS.get("videos_read", {}))
    frames, times = read_frames(path, 16, PIXELS)
    (backend,) = [name for name, count in PROCESS_FACTS["videos_read"].items() if count > before.get(name, 0)]
    error = 0.0
    if not name.startswith(NUMBERS_ARE_NO_CLOCK):
        error = clock_error(frames, times)
    return name, backend, len(wrong_pictures(path, frames, times)), len(frames), error


def kinds(maker: Maker, few: bool) -> dict[str, Path]:
    "The files by name; a kind that this ffmpeg cannot write is named and left out."
    made = {}
    for name, make in maker.kinds().items():
        if few and name not in FEW:
            continue
        try:
            made[name] = make()
        except RuntimeError as e:
            print(f"not made here: {name}: {e}")
    return made


@pytest.mark.parametrize("few", [True, pytest.param(False, marks=pytest.mark.long)], ids=["few", "all"])
def test_no_picture_is_wrong(maker, few):
    rows = [judged(name, path) for name, path in kinds(maker, few).items()]
    print(*table(rows), sep="\n")
    assert len(rows) >= (len(FEW) if few else 180)
    assert [row for row in rows if row[2]] == []
    assert [row for row in rows if row[4] > 1.01 / RATE] == []  # a player shows a picture until the next one comes


@pytest.mark.parametrize("few", [True, pytest.param(False, marks=pytest.mark.long)], ids=["few", "all"])
def test_a_cut_begins_with_the_picture_on_display(maker, few, tmp_path):
    problems, rng = [], random.Random(1)
    for name, path in kinds(maker, few).items():
        info = probe(path)
        first = max(0.0, float(info.times[0]))
        start, end = sorted(rng.uniform(first, info.duration) for _ in range(2))
        made = cut(path, tmp_path / "c.mp4", [start, end])
        frames, times = read_frames(made, 64, PIXELS)
        wrong = wrong_pictures(path, frames, times + start, margin=3.0)
        if wrong or times[0] > 2e-3 or abs(probe(made).duration - (end - start)) > 2e-3:
            problems.append((name, start, end, wrong, times[0], probe(made).duration))
    assert problems == []


def test_files_with_hidden_pictures_have_some(maker):
    "A hidden picture of VP8 is a packet of its own; VP9 packs it with a picture that is shown, and lists both at the packet's end."
    packets = {}
    for name in ("vp8 webm hidden pictures", "vp9 hidden pictures"):
        with av.open(str(maker.kinds()[name]())) as f:
            packets[name[:3]] = [bytes(packet) for packet in f.demux(video=0) if packet.size]
    assert sum(not packet[0] >> 4 & 1 for packet in packets["vp8"]) > 0 and len(packets["vp8"]) > 100
    assert sum(packet[-1] & 0xE0 == 0xC0 for packet in packets["vp9"]) > 0 and len(packets["vp9"]) == 100


def test_the_judge_knows_the_film_beside_a_still_picture(maker):
    for name in ("cover first mp4", "cover first mkv"):
        assert len(in_order(maker.kinds()[name](), 168, 84)[0]) == 100


def forced(path: Path) -> tuple[np.ndarray, np.ndarray]:
    "16 pictures with their seconds from decord alone, without a check."
    clock = decord_unchecked(path, np.array([0]), 168, 84)[1]
    picked = pick_frames(clock, 16)
    return decord_unchecked(path, picked, 168, 84)[0], clock[picked]


def test_the_judge_reports_the_wrong_pictures_of_decord(maker):
    "Without a check, decord gives pictures of other seconds for a cut file. The judge reports them, and our reader does not give them."
    path = maker.copied("control.mp4", maker.base(), 3.0)
    frames, times = forced(path)
    true = read_facts(path).times
    assert all(np.abs(true - t).min() < 2e-3 for t in times)  # its times are right: they do not show the fault
    wrong = wrong_pictures(path, frames, times)
    assert len(wrong) > 4 and max(abs(seconds) for _, seconds in wrong) > 0.4
    with pytest.warns(UserWarning, match="read by pyav; decord may show other pictures.*cut without re-encoding"):
        asked = read_frames(path, 16, PIXELS, backend="decord")
    assert wrong_pictures(path, *asked) == []


def test_the_number_drawn_into_a_picture_can_be_read():
    image = np.repeat(picture(613)[..., None], 3, -1)
    assert number_of(image) == 613 and number_of(image[::-1]) != 613


def test_decord_reads_a_file_without_doubt_and_other_kinds_are_in_doubt(maker):
    path = maker.encoded("closed.mp4", *X264, "-x264-params", "open-gop=0")
    assert read_facts(path).doubt == ""
    before = PROCESS_FACTS.get("videos_read", {}).get("decord", 0)
    frames, times = read_frames(path, 16, PIXELS, backend="decord")
    assert PROCESS_FACTS["videos_read"]["decord"] == before + 1 and wrong_pictures(path, frames, times) == []
    doubts = {
        name: read_facts(make()).doubt
        for name, make in maker.kinds().items()
        if name in ("h264 ts", "open GOP mp4", "cut at 3.0 mp4", "two streams mp4", "gif")
    }
    assert all(doubts.values()), doubts


# ---- one set of facts ----


@pytest.mark.parametrize(
    "name, size",
    [
        ("anamorphic mp4", (320, 96)),
        ("anamorphic mkv", (80, 96)),
        ("rotated", (96, 160)),
        ("anamorphic mpeg2 ts", (171, 96)),
        ("two streams mp4", (160, 96)),
        ("cover first mkv", (160, 96)),
    ],
)
def test_the_size_is_the_one_on_display(maker, name, size):
    info = probe(maker.kinds()[name]())
    assert (info.width, info.height) == size


def test_facts_do_not_depend_on_the_backend(maker):
    names = ["h264 mp4", "variable rate mp4", "three frames in 19 s", "anamorphic mp4", "two streams mkv", "cut at 1.3 mp4"]
    for path in (maker.kinds()[name]() for name in names):
        infos = [probe(path, backend) for backend in ("pyav", "decord")]
        assert infos[0].duration == infos[1].duration and np.array_equal(infos[0].times, infos[1].times)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shapes = [read_frames(path, 4, PIXELS, backend=backend)[0].shape for backend in ("pyav", "decord")]
        assert shapes[0] == shapes[1]


def test_the_last_picture_ends_where_the_stream_ends(maker):
    "Pictures at 0, 0.1 and 19 s; the stream ends at 19.1 s. The packet of the last one has a duration of 18.9 s, which must not count."
    path = maker.encoded("last.mp4", "-vf", "select='lt(n,3)',setpts='(N+gt(N,1)*188)/TB/10'", "-vsync", "vfr", *X264)
    with av.open(str(path)) as f:
        stream = f.streams.video[0]
        assert max(float((p.pts + p.duration) * p.time_base) for p in f.demux(stream) if p.pts is not None) > 30
    info = probe(path)
    assert info.times.tolist() == pytest.approx([0, 0.1, 19.0], abs=2e-3) and info.duration == pytest.approx(19.1, abs=2e-3)


def test_a_thousand_pictures_per_second_keep_their_times(maker):
    assert probe(maker.kinds()["fast clock"]()).times.tolist() == pytest.approx([n / 1000 for n in range(100)], abs=1e-6)


# ---- which backend read what ----


def test_the_manifest_says_which_backend_read_what(maker, tmp_path):
    sound, copied = maker.encoded("closed.mp4", *X264, "-x264-params", "open-gop=0"), maker.copied("manifest.mp4", maker.base(), 3.0)
    run = start_run("demo", "reads", {"seed": 0}, outputs=str(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for path in (sound, copied, copied):
            read_frames(path, 4, 784, backend="decord")
    run.finish()
    manifest = read_manifest(run.path)
    assert manifest["videos_read"] == {"decord": 1, "pyav": 2}
    assert list(manifest["videos_switched"]) == [str(copied)] and "cut without re-encoding" in manifest["videos_switched"][str(copied)]


def test_cached_frames_of_earlier_readers_are_not_used(maker, tmp_path):
    "Earlier readers kept theirs under the decoder's version and `layout 2`."
    path, cache = maker.base(), FrameCache(tmp_path)
    old = (np.zeros((4, 28, 28, 3), np.uint8), np.zeros(4))
    for version in ("decord 0.6.0, layout 2", f"pyav {av.__version__}, layout 2"):
        cache.fetch(path, (version, 4, 784, None), lambda: old)
    for backend in ("pyav", "decord"):
        assert read_frames(path, 4, 784, cache=cache, backend=backend)[0].any()


def test_a_file_with_fewer_pictures_than_packets_is_read_right(maker, monkeypatch):
    "Its times are then found by decoding, and `probe` gives the same times."
    from vtg_r1.video import decoders

    path = maker.shortened("never.ts", maker.encoded("h264.ts", *X264), 0, 0.72)
    facts = read_facts(path)
    promised = np.append(facts.ids, facts.ids[-1] + 4500)
    lying = facts._replace(ids=promised, times=np.append(facts.times, facts.times[-1] + 0.05))
    with pytest.raises(decoders.MissingPicture):
        BACKENDS["pyav"].frames(path, lying, np.array([0, len(promised) - 1]), 56, 28)
    monkeypatch.setattr("vtg_r1.video.reader.read_facts", lambda path, by_decoding: facts_by(decoders, path, by_decoding, lying))
    frames, times = read_frames(path, 16, PIXELS, limits=None)
    assert wrong_pictures(path, frames, times) == [] and np.array_equal(probe(path, limits=None).times, decoders.read_facts(path, True).times)


def facts_by(decoders, path: Path, by_decoding: bool, lying):
    return decoders.read_facts(path, True) if by_decoding else lying


# ---- hangs ----

HANGS = """
import threading
from vtg_r1.video import sandbox
def wait(path):
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()
def spin(path):
    while True: pass
def read_a_pipe(path):
    open(path, "rb").read()
    return {}, []
sandbox.serve({"wait": wait, "spin": spin, "pipe": read_a_pipe}, %r)
"""


@pytest.mark.slow
@pytest.mark.parametrize("job, words", [("wait", "all of its threads wait for each other"), ("spin", "without giving a picture")])
def test_a_decoder_that_hangs_is_an_error_in_less_than_a_minute(job, words, monkeypatch, tmp_path):
    sandbox._stop_all()
    monkeypatch.setattr(sandbox, "_SERVE", HANGS)
    start = time.monotonic()
    with pytest.raises(VideoError, match=f"its decoder hangs: .*{words}") as e:
        run_sandboxed(tmp_path / "v.mp4", ResourceLimits(seconds=300), do=job)
    assert time.monotonic() - start < 60 and "disk" not in str(e.value)
    sandbox._stop_all()


@pytest.mark.slow
def test_a_disk_that_does_not_answer_is_not_a_hang(monkeypatch, tmp_path):
    "A pipe that gets nothing for eight seconds stands for such a disk."
    sandbox._stop_all()
    monkeypatch.setattr(sandbox, "_SERVE", HANGS)
    os.mkfifo(tmp_path / "slow")

    def fill():
        time.sleep(8)
        (tmp_path / "slow").write_bytes(b"late")

    threading.Thread(target=fill, daemon=True).start()
    assert run_sandboxed(tmp_path / "slow", ResourceLimits(seconds=60), do="pipe")[1] == []
    sandbox._stop_all()


@pytest.mark.shared
@pytest.mark.slow
def test_a_clip_on_which_decord_hangs_is_read(shared, tmp_path):
    path = tmp_path / "g.mp4"
    subprocess.run(
        ["ffmpeg", "-v", "error", "-ss", "6.4", "-i", shared / "data/videos/playing_guitar.mp4", "-t", "12", "-c", "copy", path], check=True
    )
    start = time.monotonic()
    for backend in ("pyav", "decord"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            frames, times = read_frames(path, 16, PIXELS, backend=backend)
        assert wrong_pictures(path, frames, times) == []
    assert time.monotonic() - start < 60


# ---- sound ----


def clicks_of(path: Path) -> np.ndarray:
    "Seconds on the player's clock at which clicks begin, by decoding the whole sound in order."
    with av.open(str(path)) as f:
        frames = [
            (frame.time - f.start_time / 1e6, frame.to_ndarray().mean(0) / (1 if frame.format.name.startswith("flt") else 32768))
            for frame in f.decode(audio=0)
        ]
        rate = f.streams.audio[0].rate
    seconds = np.concatenate([start + np.arange(len(samples)) / rate for start, samples in frames])
    loud = np.flatnonzero(np.abs(np.concatenate([samples for _, samples in frames])) > 0.2)
    return seconds[loud[np.diff(loud, prepend=-(10**6)) > rate // 4]]


@pytest.mark.parametrize("suffix, codec", [("mp4", "aac"), ("ts", "aac"), ("mkv", "libvorbis"), ("avi", "pcm_s16le"), ("flv", "aac")])
@pytest.mark.parametrize("late", [0.0, 0.7])
def test_the_sound_of_a_cut_is_the_one_of_its_seconds(maker, suffix, codec, late, tmp_path):
    "The sound has one click a second. In the cut they are where decoding the whole source in order finds them."
    rate, source = 16000, tmp_path / f"clicks.{suffix}"
    samples = np.zeros(rate * 10, np.int16)
    for second in range(10):
        samples[second * rate : second * rate + 800] = 20000
    with wave.open(str(tmp_path / "clicks.wav"), "wb") as f:
        f.setparams((1, 2, rate, 0, "NONE", ""))
        f.writeframes(samples.tobytes())
    maker.ff(
        "-i",
        maker.base(),
        "-itsoffset",
        late,
        "-i",
        tmp_path / "clicks.wav",
        "-map",
        "0:v",
        "-map",
        "1:a",
        "-c:v",
        "copy",
        "-ar",
        "16000" if suffix != "flv" else "22050",
        "-c:a",
        codec,
        source,
    )
    cut_clicks = clicks_of(cut(source, tmp_path / "c.mp4", [2.5, 7.25]))
    expected = [second - 2.5 for second in clicks_of(source) if 2.5 < second < 7.25]
    assert len(expected) in (4, 5) and cut_clicks == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("start", [1.0, 2.5, 3.777])
def test_the_sound_of_a_cut_begins_at_its_sample(maker, start, tmp_path):
    "Noise is at the same second as in the source, to 2 samples of 48,000 a second: a whole frame of sound has 1024."
    rate, source = 48000, tmp_path / "noise.mov"
    noise = np.convolve(np.random.default_rng(0).normal(size=8 * rate) * 9000, np.full(8, 1 / 8), "same").astype(np.int16)  # low enough for aac
    with wave.open(str(tmp_path / "noise.wav"), "wb") as f:
        f.setparams((1, 2, rate, 0, "NONE", ""))
        f.writeframes(noise.tobytes())
    maker.ff("-i", maker.base(), "-i", tmp_path / "noise.wav", "-map", "0:v", "-map", "1:a", "-t", 8, "-c:v", "copy", "-c:a", "pcm_s16le", source)
    with av.open(str(cut(source, tmp_path / "c.mp4", [start, start + 3]))) as f:
        frames = [(frame.time, frame.to_ndarray().mean(0)) for frame in f.decode(audio=0)]
    second, samples = next((time, samples) for time, samples in frames if time > 1)
    place = round((start + second) * rate)
    agreement = [float(np.corrcoef(noise[place + off : place + off + len(samples)], samples)[0, 1]) for off in range(-1100, 1101)]
    assert max(agreement) > 0.8 and abs(int(np.argmax(agreement)) - 1100) <= 2


def test_a_sound_that_no_decoder_knows_is_an_error(maker, tmp_path):
    maker.ff("-i", maker.base(), "-f", "lavfi", "-i", "sine", "-t", "5", "-c:v", "copy", "-c:a", "pcm_s16le", tmp_path / "good.mov")
    (tmp_path / "odd.mov").write_bytes((tmp_path / "good.mov").read_bytes().replace(b"sowt", b"zzzz"))
    with pytest.raises(VideoError, match="no decoder knows: its cut would be silent"):
        cut(tmp_path / "odd.mov", tmp_path / "c.mp4", [1, 2])
    assert not (tmp_path / "c.mp4").exists() and cut(tmp_path / "good.mov", tmp_path / "c.mp4", [1, 2]).exists()


# ---- real clips ----


def real_rows(shared: Path, folder: Path, clips: int, cuts: int) -> list[tuple[str, str, int, int, float]]:
    rows, rng = [], random.Random(19)
    files = [shared / "data" / json.loads(line)["file"] for line in (shared / "data/videos/index.jsonl").read_text().splitlines()]
    for path in files[:clips]:
        pieces = [path]
        for number in range(cuts):
            piece = folder / f"{path.stem} {number}{path.suffix}"
            start = rng.uniform(0.5, probe(path).duration - 3)
            subprocess.run(["ffmpeg", "-v", "error", "-ss", f"{start:.2f}", "-i", path, "-t", "20", "-c", "copy", piece], check=True)
            pieces.append(piece)
        for piece in pieces:
            frames, times = read_frames(piece, 16, 16 * 784)
            truth = in_order(piece, frames.shape[2], frames.shape[1])
            error = max(float(np.abs(np.array(truth[0]) - t).min()) for t in times)
            rows.append((piece.stem[:32], "pyav", len(wrong_pictures(piece, frames, times, truth=truth)), len(frames), error))
    return rows


@pytest.mark.shared
@pytest.mark.parametrize("clips, cuts", [(2, 1), pytest.param(20, 5, marks=pytest.mark.long)])
def test_no_picture_of_real_clips_is_wrong(shared, tmp_path, clips, cuts):
    PROCESS_FACTS.pop("videos_switched", None)
    rows = real_rows(shared, tmp_path, clips, cuts)
    print(*table(rows), sep="\n")
    assert len(rows) == clips * (cuts + 1) and sum(row[2] for row in rows) == 0 and max(row[4] for row in rows) < 2e-3
    assert "videos_switched" not in PROCESS_FACTS


@pytest.mark.shared
def test_decord_unchecked_is_wrong_on_a_cut_of_a_real_clip(shared, tmp_path):
    path = tmp_path / "cut.mp4"
    subprocess.run(["ffmpeg", "-v", "error", "-ss", "8.2", "-i", shared / "data/videos/OHOFG.mp4", "-t", "20", "-c", "copy", path], check=True)
    assert len(wrong_pictures(path, *forced(path))) > 8
    assert wrong_pictures(path, *read_frames(path, 16, 16 * 784)) == []


def test_the_report_for_decord_is_reproduced(tmp_path):
    "The example of docs/upstream/decord.md, run as it stands: each picture that decord gives is three seconds late."
    text = (project_root() / "docs/upstream/decord.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    done = subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True)
    rows = [[float(number) for number in re.findall(r"\d+\.\d", line)] for line in done.stdout.splitlines()]
    assert len(rows) == 6 and all(abs(shown - expected - 3) < 0.3 for _, expected, shown in rows)
    read = read_frames(tmp_path / "piece.mp4", 200, 784)
    assert all(abs(frame.mean() / 12 - (3 + t)) < 0.5 for frame, t in zip(*read))


@pytest.mark.parametrize("clock", ["select='lt(n,20)+gt(n,100)*not(mod(n,7))'", "setpts='N*N/100/TB'"], ids=["gaps", "slower and slower"])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_the_duration_of_a_file_with_reordered_pictures_is_that_of_ffprobe(tmp_path, name, clock):
    "A packet of an mp4 has a duration in the order of decoding. With B-frames and a variable rate the last picture is shown for another time."
    path = tmp_path / name
    source = ["-f", "lavfi", "-i", "testsrc=d=20:r=10:s=64x64", "-vf", clock, "-fps_mode", "vfr"]
    subprocess.run(["ffmpeg", "-v", "error", *source, "-c:v", "libx264", "-pix_fmt", "yuv420p", path], check=True)
    duration = subprocess.run(
        ["ffprobe", "-v", "error", "-show_entries", "format=duration", "-of", "csv=p=0", path], check=True, capture_output=True, text=True
    )
    assert probe(path).duration == pytest.approx(float(duration.stdout), abs=0.15)
