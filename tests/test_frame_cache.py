"Frames kept on disk are the right ones, whatever happened to the video, the entry, the folder or another process."

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from vtg_r1.data.model_inputs import VideoInputConfig, build_prompt
from vtg_r1.video.cache import FrameCache, LRUCache, cache_gigabytes
from vtg_r1.video.decoders import VideoError
from vtg_r1.video.reader import read_frames


class Counted:
    "Makes frames from a video's bytes, and counts how often."

    def __init__(self, video, n=2, side=28):
        self.video, self.shape, self.calls = Path(video), (n, side, side, 3), 0

    def __call__(self):
        self.calls += 1
        seed = int.from_bytes(self.video.read_bytes()[:8], "little")
        return np.random.default_rng(seed).integers(0, 256, self.shape, np.uint8), np.arange(self.shape[0]) / 2


@pytest.fixture
def video(tmp_path):
    path = tmp_path / "v.mp4"
    path.write_bytes(b"one video")
    return path


def fetch(folder, make, how=(64,), gigabytes=1.0):
    return FrameCache(folder, gigabytes).fetch(make.video, how, make)


def same(a, b):
    return a[0].dtype == b[0].dtype == np.uint8 and np.array_equal(a[0], b[0]) and np.array_equal(a[1], b[1])


def entries(folder):
    return sorted(Path(folder).glob("*.frames"))


def test_frames_are_kept_once_for_equal_files_and_separately_for_every_way_of_reading(tmp_path, video):
    make, folder = Counted(video), tmp_path / "c"
    first = fetch(folder, make)
    assert same(first, fetch(folder, make)) and make.calls == 1
    copy = tmp_path / "other.mp4"
    copy.write_bytes(video.read_bytes())
    assert same(first, FrameCache(folder).fetch(copy, (64,), make)) and make.calls == 1
    for how in ((32,), (64, None), (64, (0.0, 1.0))):
        fetch(folder, make, how)
    assert make.calls == 4 and len(entries(folder)) == 4


def test_a_changed_file_under_the_same_name_size_and_time_is_another_video(tmp_path, video):
    make, folder = Counted(video), tmp_path / "c"
    os.utime(video, (1e9, 1e9))
    time.sleep(2.1)  # only the digest of a file that was not changed just now is kept
    fetch(folder, make)
    assert list(folder.glob("*.id"))
    video.write_bytes(b"two video")
    os.utime(video, (1e9, 1e9))
    assert same(fetch(folder, make), make()) and make.calls == 3
    video.write_bytes(b"six video")  # rewritten within the same tick
    assert same(fetch(folder, make), make())


def test_the_content_of_an_unchanged_file_is_hashed_once(tmp_path, video, monkeypatch):
    make, folder = Counted(video), tmp_path / "c"
    os.utime(video, (1e9, 1e9))
    time.sleep(2.1)
    fetch(folder, make)
    monkeypatch.setattr("vtg_r1.video.cache._digest", lambda path: pytest.fail("read again"))
    fetch(folder, make)
    next(folder.glob("*.id")).write_text("torn")
    with pytest.raises(pytest.fail.Exception):
        fetch(folder, make)


def test_frames_of_a_video_replaced_while_it_was_read_are_not_kept(tmp_path, video):
    make, folder = Counted(video), tmp_path / "c"

    def replaced():
        video.write_bytes(b"new video")
        return make()

    FrameCache(folder).fetch(video, (64,), replaced)
    assert not entries(folder)


def damage(entry, how, other):
    data = bytearray(entry.read_bytes())
    if how == "empty":
        data = b""
    elif how == "cut":
        data = data[:-1]
    elif how == "head":
        data = data[:30]
    elif how == "longer":
        data += b"\0"
    elif how == "other entry":
        data = other.read_bytes()
    elif how == "pickle":
        data = b"\x80\x04cos\nsystem\n(S'touch pwned'\ntR."
    else:
        data[how] ^= 1
    entry.write_bytes(data)


@pytest.mark.parametrize("how", ["empty", "cut", "head", "longer", "other entry", "pickle", 3, 16, 30, 50, 2000])
def test_a_damaged_entry_is_made_again(tmp_path, video, how):
    make, folder = Counted(video), tmp_path / "c"
    first = fetch(folder, make)
    (entry,) = entries(folder)
    fetch(folder, make, (32,))
    damage(entry, how, next(e for e in entries(folder) if e != entry))
    assert same(first, fetch(folder, make)) and make.calls == 3
    assert same(first, fetch(folder, make)) and make.calls == 3


def test_without_the_checksum_damage_would_not_be_noticed(tmp_path, video, monkeypatch):
    make, folder = Counted(video), tmp_path / "c"
    first = fetch(folder, make)
    damage(entries(folder)[0], 2000, None)
    monkeypatch.setattr("vtg_r1.video.cache._checksum", lambda key, *pieces: entries(folder)[0].read_bytes()[:16])
    assert not same(first, fetch(folder, make)) and make.calls == 1


def test_other_files_in_the_folder_of_the_cache_stay(tmp_path, video):
    make, folder = Counted(video), tmp_path / "c"
    folder.mkdir()
    others = [folder / name for name in ("film.mp4", "film.mp4.part", ".film.part", "mine.frames")]
    for other in others:
        other.write_bytes(b"x" * 10_000)
        os.utime(other, (1e9, 1e9))
    for i in range(3):
        fetch(folder, make, (i,), 1.5 * make()[0].nbytes / 1e9)
    assert all(other.exists() for other in others) and len(entries(folder)) == 2  # mine.frames and the latest


def test_the_least_recently_used_entry_is_removed_first(tmp_path, video):
    make, folder = Counted(video), tmp_path / "c"
    room = 4 * (make()[0].nbytes + 200) / 1e9
    for i in range(4):
        fetch(folder, make, (i,), room)
        time.sleep(0.02)
    fetch(folder, make, (0,), room)  # used again: now 1 is the oldest
    calls = make.calls
    fetch(folder, make, (9,), room)
    for i in (0, 2, 3, 9):
        fetch(folder, make, (i,), room)
    assert make.calls == calls + 1
    fetch(folder, make, (1,), room)
    assert make.calls == calls + 2 and sum(e.stat().st_size for e in entries(folder)) <= room * 1e9


def test_frames_larger_than_the_limit_of_the_folder_are_not_kept(tmp_path, video):
    fetch(tmp_path / "c", Counted(video), gigabytes=1e-6)
    assert not entries(tmp_path / "c")


def test_with_a_folder_that_cannot_be_written_frames_are_read_and_not_kept(tmp_path, video):
    (tmp_path / "file").touch()
    make = Counted(video)
    with pytest.warns(UserWarning, match="not kept"):
        assert same(fetch(tmp_path / "file" / "c", make), make())


KILLED = """
import os, signal, sys
from pathlib import Path
from vtg_r1.video import cache
def pieces():
    yield b"half of the new"
    os.kill(os.getpid(), signal.SIGKILL)
cache._write_whole(Path(sys.argv[1]), pieces())
"""


def test_a_process_killed_while_it_writes_leaves_the_old_entry_or_none(tmp_path, video):
    make, folder = Counted(video), tmp_path / "c"
    first = fetch(folder, make)
    (entry,) = entries(folder)
    for target in (entry, folder / f"{'0' * 32}.frames"):
        assert subprocess.run([sys.executable, "-c", KILLED, target]).returncode == -signal.SIGKILL
    assert entries(folder) == [entry] and same(first, fetch(folder, make)) and make.calls == 1
    parts = list(folder.glob(".*.part"))
    assert len(parts) == 2
    os.utime(parts[0], (1e9, 1e9))  # as if left more than an hour ago
    fetch(folder, make, (1,))
    assert not parts[0].exists() and parts[1].exists()


WORKER = """
import random, sys, numpy as np
from vtg_r1.video.cache import FrameCache
folder, video, seed = sys.argv[1], sys.argv[2], int(sys.argv[3])
cache, pick = FrameCache(folder, 200e-6), random.Random(seed)
for _ in range(300):
    i = pick.randrange(60)
    frames, times = cache.fetch(video, (i,), lambda: (np.full((4, 28, 28, 3), i, np.uint8), np.arange(4.0) + i))
    assert frames.shape == (4, 28, 28, 3) and (frames == i).all() and (times == np.arange(4.0) + i).all(), i
"""


def test_many_processes_share_a_folder_that_is_too_small_for_all_their_entries(tmp_path, video):
    workers = [subprocess.Popen([sys.executable, "-c", WORKER, tmp_path / "c", video, str(i)], stderr=subprocess.PIPE, text=True) for i in range(4)]
    assert [(w.communicate()[1], w.returncode) for w in workers] == [("", 0)] * 4
    files = list((tmp_path / "c").iterdir())
    assert 0 < sum(f.stat().st_size for f in files) <= 200e3 + 4 * 10e3 and not [f for f in files if f.suffix == ".part"]


def test_read_frames_decodes_once_and_gives_the_same(tmp_path, world, toy_samples, monkeypatch):
    path = world / "videos" / toy_samples[0].video
    for clip in (None, (2.0, 6.0)):
        decoded = read_frames(path, 8, 784, clip)
        cached = [read_frames(path, 8, 784, clip, FrameCache(tmp_path / "c")) for _ in range(2)]
        assert all(same(decoded, c) for c in cached)
    monkeypatch.setattr("vtg_r1.video.reader._decode", lambda *a: pytest.fail("decoded again"))
    assert same(decoded, read_frames(path, 8, 784, (2, 6), FrameCache(tmp_path / "c")))


def test_errors_are_the_same_with_a_cache(tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    for name in ("gone.mp4", "text.mp4", "."):
        with pytest.raises(VideoError) as plain:
            read_frames(tmp_path / name)
        with pytest.raises(VideoError) as cached:
            read_frames(tmp_path / name, cache=FrameCache(tmp_path / "c"))
        assert str(plain.value) == str(cached.value)
    assert not entries(tmp_path / "c")


def test_frames_are_kept_in_the_folder_of_the_view_or_of_the_environment(tmp_path, world, toy_samples, monkeypatch):
    for folder in ("", str(tmp_path / "mine")):
        build_prompt(toy_samples[0], VideoInputConfig(str(world / "videos"), 5, 784, "short", cache=folder))
    assert not entries(tmp_path / "mine")  # in memory already: the second view asked for the same frames
    build_prompt(toy_samples[0], VideoInputConfig(str(world / "videos"), 6, 784, "short", cache=str(tmp_path / "mine")))
    assert len(entries(tmp_path / "mine")) == 1
    monkeypatch.setenv("VTG_R1_CACHE", str(tmp_path / "env"))
    build_prompt(toy_samples[0], VideoInputConfig(str(world / "videos"), 7, 784, "short"))
    assert len(entries(tmp_path / "env")) == 1


def test_the_limit_of_the_cache_must_be_a_number_of_gigabytes(monkeypatch):
    for value in ("much", "inf", "nan", "-1", "1e999"):
        monkeypatch.setenv("VTG_R1_CACHE_GB", value)
        with pytest.raises(ValueError, match=f"VTG_R1_CACHE_GB must be a number of gigabytes, 0 or more, got '{value}'"):
            cache_gigabytes()
    monkeypatch.setenv("VTG_R1_CACHE_GB", "0.5")
    assert cache_gigabytes() == 0.5
    with pytest.raises(ValueError, match="cache_gb must be a number of gigabytes"):
        VideoInputConfig("videos", cache_gb=float("inf"))


def test_the_cache_in_memory_is_bounded_in_bytes():
    recent = LRUCache(100)
    for k in range(10):
        recent.get(k, lambda: (k, 30))
    assert recent.total == 90 and recent.get(9, lambda: pytest.fail("made again")) == 9
    assert recent.get("large", lambda: ("large", 1000)) == "large" and recent.total == 1000
    assert recent.get(9, lambda: ("again", 30)) == "again" and recent.total == 30
