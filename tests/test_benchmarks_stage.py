"07_benchmarks run headlessly: the toy world, an official file, an interrupted run, missing videos, and vLLM's interface."

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

import pytest

from vtg_r1.benchmarks import BenchmarkData, BenchmarksParams, intervals, main, measure_reliability, prepare_data, score_all, score_table
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
    "The notebook itself, with all that it can do."
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


def test_toy_world(toy):
    folder, metrics, _ = toy
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["status"] == "finished" and metrics["n"] == 48 == len(rows_of(folder)) and metrics["failed"] == 0
    assert manifest["inputs"]["annotations"]["path"].endswith("held-out-in-domain/samples.jsonl")
    assert manifest["policy"] == {"path": "tiny", "key": model_fingerprint("tiny")}
    assert manifest["config"]["sampling"]["repetition_penalty"] == 1.0
    protocol = manifest["protocol"]
    assert protocol["queries"] == 48 and f"protocol {protocol['hash']}: toyworld, labels " in (folder / "07_benchmarks.ipynb").read_text()
    assert metrics["mIoU/low"] < metrics["mIoU"] < metrics["mIoU/high"]
    assert metrics["mIoU"] > metrics["blind/dataset prior/mIoU"]  # the embedded model looks
    blind = {name for name in metrics if name.startswith("blind/")}
    assert blind == {f"blind/{name}/mIoU" for name in ("whole video", "centre third", "random", "dataset prior")}
    assert not {name.removeprefix("blind/") for name in blind} & set(metrics), "a number has one name"
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


def test_score_command_agrees(toy, tmp_path, capsys):
    "The predictions file of the run is one that `vtg-r1 score` reads, and gives the same numbers."
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
    same = ("queries", "rule", "parsing", "missing", "clipping", "truths", "version")  # the label file is another one
    assert {k: protocol[k] for k in same} == {k: json.loads((folder / "manifest.json").read_text())["protocol"][k] for k in same}
    assert all(metrics[k] == pytest.approx(v) for k, v in scored.items())


def test_missing_video_is_a_recorded_miss_and_a_stopped_run_goes_on(charades, outputs):
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


def test_grounded_qa_in_the_native_encoding(toy, outputs, tmp_path):
    "ReXTime's format over toy videos. The tiny model never saw options or this encoding: it runs and is scored, it need not be good."
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


def test_timelens_bench_stands_beside_its_published_numbers(toy, outputs, tmp_path):
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


def test_our_score_stands_beside_published_ones_by_their_rule(tmp_path):
    "An IoU of exactly 0.5: a hit for ActivityNet's evaluator, none for the one of Time-R1, whose row is in the table."
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


def test_annotations_are_asked_for(outputs):
    with pytest.raises(UserError, match="needs annotations and video_root"):
        run(outputs, "nothing", benchmark="charades_sta")
    with pytest.raises(UserError, match="did you mean 'benchmark'"):
        run(outputs, "typo", benchmarks="charades_sta")


def test_grounded_qa_prompt_and_native_training_set(toy):
    videos = toy[2]
    sample = load_samples(videos / "samples.jsonl")[0]
    question = Sample(**{**sample.to_dict(), "question": "which shape comes first?", "options": ["circle", "square"], "answer": "A"})
    view = VideoInputConfig(str(videos / "videos"), 4, 784, "short", options=True)
    assert "(B) square" in build_prompt(question, view)["prompt"][0]["content"][0]["text"]
    assert build_prompt(sample, view)["prompt"][0]["content"][0]["text"] == sample.query
    assert {"video", "fps", "spans"} <= set(training_set([sample], VideoInputConfig(str(videos / "videos"), 4, 784, "short", "native"))[0])
    with pytest.raises(ValueError, match="time_encoding must be"):
        VideoInputConfig("x", time_encoding="both")


def test_vllm_interface(toy, monkeypatch):
    "What is handed to vLLM, against a stand-in with its signatures; vLLM itself needs a GPU."
    videos = toy[2]
    sample, seen, sampled, engines = load_samples(videos / "samples.jsonl")[0], [], [], []

    class LLM:
        def __init__(self, model, trust_remote_code, limit_mm_per_prompt, seed, dtype):
            assert dtype == str(load_model("tiny").dtype).removeprefix("torch.")  # else vLLM takes what the checkpoint names
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
    for rank in (0, 1):  # two processes of a launcher: each an engine on its own GPU, outside the launcher's group, with the same seeds
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


@pytest.mark.shared
def test_real_videos(outputs, tmp_path):
    "Two real Charades videos through the whole stage with the embedded model, which has never seen a camera's picture."
    if "VTG_R1_SHARED" not in os.environ:
        pytest.skip("needs VTG_R1_SHARED, the folder with the real annotations and videos")
    data = Path(os.environ["VTG_R1_SHARED"]) / "data"
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
    "Three queries on two videos: hit exactly, half hit, not answered."
    from vtg_r1.data.official_benchmarks import Prediction

    samples = [
        Sample("a", "v.mp4", 20.0, "x", [[0.0, 4.0]]),
        Sample("b", "v.mp4", 20.0, "y", [[0.0, 10.0], [12.0, 14.0]]),
        Sample("c", "w.mp4", 10.0, "z", [[5.0, 10.0]]),
    ]
    return samples, {"a": Prediction([[0.0, 4.0]]), "b": Prediction([[0.0, 5.0], [0.0, 10.0]])}


def test_intervals_hold_their_values_and_count_videos():
    from vtg_r1.benchmarks import intervals

    samples, predictions = queries_with_answers()
    sure = intervals(samples, predictions)
    assert {name: value for name, (value, _, _) in sure.items()} == pytest.approx(
        {"mIoU": 50, "R1@0.3": 200 / 3, "R1@0.5": 200 / 3, "R1@0.7": 100 / 3}
    )
    assert all(low <= value <= high for value, low, high in sure.values())
    assert sure["mIoU"][1:] == pytest.approx((0, 75))  # drawn by video: one has 1 and 1/2, the other 0


def test_a_single_video_leaves_the_ends_out(tmp_path):
    from vtg_r1.benchmarks import bracket, interval_ends, intervals
    from vtg_r1.runs.run import start_run

    samples, predictions = queries_with_answers()
    assert set(interval_ends(intervals(samples, predictions))) == {
        f"{m}/{side}" for m in ("mIoU", "R1@0.3", "R1@0.5", "R1@0.7") for side in ("low", "high")
    }
    one = intervals([s for s in samples if s.video == samples[0].video], predictions)
    assert interval_ends(one) == {} and "no interval" in bracket(*one["mIoU"][1:]) and bracket(-1.0, 2.0, "+.2f") == "[-1.00, +2.00]"
    start_run("benchmarks", "one", {}, tmp_path).save_metrics({"mIoU": one["mIoU"][0], **interval_ends(one)})  # finite numbers alone


def test_queries_about_videos_of_the_training_are_counted(toy, outputs):
    "A run of ours, measured on what it was trained on, and on what it was not."
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
    assert other["seen_in_training"] == 0 and "seen_in_training" not in toy[1]  # the embedded model is no run


def test_what_a_run_was_trained_on_is_unknown_where_it_kept_no_list(toy, tmp_path):
    from vtg_r1.benchmarks import seen_in_training, training_runs
    from vtg_r1.runs.run import start_run

    samples, old = load_samples(toy[2] / "samples.jsonl")[:4], start_run("sft", "old", {}, tmp_path)
    old.record(config={"video_root": str(toy[2] / "videos")})
    assert seen_in_training(samples, toy[2] / "videos", training_runs(old.path)) is None and training_runs(None) == []
    old.save_rows("train_samples.jsonl", [dict(qid=s.qid, video=s.video, query=s.query) for s in samples[:1]])
    assert seen_in_training(samples[:1], "/copied/elsewhere", [old.path]) == 1  # by its record


def test_a_one_video_benchmark_finishes(toy, outputs, tmp_path):
    "Its metrics.json has no ends, and the stage says so."
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
    assert shape["predicted"][:2].tolist() == [0.1, 0.125] and shape["predicted"][2] != shape["predicted"][2]


def test_a_model_that_is_not_the_embedded_one_needs_values_of_its_own(tmp_path):
    with pytest.raises(UserError, match="configs/benchmark_7b.yaml"):
        main(BenchmarksParams(model="Qwen/Qwen2.5-VL-7B-Instruct", outputs_dir=str(tmp_path)))
    assert not list(tmp_path.iterdir())


def test_a_benchmark_needs_a_model_that_is_named(charades, tmp_path):
    with pytest.raises(UserError, match=r"is not of the toy world, and no model is named"):
        main(BenchmarksParams(outputs_dir=str(tmp_path), **charades[0]))


def test_a_case_shows_the_truth_beside_the_first_answer(world, toy_samples):
    from vtg_r1.benchmarks import case_of
    from vtg_r1.data.official_benchmarks import Prediction

    case = case_of(toy_samples[0], Prediction([[1.0, 2.0], [3.0, 4.0]]), VideoInputConfig(str(world / "videos"), frames=4))
    assert len(case["pictures"]) == len(case["times"]) > 3 and toy_samples[0].query in case["title"]
    assert case["spans"] == {"truth": toy_samples[0].spans, "predicted": [[1.0, 2.0]]}


def test_a_benchmark_without_a_true_span_finishes(outputs, world, toy_samples):
    "Nothing can be localised: the metrics are those of sets, and there are no intervals, controls, figures or baseline."
    absent = [dataclasses.replace(s, spans=[]) for s in toy_samples[:2]]
    write_jsonl(outputs / "absent.jsonl", absent)
    write_jsonl(outputs / "other.jsonl", [{"qid": s.qid, "pred": []} for s in absent])
    about = dict(benchmark="samples", annotations=str(outputs / "absent.jsonl"), video_root=str(world / "videos"), answers="set")
    extras = dict(control_limit=2, num_samples=2, figures=True, baseline_predictions=str(outputs / "other.jsonl"), max_completion_length=4)
    folder, metrics, printed = run(outputs, "absent", **about, **extras)
    assert metrics["n"] == 2 and "mIoU" not in metrics and "no query of 2 has a true span" in printed
    assert not list(folder.glob("control_*.jsonl")) and not (folder / "figs/recall_curve.png").exists()


def test_a_baseline_is_read_before_anything_is_generated(outputs, world, toy_samples):
    "Its rows may be of more queries than are asked; one that is not readable is refused at once."
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


def test_responses_are_scored_by_the_reading_of_the_run(tmp_path, world, toy_samples):
    "A time block is no answer for the reading `answer`, though it is one for `time`."
    data = BenchmarkData("toyworld", world / "samples.jsonl", toy_samples[:1], None, VideoInputConfig(str(world / "videos"), reading="answer"))
    run = start_run("benchmarks", "a", {}, tmp_path)
    run.save_rows("predictions.jsonl", [{"qid": toy_samples[0].qid, "pred": None, "response": "<time>[1, 2]</time>", "answer": None}])
    scoring = score_all(run, BenchmarksParams(reading="answer"), data)
    assert scoring.predictions["tiny"][toy_samples[0].qid].spans == [] and scoring.protocol.parsing == "answer"
