"Curation: thresholds, quotas, bad input, and the same files after a run was killed and resumed."

import json
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vtg_r1.core.prompts import parse_span
from vtg_r1.core.runtime import UserError, project_root, resolve
from vtg_r1.core.samples import Sample, SampleError, iter_jsonl, load_samples, write_jsonl, write_jsonl_files
from vtg_r1.curation import (
    CurationParams,
    SourceFiles,
    allocate,
    answered,
    assign_split,
    check_videos,
    collect,
    dataset_card,
    destinations,
    event_lengths,
    filter_facts,
    folder_lock,
    iter_samples,
    main,
    make_pool,
    plot_filter,
    plot_sample,
    read_source,
    sample_pool,
    table1,
    to_sft_sample,
    work_folder,
    write_sets,
)
from vtg_r1.data.validation import overlap_guard, probe_videos, source_id
from vtg_r1.runs.parameters import from_mapping, read_parameters

RESPONSE = "<think>it appears at 2, gone at 8.</think><time>[2, 8]</time>"


def sample(qid="q", iou=0.9, span=(2.0, 8.0), response=RESPONSE, **more):
    return Sample(
        qid,
        **{
            "video": "v.mp4",
            "duration": 15.0,
            "query": f"event {qid}",
            "spans": [[2.0, 8.5]],
            "source": "a",
            "teacher": {"model": "m", "response": response, "span": span and list(span), "iou": iou, "usage": None},
            **more,
        },
    )


@pytest.mark.parametrize(
    "s, cold, rl, reason",
    [
        (sample(iou=0.81), True, True, ""),
        (sample(iou=0.8), False, True, ""),
        (sample(iou=0.4), False, True, ""),
        (sample(iou=0.3999), False, False, "low_iou"),
        (sample(iou=0.0, span=None, response="no"), False, False, "unreadable_response"),
        (sample(iou=0.9, response="I think <time>[2, 8]</time>"), False, True, "not_well_formed"),
        (replace(sample(), teacher=None), False, False, "no_teacher"),
    ],
)
def test_the_sets_of_a_sample_follow_from_its_answer(s, cold, rl, reason):
    assert assign_split(s, CurationParams()) == (cold, rl, reason)


def test_parameters_keep_the_sets_apart_or_turn_the_filters_off():
    apart = CurationParams(keep_coldstart_in_rl=False)
    assert assign_split(sample(iou=0.9), apart) == (True, False, "") and assign_split(sample(iou=0.5), apart)[1]
    unfiltered = CurationParams(sft_min_iou=-1, rl_min_iou=0)  # without filters, as in the arms R1-U and "RL without a filter"
    assert assign_split(sample(iou=0.0), unfiltered)[:2] == (True, True)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=20), st.floats(0, 1), st.floats(0, 1), st.booleans())
def test_every_sample_is_in_a_set_or_filtered_with_a_reason(ious, sft_min_iou, rl_min_iou, keep):
    samples = [sample(str(i), iou, (2.0, 8.0) if ok else None, RESPONSE if ok else "no") for i, (iou, ok) in enumerate(ious)]
    params = CurationParams(sft_min_iou=sft_min_iou, rl_min_iou=rl_min_iou, keep_coldstart_in_rl=keep)
    rows = list(destinations(samples, params))
    cold, rl = ([s for name, s, _ in rows if name == file] for file in ("coldstart.jsonl", "rl.jsonl"))
    assert {s.qid for _, s, _ in rows} == {s.qid for s in samples}
    assert all(s.teacher["iou"] > sft_min_iou for s in cold) and all(s.teacher["iou"] >= rl_min_iou for s in rl)
    assert all(bool(reason) == (name == "filtered.jsonl") for name, _, reason in rows)
    if not keep:
        assert not {s.qid for s in cold} & {s.qid for s in rl}


def test_the_target_of_sft_is_the_teachers_response_or_the_agreed_true_span():
    s = sample(spans=[[1.0, 5.0], [2.0, 8.5], [2.0, 8.5]])
    assert to_sft_sample(s) is s and parse_span(to_sft_sample(s, "ground_truth").teacher["response"]) == [2.0, 8.5]
    with pytest.raises(UserError, match="label_source"):
        CurationParams(label_source="both")


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text("abcdef", min_size=1), st.integers(0, 1000), min_size=1, max_size=8), st.integers(0, 5000))
def test_sources_give_equal_shares_and_make_up_for_small_ones(sizes, total):
    take = allocate(sizes, total)
    assert sum(take.values()) == min(total, sum(sizes.values())) and all(take[k] <= sizes[k] for k in sizes)
    short = [k for k in sizes if take[k] < sizes[k]]
    assert all(take[k] + 1 >= max(take.values()) for k in short)  # a source with samples left over gives as many as any other, or one less


def make(folder: Path, **sources):
    "Files of samples whose precomputed answers have the tIoU 0.05, 0.15, …, 0.95 with the truth [2, 8.5]."
    for name, n in sources.items():
        ious = [(i % 10) / 10 + 0.05 for i in range(n)]
        responses = [f"<think>it appears at 2.</think><time>[2, {2 + 6.5 * iou:.4f}]</time>" for iou in ious]
        teachers = [{"model": "m", "response": response, "iou": round(iou, 2)} for response, iou in zip(responses, ious)]
        samples = [replace(sample(str(i)), source=name, video=f"{name}{i % 3}.mp4", teacher=teacher) for i, teacher in enumerate(teachers)]
        write_jsonl(folder / f"{name}.jsonl", samples)
    return [{"path": folder / f"{name}.jsonl"} for name in sources]


def test_the_counts_of_all_steps_add_up_and_are_on_the_card(tmp_path):
    entries = make(tmp_path, a=40, b=10)
    with open(tmp_path / "a.jsonl", "a") as f:
        f.write("{broken\n")
    work = work_folder(tmp_path / "work", entries, seed=0)
    (tmp_path / "bench.json").write_text(json.dumps({"a1": {"duration": 9, "timestamps": [[1, 2]], "sentences": ["something else"]}}))
    guard = overlap_guard([("activitynet", tmp_path / "bench.json", None)])
    reports = collect(entries, work, guard, {"b0.mp4": {"seconds": None, "reason": "holds no video frame"}})
    sources = sample_pool(work, [{"task": "instance", "sources": ["a", "b"], "total": 20}])
    pool = list(iter_samples(work / "pool.jsonl"))
    assert sources == {"a": {"task": "instance", "candidates": 27, "pool": 14}, "b": {"task": "instance", "candidates": 6, "pool": 6}}
    assert len(pool) == 20
    out = tmp_path / "out"
    out.mkdir()
    counts = write_sets(answered(work / "pool.jsonl", CurationParams(teacher="precomputed")), work / "excluded.jsonl", out, CurationParams())
    total = table1(out, sources)[-1]
    assert (total["excluded"], total["pool"], total["cold start"], total["RL"]) == (17, 20, counts["coldstart.jsonl"], counts["rl.jsonl"])
    assert total["filtered"] + total["RL"] == 20 and counts["filtered.jsonl"] == total["filtered"] + 17
    assert {r["reason"] for _, r in iter_jsonl(out / "filtered.jsonl")} == {"overlap", "video", "low_iou"}
    assert load_samples(out / "rl.jsonl") and load_samples(out / "coldstart.jsonl")
    # with no b among the sources, as if all its samples had been excluded
    gone = [row for row in table1(out, {"a": sources["a"]}) if row["source"] == "b"]
    assert [(row["excluded"], row["candidates"]) for row in gone] == [(4, 0)]
    card = dataset_card(out, sources, reports, {"seed": 0})
    assert "malformed_line/dropped" in card and str(tmp_path) not in card
    assert collect(entries, work) == reports  # the second call gives the stored reports


def test_the_draw_follows_its_seed_and_keeps_most_samples_when_the_source_grows(tmp_path):
    drawn = []
    for name, n, seed in (("a", 60, 0), ("b", 60, 1), ("c", 66, 0)):
        (folder := tmp_path / name).mkdir()
        collect(make(folder, a=n), folder)
        sample_pool(folder, [{"sources": ["a"], "total": 30}], seed)
        drawn.append({s.qid for s in iter_samples(folder / "pool.jsonl")})
    first, other_seed, grown = drawn
    assert [len(qids) for qids in drawn] == [30] * 3 and first != other_seed
    assert first - grown and len(first & grown) >= 24 and grown - first <= {str(i) for i in range(60, 66)}  # only new samples displace old ones


def test_a_hugging_face_dataset_can_be_a_source(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = [{"file": f"{i}.mp4", "caption": f"event {i}", "from": 1.0, "to": 30.0 if i == 3 else 4.0, "length": 20.0} for i in range(5)] + [
        {"file": "x.mp4", "caption": "", "from": 1.0, "to": 2.0, "length": 9.0}
    ]
    (tmp_path / "mine").mkdir()
    datasets.Dataset.from_list(rows).to_parquet(str(tmp_path / "mine" / "train.parquet"))
    columns = {"video": "file", "query": "caption", "start": "from", "end": "to", "duration": "length"}
    entry = {"path": str(tmp_path / "mine"), "dataset": "huggingface", "columns": columns}
    work = work_folder(tmp_path / "work", [entry])
    (report,) = collect([entry], work)
    assert (report["read"], report["kept"], report["past_end"], report["empty_query"]) == (6, 5, 1, 1)
    found = list(iter_samples(work / "candidates.jsonl"))
    assert found[3].spans == [[1.0, 20.0]] and {s.source for s in found} == {"mine"}


@pytest.mark.parametrize(
    "entry, word",
    [({"path": "a.csv", "dataset": "csv", "columns": {"query": "caption"}}, "may not have 'columns'"), ({"path": "a.csv"}, "lacks 'dataset'")],
)
def test_a_benchmark_entry_with_columns_or_without_a_dataset_is_an_error(entry, word, tmp_path):
    with pytest.raises(SampleError, match=word):
        main(CurationParams(outputs_dir=str(tmp_path), benchmarks=[entry]))


@pytest.mark.parametrize(
    "quotas, problem",
    [
        ([{"sources": ["nobody"], "total": 3}], "quotas name the source 'nobody'"),
        ([{"sources": ["a"], "total": 1}, {"sources": ["a"], "total": 2}], "a source is in two quotas"),
    ],
)
def test_quotas_of_an_unknown_source_or_of_one_source_twice_are_errors(quotas, problem, tmp_path):
    collect(make(tmp_path, a=4), tmp_path)
    with pytest.raises(SampleError, match=problem):
        sample_pool(tmp_path, quotas)


def test_equal_qids_of_two_sources_stay_apart(tmp_path):
    collect(make(tmp_path, a=2, b=2), tmp_path)
    assert [s.qid for s in iter_samples(tmp_path / "candidates.jsonl")] == ["0", "1", "b/0", "b/1"]


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_a_qid_that_a_file_has_twice_is_excluded_wherever_the_file_stands(order, tmp_path):
    entries = make(tmp_path, a=2, b=2)
    with open(entries[0]["path"], "a") as f:
        f.write(open(entries[0]["path"]).readline())
    collect([entries[i] for i in order], tmp_path)
    excluded = [(r["sample"]["source"], r["sample"]["qid"], r["reason"]) for _, r in iter_jsonl(tmp_path / "excluded.jsonl")]
    assert excluded == [("a", "0", "duplicate_qid")]
    assert len({s.qid for s in iter_samples(tmp_path / "candidates.jsonl")}) == 4


def test_ends_past_the_video_cannot_be_kept(tmp_path):
    with pytest.raises(SampleError, match="give 'clip' or 'drop'"):
        read_source(tmp_path / "a.csv", "csv", past_end="keep")


def test_work_folder_is_named_by_content(tmp_path):
    entries = make(tmp_path, a=3)
    first = work_folder(tmp_path / "w", entries, seed=0)
    assert work_folder(tmp_path / "w", entries, seed=0) == first != work_folder(tmp_path / "w", entries, seed=1)
    make(tmp_path, a=4)
    assert work_folder(tmp_path / "w", entries, seed=0) != first
    with pytest.raises(SampleError, match="no such file"):
        work_folder(tmp_path / "w", [{"path": tmp_path / "none"}])


def test_the_pool_depends_on_the_folder_of_the_videos_also_where_none_is_opened(tmp_path):
    "Absolute names are read as relative to it, so another folder must not take up the candidates of the first."
    rows = [sample(str(i), video="v.mp4").to_dict() | {"video": str(tmp_path / "here/v.mp4")} for i in range(2)]
    write_jsonl(tmp_path / "s.jsonl", rows)
    params = CurationParams(outputs_dir=str(tmp_path), validate_videos=False)
    files = [SourceFiles([{"path": tmp_path / "s.jsonl"}], [], tmp_path / name) for name in ("here", "there")]
    assert {s.video for s in iter_samples(make_pool(params, files[0]).folder / "pool.jsonl")} == {"v.mp4"}
    with pytest.raises(SampleError, match="2 unsafe_video"):
        make_pool(params, files[1])


def test_files_appear_whole_or_not_at_all(tmp_path):
    def rows():
        yield "a.jsonl", {"x": 1}
        raise KeyError("source")

    with pytest.raises(KeyError):
        write_jsonl_files(tmp_path, ["a.jsonl", "b.jsonl"], rows())
    assert not (tmp_path / "a.jsonl").exists() and not (tmp_path / "b.jsonl").exists()


def test_a_second_curation_in_the_same_folder_is_refused(tmp_path):
    with folder_lock(tmp_path), pytest.raises(SampleError, match="is curating in this folder"):
        with folder_lock(tmp_path):
            pass


def test_killed_and_resumed_files_are_identical():
    "perf/curation.py with a small pool: after three kills each file has the same bytes as without one, and no answer was asked for twice."
    done = subprocess.run([sys.executable, str(Path(__file__).parents[1] / "perf" / "curation.py"), "--pool", "1400"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["identical"] and found["asked_twice"] == 0 and found["pool"] == 1400 and len(found["kills"]) == 3


def test_missing_and_unreadable_videos_are_named_and_readable_ones_are_opened_once(tmp_path):
    from vtg_r1.data.toyworld import make_world

    world = make_world(tmp_path / "w", videos=3, seed=0)
    broken = world / "videos" / "train_00001.mp4"
    broken.write_bytes(broken.read_bytes()[:300])
    (world / "videos" / "train_00002.mp4").unlink()
    found = probe_videos(load_samples(world / "samples.jsonl"), world / "videos")
    assert (found["named"], found["readable"], found["missing"], list(found["unreadable"])) == (3, 1, ["train_00002.mp4"], ["train_00001.mp4"])
    (tmp_path / "videos.jsonl").write_text(
        '{"video": "train_00000.mp4", "seconds": 1, "reason": ""}\n{"vid'
    )  # killed in the middle of the second line
    seen = check_videos([{"path": world / "samples.jsonl"}], world / "videos", tmp_path, progress=False)
    bad = {v: r["reason"] for v, r in seen.items() if r["reason"]}
    assert set(bad) == {"train_00001.mp4", "train_00002.mp4"} and "no such file" in bad["train_00002.mp4"]
    assert seen["train_00000.mp4"]["seconds"] == 1  # the stored value: this video was not opened again
    assert sum(isinstance(r, dict) for _, r in iter_jsonl(tmp_path / "videos.jsonl")) == 3


def test_durations_measured_in_the_videos_fill_the_gaps_of_a_format(tmp_path):
    from vtg_r1.data.toyworld import ToyWorldConfig, make_world

    world = make_world(tmp_path / "w", videos=1, seed=0, world=ToyWorldConfig(lengths=(15,), spacing=(1,)))
    turns = [{"from": "human", "value": "<image>\nWhen is it?"}, {"from": "gpt", "value": "From <1.0> to <4.0>."}]
    (tmp_path / "g.json").write_text(
        json.dumps([{"question_id": "7", "video_id": "train_00000", "video_file": "train_00000.mp4", "conversation": turns}])
    )
    entries = [{"path": tmp_path / "g.json", "dataset": "grounded_videollm"}]
    (tmp_path / "work").mkdir()
    (report,) = collect(entries, tmp_path / "work", None, check_videos(entries, world / "videos", tmp_path / "work", progress=False))
    assert (
        next(iter_samples(tmp_path / "work" / "candidates.jsonl")).duration == pytest.approx(16)
        and report["kept"] == 1
        and not report.get("missing_duration")
    )
    strict = [{**entries[0], "missing_duration": "drop"}]  # the entry's own choice for queries without a duration; its video is checked all the same
    assert list(check_videos(strict, world / "videos", tmp_path / "work", progress=False)) == ["train_00000.mp4"]


def test_a_query_without_spans_or_from_the_hub_is_measured_too(tmp_path):
    "Neither can have its duration guessed from a last published end, but the video is there."
    from vtg_r1.data.toyworld import ToyWorldConfig, make_world

    datasets = pytest.importorskip("datasets")
    world = make_world(tmp_path / "w", videos=2, seed=0, world=ToyWorldConfig(lengths=(15,), spacing=(1,)))
    (tmp_path / "s.jsonl").write_text(json.dumps({"video": "train_00000.mp4", "query": "a white cross", "spans": []}) + "\n")
    (tmp_path / "hub").mkdir()
    datasets.Dataset.from_list([{"video": "train_00001.mp4", "query": "a circle", "spans": [[1.0, 20.0]]}]).to_parquet(tmp_path / "hub/train.parquet")
    entries = [{"path": tmp_path / "s.jsonl", "dataset": "jsonl", "absent": "keep"}, {"path": str(tmp_path / "hub"), "dataset": "huggingface"}]
    (tmp_path / "work").mkdir()
    videos = check_videos(entries, world / "videos", tmp_path / "work", progress=False)
    assert list(videos) == ["train_00000.mp4", "train_00001.mp4"]
    reports = collect(entries, tmp_path / "work", None, videos, world / "videos", "set")
    assert [(s.duration, s.spans) for s in iter_samples(tmp_path / "work" / "candidates.jsonl")] == [(16.0, []), (16.0, [[1.0, 16.0]])]
    assert [r["notes"] for r in reports] == [["1 queries have no duration in the file; theirs were measured in the videos"]] * 2


@pytest.mark.parametrize(
    "video, source",
    [
        ("v_NUsG9BgSes0.mp4", "NUsG9BgSes0"),
        ("NUsG9BgSes0_210.0_360.0", "NUsG9BgSes0"),
        ("a/4jujhM5qhEc_00:00:39:000_00:01:24:700.mp4", "4jujhM5qhEc"),
        ("G0mjFqytJt4_000152_000162.mp4", "G0mjFqytJt4"),
        ("1101/2574374895.mp4", "2574374895"),
        ("OHOFG.mp4", "OHOFG"),
        ("s30-d52.avi", "s30-d52"),
        ("AbCdEfGhIjK_35_79.mp4", "AbCdEfGhIjK"),
        ("video-AbCdEfGhIjK.mp4", "AbCdEfGhIjK"),
        ("v_AbCdEfGhIjK_10.5_20.0.mp4", "AbCdEfGhIjK"),
        ("HiREST/clips/_7urSjT6sQY_35_79.mp4", "_7urSjT6sQY"),
        ("A dog barks [AbCdEfGhIjK].webm", "AbCdEfGhIjK"),
        ("s13-d21-cam-002.avi", "s13-d21"),
        ("35034348999@N01_6060447507_dc1a90b8ef.mov", "6060447507"),
        # names that look alike and are videos of their own
        ("kitchen_001_10_20.mp4", "kitchen_001_10_20"),
        ("kitchen_10_20.mp4", "kitchen_10_20"),
        ("AbCdEfGhIjK_79_35.mp4", "AbCdEfGhIjK_79_35"),
        ("front-cam-002.mp4", "front-cam-002"),
        ("v_123456789.mp4", "v_123456789"),
        ("video-2.mp4", "video-2"),
        ("v_Basketball_g01_c01.avi", "v_Basketball_g01_c01"),
        ("part [2].mp4", "part [2]"),
        ("6060447507_6060447508.mp4", "6060447507_6060447508"),
    ],
)
def test_the_source_id_is_the_same_for_all_names_of_one_video(video, source):
    assert source_id(video) == source


def test_the_guard_tells_the_same_video_source_and_query_apart(tmp_path):
    (tmp_path / "b_test.jsonl").write_text(
        json.dumps(dict(qid=1, query="A person  opens the door.", duration=150, vid="NUsG9BgSes0_210.0_360.0")) + "\n"
    )
    benchmark = [("qvhighlights", tmp_path / "b_test.jsonl", None)]
    same_video, same_source, same_query = (
        replace(sample(), video=v, query=q)
        for v, q in (("x/NUsG9BgSes0_210.0_360.0.mp4", "z"), ("v_NUsG9BgSes0.mp4", "z"), ("y.mp4", "a person opens the door"))
    )
    guard = overlap_guard(benchmark)
    assert [guard(s).split(" as")[0] for s in (same_video, same_source, same_query)] == ["same video", "same source", "same query"]
    assert [bool(overlap_guard(benchmark, by)(same_query)) for by in (["video"], ["query"], [])] == [False, True, False]
    with pytest.raises(ValueError, match="sound"):
        overlap_guard(benchmark, ["sound"])
    (tmp_path / "wrong.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(SampleError, match="nothing would be guarded"):
        overlap_guard([("tacos", tmp_path / "wrong.jsonl", None)])


def test_figures_of_the_filter_and_of_a_sample(world, toy_samples):
    "The first shows both thresholds and the three sets, the second frames, the true span and the teacher's."
    import matplotlib.pyplot as plt

    from vtg_r1.data.model_inputs import VideoInputConfig
    from vtg_r1.data.toyworld import read_scripts, toy_teacher

    scripts = read_scripts(world)
    annotated = [replace(s, teacher=toy_teacher(s, scripts, 0)) for s in toy_samples] + [replace(toy_samples[0], teacher=None)]
    facts = filter_facts(annotated, CurationParams())
    assert len(facts) == len(annotated) and facts[-1]["set"] == "filtered" and facts[-1]["words"] == facts[-1]["teacher tIoU"] == 0
    fig = plot_filter(facts, CurationParams())
    assert [ax.get_xlabel() for ax in fig.axes] == [
        "teacher tIoU with the ground truth",
        "event length (s)",
        "words in the teacher's response",
    ]
    assert {round(line.get_xdata()[0], 2) for line in fig.axes[0].lines} == {CurationParams().sft_min_iou, CurationParams().rl_min_iou}
    assert {t.get_text() for t in fig.legends[0].get_texts()} == {"cold start and RL", "RL only", "filtered"}
    apart = CurationParams(keep_coldstart_in_rl=False)
    facts = filter_facts(annotated, apart)
    assert {t.get_text() for t in plot_filter(facts, apart).legends[0].get_texts()} == {"cold start only", "RL only", "filtered"}
    assert "event seconds/cold start only/50" in event_lengths(facts) and "event seconds/cold start and RL/50" not in event_lengths(facts)
    shown = next(s for s in annotated if s.teacher["span"])
    strip, line = plot_sample(shown, VideoInputConfig(str(world / "videos"), frames=4)).axes
    assert (
        shown.query in strip.get_title().replace("\n", " ")
        and strip.images
        and {"truth", "teacher"} <= {t.get_text() for t in line.get_yticklabels()}
    )
    plt.close("all")


def run_stage(folder, **parameters):
    return main(CurationParams(outputs_dir=str(folder), toy_videos=8, **parameters))


@pytest.mark.slow
def test_the_notebook_does_what_main_does(tmp_path):
    from vtg_r1.runs.execute import run_notebook

    given = {"outputs_dir": str(tmp_path), "toy_videos": 8}
    notebook = run_notebook("nbs/01_curation.ipynb", given | {"run_name": "a"}, CurationParams, progress=False)
    module = main(CurationParams(**given, run_name="b"))
    names = {p.name for p in module.glob("*.*")} - {"manifest.json"}
    assert names == {p.name for p in notebook.glob("*.*")} - {"manifest.json", "01_curation.ipynb"}
    assert all((notebook / name).read_bytes() == (module / name).read_bytes() for name in names)


def test_the_stage_on_the_toy_world_writes_its_sets_metrics_and_figures(tmp_path):
    run = run_stage(tmp_path, run_name="a")
    manifest, metrics = (json.loads((run / f"{n}.json").read_text()) for n in ("manifest", "metrics"))
    assert manifest["status"] == "finished" and resolve(manifest["config"]["video_root"]).is_dir()
    assert metrics["coldstart"] == len(load_samples(run / "coldstart.jsonl")) and metrics["rl"] == len(load_samples(run / "rl.jsonl"))
    events = [s.spans[0][1] - s.spans[0][0] for s in load_samples(run / "coldstart.jsonl")]
    assert metrics["event seconds/cold start and RL/50"] == statistics.median(events) and metrics["event seconds/cold start and RL/100"] == max(
        events
    )
    assert {p.name for p in (run / "figs").glob("*.png")} >= {"quality.png", "filter.png", "coldstart_sample.png", "filtered_sample.png"}
    again = run_stage(tmp_path, run_name="b", keep_coldstart_in_rl=False)
    assert len(list((tmp_path / "curation-work").iterdir())) == 2  # one for the videos and one for the samples; other thresholds need no other ones
    assert (again / "coldstart.jsonl").read_bytes() == (run / "coldstart.jsonl").read_bytes()
    assert not {s.qid for s in load_samples(again / "rl.jsonl")} & {s.qid for s in load_samples(again / "coldstart.jsonl")}


def test_a_video_that_is_found_later_is_used_later(tmp_path):
    run = run_stage(tmp_path, run_name="a")
    hidden = next((tmp_path / "toyworld").glob("*/videos/train_00003.mp4"))
    hidden.rename(tmp_path / "elsewhere.mp4")
    without = run_stage(tmp_path, run_name="b")
    refused = [r for _, r in iter_jsonl(without / "filtered.jsonl") if r["reason"] == "video"]
    assert refused and {r["sample"]["video"] for r in refused} == {"train_00003.mp4"}
    (tmp_path / "elsewhere.mp4").rename(hidden)
    again = run_stage(tmp_path, run_name="c")
    assert all((again / n).read_bytes() == (run / n).read_bytes() for n in ("coldstart.jsonl", "rl.jsonl", "filtered.jsonl"))


@pytest.mark.parametrize(
    "parameters, problem",
    [
        (dict(sources=[{"path": "nowhere.jsonl"}], video_root="videos"), "nowhere.jsonl: no such file"),
        (dict(sources=[{"path": "nowhere.jsonl"}]), "video_root is empty"),
        (dict(quotas=[{"sources": ["nobody"], "total": 1}]), "quotas name the source 'nobody'"),
    ],
)
def test_the_stage_refuses_bad_parameters(parameters, problem, tmp_path):
    with pytest.raises(SampleError, match=problem):
        run_stage(tmp_path, run_name="a", **parameters)


def test_the_papers_configuration_names_known_parameters_and_datasets():
    from vtg_r1.data.readers import READERS

    params = from_mapping(CurationParams, read_parameters(CurationParams, [project_root() / "configs" / "curation_paper.yaml"], []))
    assert {e["dataset"] for e in params.sources + params.benchmarks} <= set(READERS)
    assert {s for q in params.quotas for s in q["sources"]} == {e["dataset"] for e in params.sources}
