"The stage 07_benchmarks: on the toy world, on official files, after an interrupt, with missing videos, and its calls of vLLM."

import contextlib
import dataclasses
import io
import json
import os
import random
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from vtg_r1.benchmarks import (
    BenchmarkData,
    BenchmarksParams,
    intervals,
    main,
    measure_reliability,
    predict_samples,
    prepare_data,
    score_all,
    score_table,
)
from vtg_r1.core.runtime import RunError, UserError
from vtg_r1.core.samples import Sample, load_samples, write_jsonl
from vtg_r1.data.model_inputs import VideoInputConfig, build_prompt, training_set
from vtg_r1.data.official_benchmarks import compare, load_benchmark
from vtg_r1.data.predictions import Prediction, PredictionError
from vtg_r1.models.loading import load_model, model_fingerprint
from vtg_r1.models.vllm_engine import VLLMEngine
from vtg_r1.runs.execute import run_notebook
from vtg_r1.runs.parameters import from_mapping
from vtg_r1.runs.run import start_run

pytestmark = pytest.mark.slow
NOTEBOOK = "nbs/07_benchmarks.ipynb"


def run(outputs, name, **parameters):
    "Run the stage in this process, without figures and controls; its folder, its metrics and what it printed."
    given = {"run_name": name, "outputs_dir": str(outputs), "threads": 1, "model": "tiny", "figures": False, "control_limit": 0, **parameters}
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        folder = main(from_mapping(BenchmarksParams, given))
    return folder, json.loads((folder / "metrics.json").read_text()), said.getvalue()


def rows_of(folder):
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(scope="module")
def toy(outputs):
    "A run of the notebook itself with controls, sampled answers and figures: its folder, its metrics and the folder of its videos."
    extras = {"control_limit": 32, "num_samples": 4, "coverage": 0.8}
    given = {"run_name": "toy", "outputs_dir": str(outputs), "threads": 1, "eval_limit": 48, **extras}
    folder = run_notebook(NOTEBOOK, given, BenchmarksParams, progress=False)
    return folder, json.loads((folder / "metrics.json").read_text()), outputs / "toyworld" / "held-out-in-domain"


@pytest.fixture(scope="module")
def charades(toy, tmp_path_factory):
    "Two toy videos under Charades-STA's own file format, and one video that is not there."
    folder, videos = tmp_path_factory.mktemp("charades"), toy[2]
    lines = [
        f"{Path(s.video).stem} {s.spans[0][0]} {s.spans[0][1]}##{s.query}\n"
        for s in load_samples(videos / "samples.jsonl")
        if s.video in ("in-domain_00000.mp4", "in-domain_00001.mp4")
    ]
    (folder / "charades_sta_test.txt").write_text("".join([*lines, "GONE1 1.0 2.0##a person leaves.\n"]))
    return dict(benchmark="charades_sta", annotations=str(folder / "charades_sta_test.txt"), video_root=str(videos / "videos")), len(lines) + 1


def test_a_toy_run_records_scores_intervals_protocol_and_figures(toy):
    folder, metrics, _ = toy
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["status"] == "finished" and metrics["n"] == 48 == len(rows_of(folder)) and metrics["failed"] == 0
    assert manifest["inputs"]["annotations"]["path"].endswith("held-out-in-domain/samples.jsonl")
    assert manifest["policy"] == {"path": "tiny", "key": model_fingerprint("tiny")}
    assert manifest["config"]["sampling"]["repetition_penalty"] == 1.0
    protocol = manifest["protocol"]
    assert protocol["queries"] == 48 and f"protocol {protocol['hash']}: toyworld, labels " in (folder / "07_benchmarks.ipynb").read_text()
    assert metrics["mIoU/low"] < metrics["mIoU"] < metrics["mIoU/high"]
    assert metrics["mIoU"] > metrics["blind/dataset prior/mIoU"]  # the embedded model uses the frames
    blind = {name for name in metrics if name.startswith("blind/")}
    assert blind == {f"blind/{name}/mIoU" for name in ("whole video", "centre third", "random", "dataset prior")}
    assert not {name.removeprefix("blind/") for name in blind} & set(metrics), "each number has one name only"
    for figure in ("recall_curve", "shape", "cases"):
        assert (folder / "figs" / f"{figure}.png").stat().st_size > 5000


def test_the_toy_run_has_controls_and_agreement(toy):
    folder, metrics, _ = toy
    assert metrics["control/n"] == 32 and {len(list(file.open())) for file in folder.glob("control_*.jsonl")} == {32}
    assert metrics["control/black frames/low"] > 0 and "it looks at the video" in (folder / "07_benchmarks.ipynb").read_text()
    for name in ("black frames", "shuffled frames", "text only", "whole video", "dataset prior"):
        assert metrics[f"control/{name}/low"] <= metrics[f"control/{name}/model above by"] <= metrics[f"control/{name}/high"]
    sampled = [json.loads(line) for line in (folder / "sampled.jsonl").read_text().splitlines()]
    assert [row["qid"] for row in sampled] == [row["qid"] for row in rows_of(folder)] and all(len(row["sampled"]) == 4 for row in sampled)
    assert 0 <= metrics["agreement/threshold"] <= 1 and 0 < metrics["agreement/kept"] <= 100
    assert (folder / "figs" / "reliability.png").stat().st_size > 5000


def test_the_score_command_gives_the_same_numbers(toy, tmp_path, capsys):
    "`vtg-r1 score` reads the predictions file of the run."
    from vtg_r1.cli import main as command

    folder, metrics, videos = toy
    samples = load_samples(videos / "samples.jsonl")[:48]
    (tmp_path / "tacos_test.jsonl").write_text(
        "".join(
            json.dumps({"qid": s.qid, "query": s.query, "duration": s.duration, "vid": s.video, "relevant_windows": s.spans}) + "\n" for s in samples
        )
    )
    assert (
        command(
            [
                "score",
                "--benchmark",
                "tacos",
                "--annotations",
                str(tmp_path / "tacos_test.jsonl"),
                "--predictions",
                str(folder / "predictions.jsonl"),
                "--json",
            ]
        )
        == 0
    )
    scored = json.loads(capsys.readouterr().out)
    protocol, beside = scored.pop("protocol"), scored.pop("beside_blind")
    assert beside["blind/whole video/mIoU"] == pytest.approx(metrics["blind/whole video/mIoU"], abs=1e-3)
    same = ("queries", "rule", "parsing", "missing", "clipping", "truths", "version")  # the file of labels differs, so its hash does too
    assert {k: protocol[k] for k in same} == {k: json.loads((folder / "manifest.json").read_text())["protocol"][k] for k in same}
    assert "mIoU" in scored and all(metrics[k] == pytest.approx(v) for k, v in scored.items())


def test_a_missing_video_is_a_recorded_miss_and_a_stopped_run_is_resumed(charades, outputs):
    given, n = charades
    folder, metrics, _ = run(outputs, "charades", batch_size=2, **given)
    rows = rows_of(folder)
    assert metrics["n"] == n == len(rows) and metrics["failed"] == 1 and metrics["missing"] == 0
    assert rows[-1]["qid"] == f"GONE1_{n - 1}" and rows[-1]["pred"] is None and "no such file" in rows[-1]["error"]
    assert not list((folder / "figs").glob("*"))  # none were asked for
    stopped = outputs / "benchmarks" / "stopped"
    shutil.copytree(folder, stopped, ignore=shutil.ignore_patterns("metrics.json"))
    manifest = json.loads((stopped / "manifest.json").read_text())
    (stopped / "manifest.json").write_text(json.dumps({**manifest, "status": "failed"}))
    half = (folder / "predictions.jsonl").read_text()
    (stopped / "predictions.jsonl").write_text(half[: len(half) // 2])  # cut in the middle of a row
    with pytest.raises(RunError, match="other parameters: batch_size was 2, now 3"):
        run(outputs, "stopped", batch_size=3, resume=True, **given)
    resumed, same, _ = run(outputs, "stopped", resume=True, batch_size=2, **given)
    assert rows_of(resumed) == rows and {k: same[k] for k in ("mIoU", "R1@0.5")} == {k: metrics[k] for k in ("mIoU", "R1@0.5")}


def test_grounded_qa_runs_in_the_native_encoding(toy, outputs, tmp_path):
    "ReXTime's format over toy videos. The tiny model never saw options or this encoding, so only that it runs and is scored is checked."
    samples = load_samples(toy[2] / "samples.jsonl")[:6]
    rows = [
        {
            "qid": s.qid,
            "vid": Path(s.video).stem,
            "duration": s.duration,
            "question": s.query,
            "answer": "From <s0> to <e0>, <option>.",
            "source": "toy",
            "category": "sequential",
            "options": ["circle", "square", "triangle", "cross"],
            "span": s.spans[0],
            "ans": "A",
        }
        for s in samples
    ]
    (tmp_path / "rextime_val.json").write_text(json.dumps(rows))
    folder, metrics, _ = run(
        outputs,
        "native",
        time_encoding="native",
        benchmark="rextime",
        annotations=str(tmp_path / "rextime_val.json"),
        video_root=str(toy[2] / "videos"),
    )
    assert metrics["n"] == 6 and metrics["failed"] == 0 and 0 <= metrics["Acc@IoU"] <= metrics["Acc@QA"]
    assert {"qid", "pred", "response", "answer"} == set(rows_of(folder)[0]) and all(isinstance(r["response"], str) for r in rows_of(folder))


def test_a_score_on_timelens_bench_is_shown_beside_published_ones(toy, outputs, tmp_path):
    "A file in TimeLens-Bench's form over toy videos; the table names the source and the threshold rule of every row."
    samples = load_samples(toy[2] / "samples.jsonl")[:4]
    bench: dict = {}
    for s in samples:
        video = bench.setdefault(Path(s.video).stem, {"duration": s.duration, "spans": [], "queries": []})
        video["spans"].append(s.spans[0])
        video["queries"].append(s.query)
    (tmp_path / "charades-timelens.json").write_text(json.dumps(bench))
    given = dict(benchmark="charades_timelens", annotations=str(tmp_path / "charades-timelens.json"), video_root=str(toy[2] / "videos"))
    folder, metrics, _ = run(outputs, "timelens", **given)
    assert metrics["n"] == 4 and metrics["failed"] == 0
    params, again = BenchmarksParams(model="tiny", **given), start_run("benchmarks", "table", {"seed": 0}, str(tmp_path))
    shutil.copy(folder / "predictions.jsonl", again.path)
    table = score_table(params, score_all(again, params, prepare_data(again, params))).to_string()
    for text in ("TimeLens2-8B", "2607.17423", "58.6", "IoU ≥ m"):
        assert text in table


def test_our_score_is_shown_by_the_threshold_rule_of_each_published_row(tmp_path):
    "An IoU of exactly 0.5 is a hit for ActivityNet's evaluator, and a miss for that of Time-R1, whose row is in the table."
    (tmp_path / "val.json").write_text(json.dumps({"v_a": {"duration": 20.0, "timestamps": [[0, 10]], "sentences": ["x"]}}))
    params = BenchmarksParams(benchmark="activitynet", annotations=str(tmp_path / "val.json"), video_root=str(tmp_path), model="m")
    samples, _ = load_benchmark("activitynet", tmp_path / "val.json")
    run = start_run("benchmarks", "r", {"seed": 0}, str(tmp_path))
    (run.path / "predictions.jsonl").write_text(json.dumps({"qid": samples[0].qid, "pred": [[0, 5]], "response": None}) + "\n")
    data = BenchmarkData("activitynet", tmp_path / "val.json", samples, None, VideoInputConfig(str(tmp_path)))
    table = score_table(params, score_all(run, params, data))
    assert table.loc[["m", "m (IoU > m)"], "R1@0.5"].tolist() == [100.0, 0.0]
    assert table.loc["m (IoU > m)", "rule"] == table.loc["Time-R1-7B", "rule"] == "IoU > m"
    assert table.loc["m", "rule"] == "IoU ≥ m"
    hit, miss = ({samples[0].qid: Prediction([span])} for span in ([0, 5], [0, 4]))
    assert [intervals(samples, hit, above)["R1@0.5"][0] for above in (False, True)] == [100.0, 0.0]
    assert [compare(samples, miss, hit, above=above)["R1@0.5"]["difference"] for above in (False, True)] == [100.0, 0.0]


def test_missing_annotations_and_unknown_parameters_are_refused(outputs):
    with pytest.raises(UserError, match="needs annotations and video_root"):
        run(outputs, "nothing", benchmark="charades_sta")
    with pytest.raises(UserError, match="did you mean 'benchmark'"):
        run(outputs, "typo", benchmarks="charades_sta")


def test_a_prompt_shows_the_options_and_a_native_row_holds_a_video(toy):
    videos = toy[2]
    sample = load_samples(videos / "samples.jsonl")[0]
    question = Sample(**{**sample.to_dict(), "question": "which shape comes first?", "options": ["circle", "square"], "answer": "A"})
    view = VideoInputConfig(str(videos / "videos"), 4, 784, "short", options=True)
    assert "(B) square" in build_prompt(question, view)["prompt"][0]["content"][0]["text"]
    assert build_prompt(sample, view)["prompt"][0]["content"][0]["text"] == sample.query
    assert {"video", "fps", "spans"} <= set(training_set([sample], VideoInputConfig(str(videos / "videos"), 4, 784, "short", "native"))[0])
    with pytest.raises(ValueError, match="time_encoding must be"):
        VideoInputConfig("x", time_encoding="both")


def test_vllm_gets_the_prompts_frames_seeds_and_devices(toy, monkeypatch):
    "A stand-in with the signatures of vLLM records what it gets, since vLLM itself needs a GPU."
    videos = toy[2]
    sample, seen, sampled, engines = load_samples(videos / "samples.jsonl")[0], [], [], []

    class LLM:
        def __init__(self, model, trust_remote_code, limit_mm_per_prompt, seed, dtype):
            assert dtype == str(load_model("tiny").dtype).removeprefix("torch.")  # without it vLLM would take the type that the checkpoint names
            engines.append(dict(os.environ))

        def generate(self, prompts, sampling_params, use_tqdm):
            sampled.extend(sampling_params)
            seen.extend(prompts)
            text = types.SimpleNamespace(text="<time>[1, 2]</time>")
            return [types.SimpleNamespace(outputs=[text] * sampling.get("n", 1)) for sampling in sampling_params]

    monkeypatch.setitem(sys.modules, "vllm", types.SimpleNamespace(LLM=LLM, SamplingParams=lambda **k: k))
    for encoding, token in (("interleaved", "<|image_pad|>"), ("native", "<|video_pad|>")):
        seen.clear()
        view = VideoInputConfig(str(videos / "videos"), 6, 784, "short", encoding)
        assert VLLMEngine("tiny", view, 9)([build_prompt(sample, view)] * 2) == ["<time>[1, 2]</time>"] * 2
        assert sampled[-1] == {"temperature": 0.0, "repetition_penalty": 1.0, "max_tokens": 9}
        data = seen[0]["multi_modal_data"]
        count = len(data["image"]) if encoding == "interleaved" else len(data["video"])
        assert seen[0]["prompt"].count(token) == count
    frames, clock = data["video"][0]
    assert frames.shape[0] == 6 == clock["total_num_frames"] == len(clock["frames_indices"]) and clock["do_sample_frames"] is False
    texts, draws = [], []
    for rank in (0, 1):  # two processes of a launcher: each has an engine on its own GPU, outside the launcher's group, and the same seeds
        for name, value in {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_PORT": 1, "CUDA_VISIBLE_DEVICES": "4,6"}.items():
            monkeypatch.setenv(name, str(value))
        random.seed(5)
        texts.append(VLLMEngine("tiny", view, 9, temperature=0.7, num_completions=3)([build_prompt(sample, view)] * 2))
        draws.append(sampled[-2:])
        assert engines[-1]["CUDA_VISIBLE_DEVICES"] == "46"[rank] and not {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT"} & engines[-1].keys()
        assert os.environ["RANK"] == str(rank) and os.environ["CUDA_VISIBLE_DEVICES"] == "4,6"
    assert len(texts[0]) == 6 and draws[0] == draws[1] and draws[0][0]["seed"] != draws[0][1]["seed"] and draws[0][0]["n"] == 3
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ImportError, match="pip install vllm"):
        VLLMEngine("tiny", view)


def test_vllm_samples_as_many_answers_as_are_asked_for(world, toy_samples, tmp_path, monkeypatch):
    "The engine is made for one greedy answer per query; the sampled answers are asked of the same one."

    class LLM:
        def __init__(self, **given):
            pass

        def generate(self, prompts, sampling_params, use_tqdm):
            text = types.SimpleNamespace(text="<time>[1, 2]</time>")
            return [types.SimpleNamespace(outputs=[text] * sampling.get("n", 1)) for sampling in sampling_params]

    monkeypatch.setitem(sys.modules, "vllm", types.SimpleNamespace(LLM=LLM, SamplingParams=lambda **k: k))
    view = VideoInputConfig(str(world / "videos"), 4, 784, "short")
    data, engine = BenchmarkData("toyworld", world / "samples.jsonl", toy_samples[:2], None, view), VLLMEngine("tiny", view, 9)
    run = start_run("benchmarks", "sampled", {}, tmp_path)
    rows = predict_samples(run, BenchmarksParams(num_samples=4, temperature=0.7), data, engine)
    assert [len(row["sampled"]) for row in rows] == [4, 4] and (engine.temperature, engine.num_completions) == (0.0, 1)


@pytest.mark.shared
def test_two_real_videos_run_through_the_stage(shared, outputs, tmp_path):
    "Two videos of Charades, with the embedded model, which has never seen a real picture."
    data = shared / "data"
    lines = [line for line in (data / "annotations/charades_sta/charades_sta_test.txt").read_text().splitlines() if line[:5] in ("OHOFG", "Y1HGC")]
    (tmp_path / "charades_sta_test.txt").write_text("\n".join(lines) + "\n")
    _, metrics, _ = run(
        outputs,
        "real",
        benchmark="charades_sta",
        annotations=str(tmp_path / "charades_sta_test.txt"),
        video_root=str(data / "videos"),
        max_completion_length=16,
    )
    assert metrics["n"] == len(lines) == 8 and metrics["failed"] == 0


def queries_with_answers():
    "Three queries on two videos: one answered exactly, one with IoU 0.5, one not answered."
    samples = [
        Sample("a", "v.mp4", 20.0, "x", [[0.0, 4.0]]),
        Sample("b", "v.mp4", 20.0, "y", [[0.0, 10.0], [12.0, 14.0]]),
        Sample("c", "w.mp4", 10.0, "z", [[5.0, 10.0]]),
    ]
    return samples, {"a": Prediction([[0.0, 4.0]]), "b": Prediction([[0.0, 5.0], [0.0, 10.0]])}


def test_intervals_hold_their_values_and_are_drawn_by_video():
    samples, predictions = queries_with_answers()
    sure = intervals(samples, predictions)
    assert {name: value for name, (value, _, _) in sure.items()} == pytest.approx(
        {"mIoU": 50, "R1@0.3": 200 / 3, "R1@0.5": 200 / 3, "R1@0.7": 100 / 3}
    )
    assert all(low <= value <= high for value, low, high in sure.values())
    assert sure["mIoU"][1:] == pytest.approx((0, 75))  # the first video has IoUs of 1 and 1/2, the other 0


def test_a_single_video_has_no_interval(tmp_path):
    from vtg_r1.benchmarks import bracket, interval_ends

    samples, predictions = queries_with_answers()
    assert set(interval_ends(intervals(samples, predictions))) == {
        f"{m}/{side}" for m in ("mIoU", "R1@0.3", "R1@0.5", "R1@0.7") for side in ("low", "high")
    }
    one = intervals([s for s in samples if s.video == samples[0].video], predictions)
    assert interval_ends(one) == {} and "no interval" in bracket(*one["mIoU"][1:]) and bracket(-1.0, 2.0, "+.2f") == "[-1.00, +2.00]"
    start_run("benchmarks", "one", {}, tmp_path).save_metrics({"mIoU": one["mIoU"][0], **interval_ends(one)})  # finite numbers alone


def test_queries_about_training_videos_are_counted(toy, outputs):
    "A trained model, evaluated on the videos of its training and on others."
    from vtg_r1.data.toyworld import make_world
    from vtg_r1.grpo import GRPOParams
    from vtg_r1.grpo import main as grpo

    world = make_world(outputs / "world", videos=8, seed=3)
    last = load_samples(world / "samples.jsonl")[-1].video
    for file, is_held in (("train.jsonl", False), ("held.jsonl", True)):
        write_jsonl(outputs / file, [s for s in load_samples(world / "samples.jsonl") if (s.video == last) == is_held])
    given = {
        "annotations": str(outputs / "train.jsonl"),
        "video_root": str(world / "videos"),
        "eval_annotations": str(outputs / "held.jsonl"),
        "eval_limit": 2,
    }
    few = {
        "model": "tiny",
        "steps": 1,
        "prompts_per_step": 2,
        "num_generations": 2,
        "per_device_batch_size": 4,
        "max_completion_length": 4,
        "eval_before_training": False,
    }
    trained = grpo(GRPOParams(run_name="g", outputs_dir=str(outputs), threads=1, figures=False, max_train_samples=6, **given, **few))
    used = {row["video"] for row in (json.loads(line) for line in (trained / "train_samples.jsonl").read_text().splitlines())}
    samples = load_samples(world / "samples.jsonl")
    about = dict(benchmark="samples", annotations=str(world / "samples.jsonl"), video_root=str(world / "videos"), max_completion_length=4)
    _, metrics, said = run(outputs, "seen", model=str(trained / "model"), **about)
    assert 0 < metrics["seen_in_training"] == sum(s.video in used for s in samples) < len(samples)
    assert f"{metrics['seen_in_training']} of {len(samples)} queries are about videos it was trained on" in said
    _, other, _ = run(outputs, "unseen", model=str(trained / "model"), eval_limit=4, max_completion_length=4)
    assert other["seen_in_training"] == 0 and "seen_in_training" not in toy[1]  # nothing is known of the embedded model's training


def test_training_videos_are_unknown_if_the_run_kept_no_list(toy, tmp_path):
    from vtg_r1.benchmarks import seen_in_training, training_runs

    samples, old = load_samples(toy[2] / "samples.jsonl")[:4], start_run("sft", "old", {}, tmp_path)
    old.record(config={"video_root": str(toy[2] / "videos")})
    assert seen_in_training(samples, toy[2] / "videos", training_runs(old.path)) is None and training_runs(None) == []
    old.save_rows("train_samples.jsonl", [dict(qid=s.qid, video=s.video, query=s.query) for s in samples[:1]])
    assert seen_in_training(samples[:1], "/copied/elsewhere", [old.path]) == 1  # by its record


def test_a_one_video_benchmark_finishes(toy, outputs, tmp_path):
    "Its metrics have no ends of intervals, and the stage prints that."
    videos = toy[2]
    lines = [line for line in (videos / "samples.jsonl").read_text().splitlines() if '"in-domain_00000.mp4"' in line]
    (tmp_path / "one.jsonl").write_text("\n".join(lines) + "\n")
    _, metrics, said = run(outputs, "one", benchmark="samples", annotations=str(tmp_path / "one.jsonl"), video_root=str(videos / "videos"))
    assert metrics["n"] == len(lines) and not [k for k in metrics if k.endswith(("/low", "/high"))]
    assert "(one video, no interval)" in said


def test_the_shape_of_a_query_is_that_of_its_longest_span():
    from vtg_r1.benchmarks import shape_of

    shape = shape_of(*queries_with_answers())
    assert [shape[k].tolist() for k in ("iou", "length", "centre")] == [[1, 0.5, 0], [0.2, 0.5, 0.5], [0.1, 0.25, 0.75]]
    assert shape["predicted"][:2].tolist() == [0.1, 0.125] and np.isnan(shape["predicted"][2])


def test_another_model_needs_its_own_preset(tmp_path):
    with pytest.raises(UserError, match="configs/benchmark_7b.yaml"):
        main(BenchmarksParams(model="Qwen/Qwen2.5-VL-7B-Instruct", outputs_dir=str(tmp_path)))
    assert not list(tmp_path.iterdir())


def test_other_videos_than_the_toy_world_need_a_named_model(charades, tmp_path):
    with pytest.raises(UserError, match=r"is not of the toy world, and no model is named"):
        main(BenchmarksParams(outputs_dir=str(tmp_path), **charades[0]))


def test_a_case_shows_the_truth_beside_the_first_answer(world, toy_samples):
    from vtg_r1.benchmarks import case_of

    case = case_of(toy_samples[0], Prediction([[1.0, 2.0], [3.0, 4.0]]), VideoInputConfig(str(world / "videos"), frames=4))
    assert len(case["pictures"]) == len(case["times"]) > 3 and toy_samples[0].query in case["title"]
    assert case["spans"] == {"truth": toy_samples[0].spans, "predicted": [[1.0, 2.0]]}


def test_a_benchmark_without_a_true_span_finishes(outputs, world, toy_samples):
    "There is nothing to localise: the metrics are those of sets, without intervals, controls, and the figure of recall."
    absent = [dataclasses.replace(s, spans=[]) for s in toy_samples[:2]]
    write_jsonl(outputs / "absent.jsonl", absent)
    write_jsonl(outputs / "other.jsonl", [{"qid": s.qid, "pred": []} for s in absent])
    about = dict(benchmark="samples", annotations=str(outputs / "absent.jsonl"), video_root=str(world / "videos"), answers="set")
    extras = dict(control_limit=2, num_samples=2, figures=True, baseline_predictions=str(outputs / "other.jsonl"), max_completion_length=4)
    folder, metrics, printed = run(outputs, "absent", **about, **extras)
    assert not [name for name in metrics if name.endswith(("/low", "/high"))]
    assert metrics["n"] == 2 and "mIoU" not in metrics and "no query of 2 has a true span" in printed
    assert not list(folder.glob("control_*.jsonl")) and not (folder / "figs/recall_curve.png").exists()


def test_a_baseline_is_read_before_anything_is_generated(outputs, world, toy_samples):
    "It may have rows of more queries than are evaluated. A row that cannot be read is refused before the model runs."
    write_jsonl(outputs / "asked.jsonl", toy_samples[:4])
    about = dict(benchmark="samples", annotations=str(outputs / "asked.jsonl"), video_root=str(world / "videos"), eval_limit=2, model="tiny")
    write_jsonl(outputs / "baseline.jsonl", [{"qid": s.qid, "pred": s.spans} for s in toy_samples[:4]])
    params = BenchmarksParams(**about, baseline_predictions=str(outputs / "baseline.jsonl"))
    data = prepare_data(start_run("benchmarks", "with_baseline", {}, outputs), params)
    assert len(data.samples) == 2 and {s.qid for s in data.samples} < set(data.baseline)
    write_jsonl(outputs / "baseline.jsonl", [{"qid": toy_samples[0].qid, "pred": "soon"}])
    with pytest.raises(PredictionError, match="pred is 'soon'"):
        prepare_data(start_run("benchmarks", "bad_baseline", {}, outputs), params)


def test_too_few_right_answers_give_no_threshold(world, toy_samples, capsys):
    data = BenchmarkData("toyworld", world / "samples.jsonl", toy_samples[:4], None, VideoInputConfig(str(world / "videos")))
    rows = [{"pred": [[0.0, 0.01]], "agreement": 0.5} for _ in data.samples]
    assert measure_reliability(BenchmarksParams(num_samples=2), data, rows) is None
    assert "no refusal threshold from num_samples" in capsys.readouterr().out


def test_responses_are_scored_by_the_reading_in_the_parameters(tmp_path, world, toy_samples):
    "For the reading `answer` a time block is no answer."
    data = BenchmarkData("toyworld", world / "samples.jsonl", toy_samples[:1], None, VideoInputConfig(str(world / "videos"), reading="answer"))
    run = start_run("benchmarks", "a", {}, tmp_path)
    run.save_rows("predictions.jsonl", [{"qid": toy_samples[0].qid, "pred": None, "response": "<time>[1, 2]</time>", "answer": None}])
    scoring = score_all(run, BenchmarksParams(reading="answer"), data)
    assert scoring.predictions["tiny"][toy_samples[0].qid].spans == [] and scoring.protocol.parsing == "answer"
