"""Two frames never get the same time.

Interleaved times have as many decimals as that needs. Where a native clock is too coarse, a run says so once."""

import json
from dataclasses import replace

import model_zoo
import numpy as np
import pytest
from test_native import videos  # noqa: F401
from test_prefix_cache import qwen3_vl

from vtg_r1.cli import main
from vtg_r1.core.prompts import frame_times, grounding_prompt
from vtg_r1.core.samples import Sample
from vtg_r1.data.model_inputs import VideoInputConfig, build_prompt, dry_prompt
from vtg_r1.data.toyworld import write_video
from vtg_r1.models.clock import dense_clips, finest_rate, model_without_weights
from vtg_r1.models.tiny import build_tiny
from vtg_r1.runs.run import start_run
from vtg_r1.sft import SFTParams
from vtg_r1.train.evaluation import EvalSet
from vtg_r1.train.stage_data import StageData
from vtg_r1.train.trainer import load_policy_and_processor
from vtg_r1.video.decoders import VideoError


def test_seconds_have_one_decimal_where_that_keeps_frames_apart():
    assert frame_times([0, 0.52, 1.04, 3.0]) == ["0", "0.5", "1", "3"]
    assert frame_times([]) == []


def test_seconds_have_the_decimals_that_the_spacing_needs():
    assert frame_times([0.0, 0.033, 0.067, 0.1]) == ["0", "0.03", "0.07", "0.1"]
    assert frame_times([10.001, 10.002, 11.0]) == ["10.001", "10.002", "11"]
    draw = np.random.default_rng(0)
    for step in (0.5, 0.1, 0.04, 1 / 60, 0.001):
        times = (draw.uniform(0, 100) + step * np.arange(64)).round(3).tolist()
        texts = frame_times(times)
        assert len(set(texts)) == 64 and all(abs(float(t) - s) <= max(0.051, 0.51 * step) for t, s in zip(texts, times))
    blocks = grounding_prompt("x", [0.0, 0.04])[1]["content"]
    assert [b["text"] for b in blocks if b["type"] == "text"] == ["0", "0.04", "x"]


@pytest.mark.parametrize("encoding", ["interleaved", "native"])
@pytest.mark.parametrize("name", ["constant", "variable", "many, with pauses"])
@pytest.mark.parametrize("fps", [0.5, 1.0, 3.0])
def test_fps_limits_the_number_of_frames_per_second(videos, name, fps, encoding):  # noqa: F811
    view = VideoInputConfig(str(videos), 64, 28 * 28, "full", encoding, fps=fps)
    sample = Sample("q", f"{name}.mp4", 13.0, "x", [[0, 1]])
    for s in (sample, replace(sample, clip=[0.5, 4.5])):
        prompt, dry = build_prompt(s, view), dry_prompt(s, view)
        assert prompt["prompt"] == dry["prompt"] and prompt.get("fps") == dry.get("fps")
        if encoding == "native":
            assert prompt["fps"] <= fps * 1.01 or len({id(frame) for frame in prompt["video"]}) == 1  # a single frame, given twice
        else:
            seconds = [float(b["text"]) for b in prompt["prompt"][1]["content"][:-1] if b["type"] == "text"]
            assert (len(seconds) - 1) <= fps * (seconds[-1] - seconds[0]) + 0.3
    if fps == 0.5:  # every one of these videos has more frames than that
        everything, limited = (build_prompt(sample, v) for v in (replace(view, fps=0), view))
        assert len(everything.get("images") or everything["video"]) > len(limited.get("images") or limited["video"])


def test_with_fps_a_clip_behind_the_end_of_its_video_is_the_readers_error(tmp_path):
    "A `VideoError` makes a failed row; any other error would end the run."
    write_video(tmp_path / "v.mp4", np.zeros((16, 28, 28, 3), np.uint8), 1)
    view = VideoInputConfig(str(tmp_path), 64, 28 * 28, "full", fps=2.0)
    with pytest.raises(VideoError):
        build_prompt(Sample("q", "v.mp4", 10.0, "x", [[0, 1]], clip=[200.0, 210.0]), view)


def test_a_negative_fps_is_refused():
    with pytest.raises(ValueError, match="fps must be 0"):
        VideoInputConfig("videos", fps=-1)


def test_the_finest_rate_of_clocks_in_positions_is_measured():
    tiny, processor = build_tiny(0)
    assert tiny.config.vision_config.tokens_per_second == 4 and finest_rate(tiny, processor) == 8
    tiny.config.vision_config.tokens_per_second = 2  # as in the published checkpoints
    assert finest_rate(tiny, processor) == 4
    assert finest_rate(model_without_weights("tiny"), processor) == 8
    assert finest_rate(*qwen3_vl()) == 20  # it writes tenths of a second, and a step has two frames


@pytest.mark.parametrize(("family", "finest"), [("glm4v", 2), ("glm46v", 20), ("gemma4", 1), ("smolvlm", 1), ("qwen3_5", 20)])
def test_the_finest_rate_of_other_families_is_measured(family, finest):
    assert finest_rate(*model_zoo.build(family)) == finest


def test_samples_of_one_clip_count_as_one_dense_clip():
    view = VideoInputConfig("videos", 64, time_encoding="native")
    samples = [
        Sample(str(i), f"{v}.mp4", d, "x", [[0, 1]], clip=c)
        for i, (v, d, c) in enumerate([(1, 15.7, None), (1, 15.7, None), (2, 15.75, None), (3, 4.0, [5.0, 9.0])])
    ]
    assert dense_clips(samples, view, 4.0) == (2, 3)
    assert dense_clips(samples, replace(view, frames=16), 4.0) == (0, 3)
    assert dense_clips(samples, replace(view, fps=4.0), 4.0) == (0, 3)
    assert dense_clips(samples, replace(view, fps=5.0), 4.0) == (2, 3)


def test_a_file_with_fewer_frames_than_the_budget_is_not_dense(tmp_path):
    "64 frames in nine seconds would be seven per second. The slow file has only one per second."
    for name, fps in (("slow", 1), ("fast", 8)):
        write_video(tmp_path / f"{name}.mp4", np.zeros((9 * fps, 28, 28, 3), np.uint8), fps)
    view = VideoInputConfig(str(tmp_path), 64, 784, time_encoding="native", cache="")
    slow, fast, gone = (Sample(name, f"{name}.mp4", 9.0, "x", [[0, 1]]) for name in ("slow", "fast", "gone"))
    assert build_prompt(slow, view)["fps"] == 1 and build_prompt(fast, view)["fps"] > 4
    assert dense_clips([slow], view, 4.0) == (0, 1) and dense_clips([slow, fast, gone], view, 4.0) == (2, 3)
    assert dense_clips([replace(fast, clip=[2.0, 6.0], duration=4.0), replace(slow, clip=[2.0, 6.0], duration=4.0)], view, 4.0) == (1, 2)


@pytest.mark.shared
def test_dense_clips_of_the_benchmarks(shared):
    view = VideoInputConfig("videos", 64, time_encoding="native")
    folder = shared / "data/annotations"
    charades = json.loads((folder / "charades_sta/charades_test.json").read_text(encoding="utf-8"))
    nextgqa = json.loads((folder / "nextgqa/gsub_test.json").read_text(encoding="utf-8"))
    for videos_of, expected in ((charades, (69, 1334)), (nextgqa, (126, 999))):  # 5.2 and 12.6 %
        samples = [Sample(name, name, v["duration"], "x", [[0, 1]]) for name, v in videos_of.items()]
        assert dense_clips(samples, view, 4.0) == expected


def prepared(tmp_path, toy_samples, world, capsys, **values):
    "The manifest of a run that has loaded its policy, and what it printed."
    params = SFTParams(run_name="x", outputs_dir=str(tmp_path), **values)
    run = start_run("sft", params.run_name, {}, params.outputs_dir)
    view = VideoInputConfig(str(world / "videos"), params.frames, params.pixels, params.prompt_style, params.time_encoding, fps=params.fps)
    load_policy_and_processor(run, params, "tiny", StageData(toy_samples, view, [EvalSet("", toy_samples[:1], view.video_root)]), 8)
    return run.manifest, capsys.readouterr().out


def test_a_run_says_once_that_neighbouring_frames_get_the_same_time(tmp_path, toy_samples, world, capsys):
    durations = {s.video: s.duration for s in toy_samples}
    clips = len(durations)
    manifest, out = prepared(tmp_path / "slow", toy_samples, world, capsys, frames=400, time_encoding="native")
    assert manifest["clock"] == dict(clips=clips, dense=0, finest_fps=8) and "same time" not in out, "these videos have one frame per second"
    world = tmp_path / "fast"
    (world / "videos").mkdir(parents=True)
    for name, duration in durations.items():
        write_video(world / "videos" / name, np.zeros((int(16 * duration), 28, 28, 3), np.uint8), 16)
    manifest, out = prepared(tmp_path / "a", toy_samples, world, capsys, frames=400, time_encoding="native")
    assert manifest["clock"] == dict(clips=clips, dense=clips, finest_fps=8)
    assert out.count("neighbouring frames then get the same time from this model: fps = 8 keeps them apart") == 1
    manifest, out = prepared(tmp_path / "b", toy_samples, world, capsys, frames=400, time_encoding="native", fps=8.0)
    assert manifest["clock"]["dense"] == 0 and "same time" not in out
    manifest, out = prepared(tmp_path / "c", toy_samples, world, capsys, frames=64)
    assert "clock" not in manifest and "same time" not in out


def test_ground_says_that_neighbouring_frames_get_the_same_time(tmp_path, toy_samples, world, capsys):
    video = str(tmp_path / "fast.mp4")
    write_video(video, np.zeros((240, 28, 28, 3), np.uint8), 16)
    words = ["ground", video, "red circle", "--time-encoding", "native", "--frames", "400", "--max-completion-length", "2"]
    main(words)
    assert "1 of 1 clips (100.0 %)" in capsys.readouterr().err
    main([*words, "--fps", "8"])
    assert "same time" not in capsys.readouterr().err
    main([words[0], str(world / "videos" / toy_samples[0].video), *words[2:]])  # one frame per second
    assert "same time" not in capsys.readouterr().err
