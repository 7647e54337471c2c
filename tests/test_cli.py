"The command line: results on stdout, progress on stderr, one line and exit code 2 for bad input, and Ctrl-C that leaves no process behind."

import csv
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import nbformat
import numpy as np
import pytest
import typer

import vtg_r1
from vtg_r1 import cli
from vtg_r1.cli import main
from vtg_r1.cli.common import app
from vtg_r1.cli.run import read_given
from vtg_r1.core.prompts import STYLES
from vtg_r1.core.runtime import PROCESS_FACTS
from vtg_r1.core.samples import load_samples
from vtg_r1.models.ground import InferenceConfig, resolve_model
from vtg_r1.runs.run import start_run
from vtg_r1.video.cut import cut
from vtg_r1.video.decoders import VideoError
from vtg_r1.video.reader import probe, read_frames

COMMANDS = [
    "ground",
    "calibrate",
    "check-model",
    "run",
    "recipe",
    "runs",
    "difficulty",
    "estimate",
    "score",
    "data where",
    "data validate",
    "data convert",
    "data curate",
    "push",
    "demo",
    "review",
    "env",
]
OLD = ["data check", "view"]  # names of 0.1


def vtg(capsys, *args) -> tuple[int, str, str]:
    "Exit code, stdout and stderr of a command in this process."
    code = main([str(a) for a in args])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def toy(world, toy_samples):
    "A toy video and one of its sentences."
    return world / "videos" / toy_samples[0].video, toy_samples[0].query


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples_and_exit_codes(command, capsys):
    code, out, _ = vtg(capsys, *command.split(), "--help")
    assert code == 0 and "--json" in out and "exit codes: 0 done" in out and "2 bad input" in out
    examples = out.split("examples:\n")[1].split("\n\n")[0].splitlines()
    assert examples and all(line.strip().startswith(f"vtg-r1 {command}") for line in examples)


def test_every_command_is_in_these_lists_and_old_names_are_hidden(capsys):
    top = typer.main.get_command(app).commands
    assert {c.split()[0] for c in COMMANDS + OLD} == set(top)
    assert {f"data {name}" for name in top["data"].commands} == {c for c in COMMANDS + OLD if c.startswith("data ")}
    code, out, _ = vtg(capsys, "--help")
    assert code == 0 and "Exit codes" in out and "review" in out and "view " not in out.replace("review ", "")


@pytest.mark.parametrize("command", OLD)
def test_old_names_keep_working(command, capsys):
    code, out, err = vtg(capsys, *command.split(), "--help")
    assert code == 0 and f"Usage: vtg-r1 {command} " in out and not err


def test_ground_takes_every_style_of_prompt(parse_command):
    assert [parse_command(["ground", "a", "b", "--style", style]).params["style"] for style in STYLES] == list(STYLES)


def test_mistakes_on_the_command_line_are_one_line(capsys):
    for words, problem in [
        (["groud", "a", "b"], "vtg-r1: No such command 'groud'. Did you mean 'ground'?"),
        (["data", "convrt"], "vtg-r1 data: No such command 'convrt'. Did you mean 'convert'?"),
        (["ground", "a.mp4"], "vtg-r1 ground: Missing argument 'QUERY...'."),
        (["score", "--benchmark", "charades"], "vtg-r1 score: Invalid value for '--benchmark': 'charades' is none of charades_sta, "),
        (["ground", "a", "b", "--style", "long"], "'long' is not one of 'full', 'short'"),
        ([], "vtg-r1: Missing command."),
    ]:
        code, out, err = vtg(capsys, *words)
        assert code == 2 and not out and err.count("\n") == 1 and problem in err
    assert vtg(capsys, "--version") == (0, f"vtg-r1 {vtg_r1.__version__}\n", "")


def test_help_is_fast_and_light():
    code = "import sys, time; t = time.process_time(); from vtg_r1.cli import main; main(['--help']); print(time.process_time() - t, [m for m in ('torch', 'transformers', 'pandas', 'av', 'rich') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    seconds, heavy = out.splitlines()[-1].split(" ", 1)
    assert float(seconds) < 1 and heavy.strip() == "[]"


def test_ground_answers_on_a_toy_video(toy, capsys):
    video, query = toy
    code, out, err = vtg(capsys, "ground", video, query, "the white cross", "--json")
    found = json.loads(out)
    assert (
        code == 0
        and "knows only coloured shapes" in err
        and found["duration"] == pytest.approx(probe(video).duration, abs=1e-3)
        and [a["query"] for a in found["answers"]] == [query, "the white cross"]
    )
    for a in found["answers"]:
        assert 0 <= a["span"][0] < a["span"][1] <= found["duration"] and "<time>" in a["response"] and a["clip"] is None
    assert "answers" in err and "Warning" not in err
    code, out, _ = vtg(capsys, "ground", video, query)
    start, end = found["answers"][0]["span"]
    assert code == 0 and out.splitlines()[0] == f"{start:.2f} – {end:.2f} s  {query}"


@pytest.mark.shared
def test_ground_answers_on_a_real_clip_and_cuts_it(shared, tmp_path, capsys):
    "The embedded model knows only shapes. On a real clip it must still answer in the format, and the cut must be the span of its answer."
    video = shared / "data/videos/OHOFG.mp4"
    code, out, _ = vtg(capsys, "ground", video, "the red circle", "--json", "--clip", tmp_path / "new/moment.mp4")
    answer = json.loads(out)["answers"][0]
    assert code == 0 and answer["clip"] == str(tmp_path / "new/moment.mp4")
    assert probe(answer["clip"]).duration == pytest.approx(answer["span"][1] - answer["span"][0], abs=0.01)
    with av.open(answer["clip"]) as clip:
        sound = clip.streams.audio[0]
        assert float(sound.duration * sound.time_base) == pytest.approx(answer["span"][1] - answer["span"][0], abs=0.05)
    code, out, _ = vtg(capsys, "ground", video, "somebody opens a door")
    assert code == 1 and out.startswith("no span") and "the response:" in out


def test_several_clips_are_numbered(toy, tmp_path, capsys):
    code, out, _ = vtg(capsys, "ground", toy[0], toy[1], toy[1], "--clip", tmp_path / "m.mp4", "--json")
    assert code == 0 and [a["clip"] for a in json.loads(out)["answers"]] == [str(tmp_path / f"m-{i}.mp4") for i in (1, 2)]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m-1.mp4", "m-2.mp4"]


def test_ground_refuses_bad_input_in_one_line(toy, tmp_path, capsys):
    video, query = toy
    text, empty = tmp_path / "text.mp4", tmp_path / "empty.mp4"
    text.write_text("this is a letter\n" * 100)
    empty.touch()
    (tmp_path / "folder").mkdir()
    bad = [
        ((tmp_path / "gone.mp4", query), "gone.mp4: no such file"),
        ((text, query), "text.mp4: is no readable video"),
        ((empty, query), "empty.mp4: is no readable video"),
        ((tmp_path, query), "is not a file"),
        ((video, ""), "query 1 is empty"),
        ((video, query, "  "), "query 2 is empty"),
        ((video, query, "--model", tmp_path / "folder"), "no config.json"),
        ((video, query, "--model", "outputs/grpo/gone"), "no config.json"),
        ((video, query, "--model", "models/a/b/c"), "no config.json"),
        ((video, query, "--model", "tiyn"), "no config.json"),
        ((video, query, "--frames", "0"), "'--frames': Input should be greater than or equal to 1"),
        ((video, query, "--pixels", "783"), "'--pixels': Input should be greater than or equal to 784"),
        ((video, query, "--clip", video), "would overwrite"),
        ((video, query, "--clip", tmp_path / "folder"), "is a folder"),
        ((video, query, "the <|image_pad|> circle"), "a control word of the model"),
    ]
    for args, said in bad:
        code, out, err = vtg(capsys, "ground", *args)
        assert code == 2 and not out and err.count("\n") == 1 and err.startswith("vtg-r1 ground: ") and said in err, (args, err)


def test_ground_reads_and_cuts_a_video_behind_a_link(toy, tmp_path, capsys):
    (tmp_path / "link.mp4").symlink_to(toy[0])
    code, out, _ = vtg(capsys, "ground", tmp_path / "link.mp4", toy[1], "--json", "--clip", tmp_path / "cut.mp4")
    found = json.loads(out)
    assert code == 0 and found["video"] == str(tmp_path / "link.mp4") and probe(tmp_path / "cut.mp4").duration > 0
    assert found["answers"][0]["span"] == json.loads(vtg(capsys, "ground", toy[0], toy[1], "--json")[1])["answers"][0]["span"]


def test_ground_decodes_with_the_backend_that_the_environment_names(grey, tmp_path, capsys, monkeypatch):
    "decord cannot read a GIF, so PyAV reads it and a line says so. An unknown backend is one line."
    gif = grey(tmp_path / "film.gif", "gif", 8, 4, (56, 56), "rgb8", step=30)
    monkeypatch.setenv("VTG_R1_BACKEND", "decord")
    monkeypatch.delitem(PROCESS_FACTS, "videos_switched", raising=False)
    code, out, err = vtg(capsys, "ground", gif, "the red circle", "--json")
    assert f"{gif}: read by pyav; decord may show other pictures" in err
    assert code in (0, 1) and json.loads(out)["duration"] == pytest.approx(2, abs=0.3)
    monkeypatch.setenv("VTG_R1_BACKEND", "mpeg9")
    code, out, err = vtg(capsys, "ground", gif, "the red circle")
    assert code == 2 and not out and err.count("\n") == 1 and "got 'mpeg9'" in err


def test_every_span_of_a_set_and_a_refusal_are_printed(capsys):
    from vtg_r1.cli.ground import _print_answer
    from vtg_r1.models.ground import Answer

    for spans, said in (
        ([[1.0, 2.5], [7.0, 8.0]], "1.00 – 2.50, 7.00 – 8.00 s  the cat"),
        ([], "not in the video  the cat"),
        (None, "no span  the cat"),
    ):
        _print_answer(Answer("the cat", spans[0] if spans else None, "", "", spans=spans), None, None)
        assert capsys.readouterr().out.startswith(said)


def test_a_hub_that_cannot_be_reached_is_one_line(toy):
    "A closed port is used in place of no network. The command runs in a process of its own, since the library keeps its first endpoint."
    env = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")} | {"HF_ENDPOINT": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-m", "vtg_r1.cli", "ground", str(toy[0]), "q", "--model", "Nobody/no-such-model"],
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.strip().count("\n") == 0 and "Hub cannot be reached" in done.stderr and "Nobody/no-such-model" in done.stderr


def test_a_runs_model_is_queried_with_the_settings_of_its_training(tmp_path):
    from vtg_r1.models.tiny import build_tiny
    from vtg_r1.train.trainer import save_policy

    run = start_run("grpo", "mine", {"seed": 0, "max_completion_length": 40}, tmp_path)
    with pytest.raises(FileNotFoundError, match="a run without a model"):
        resolve_model(str(run.path))
    save_policy(*build_tiny(0), run.path / "model")
    run.record(config={"view": {"video_root": "v", "frames": 12, "pixels": 1568, "style": "short", "time_encoding": "native"}})
    expected = (str(run.path / "model"), InferenceConfig(12, 1568, "short", "native", 40))
    assert resolve_model(str(run.path)) == resolve_model(str(run.path / "model")) == expected


def test_a_cut_shows_what_the_video_shows(toy, tmp_path):
    "The pictures of a cut are those of the video at the same times, with the ends of the cut on frames and between them."
    video = toy[0]
    frames, times = read_frames(video, 64, 112 * 112)
    for start, end in ((0.0, 3.0), (2.5, 7.25), (times[-1], probe(video).duration)):
        made = probe(cut(video, tmp_path / "c.mp4", [start, end]))
        shown, at = read_frames(made.path, 64, 112 * 112)
        assert made.duration == pytest.approx(end - start, abs=2e-3)
        for picture, t in zip(shown, at):
            true = frames[np.searchsorted(times, start + t + 1e-3, side="right") - 1]
            assert np.abs(picture.astype(float) - true).mean() < 4
    for span in ([5, 5], [5, 3], [-1, 3], [0, 99]):
        with pytest.raises(VideoError, match="is no stretch"):
            cut(video, tmp_path / "bad.mp4", span)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.mp4"]


def test_a_video_whose_frames_share_times_is_cut(tmp_path):
    "Each time belongs to two frames, as in files with a coarse time base."
    twice = tmp_path / "twice.mkv"
    with av.open(str(twice), "w") as out:
        stream = out.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(8):
            for packet in stream.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), 30 * i, np.uint8), format="rgb24")):
                packet.pts = packet.dts = i // 2 * 10
                out.mux(packet)
    assert len(np.unique(probe(twice, "pyav").times)) == 4 < len(probe(twice, "pyav"))
    made = read_frames(cut(twice, tmp_path / "c.mp4", [0, 3]), 8)
    assert made[1].tolist() == pytest.approx([0, 1, 2], abs=2e-3) and [round(f.mean() / 30) for f in made[0]] == [1, 3, 5]


def test_a_playlist_is_neither_cut_nor_opened(tmp_path):
    "FFmpeg alone would open the file that a playlist names."
    from vtg_r1.video.decoders import open_container

    (tmp_path / "list.mp4").write_text("#EXTM3U\n#EXTINF:9,\nfilm.mp4\n")
    with pytest.raises(av.FFmpegError), open_container(tmp_path / "list.mp4"):
        pass
    with pytest.raises(VideoError, match="no video file|no readable video"):
        cut(tmp_path / "list.mp4", tmp_path / "c.mp4", [0, 1])


def test_a_film_stored_on_its_side_is_cut_upright(toy, tmp_path):
    "A phone writes the rotation into the track header; here a toy video gets one."
    data = bytearray(toy[0].read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # version 0: the matrix begins after 40 bytes
    quarter = [0, 0x10000, 0, (-0x10000) & 0xFFFFFFFF, 0, 0, 0, 0, 0x40000000]
    data[at : at + 36] = b"".join(v.to_bytes(4, "big") for v in quarter)
    side = tmp_path / "side.mp4"
    side.write_bytes(data)
    with av.open(str(side)) as c:
        turned = next(c.decode(video=0)).rotation
    assert turned in (90, -90)
    with av.open(str(toy[0])) as c, av.open(str(cut(side, tmp_path / "up.mp4", [0, 2]))) as u:
        plain, upright = (next(x.decode(video=0)).to_ndarray(format="rgb24").astype(float) for x in (c, u))
    assert np.abs(np.rot90(plain, turned // 90 % 4) - upright).mean() < 4 < np.abs(plain - upright).mean()


def table(path, samples, delimiter=","):
    "Write samples as a user's own table, without qid and duration."
    with open(path, "w", newline="") as f:
        writer = csv.writer(f, delimiter=delimiter)
        writer.writerow(["video", "start", "end", "sentence"])
        writer.writerows([s.video, *s.spans[0], s.query] for s in samples)
    return path


def test_convert_measures_durations_and_holds_videos_out(world, toy_samples, tmp_path, capsys):
    mine, train, held = table(tmp_path / "mine.csv", toy_samples), tmp_path / "train.jsonl", tmp_path / "heldout.jsonl"
    code, out, err = vtg(
        capsys,
        "data",
        "convert",
        "--dataset",
        "csv",
        "--annotations",
        mine,
        "--videos",
        world / "videos",
        "--out",
        train,
        "--eval-annotations",
        held,
        "--json",
    )
    both = load_samples(train) + load_samples(held)
    assert (
        code == 0
        and json.loads(out)["written"] == {str(train): len(load_samples(train)), str(held): len(load_samples(held))}
        and "measured in the videos" in err
    )
    assert not {s.video for s in load_samples(train)} & {s.video for s in load_samples(held)} and len({s.video for s in load_samples(held)}) == 3
    key = lambda s: (s.video, s.query, s.spans, round(s.duration, 2))
    assert sorted(map(key, both), key=str) == sorted(map(key, toy_samples), key=str)


def test_convert_says_what_it_leaves_out(world, toy_samples, tmp_path, capsys):
    mine = table(tmp_path / "mine.csv", toy_samples[:6], ";")
    with open(mine, "a") as f:
        f.write("gone.mp4;1;2;never\n")
    code, out, err = vtg(
        capsys, "data", "convert", "--dataset", "csv", "--annotations", mine, "--videos", world / "videos", "--out", tmp_path / "s.jsonl"
    )
    assert code == 0 and out.split() == ["6", str(tmp_path / "s.jsonl")] and "video gone.mp4: no such file" in err
    for args, said in [
        (("--videos", tmp_path / "none"), "no such folder"),
        ((), "none of its 7 records can be used, e.g. missing_duration"),
        (("--columns", "sentence=x"), "no column of a sample"),
        (("--columns", "query"), "write FIELD=COLUMN"),
        (("--columns", "query=sentence,query=title"), "query is given twice"),
    ]:
        code, out, err = vtg(capsys, "data", "convert", "--dataset", "csv", "--annotations", mine, "--out", tmp_path / "t.jsonl", *args)
        assert code == 2 and said in err.splitlines()[-1] and not out and "Traceback" not in err
    assert not (tmp_path / "t.jsonl").exists()


def test_convert_asks_before_it_replaces_a_file(world, toy_samples, tmp_path, capsys):
    mine, out, held = table(tmp_path / "mine.csv", toy_samples), tmp_path / "s.jsonl", tmp_path / "held.jsonl"
    given = ["data", "convert", "--dataset", "csv", "--annotations", mine, "--videos", world / "videos", "--out", out, "--eval-annotations", held]
    for option, file in (("--out", out), ("--eval-annotations", held)):
        file.write_text("made by hand")
        code, said, err = vtg(capsys, *given)
        assert code == 2 and f"{option} {file}: exists; name another file, or replace it with --replace" in err and file.read_text() == "made by hand"
        file.unlink()
    held.write_text("made by hand")
    assert vtg(capsys, *given, "--replace")[0] == 0 and len(load_samples(held)) > 0


def test_convert_overwrites_nothing_it_reads(world, toy_samples, tmp_path, capsys):
    mine = table(tmp_path / "mine.csv", toy_samples[:6])
    (tmp_path / "link.csv").symlink_to(mine)
    before, out = mine.read_bytes(), tmp_path / "s.jsonl"
    for args, said in [
        (("--out", tmp_path / "link.csv"), "--out"),
        (("--out", out, "--eval-annotations", mine), "--eval-annotations"),
        (("--out", out, "--eval-annotations", tmp_path / "." / "s.jsonl"), "of --out too"),
    ]:
        code, _, err = vtg(capsys, "data", "convert", "--dataset", "csv", "--annotations", mine, "--videos", world / "videos", *args)
        assert code == 2 and err.count("\n") == 1 and said in err
    assert mine.read_bytes() == before and not out.exists()


@pytest.mark.parametrize(
    "words, said",
    [
        (["review", "settings.ini", "--port", "70000"], "'--port': Input should be less than or equal to 65535"),
        (["demo", "--port", "-1"], "'--port': Input should be greater than or equal to 0"),
        (["demo", "--before", "tiny"], "--model NAME"),
        (["run", "nbs/05_grpo.ipynb", "-p", "run_name", "20261124"], "parameter 'run_name' is 20261124: give text"),
        (
            ["score", "--benchmark", "csv", "--annotations", "a.csv", "--predictions", "nbs"],
            "is a folder; a run's answers are in nbs/predictions.jsonl",
        ),
        (["score", "--benchmark", "csv", "--annotations", "a.csv", "--predictions", "none.jsonl"], "--predictions none.jsonl: no such file"),
        (["data", "convert", "--dataset", "csv", "--annotations", "a.csv", "--out", "nbs"], "--out nbs: is a folder; name a file in it"),
    ],
)
def test_values_that_an_option_cannot_take_are_one_line(words, said, capsys, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[1])
    code, out, err = vtg(capsys, *words)
    assert code == 2 and not out and err.count("\n") == 1 and said in err


def test_validate_and_convert_offer_policies_that_the_readers_take(parse_command):
    "Each choice is one that `read_dataset` takes; validate offers all of them, in the same order."
    from vtg_r1.data.readers import POLICIES

    choices = {}
    for name, words in {"validate": [], "convert": ["--out", "s.jsonl"]}.items():
        command = parse_command(["data", name, "--dataset", "csv", "--annotations", "a.csv", *words]).command
        choices[name] = {option.name: option.type_descriptor.choices for option in command.params if option.name in POLICIES}
    assert choices["validate"] == POLICIES and choices["convert"].keys() == POLICIES.keys() - {"zero_length"}
    assert all(set(values) <= set(POLICIES[policy]) for policy, values in choices["convert"].items())


@pytest.mark.parametrize("n", ["0", "-1", "two"])
def test_workers_are_at_least_one(n, capsys):
    code, _, err = vtg(capsys, "data", "validate", "--dataset", "csv", "--annotations", "a.csv", "--workers", n)
    assert code == 2 and err.count("\n") == 1 and "Invalid value for '--workers'" in err


def test_convert_names_the_rows_it_leaves_out(tmp_path, capsys):
    (tmp_path / "mine.csv").write_text("video,start,end,sentence,duration\na.mp4,noon,4,she,9\na.mp4,1,4,she,9\n")
    code, _, err = vtg(capsys, "data", "convert", "--dataset", "csv", "--annotations", tmp_path / "mine.csv", "--out", tmp_path / "s.jsonl")
    assert code == 0 and "record 2" in err and "start is 'noon': write seconds" in err


def test_the_examples_in_the_help_of_run_are_accepted(capsys, parse_command):
    "Every -p is a parameter of its notebook, and the GRPO run on own data has its model and table."
    from vtg_r1.core.runtime import resolve

    examples = vtg(capsys, "run", "--help")[1].split("examples:\n")[1].split("\n\n")[0].splitlines()
    assert any("own_data" in line for line in examples)
    for line in examples:
        options = parse_command(shlex.split(line, comments=True)[1:]).params
        given = read_given("grpo", [str(resolve(name)) for name in options["files"]], options["pairs"])  # an unknown name is an error
        assert "own_data" not in line or {"model", "dataset", "annotations", "video_root"} <= set(given)


def test_curate_needs_a_key_first_and_shows_the_teacher_frames_as_the_paper_does(world, tmp_path, capsys, monkeypatch):
    (tmp_path / "s.jsonl").touch()
    given = ["data", "curate", "--annotations", tmp_path / "s.jsonl", "--videos", world / "videos"]
    endpoint = [*given, "--teacher-model", "m", "--teacher-url", "http://127.0.0.1:9/v1"]
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    code, out, err = vtg(capsys, *endpoint)
    assert code == 2 and not out and err.count("\n") == 1 and "OPENAI_API_KEY is empty" in err
    seen = []
    monkeypatch.setattr("vtg_r1.cli.data.run_stage", lambda notebook, parameters, as_json: seen.append(parameters) or 0)
    assert vtg(capsys, *endpoint, "-p", "teacher_key_env", "")[0] == 0 and (seen[-1]["frames"], seen[-1]["pixels"]) == (64, 100352)
    assert vtg(capsys, *endpoint, "-p", "teacher_key_env", "", "-p", "frames", "8")[0] == 0 and (seen[-1]["frames"], seen[-1]["pixels"]) == (
        8,
        100352,
    )
    assert vtg(capsys, *given, "--teacher", "precomputed")[0] == 0 and "frames" not in seen[-1]


@pytest.mark.shared
@pytest.mark.parametrize(
    "name, path",
    [("activitynet", "activitynet_captions/val_2.json"), ("qvhighlights", "qvhighlights/highlight_val_release.jsonl"), ("nextgqa", "nextgqa")],
)
def test_convert_published_files(shared, name, path, tmp_path, capsys):
    code, out, _ = vtg(
        capsys, "data", "convert", "--dataset", name, "--annotations", shared / "data/annotations" / path, "--out", tmp_path / "s.jsonl", "--json"
    )
    assert code == 0 and len(load_samples(tmp_path / "s.jsonl")) == json.loads(out)["written"][str(tmp_path / "s.jsonl")] > 1000


@pytest.mark.slow
def test_curate_makes_the_sets(world, toy_samples, tmp_path, capsys):
    "From samples that hold the teacher's answers. Without a choice of a teacher, the error names the option that is missing."
    from vtg_r1.core.samples import write_jsonl
    from vtg_r1.data.toyworld import read_scripts, toy_teacher

    scripts = read_scripts(world)
    write_jsonl(tmp_path / "answered.jsonl", [{**s.to_dict(), "teacher": toy_teacher(s, scripts)} for s in toy_samples])
    given = (
        "data",
        "curate",
        "--annotations",
        tmp_path / "answered.jsonl",
        "--videos",
        world / "videos",
        "-p",
        "outputs_dir",
        tmp_path,
        "-p",
        "run_name",
        "c",
    )
    code, _, err = vtg(capsys, *given)
    assert code == 2 and "--teacher-model" in err
    code, out, _ = vtg(capsys, *given, "--teacher", "precomputed", "--json")
    made = json.loads(out)
    assert (
        code == 0
        and made["status"] == "finished"
        and load_samples(tmp_path / "curation/c/coldstart.jsonl")
        and made["run"] == str(tmp_path / "curation/c")
    )


def test_env_shows_what_a_bug_report_needs_and_no_secrets(capsys, monkeypatch):
    import torch

    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("VTG_R1_CACHE", "/home/somebody/cache")
    code, out, _ = vtg(capsys, "env", "--json")
    about = json.loads(out)
    assert (
        code == 0
        and about["packages"]["torch"] == torch.__version__.split("+")[0]
        and len(about["devices"]) == torch.cuda.device_count()
        and about["python"].startswith("3.")
    )
    assert "VTG_R1_CACHE" in about["set"] and "secret" not in out and "somebody" not in out and "HF_TOKEN" not in out
    code, out, _ = vtg(capsys, "env")
    assert code == 0 and f"torch           {about['packages']['torch']}" in out


def test_env_names_a_commit_only_of_its_own_repository(tmp_path):
    "The package is copied into another repository; the file settings.ini then makes that one its own."
    shutil.copytree(Path(cli.__file__).parents[1], tmp_path / "vtg_r1", ignore=shutil.ignore_patterns("__pycache__"))
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.invalid"]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "theirs"]):
        subprocess.run([*git, *words], check=True)
    code = "from vtg_r1.cli.env import own_commit; print(own_commit())"
    ask = lambda: subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=True
    ).stdout.strip()
    assert ask() == "None"
    shutil.copy(Path(__file__).parents[1] / "settings.ini", tmp_path)
    assert len(ask()) == 40


def processes_of(session: int) -> list[int]:
    "Living processes of a session, from /proc."
    found = []
    for p in filter(str.isdigit, os.listdir("/proc")):
        try:
            state, _, _, sid = Path(f"/proc/{p}/stat").read_text().rsplit(")", 1)[1].split()[:4]
        except OSError:
            continue
        if int(sid) == session and state != "Z":
            found.append(int(p))
    return found


def validate_command(annotations: Path, videos: Path) -> list[str]:
    "The command line of `vtg-r1 data validate` for a table."
    given = ["--dataset", "csv", "--annotations", annotations, "--videos", videos]
    return [sys.executable, "-m", "vtg_r1.cli", "data", "validate", *map(str, given)]


def becomes_true(check, seconds=20) -> bool:
    "Whether `check()` gets true within this time."
    until = time.monotonic() + seconds
    while not check():
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


def interrupted(command: list[str], at_work, name: str) -> int:
    "Start a command, send Ctrl-C once `at_work(session)` is true, and check its last line and exit code. Returns its session."
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True) as p:
        try:
            assert becomes_true(lambda: at_work(p.pid), 60)
            os.killpg(p.pid, signal.SIGINT)
            out, err = p.communicate(timeout=30)
        finally:
            p.kill()
    assert p.returncode == 130 and not out and "Traceback" not in err and err.strip().splitlines()[-1] == f"{name}: interrupted"
    return p.pid


def test_a_kernel_that_dies_is_one_line(tmp_path, capsys):
    nb = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}})
    nb.cells = [nbformat.v4.new_code_cell("run_name = ''\noutputs_dir = 'outputs'", metadata={"tags": ["parameters"]})]
    nb.cells += [nbformat.v4.new_code_cell("import os\nos.kill(os.getpid(), 9)")]
    nbformat.write(nb, tmp_path / "02_rewards.ipynb")
    code, out, err = vtg(capsys, "run", tmp_path / "02_rewards.ipynb", "-p", "outputs_dir", tmp_path)
    assert code == 1 and not out and "its kernel died" in err.splitlines()[-1] and "Traceback" not in err


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at /proc")
def test_ctrl_c_ends_a_run_and_its_kernel(tmp_path):
    nb = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}})
    nb.cells = [nbformat.v4.new_code_cell("run_name = ''\noutputs_dir = 'outputs'", metadata={"tags": ["parameters"]})]
    nb.cells += [
        nbformat.v4.new_code_cell(f"import os, pathlib, time\npathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid()))\ntime.sleep(600)")
    ]
    nbformat.write(nb, tmp_path / "02_rewards.ipynb")
    command = [sys.executable, "-m", "vtg_r1.cli", "run", str(tmp_path / "02_rewards.ipynb"), "-p", "outputs_dir", str(tmp_path)]
    interrupted(command, lambda session: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), "vtg-r1 run")
    kernel = int((tmp_path / "pid").read_text())
    assert becomes_true(lambda: not os.path.exists(f"/proc/{kernel}"))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at /proc")
def test_ctrl_c_ends_the_processes_that_open_videos(world, tmp_path):
    "3,000 links to one video give time to interrupt."
    (tmp_path / "v").mkdir()
    lines = ["video,start,end,sentence"]
    for i in range(3000):
        os.link(next((world / "videos").glob("*.mp4")), tmp_path / "v" / f"{i}.mp4")
        lines.append(f"{i}.mp4,1,2,something")
    (tmp_path / "mine.csv").write_text("\n".join(lines))
    command = validate_command(tmp_path / "mine.csv", tmp_path / "v")
    session = interrupted(command, lambda session: len(processes_of(session)) > 2, "vtg-r1 data validate")
    assert becomes_true(lambda: not processes_of(session))


def test_a_closed_pipe_ends_a_command_without_an_error(world, tmp_path):
    "The pipe is closed before the command writes; its exit code is then that of SIGPIPE."
    command = validate_command(table(tmp_path / "mine.csv", load_samples(world / "samples.jsonl")), world / "videos")
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False, timeout=300)
    finally:
        os.close(write)
    assert done.returncode == 141 and "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr


def test_an_error_of_the_system_is_one_line(monkeypatch, capsys):
    def refuse(*args):
        raise PermissionError(13, "Permission denied", "/root/outputs")

    monkeypatch.setattr("vtg_r1.cli.recipe.list_runs", refuse)
    assert main(["runs"]) == 2
    assert capsys.readouterr().err == "vtg-r1 runs: [Errno 13] Permission denied: '/root/outputs'\n"
