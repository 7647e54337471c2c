"Frames and their times are those of the stream, and every fault of a file is a `VideoError`."

import json
from fractions import Fraction

import av
import numpy as np
import pytest

from vtg_r1.video.decoders import VideoError
from vtg_r1.video.reader import fit_size, pick_frames, probe, read_frames


def write(path, milliseconds, audio_from=None, size=(64, 48)):
    "An mp4 whose frame i is grey level 8·i and is shown at the given time; optionally a silent sound track that starts earlier."
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=30, options={"crf": "10"})
        video.width, video.height, video.pix_fmt, video.codec_context.time_base = *size, "yuv420p", Fraction(1, 1000)
        sound = out.add_stream("aac", rate=16000) if audio_from is not None else None
        if sound:
            for k in range(20):
                frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
                frame.sample_rate, frame.pts, frame.time_base = 16000, audio_from * 16 + 1024 * k, Fraction(1, 16000)
                out.mux(sound.encode(frame))
            out.mux(sound.encode())
        for i, ms in enumerate(milliseconds):
            frame = av.VideoFrame.from_ndarray(np.full((size[1], size[0], 3), 8 * i, np.uint8), format="rgb24")
            frame.pts, frame.time_base = ms, Fraction(1, 1000)
            out.mux(video.encode(frame))
        out.mux(video.encode())
    return path


def test_times_at_a_variable_frame_rate_are_those_of_the_stream(tmp_path):
    shown = [0, 40, 80, 900, 2000, 2040, 5000]
    frames, times = read_frames(write(tmp_path / "vfr.mp4", shown), n=64)
    np.testing.assert_allclose(times, np.array(shown) / 1000, atol=1e-3)
    np.testing.assert_allclose(frames.mean((1, 2, 3)), 8 * np.arange(7), atol=4)


def test_pictures_that_start_after_the_sound_keep_the_clock_of_a_player(tmp_path):
    info = probe(write(tmp_path / "late.mp4", [1400 + 500 * i for i in range(6)], audio_from=0))
    assert info.times[0] == pytest.approx(1.4, abs=0.1)


def test_without_sound_the_first_picture_is_at_zero(tmp_path):
    assert probe(write(tmp_path / "offset.mp4", [1400 + 500 * i for i in range(6)])).times[0] == pytest.approx(0, abs=1e-3)


def test_clip_times_count_from_the_clip(tmp_path):
    path = write(tmp_path / "long.mp4", [250 * i for i in range(30)])
    frames, times = read_frames(path, n=4, clip=(2.0, 4.0))
    assert times.tolist() == pytest.approx([0.0, 0.5, 1.0, 1.75])  # for each of four even times the last frame at or before it
    np.testing.assert_allclose(frames.mean((1, 2, 3)), 8 * (8 + times / 0.25), atol=4)


def test_a_clip_may_begin_while_the_last_frame_is_on_display(tmp_path):
    path = write(tmp_path / "v.mp4", [0, 500, 1000])
    last, end = probe(path).times[-1], probe(path).duration
    assert last < end
    frames, times = read_frames(path, n=4, clip=((last + end) / 2, end))
    assert times.tolist() == [0] and abs(frames.mean() - 16) < 4
    with pytest.raises(VideoError, match="is not a stretch"):
        read_frames(path, clip=(end, end + 1))


@pytest.mark.parametrize("clip", [(3.0, 2.0), (-1.0, 2.0), (90.0, 95.0)])
def test_a_clip_outside_the_video_is_an_error(tmp_path, clip):
    with pytest.raises(VideoError, match="not a stretch"):
        read_frames(write(tmp_path / "v.mp4", [0, 500, 1000]), clip=clip)


def test_errors_of_missing_and_unreadable_files_and_of_folders_name_them(tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty.mp4").touch()
    whole = write(tmp_path / "whole.mp4", [500 * i for i in range(8)]).read_bytes()
    (tmp_path / "half.mp4").write_bytes(whole[: len(whole) // 2])
    for name in ("gone.mp4", "text.mp4", "empty.mp4", "half.mp4", "."):
        with pytest.raises(VideoError) as e:
            read_frames(tmp_path / name)
        assert str(tmp_path / name) in str(e.value) and e.value.reason


def test_a_changed_file_is_probed_again(tmp_path):
    path = write(tmp_path / "v.mp4", [0, 500])
    assert len(probe(path)) == 2
    write(path, [0, 500, 1000])
    assert len(probe(path)) == 3


@pytest.mark.parametrize("width,height", [(1920, 1080), (1, 1), (4000, 10), (320, 240), (28, 28)])
def test_the_size_is_a_multiple_of_28_within_the_budget_of_pixels(width, height):
    w, h = fit_size(width, height, 128 * 784)
    assert w % 28 == h % 28 == 0 and 784 <= w * h <= 128 * 784


def test_picked_frames_are_even_in_time():
    bursts = np.concatenate([np.linspace(0, 1, 100), [5.0, 9.0, 10.0]])
    assert bursts[pick_frames(bursts, 3)].tolist() == [0.0, 5.0, 10.0]


@pytest.mark.shared
def test_real_videos_have_the_times_of_their_packets(shared):
    for line in (shared / "data/videos/index.jsonl").read_text().splitlines():
        row = json.loads(line)
        path = shared / "data" / row["file"]
        frames, times = read_frames(path, n=8, max_pixels=4 * 784)
        with av.open(str(path)) as f:
            stream = f.streams.video[0]
            start = (f.start_time or 0) / av.time_base
            real = sorted(float(p.pts * p.time_base) - start for p in f.demux(stream) if p.pts is not None)
        assert all(np.abs(np.array(real) - t).min() < 2e-3 for t in times), path.name
        assert len(frames) == 8 and abs(probe(path).duration - row["last_frame_end"]) < 0.05, path.name
