"""Prediction files of other projects: recognised, mapped to the benchmark's queries, and scored as their owners score them.

Each file is written by hand in the shape that its owner's repository writes. The expected scores come from a function `owner_…`, which repeats the rule of its evaluator
on the raw file without this project's code, or, for three owners, from `by_hand`. docs/formats.md is the table of what these tests find; `python tests/test_formats.py` writes it anew.
"""

import contextlib
import csv
import gzip
import io
import itertools
import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import pytest

from vtg_r1.cli import main
from vtg_r1.core.runtime import project_root
from vtg_r1.core.samples import Sample
from vtg_r1.core.tables import markdown_table
from vtg_r1.data.official_benchmarks import load_benchmark
from vtg_r1.data.predictions import FORMS, PredictionError, read_prediction_file, read_predictions, recognise
from vtg_r1.data.protocol import CAUSES, CONVENTIONS, Protocol, explain, file_digest

DOCUMENT = project_root() / "docs" / "formats.md"
HERE = Path(__file__).parent / "score"

# Five queries; one sentence stands twice on a video, and the last span ends after its video
CHARADES = {
    "AAAAA": {
        "duration": 20.0,
        "timestamps": [[0, 10], [5, 15], [12, 18]],
        "sentences": ["person opens a door.", "a person sits down.", "a person sits down."],
    },
    "BBBBB": {"duration": 30.0, "timestamps": [[2, 6], [20, 33]], "sentences": ["person drinks from a cup.", "a person leaves"]},
}
QUERIES = [(vid, sentence, span) for vid, video in CHARADES.items() for span, sentence in zip(video["timestamps"], video["sentences"])]
QIDS = ["AAAAA_0", "AAAAA_1", "AAAAA_2", "BBBBB_3", "BBBBB_4"]
# The predicted spans. Their IoU: exactly 1/2; 1; a miss; 3/4; 10/13
SPANS = [[0, 5], [5, 15], None, [2, 5], [20, 30]]
ORDER = [3, 0, 4, 2, 1]  # of the rows in a file


def texts(form: str) -> list[str]:
    "A response for each of SPANS."
    return [form.format(*span) if span else "I cannot see this in the video." for span in SPANS]


def lines(rows: list[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def iou(a: list[float], b: list[float]) -> float:
    "As most evaluators compute it: divided by the length from the earliest start to the latest end, in place of the union."
    return max(0.0, min(a[1], b[1]) - max(a[0], b[0])) / (max(a[1], b[1]) - min(a[0], b[0]))


def summary(values: list[float], above: bool = False) -> dict[str, float]:
    "R1@m and mIoU in percent; `above` counts IoU > m in place of IoU ≥ m."
    hits = {m: sum(v > m or (v == m and not above) for v in values) for m in (0.3, 0.5, 0.7)}
    return {**{f"R1@{m}": 100 * n / len(values) for m, n in hits.items()}, "mIoU": 100 * sum(values) / len(values)}


def first_two_numbers(text: str) -> list[float]:
    block = re.search("<time>(.*?)</time>", text)
    return [float(n) for n in re.findall(r"\d+\.?\d*", block[1] if block else text)[:2]]


def owner_time_r1(files: dict[str, str]) -> dict[str, float]:
    "src/vllm_inference/eval_all.py: rows with a null score 0, IoU > m."
    rows = [json.loads(line) for text in files.values() for line in text.splitlines()]
    return summary([0.0 if None in r["pred"] else iou(r["pred"], r["target"]) for r in rows], above=True)


def owner_videochat_r1(files: dict[str, str]) -> dict[str, float]:
    "src_eval/evaluate_grounding.py."
    rows = [json.loads(line) for text in files.values() for line in text.splitlines()]
    return summary([0.0 if None in r["timestamp"] else iou(r["timestamp"], r["ans"]) for r in rows])


def owner_videochat_r1_gqa(files: dict[str, str]) -> dict[str, float]:
    "src_eval/evaluate_gqa.py, for answers of one span: the span in <glue>, the first letter in <answer>."
    rows = [json.loads(line) for text in files.values() for line in text.splitlines()]
    values, right = [], []
    for row in rows:
        glue = re.search(r"<glue>\[\(([\d.]+), ([\d.]+)\)\]</glue>", row["pred"])
        values.append(iou([float(glue[1]), float(glue[2])], row["gt"]["glue"][0]) if glue else 0.0)
        right.append(re.search("<answer>.*?([A-E])", row["pred"])[1] == row["gt"]["answer"].strip("()"))
    return {**summary(values), "Acc@QA": 100 * sum(right) / len(right)}


def owner_tvg_r1(files: dict[str, str]) -> dict[str, float]:
    "VideoMind/videomind/eval/eval_auto.py: the first two numbers of the block, else of the response."
    values = []
    for row in json.loads(*files.values()):
        numbers = first_two_numbers(row["response"])
        values.append(iou(numbers, row["span"][0]) if len(numbers) == 2 else 0.0)
    return summary(values)


def owner_videomind(files: dict[str, str]) -> dict[str, float]:
    "videomind/eval/eval_auto.py: the first of the list against the best truth."
    return summary([max(iou(row["pred"][0], span) for span in row["span"]) for text in files.values() for row in json.loads(text)])


def owner_timechat(files: dict[str, str]) -> dict[str, float]:
    "metrics/tvg/eval_tvg.py: an entry for every query, R1 alone."
    entries = json.loads(*files.values())
    assert len(entries) == len(QUERIES)
    values = [iou(QUERIES[int(i)][2], e["timestamp"][0]) if e["timestamp"] else 0.0 for i, e in entries.items()]
    return {name: value for name, value in summary(values).items() if name != "mIoU"}


def owner_timechat_log(files: dict[str, str]) -> dict[str, float]:
    "eval/format_tvg.py, then the same."
    values = []
    for row in json.loads(*files.values()):
        match = re.search(r"(\d+\.?\d*)\s*-\s*(\d+\.?\d*)", row["generated_cap"])
        values.append(iou([float(match[1]), float(match[2])], QUERIES[row["id"]][2]) if match else 0.0)
    return {name: value for name, value in summary(values).items() if name != "mIoU"}


def owner_lmms_eval(files: dict[str, str]) -> dict[str, float]:
    "lmms_eval/tasks/charades_sta/utils.py: 'to' is a dash, the first pair counts, smaller number first."
    entries: dict[str, str] = {}
    for text in files.values():
        try:
            entries |= json.loads(text)
        except ValueError:
            for line in text.splitlines():
                entries |= json.loads(line)["charades_sta_mIOU"]
    values = []
    for key, text in entries.items():
        match = re.search(r"(\d+(?:\.\d+)?)\s*-\s*(\d+(?:\.\d+)?)", text.lower().replace("to", "-"))
        values.append(iou(sorted(map(float, match.groups())), json.loads(key.split(">>>")[2])) if match else 0.0)
    return summary(values)


def owner_timelens(files: dict[str, str]) -> dict[str, float]:
    "evaluation/compute_metrics.py: the first of the stated pairs."
    values = []
    for line in "".join(files.values()).splitlines():
        for key, entry in json.loads(line).items():
            values.append(iou(json.loads(key.split(">>>")[2]), (entry["timestamps"] or [[-100, -100]])[0]))
    return summary(values)


def owner_vlmevalkit(files: dict[str, str]) -> dict[str, float]:
    "evaluation/vlmeval/dataset/timelens.py (TimeLens2's copy of VLMEvalKit)."
    header, *rows = [line.split("\t") for line in "".join(files.values()).splitlines()]
    values = []
    for row in (dict(zip(header, cells)) for cells in rows):
        match = re.search(r"(\d+\.?\d*)\s*-\s*(\d+\.?\d*)", row["prediction"])
        values.append(iou([float(match[1]), float(match[2])], json.loads(row["answer"])[0]) if match else 0.0)
    return summary(values)


def owner_nextgqa(files: dict[str, str]) -> dict[str, float]:
    "code/TempGQA/eval_ground.py: IoU and IoP each with their best truth; questions without a span are left out."
    truth = json.loads((HERE / "nextgqa" / "gsub_test.json").read_text())
    spans, answers = json.loads(files["test_ground.json"]), json.loads(files["test-res.json"])
    best_iou, best_iop, right = [], [], []
    for vid, video in truth.items():
        for qid, locations in video["location"].items():
            key = f"{vid}_{qid}"
            if key not in spans:
                continue
            start, end = spans[key]
            inside = [max(0.0, min(end, e) - max(start, s)) for s, e in locations]
            if start == end:
                ious, iops = [0.0], [float(any(s <= start <= e for s, e in locations))]
            else:
                ious, iops = [iou([start, end], list(loc)) for loc in locations], [overlap / (end - start) for overlap in inside]
            best_iou.append(max(ious))
            best_iop.append(max(iops))
            right.append(answers[key]["prediction"] == answers[key]["answer"])
    iop = summary(best_iop)
    grounded = sum(r and p >= 0.5 for r, p in zip(right, best_iop))
    return {**summary(best_iou), "mIoP": iop["mIoU"], "IoP@0.3": iop["R1@0.3"], "IoP@0.5": iop["R1@0.5"], "Acc@GQA": 100 * grounded / len(right)}


@dataclass
class Case:
    "A prediction file as its owner writes it."

    form: str  # as it has to be recognised
    files: dict[str, str]  # name → content
    spans: dict[str, list | None]  # qid → the span that counts
    owner: Callable[[dict[str, str]], dict[str, float]]  # its rule, on the raw files
    benchmark: str = "charades_sta"
    annotations: str | Path = "charades_test.json"
    options: list[str] = field(default_factory=lambda: ["--explain"])  # of `vtg-r1 score`; with them its score must equal the owner's


BY_QID = dict(zip(QIDS, SPANS))
WITHOUT_ONE = {qid: span for qid, span in BY_QID.items() if qid != "AAAAA_1"}
SHUFFLED = [(i, *QUERIES[i], SPANS[i]) for i in ORDER]  # number, video, sentence, truth, predicted span


def case_timer1() -> Case:
    rows = [
        {"qid": f"charades_{i}", "pred": span or [None, None], "target": truth, "duration": 20.0, "output_text": f"<answer>{span}</answer>"}
        for i, _, _, truth, span in SHUFFLED
        if i != 1
    ]
    return Case("timer1", {"tg_0_2.jsonl": lines(rows[:2]), "tg_1_2.jsonl": lines(rows[2:])}, WITHOUT_ONE, owner_time_r1)


def case_videochat_r1() -> Case:
    rows = [
        {
            "video_path": f"p2:s3://charades/{vid}.mp4",
            "query": sentence,
            "answer": f"<think>…</think><answer>{span}</answer>",
            "timestamp": span or [None, None],
            "iou": 0,
            "ans": truth,
        }
        for i, vid, sentence, truth, span in SHUFFLED
        if i != 1
    ]
    return Case("videochat_r1", {"cuda:0.jsonl": lines(rows)}, WITHOUT_ONE, owner_videochat_r1)


def case_videochat_r1_gqa() -> Case:
    answers = {
        "111_0": ("(A)", [[2.0, 6.0]], "<answer>A</answer><glue>[(2.0, 5.0)]</glue>"),
        "111_3": ("(C)", [[10.0, 20.0]], "<answer>B</answer><glue>[(10.0, 20.0)]</glue>"),
        "333_1": ("(A)", [[5.0, 10.0]], "<think>a bed</think><answer>A</answer>"),
    }
    questions = {"111_0": "why did she laugh", "111_3": "what did he do after", "333_1": "where is the cat"}
    rows = [
        {
            "video_path": f"nextqa/{qid.split('_')[0]}.mp4",
            "prompt": f'Answer the question: "{questions[qid]}" according to the content of the video.',
            "gt": {"answer": answer, "glue": glue},
            "pred": text,
            "acc": 0.0,
            "iou": 0.0,
        }
        for qid, (answer, glue, text) in answers.items()
    ]
    spans = {"111_0": [2, 5], "111_3": [10, 20], "333_1": None}
    return Case("videochat_r1_gqa", {"cuda:0.jsonl": lines(rows)}, spans, owner_videochat_r1_gqa, "nextgqa", HERE / "nextgqa", ["--missing", "skip"])


def videomind_row(vid: str, sentence: str, truth: list[float]) -> dict[str, Any]:
    return {
        "source": "charades_sta",
        "data_type": "grounding",
        "video_path": f"data/charades_sta/videos_3fps_480_noaudio/{vid}.mp4",
        "duration": CHARADES[vid]["duration"],
        "query": sentence.strip("."),
        "span": [truth],
    }


def case_videomind() -> Case:
    rows = [
        {
            **videomind_row(vid, sentence, truth),
            "agents": ["grounder"],
            "grounder_success": True,
            "pred": [span or [19, 20], [0, 1]],
            "conf": [0.9, 0.1],
        }
        for i, vid, sentence, truth, span in SHUFFLED
        if i != 1
    ]
    spans = {qid: span or [19, 20] for qid, span in WITHOUT_ONE.items()}
    return Case("videomind", {"output_0.json": json.dumps(rows[:3]), "output_1.json": json.dumps(rows[3:])}, spans, owner_videomind)


def case_tvg_r1() -> Case:
    said = texts("<think>he moves</think><time>{}, {}</time>")
    said[3] = (
        "<think>From 2 to 5 he drinks</think>"  # its evaluator reads these two numbers, and so does the owner's rule; our own reading (`spans` below) does not
    )
    rows = [{**videomind_row(vid, sentence, truth), "response": said[i]} for i, vid, sentence, truth, _ in SHUFFLED if i != 1]
    return Case("tvg_r1", {"output.json": json.dumps(rows)}, {**WITHOUT_ONE, "BBBBB_3": None}, owner_tvg_r1)


def case_timechat() -> Case:
    entries = {str(i): {"timestamp": [span] if span else [], "query": sentence, "vid": f"{vid}.mp4"} for i, vid, sentence, _, span in SHUFFLED}
    return Case("timechat", {"fmt_charades_test_f8_result.json": json.dumps(entries)}, BY_QID, owner_timechat)


def case_timechat_log() -> Case:
    said = texts("The given query happens in {} - {} seconds.")
    rows = [
        {"vname": f"{vid}.mp4", "generated_cap": said[i], "query": sentence, "id": i, "prompt": "Localize", "url": ""}
        for i, vid, sentence, _, _ in SHUFFLED
    ]
    return Case("timechat_log", {"charades_test_f8_result.json": json.dumps(rows)}, BY_QID, owner_timechat_log)


def case_nextgqa() -> Case:
    spans = {"111_0": [22.0, 22.0], "111_3": [12.0, 15.0], "222_5": [4.0, 8.0], "333_1": [0.0, 20.0], "999_4": [1.0, 2.0]}
    answers = {"111_0": (0, 0), "111_3": (1, 2), "222_0": (4, 4), "222_5": (1, 1), "333_1": (0, 0), "999_4": (0, 1)}
    files = {
        "test_ground.json": json.dumps(spans),
        "test-res.json": json.dumps({qid: {"prediction": p, "answer": a} for qid, (p, a) in answers.items()}),
    }
    counted = {qid: span for qid, span in {**spans, "222_0": None}.items() if qid != "999_4"}
    return Case("nextgqa", files, counted, owner_nextgqa, "nextgqa", HERE / "nextgqa", ["--missing", "skip"])


def case_lmms_eval() -> Case:
    said, rows = texts("The event happens in the {} - {}."), []
    for i, vid, sentence, truth, _ in SHUFFLED:
        entry = {f"{vid}.mp4>>>{sentence}>>>{truth}": said[i]}
        metrics = {f"charades_sta_{name}": entry for name in ("IOU@3", "IOU@5", "IOU@7", "mIOU")}
        rows.append({"doc_id": i, "target": str(truth), "filtered_resps": said[i], "doc_hash": "0" * 64, "input": "Please find", **metrics})
    return Case("lmms_eval", {"20250101_samples_temporal_grounding_charades.jsonl": lines(rows)}, BY_QID, owner_lmms_eval)


def case_lmms_eval_submission() -> Case:
    said = texts("{} to {}")
    entries = {f"{vid}.mp4>>>{sentence}>>>{truth}": said[i] for i, vid, sentence, truth, _ in SHUFFLED if i != 1}
    name = "inference_results_temporal_grounding_charades.json"
    return Case("lmms_eval_submission", {name: json.dumps(entries, indent=4)}, WITHOUT_ONE, owner_lmms_eval)


def case_timelens() -> Case:
    said = texts("The event happens in {} - {} seconds.")
    rows = [
        {f"{vid}.mp4>>>{sentence.strip('.')}>>>{truth}": {"timestamps": [span or [40, 50]], "answers": said[i], "duration": 20.0}}
        for i, vid, sentence, truth, span in SHUFFLED
        if i != 1
    ]
    spans = {qid: span or [40, 50] for qid, span in WITHOUT_ONE.items()}
    return Case("lmms_eval_submission", {"charades_0.jsonl": lines(rows)}, spans, owner_timelens)


def case_vlmevalkit() -> Case:
    said = texts("From {} - {} seconds")
    rows = [f"{i}\t{vid}\t{sentence.strip('.')}\t{[truth]}\t{said[i]}\n" for i, vid, sentence, truth, _ in SHUFFLED]
    return Case("vlmevalkit", {"Qwen_Charades.tsv": "index\tvideo\tquestion\tanswer\tprediction\n" + "".join(rows)}, BY_QID, owner_vlmevalkit)


def case_moment_detr() -> Case:
    rows = [
        # R1 takes the first window, which misses. AP sorts by score: the exact window comes first, and hits one of two truths, so AP is 1/2
        {"qid": 10, "query": "a girl cooks", "vid": "a_0.0_150.0", "pred_relevant_windows": [[79.3, 150, 0.9], [0, 20, 0.95]]},
        {"qid": 11, "pred_relevant_windows": [[30, 48, 0.5], [30, 60, 0.4]], "pred_saliency_scores": [0.1]},  # IoU 0.6, then 1
        {"qid": 12, "pred_relevant_windows": [[40, 60, 0.1]]},
        {"qid": 13, "pred_relevant_windows": [[0, 10, 0.2]]},
    ]
    spans = {"10": [79.3, 150], "11": [30, 48], "12": [40, 60], "13": [0, 10]}

    def by_hand(_: dict[str, str]) -> dict[str, float]:
        "standalone_eval/eval.py. Query 11: at IoU 0.5, 0.55, 0.6 the first hits (AP 1), above only the second (precision 1/2)."
        mean = 25 * (0.5 + (3 + 7 * 0.5) / 10 + 1 + 0)
        return {"R1@0.5": 50, "R1@0.7": 25, "mAP": mean, "mAP@0.5": 25 * (0.5 + 1 + 1), "mAP@0.75": 25 * (0.5 + 0.5 + 1)}

    return Case("moment_detr", {"hl_val.jsonl": lines(rows)}, spans, by_hand, "qvhighlights", HERE / "qvhighlights.val.jsonl", [])


def case_rextime() -> Case:
    rows = [
        {"qid": "q0", "pred_relevant_windows": [[15, 20]], "ans": "A"},
        {"qid": "q1", "pred_relevant_windows": [[0, 10]], "ans": "C"},
        {"qid": "q2", "pred_relevant_windows": [[1, 1]], "ans": "C"},
        {"qid": "q3", "pred_relevant_windows": [[20, 26]], "ans": "D"},
    ]
    spans = {"q0": [15, 20], "q1": [0, 10], "q2": [1, 1], "q3": [20, 26]}

    def by_hand(_: dict[str, str]) -> dict[str, float]:
        "evaluation/rextime_eval.py: IoU 1/2, 1, 0 (a window of no length), 1; three answers are right, two of them on an IoU ≥ 0.5."
        return {"R1@0.3": 75, "R1@0.5": 75, "mIoU": 62.5, "Acc@QA": 75, "Acc@IoU": 50}

    return Case("moment_detr", {"rextime.jsonl": lines(rows)}, spans, by_hand, "rextime", HERE / "rextime_val.jsonl", [])


def case_own() -> Case:
    rows = [{"qid": QIDS[i], "pred": [span] if span else None, "scores": [0.5] if span else None} for i, _, _, _, span in SHUFFLED]

    def by_hand(_: dict[str, str]) -> dict[str, float]:
        return summary([0.5, 1, 0, 0.75, 10 / 13])

    return Case("vtg_r1", {"predictions.jsonl": lines(rows)}, BY_QID, by_hand, options=[])


CASES = {
    "VTG-R1": case_own,
    "moment_detr, lighthouse": case_moment_detr,
    "ReXTime": case_rextime,
    "Time-R1": case_timer1,
    "VideoChat-R1": case_videochat_r1,
    "VideoChat-R1 (GQA)": case_videochat_r1_gqa,
    "VideoMind": case_videomind,
    "TVG-R1": case_tvg_r1,
    "TimeChat, TimeSuite": case_timechat,
    "TimeChat, TimeSuite (raw log)": case_timechat_log,
    "NExT-GQA (two files)": case_nextgqa,
    "lmms-eval (sample log)": case_lmms_eval,
    "lmms-eval (submission)": case_lmms_eval_submission,
    "TimeLens": case_timelens,
    "VLMEvalKit (tsv)": case_vlmevalkit,
}


def write(case: Case, folder: Path) -> tuple[Path, list[Path]]:
    "The annotation file, and the prediction files."
    (folder / "charades_test.json").write_text(json.dumps(CHARADES))
    for name, content in case.files.items():
        (folder / name).write_text(content)
    return folder / case.annotations, [folder / name for name in case.files]


def command(case: Case, annotations: Path, files: list[Path], *options: str) -> dict[str, Any]:
    "What `vtg-r1 score --json` prints."
    words = ["score", "--benchmark", case.benchmark, "--annotations", str(annotations), "--json", *options]
    for file in files:
        words += ["--predictions", str(file)]
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()) as err:
        code = main(words)
    assert code == 0, err.getvalue()
    return json.loads(out.getvalue())


@dataclass
class Finding:
    "What this project reads in a case's files, and the two scores."

    form: str
    spans: dict[str, list | None]
    ours: dict[str, float]  # the owner's metrics, by our command
    owner: dict[str, float]
    rows: int


def find(case: Case, folder: Path) -> Finding:
    "Writes a case's files, reads and scores them."
    annotations, files = write(case, folder)
    samples, _ = load_benchmark(case.benchmark, annotations)
    read = read_prediction_file(files, samples)
    spans = {qid: p.spans[0] if p.spans else None for qid, p in read.predictions().items()}
    result = command(case, annotations, files, *case.options)
    owner = case.owner(case.files)
    ours = result["explanation"]["second"] if "--explain" in case.options else result
    return Finding(read.form, spans, {name: ours[name] for name in owner}, owner, len(read.rows))


@pytest.mark.parametrize("name", CASES)
def test_a_file_is_recognised_mapped_and_scored_as_its_owner_scores_it(name, tmp_path):
    case = CASES[name]()
    found = find(case, tmp_path)
    assert found.form == case.form
    assert found.spans == case.spans
    assert found.ours == pytest.approx(found.owner, abs=1e-3)


def test_every_form_has_a_case():
    assert {make().form for make in CASES.values()} == set(FORMS)


def document(folder: Path) -> str:
    "The text of docs/formats.md."
    rows = []
    for name, make in CASES.items():
        case = make()
        (folder / case.owner.__name__ / name).mkdir(parents=True)
        found = find(case, folder / case.owner.__name__ / name)
        equal = found.ours == pytest.approx(found.owner, abs=1e-3)
        numbers = ", ".join(f"`{metric}` {value:.2f}" for metric, value in found.owner.items())
        mapped = "yes" if found.spans == case.spans else "NO"
        rows.append(
            [
                name,
                f"`{FORMS[case.form].what}`",
                found.form == case.form and "yes" or "NO",
                f"{mapped}, {found.rows} rows",
                equal and "yes" or "NO",
                numbers,
            ]
        )
    head = ["file of", "rows", "recognised", "mapped", "score equal to the owner's rule", "the owner's numbers"]
    return (
        "# Prediction files that `vtg-r1 score` reads\n\n"
        "Made by `python tests/test_formats.py`, and compared by its test. Each row of the table is a small file, written by hand in the form of the project that is\n"
        "named first, its owner. The files for Charades-STA have a miss, an IoU of exactly 0.5, a sentence that occurs twice in its video, and, where the owner allows\n"
        "it, a query without a row.\n\n"
        "- *Mapped*: every row was assigned to its query, and its span was read.\n"
        "- *Score equal*: `vtg-r1 score` gives the number that the owner's rule, written independently in the test, computes from the raw file, or\n"
        "  that was worked out by hand. If the owner's convention differs from ours, the second number of `--explain` is compared instead, or the score with\n"
        "  `--missing skip` (NExT-GQA, VideoChat-R1 on NExT-GQA).\n\n"
        "Any of the files may be compressed by gzip.\n\n" + markdown_table(head, rows) + "\n"
    )


def test_the_page_of_formats_has_what_the_cases_give(tmp_path):
    assert DOCUMENT.read_text(encoding="utf-8") == document(tmp_path), "run `python tests/test_formats.py`"


# ---- one row, one query ----


def charades(folder: Path, **files: str) -> None:
    "Writes the annotations and these files; `__` in a file's name stands for the dot."
    (folder / "charades_test.json").write_text(json.dumps(CHARADES))
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(content)


def refusal(folder: Path, capsys, *names: str, options: tuple[str, ...] = ()) -> str:
    "The one line of error with which `vtg-r1 score` refuses these files."
    words = ["score", "--benchmark", "charades_sta", "--annotations", str(folder / "charades_test.json"), *options]
    for name in names:
        words += ["--predictions", str(folder / name)]
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1
    return err


def time_r1(index: int, target: list[float], pred: list = [0, 5]) -> dict[str, Any]:
    "A row in Time-R1's form."
    return {"qid": f"charades_{index}", "pred": pred, "target": target, "output_text": ""}


REFUSED = {
    "another_order": ([time_r1(0, [5, 15]), time_r1(1, [0, 10])], "row 1: repeats the truth [5.0, 15.0], and query number 0 has [0, 10]"),
    "all_misplaced_are_counted": ([time_r1(0, [5, 15]), time_r1(1, [0, 10])], "(rows in all: 2 with another truth than their query)"),
    "too_many": ([time_r1(5, [0, 10])], "row 1: is about query number 5, and the annotations have 5, from 0"),
    "number_alone": ([{"doc_id": 0, "filtered_resps": "0 to 5"}], "by number alone, and there are 1 of them for 5 queries"),
    "twice": ([{"qid": "AAAAA_0", "pred": [1, 2]}, {"video": "AAAAA.mp4", "query": "Person opens a door", "pred": [1, 2]}], "is already in row 1"),
    "ambiguous": (
        [{"video": "AAAAA.mp4", "query": "a person sits down", "pred": [1, 2]}],
        "row 1: its sentence is in 2 queries of this video (AAAAA_1, AAAAA_2); give the qid, or the true span",
    ),
    "another_video": (
        [{"video": "CCCCC.mp4", "query": "a person leaves", "pred": [1, 2]}],
        "row 1: video 'CCCCC.mp4' with 'a person leaves' is not in",
    ),
    "foreign_keys": ([{"clip": "a.mp4", "begin": 1, "finish": 2}], "row 1: has the keys 'clip', 'begin', 'finish', and is none of the forms"),
    "two_forms": (
        [time_r1(0, [0, 10]), {"qid": "AAAAA_1", "pred_relevant_windows": [[1, 2, 0.5]]}],
        "row 2 (qid 'AAAAA_1'): is a row of the form {qid, pred_relevant_windows",
    ),
    "some_scores": ([{"qid": "AAAAA_0", "pred": [[1, 2, 0.9], [3, 4]]}], "(qid 'AAAAA_0'): pred has scores at some spans only"),
    "scores_of_another_length": ([{"qid": "AAAAA_0", "pred": [[1, 2]], "scores": [0.9, 0.1]}], "scores is [0.9, 0.1] beside 1 spans"),
    "all_kinds": (
        [{"qid": "AAAAA_0", "pred": [1, 2]}, {"qid": "AAAAA_0", "pred": [1, 2]}, {"qid": "nobody", "pred": None}, {"qid": "AAAAA_1", "pred": "1 2"}],
        "(rows in all: 1 about a query that has a row already, 1 not in the annotations, 1 not readable)",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_rows_that_are_not_one_to_one_with_queries_are_refused_and_counted(name, tmp_path, capsys):
    rows, message = REFUSED[name]
    charades(tmp_path, log__jsonl=lines(rows))
    assert message in refusal(tmp_path, capsys, "log.jsonl")


def test_a_file_that_is_no_text_is_refused_with_its_kind(tmp_path, capsys):
    charades(tmp_path)
    for head, said in (
        (b"PK\x03\x04", "a workbook (xlsx) or zip file; save the table as tsv"),
        (b"PAR1", "parquet"),
        (b"\x1f\x8b\x08broken", "gzip"),
    ):
        (tmp_path / "table.xlsx").write_bytes(head)
        assert said in refusal(tmp_path, capsys, "table.xlsx")


def test_a_list_lines_and_a_packed_file_of_the_same_rows_are_read_the_same(tmp_path):
    rows = [
        {"qid": "AAAAA_0", "pred": [23.5, 30.0]},
        {"qid": "AAAAA_1", "pred": [None, None]},
        {"qid": "BBBBB_3", "pred": [[1, 2, 0.2], [3, 4, 0.4]]},
    ]
    charades(tmp_path, a__jsonl=lines(rows), b__json=json.dumps(rows), c__json=json.dumps(rows, indent=2), d__jsonl="\ufeff" + lines(rows))
    (tmp_path / "e.jsonl.gz").write_bytes(gzip.compress(lines(rows).encode()))
    samples, _ = load_benchmark("charades_sta", tmp_path / "charades_test.json")
    read = [read_prediction_file(tmp_path / name, samples).predictions() for name in ("a.jsonl", "b.json", "c.json", "d.jsonl", "e.jsonl.gz")]
    assert all(other == read[0] for other in read)
    assert {qid: (p.spans, p.scores) for qid, p in read[0].items()} == {
        "AAAAA_0": ([[23.5, 30.0]], None),
        "AAAAA_1": ([], None),
        "BBBBB_3": ([[1, 2], [3, 4]], [0.2, 0.4]),
    }


def test_rows_without_id_find_their_query(tmp_path):
    "By video and sentence; by number alone, if every query has a row."
    named = [{"vid": vid, "sentence": sentence, "pred": span} for vid, sentence, span in QUERIES if sentence != "a person sits down."]
    numbered = [{"index": i, "pred": QUERIES[i][2]} for i in ORDER]
    charades(tmp_path, named__jsonl=lines(named), numbered__jsonl=lines(numbered))
    samples, _ = load_benchmark("charades_sta", tmp_path / "charades_test.json")
    for name, count in (("named.jsonl", 3), ("numbered.jsonl", 5)):
        read = read_prediction_file(tmp_path / name, samples).predictions()
        assert len(read) == count and all(read[s.qid].spans == s.spans for s in samples if s.qid in read)


def test_queries_that_are_alike_share_their_rows(tmp_path):
    "Two queries with the same video, sentence and truth: it does not matter which row is whose, but a third row is one too many."
    alike = {"AAAAA": {"duration": 20.0, "timestamps": [[0, 10], [0, 10]], "sentences": ["a dog runs", "a dog runs"]}}
    (tmp_path / "charades_test.json").write_text(json.dumps(alike))
    samples, _ = load_benchmark("charades_sta", tmp_path / "charades_test.json")
    rows = [{"video": "AAAAA", "query": "a dog runs", "pred": [i, 9]} for i in range(3)]
    (tmp_path / "two.jsonl").write_text(lines(rows[:2]))
    (tmp_path / "three.jsonl").write_text(lines(rows))
    assert len(read_prediction_file(tmp_path / "two.jsonl", samples).rows) == 2
    with pytest.raises(PredictionError, match="row 3.*is already in row 1"):
        read_prediction_file(tmp_path / "three.jsonl", samples)


def test_videomind_takes_the_option_from_the_response_and_no_span(tmp_path):
    "VideoMind's grounder writes the spans into `pred`; its answerer writes the response, which begins with the option and may hold other numbers."
    row = {"source": "nextgqa", "video_path": "a/111.mp4", "question": "why did she laugh", "options": ["a", "b", "c", "d", "e"], "span": [[2, 6]]}
    rows = [{**row, "pred": [[2.0, 5.0]], "response": "(B) he fell at 7 to 9"}]
    (tmp_path / "output.json").write_text(json.dumps(rows))
    samples, _ = load_benchmark("nextgqa", HERE / "nextgqa")
    for reading in (None, "tvg_r1", "auto"):
        read = read_prediction_file(tmp_path / "output.json", samples).predictions(reading)["111_0"]
        assert (read.spans, read.answer) == ([[2.0, 5.0]], "B")


def test_responses_are_read_by_the_convention_that_is_asked_for(tmp_path):
    "TVG-R1's reading takes the first two numbers of the answer, in their order. It counts even where the row states a span. Without a reading, the span counts."
    samples = [Sample("q1", "v.mp4", 30.0, "a goal", [[3.0, 9.0]]), Sample("q2", "v.mp4", 30.0, "a foul", [[3.0, 9.0]])]
    rows = [
        {"qid": "q1", "pred": [[1.0, 2.0]], "response": "<think>at 1</think><time>from 9 to 3, or 20</time>"},
        {"qid": "q2", "pred": None, "response": "<time>at 9</time>"},
    ]
    (tmp_path / "p.jsonl").write_text(lines(rows))
    spans = {r: [p.spans for p in read_predictions(tmp_path / "p.jsonl", samples, reading=r).values()] for r in (None, "tvg_r1")}
    assert spans == {None: [[[1.0, 2.0]], []], "tvg_r1": [[[9.0, 3.0]], []]}
    with pytest.raises(ValueError, match="tvg_r1"):
        read_predictions(tmp_path / "p.jsonl", samples, reading="lenient")


def test_a_row_with_an_unknown_qid_is_found_by_video_and_sentence(tmp_path):
    samples = [Sample("q1", "v.mp4", 30.0, "a goal", [[3.0, 9.0]])]
    (tmp_path / "p.jsonl").write_text(lines([{"qid": "row 7", "video": "v.mp4", "query": "A goal.", "pred": [1.0, 2.0]}]))
    assert read_predictions(tmp_path / "p.jsonl", samples)["q1"].spans == [[1.0, 2.0]]


def test_a_miss_among_spans_takes_its_score_with_it(tmp_path):
    samples = [Sample("q1", "v.mp4", 30.0, "a goal", [[3.0, 9.0]])]
    (tmp_path / "p.jsonl").write_text(lines([{"qid": "q1", "pred": [[None, None], [1.0, 2.0]], "scores": [0.1, 0.5]}]))
    prediction = read_predictions(tmp_path / "p.jsonl", samples)["q1"]
    assert prediction.spans == [[1.0, 2.0]] and prediction.scores == [0.5]


def test_an_empty_answer_in_a_csv_is_no_answer(tmp_path):
    samples = [Sample("q1", "v.mp4", 30.0, "a goal", [[3.0, 9.0]])]
    (tmp_path / "p.csv").write_text("qid,response,answer\nq1,<time>[1 - 2]</time>,\n")
    prediction = read_predictions(tmp_path / "p.csv", samples)["q1"]
    assert prediction.answer is None and prediction.spans == [[1.0, 2.0]]


@pytest.mark.parametrize("row", [{"key": 5, "prediction": "x"}, {"key": ["a>>>b>>>c"], "timestamps": [[1, 2]]}])
def test_a_key_that_is_no_text_is_an_error_of_one_line(tmp_path, row):
    samples = [Sample("q1", "v.mp4", 30.0, "a goal", [[3.0, 9.0]])]
    (tmp_path / "p.jsonl").write_text(lines([row]))
    with pytest.raises(PredictionError) as e:
        read_predictions(tmp_path / "p.jsonl", samples)
    assert str(tmp_path / "p.jsonl") in str(e.value) and "\n" not in str(e.value)


def test_a_file_of_options_alone_has_an_accuracy_and_no_grounding(tmp_path, capsys):
    "NExT-GQA's second file by itself has Acc@QA. A rule that leaves out questions without a span has nothing to score."
    (tmp_path / "test-res.json").write_text('{"111_0": {"prediction": 0, "answer": 0}, "222_0": {"prediction": 4, "answer": 4}}')
    words = ["score", "--benchmark", "nextgqa", "--annotations", str(HERE / "nextgqa"), "--predictions", str(tmp_path / "test-res.json")]
    assert main([*words, "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["Acc@QA"] == 40 and json.loads(out)["Acc@GQA"] == 0 and "2 questions have an option and no span" in err
    for options in (["--missing", "skip"], ["--explain"]):
        assert main([*words, *options]) == 2
        assert "no row gives a span" in capsys.readouterr().err


def test_vlmevalkit_is_read_the_same_from_every_file_format(tmp_path):
    case = case_vlmevalkit()
    annotations, (tsv,) = write(case, tmp_path)
    header, *rows = [line.split("\t") for line in tsv.read_text().splitlines()]
    with open(tmp_path / "a.csv", "w", newline="") as f:
        csv.writer(f).writerows([header, *rows])
    records = [dict(zip(header, row)) for row in rows]
    (tmp_path / "a.json").write_text(json.dumps([{**r, "index": int(r["index"]), "answer": json.loads(r["answer"])} for r in records]))
    (tmp_path / "a.tsv.gz").write_bytes(gzip.compress(tsv.read_bytes()))
    samples, _ = load_benchmark("charades_sta", annotations)
    first = read_prediction_file(tsv, samples).predictions()
    for name in ("a.csv", "a.json", "a.tsv.gz"):
        assert read_prediction_file(tmp_path / name, samples).predictions() == first


def test_a_revised_label_file_is_noticed(tmp_path, capsys):
    "One true span ends at second 30 in the log and at 33 in the annotations: the log was made with labels cut to the video."
    charades(tmp_path, log__jsonl=lines([time_r1(4, [20, 30]), time_r1(0, [0, 10])]))
    words = ["--annotations", str(tmp_path / "charades_test.json"), "--predictions", str(tmp_path / "log.jsonl")]
    assert main(["score", "--benchmark", "charades_sta", *words]) == 0
    err = capsys.readouterr().err
    assert "1 rows repeat another truth than the annotations have" in err
    assert "form of Time-R1: {qid, pred [start, end], target, output_text}; 2 rows, queries found: 2 by number, checked by the true span" in err
    assert "3 queries have no prediction (zero): AAAAA_1, AAAAA_2, BBBBB_3\n" in err


def test_gaussian_spans_are_shares_of_the_video(tmp_path, capsys):
    "NExT-GQA's script multiplies the spans of *_gs.json (by Gaussian masks) by the duration and rounds to tenths. The same shares in another file give a warning."
    (tmp_path / "test_ground_gs.json").write_text('{"111_3": [0.3333, 0.5], "222_5": [0.4, 0.6]}')
    samples, _ = load_benchmark("nextgqa", HERE / "nextgqa")
    assert {q: p.spans for q, p in read_prediction_file(tmp_path / "test_ground_gs.json", samples).predictions().items()} == {
        "111_3": [[10.0, 15.0]],
        "222_5": [[4.0, 6.0]],
    }
    (tmp_path / "test_ground.json").write_text((tmp_path / "test_ground_gs.json").read_text())
    words = ["score", "--benchmark", "nextgqa", "--annotations", str(HERE / "nextgqa"), "--predictions"]
    assert main([*words, str(tmp_path / "test_ground.json")]) == 0
    assert "are these shares of the video?" in capsys.readouterr().err


# ---- nothing is lost, and a refusal names the field ----

ASKED = [  # the queries of the tests below
    Sample("0", "a.mp4", 30.0, "a dog runs", [[1.0, 4.0]]),
    Sample("1", "a.mp4", 30.0, "a cat sits", [[10.0, 14.0]]),
    Sample("2", "b.mp4", 20.0, "a dog runs", [[2.0, 8.0]]),
    Sample("123_0", "0001/123.mp4", 30.0, "why", [[1.0, 4.0]], question="why", options=list("abcde"), answer="C"),
    Sample("123_1", "0001/123.mp4", 30.0, "how", [[2.0, 5.0]], question="how", options=list("abcde"), answer="A"),
]
VIDEOCHAT = {"video_path": "/d/a.mp4", "query": "a dog runs", "answer": "<answer>1 to 4</answer>", "ans": [1, 4]}
TABLE = "index;video;question;answer;prediction\n0;a;a dog runs;[1.0, 4.0];From 1.0 to 4.0 seconds\n1;a;a cat sits;[10.0, 14.0];\n"


@pytest.mark.parametrize(
    "name, content",
    [
        ("a.jsonl", '{"qid": "0", "pred": [[2, 8]], "pred": [[12, 18]]}\n{"qid": "1", "pred": null}\n'),
        ("a.json", '[{"qid": "0", "pred": [[2, 8]], "pred": [[12, 18]]}]'),
        ("a.json", '{"123_0": [1, 4], "123_0": [9, 12]}'),
        ("a.json", '{"a.mp4>>>a dog runs>>>[1, 4]": "1 - 4", "a.mp4>>>a dog runs>>>[1, 4]": "9 - 12"}'),
        ("a.json", '{"0": {"timestamp": [1, 4], "query": "q", "vid": "a"}, "0": {"timestamp": [5, 9], "query": "q", "vid": "a"}}'),
        ("a.jsonl", '{"a.mp4>>>a dog runs>>>[1, 4]": {"timestamps": [[1, 4]], "timestamps": [[5, 9]], "answers": ""}}\n{}\n'),
    ],
)
def test_a_key_that_an_object_has_twice_is_an_error(name, content, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(PredictionError, match=rf"{name}.*key .* is twice in one object; merge or rename the two"):
        read_prediction_file(tmp_path / name, ASKED)


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.jsonl", {**VIDEOCHAT, "timestamp": "[1, 4]"}, "row 1: timestamp is '[1, 4]'; give a list of [start, end] in seconds, or null"),
        ("a.jsonl", {"qid": 0, "pred_relevant_windows": [["1", "4", "0.9"]]}, "pred_relevant_windows holds '1'; give finite numbers"),
        ("a.jsonl", {"qid": 0, "pred_relevant_windows": [[1, 4, 0.9], [5, 6]]}, "pred_relevant_windows has scores at some spans only"),
        ("a.jsonl", {"qid": 0, "pred_relevant_windows": [[1]]}, "pred_relevant_windows holds [1], which is no [start, end]"),
        ("a.jsonl", {"qid": "charades_0", "pred": "1 - 4", "target": [1, 4]}, "pred is '1 - 4'; give a list"),
        ("a.json", {"0": {"timestamp": "1 - 4", "query": "a dog runs", "vid": "a"}}, "key '0': timestamp is '1 - 4'"),
        ("a.json", {"a.mp4>>>a dog runs>>>[1, 4]": {"timestamps": [["1", "4"]], "answers": ""}}, "timestamps holds '1'"),
        ("a.json", {"123_0": {"prediction": "C", "answer": 2}}, "key '123_0': prediction is 'C'; give the number of the chosen option, from 0 to 4"),
        ("a.json", {"123_0": {"prediction": -1, "answer": 2}}, "prediction is -1; give the number of the chosen option"),
        ("a.json", {"123_0": {"prediction": 5, "answer": 2}}, "prediction is 5; give the number"),
        ("a.json", {"123_0": {"prediction": True, "answer": 2}}, "prediction is True; give the number"),
        ("a.json", {"123_0": [1, "4"]}, "key '123_0': the value holds '4'; give finite numbers of seconds"),
        (
            "a_gs.json",
            {"123_1": [0.2, 0.5], "123_0": [3, 6.0]},
            "key '123_0': holds [[3.0, 6.0]], and the spans of a file *_gs.json are shares",
        ),
        ("a_gs.json", {"123_0": [-0.1, 0.5]}, "from 0 to 1; rename a file of seconds"),
    ],
)
def test_a_refusal_names_row_field_and_fix(name, content, message, tmp_path):
    (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(PredictionError, match=re.escape(message)) as error:
        read_prediction_file(tmp_path / name, ASKED)
    assert str(tmp_path / name) in str(error.value)


@pytest.mark.parametrize(
    "value, first", [(None, []), ([], []), ([[None, None]], []), ([1, 4], [[1, 4]]), ([[1, 4]], [[1, 4]]), ([[1, 4], [6, 7]], [[1, 4], [6, 7]])]
)
def test_nextgqa_is_recognised_whatever_its_first_value_is(value, first, tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"123_0": value, "123_1": [2, 5]}))
    file = read_prediction_file(tmp_path / "a.json", ASKED)
    spans = {qid: prediction.spans for qid, prediction in file.predictions().items()}
    assert file.form == "nextgqa" and spans == {"123_0": first, "123_1": [[2, 5]]} and not file.ungrounded


@pytest.mark.parametrize("prediction", [2, 2.0, "2"])
def test_the_option_number_of_nextgqa_may_be_written_as_a_float_or_a_text(prediction, tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"123_0": {"prediction": prediction, "answer": 2}}))
    assert read_prediction_file(tmp_path / "a.json", ASKED).predictions()["123_0"].answer == "C"


def test_null_means_the_response_in_one_form_and_a_miss_in_another(tmp_path):
    "VideoChat-R1: null states no span, so the response is read. VideoMind: null is a miss, since the response is not the grounder's."
    videomind = {"source": "s", "video_path": "a.mp4", "query": "a cat sits", "span": [[10, 14]], "pred": None, "response": "<time>[1, 4]</time>"}
    for row, qid, spans in (({**VIDEOCHAT, "timestamp": None}, "0", [[1, 4]]), (videomind, "1", [])):
        (tmp_path / "a.jsonl").write_text(lines([row]))
        assert read_prediction_file(tmp_path / "a.jsonl", ASKED).predictions()[qid].spans == spans


@pytest.mark.parametrize(
    "name, content",
    [
        ("a.csv", TABLE.encode()),
        ("a.csv", TABLE.encode("utf-16")),
        ("a.csv", TABLE.replace(";", "|").encode()),
        ("a.csv", b"sep=;\n" + TABLE.encode()),
        ("a.csv", TABLE.replace(";", "\t").encode()),
        ("a.tsv", TABLE.replace(";", "\t").encode("utf-16")),
        ("a.tsv", TABLE.replace(";", "\t").replace("\n", "\r\n").encode("utf-8-sig")),
    ],
)
def test_tables_are_read_with_any_separator_and_encoding(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    read = read_prediction_file(tmp_path / name, ASKED).predictions()
    assert {qid: p.spans for qid, p in read.items()} == {"0": [[1, 4]], "1": []}


ROW = "0\ta\ta dog runs\t[1.0, 4.0]\t"


@pytest.mark.parametrize(
    "rows, message",
    [
        (f'{ROW}"From 1.0 to 4.0 seconds\n1\ta\ta cat sits\t[10.0, 14.0]\t10 - 14"\n', "holds what looks like another row"),
        (f'{ROW}"From 1.0 to 4.0 seconds\n1\ta\ta cat sits\t[10.0, 14.0]\t10 - 14\n', "cannot be read as csv after line 1"),
        (f'{ROW}"From" 1.0 to 4.0 seconds\n', "look for a quotation mark without its partner"),
        (f"{ROW}1 - 4\textra\n", "6 cells, 5 columns"),
    ],
)
def test_a_table_that_loses_a_row_is_refused(rows, message, tmp_path):
    (tmp_path / "a.tsv").write_text("index\tvideo\tquestion\tanswer\tprediction\n" + rows)
    with pytest.raises(PredictionError, match=f"a.tsv.*{message}"):
        read_prediction_file(tmp_path / "a.tsv", ASKED)


def test_a_response_of_several_lines_is_not_taken_for_rows(tmp_path):
    said = "<think>First, a dog.\nThen, a cat.\nFrom 1, to 4</think><time>1 to 4</time>"
    (tmp_path / "a.csv").write_text(f'qid,response\nq_0,"{said}"\nq_1,"<time>2 to 5</time>"\n')
    asked = [replace(ASKED[0], qid=qid) for qid in ("q_0", "q_1")]
    assert {qid: p.spans for qid, p in read_prediction_file(tmp_path / "a.csv", asked).predictions().items()} == {"q_0": [[1, 4]], "q_1": [[2, 5]]}
    (tmp_path / "a.csv").write_text('qid,response\nq_0,"<time>1 to 4</time>\nq_1,<time>2 to 5</time>"\n')
    with pytest.raises(
        PredictionError, match="a.csv, line 3: a cell holds what looks like another row, 'q_1,<time>2 to 5</time>'; look for a quotation"
    ):
        read_prediction_file(tmp_path / "a.csv", asked)


def test_a_column_that_a_table_has_twice_is_an_error(tmp_path):
    (tmp_path / "a.csv").write_text("qid,response,response\n0,<time>1 to 4</time>,<time>2 to 5</time>\n")
    with pytest.raises(PredictionError, match="a.csv: the header names a column twice: qid, response, response; rename one"):
        read_prediction_file(tmp_path / "a.csv", ASKED)


def test_a_row_is_recognised_as_its_own_form():
    "A row may fit several forms; the first of them in FORMS must be its own. Files that are one dict of entries have no rows to try."
    checked = set()
    for make in CASES.values():
        case = make()
        for text in case.files.values():
            try:
                rows = json.loads(text)
            except ValueError:
                rows = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
            for row in rows if isinstance(rows, list) else []:
                if case.form != "lmms_eval_submission":
                    checked.add(case.form)
                    assert recognise(row) == case.form
    assert set(FORMS) - checked == {"timechat", "nextgqa", "lmms_eval_submission", "vlmevalkit"}


STRANGE = [
    None,
    [],
    {},
    "",
    "x",
    "1e999",
    True,
    -1,
    10**400,
    float("nan"),
    [[]],
    [None],
    [1],
    [[1, 2, 3, 4]],
    [["1", "2"]],
    {"a": []},
    ">>>",
    "\ud800",
    [1, None],
]


@pytest.mark.parametrize("name", [name for name in CASES if "tsv" not in name])
def test_rows_with_a_strange_value_are_read_or_refused_with_one_error(name, tmp_path):
    "One value of a good file is replaced by something strange. Then the file is read and every row counted, or it is a `PredictionError` of one line."
    case, rng = CASES[name](), random.Random(name)
    annotations, files = write(case, tmp_path)
    samples, _ = load_benchmark(case.benchmark, annotations)
    refused = 0
    for _ in range(80):
        file = rng.choice(files)
        text = case.files[file.name]
        try:
            rows = json.loads(text)
        except ValueError:
            rows = [json.loads(line) for line in text.splitlines()]
        place = rows
        while isinstance(place, (dict, list)) and place:
            key = rng.choice(list(place) if isinstance(place, dict) else range(len(place)))
            if not isinstance(place[key], (dict, list)) or not place[key] or rng.random() < 0.4:
                place[key] = rng.choice(STRANGE)
                break
            place = place[key]
        (tmp_path / "strange").mkdir(exist_ok=True)
        strange = tmp_path / "strange" / file.name
        strange.write_text(json.dumps(rows) if isinstance(rows, dict) else lines(rows))
        try:
            read = read_prediction_file(strange, samples)
            read.predictions()
            assert len(read.rows) + read.passed_over == len(rows)
        except PredictionError as e:
            refused += 1
            assert str(strange) in str(e) and "\n" not in str(e)
    assert refused > 10


# ---- files to upload ----


def test_the_qvhighlights_upload_has_the_owners_shape_and_scores_the_same(tmp_path, capsys):
    "The shape is that of moment_detr's standalone_eval/README.md. Its script needs a window of every query, so a miss has one of no length."
    words = ["score", "--benchmark", "qvhighlights", "--annotations", str(HERE / "qvhighlights.val.jsonl")]
    upload = tmp_path / "hl_val_submission.jsonl"
    assert main([*words, "--predictions", str(HERE / "qvhighlights.jsonl"), "--submission", str(upload), "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    rows = [json.loads(line) for line in upload.read_text().splitlines()]
    assert rows[0] == {
        "qid": 10,
        "query": "a girl cooks",
        "vid": "a_0.0_150.0",
        "pred_relevant_windows": [[50.0, 60.0, 1.0], [100.0, 120.0, 0.5]],
    }
    assert [row["qid"] for row in rows] == [10, 11, 12, 13] and rows[3]["pred_relevant_windows"] == [[0.0, 0.0, 1.0]]
    assert main([*words, "--predictions", str(upload), "--json"]) == 0
    second = json.loads(capsys.readouterr().out)
    assert {k: v for k, v in first.items() if k != "protocol"} == {k: v for k, v in second.items() if k != "protocol"}


def test_hidden_labels_give_an_upload_file_and_no_score(tmp_path, capsys):
    "The test files give no labels: the file to upload is written, and nothing is scored."
    hidden = [
        {k: v for k, v in json.loads(line).items() if k != "relevant_windows"} for line in (HERE / "qvhighlights.val.jsonl").read_text().splitlines()
    ]
    (tmp_path / "highlight_test_release.jsonl").write_text(lines(hidden))
    words = ["score", "--benchmark", "qvhighlights", "--annotations", str(tmp_path / "highlight_test_release.jsonl")]
    words += ["--predictions", str(HERE / "qvhighlights.jsonl")]
    assert main([*words, "--submission", str(tmp_path / "hl_test_submission.jsonl")]) == 0
    out, err = capsys.readouterr()
    assert not out and "labels are withheld, so nothing is scored" in err and "4 queries, 1 of them without a span" in err
    assert len((tmp_path / "hl_test_submission.jsonl").read_text().splitlines()) == 4
    assert main(words) == 2  # without a file to write there is nothing to do
    rextime = [{**row, "span": [0, 0], "ans": ""} for row in json.loads((HERE / "rextime_val.json").read_text())]
    (tmp_path / "rextime_test_release.json").write_text(json.dumps(rextime))
    words = ["score", "--benchmark", "rextime", "--annotations", str(tmp_path / "rextime_test_release.json")]
    assert main([*words, "--predictions", str(HERE / "rextime.jsonl"), "--submission", str(tmp_path / "r.jsonl")]) == 0
    rows = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert rows[0] == {"qid": "q0", "pred_relevant_windows": [[15.0, 20.0]], "ans": "A"} and len(rows) == 4


def test_the_lmms_eval_upload_scores_and_reads_the_same(tmp_path):
    "lmms-eval's rule gives it the same score, and reading it gives the same spans."
    case = case_own()
    annotations, files = write(case, tmp_path)
    upload = tmp_path / "inference_results.json"
    result = command(case, annotations, files, "--submission", str(upload))
    owner = owner_lmms_eval({"inference_results.json": upload.read_text()})
    assert {name: result[name] for name in owner} == pytest.approx(owner, abs=1e-3)
    assert next(iter(json.loads(upload.read_text()).items())) == (
        "AAAAA.mp4>>>person opens a door.>>>[0, 10]",
        "The event happens in 0.0 - 5.0 seconds.",
    )
    samples, _ = load_benchmark("charades_sta", annotations)
    assert {q: p.spans[0] if p.spans else None for q, p in read_prediction_file(upload, samples).predictions().items()} == BY_QID


def test_a_benchmark_without_an_upload_file_refuses_to_write_one(tmp_path, capsys):
    words = ["score", "--benchmark", "tacos", "--annotations", str(HERE / "tacos_test.jsonl"), "--predictions", str(HERE / "tacos.jsonl")]
    assert main([*words, "--submission", str(tmp_path / "x")]) == 2
    assert "no upload file is known for tacos; there are qvhighlights, rextime" in capsys.readouterr().err and not (tmp_path / "x").exists()


# ---- --explain: why two conventions score the same predictions differently ----


def explained(folder: Path, capsys, *options: str, benchmark: str = "charades_sta", annotations: str = "charades_test.json") -> dict[str, Any]:
    words = [
        "score",
        "--benchmark",
        benchmark,
        "--annotations",
        str(folder / annotations),
        "--predictions",
        str(folder / "log.jsonl"),
        "--explain",
        "--json",
    ]
    assert main([*words, *options]) == 0
    return json.loads(capsys.readouterr().out)["explanation"]


def assert_adds_up(result: dict[str, Any]) -> None:
    "The parts of each metric add up to its difference, in the four decimals that are written, without a tolerance."
    for metric, whole in result["difference"].items():
        hundredths = [round(10**4 * part[metric]) for part in result["parts"].values()]
        assert sum(hundredths) == round(10**4 * whole) == round(10**4 * result["second"][metric]) - round(10**4 * result["first"][metric])


def test_each_cause_has_its_part(tmp_path):
    "In this log every cause but parsing and the label file changes a score. If two conventions differ in one cause alone, its part is the whole difference."
    rows = [
        {"qid": "AAAAA_0", "pred": [0, 5]},  # IoU exactly 1/2: the rule
        {"qid": "AAAAA_1", "pred": [5, 25]},  # 10/20, clipped to the video 10/15: clipping
        {"qid": "BBBBB_4", "pred": [20, 30]},  # 10/13, against the clipped truth 1: past-end truths
    ]
    charades(tmp_path, log__jsonl=lines(rows))
    samples, _ = load_benchmark("charades_sta", tmp_path / "charades_test.json")
    file = read_prediction_file(tmp_path / "log.jsonl", samples)
    ours = CONVENTIONS["ours"]
    alone = {
        "rule": (replace(ours, rule=">"), {"R1@0.5": -40, "R1@0.7": 0, "mIoU": 0}),
        "missing": (
            replace(ours, missing="skip"),
            {"R1@0.5": 100 - 60, "R1@0.7": 100 / 3 - 20, "mIoU": 100 * (1 / 3 - 1 / 5) * (0.5 + 0.5 + 10 / 13)},
        ),
        "clipping": (replace(ours, clipping="video"), {"R1@0.5": 0, "R1@0.7": 0, "mIoU": 20 * (10 / 15 - 1 / 2)}),
        "past_end": (replace(ours, past_end="clip"), {"R1@0.5": 0, "R1@0.7": 0, "mIoU": 20 * (1 - 10 / 13)}),
    }
    for cause, (convention, parts) in alone.items():
        result = explain("charades_sta", samples, file, ours, convention)
        assert result["differs"].keys() == {CAUSES[cause]}
        assert {metric: result["parts"][CAUSES[cause]][metric] for metric in parts} == pytest.approx(parts, abs=1e-3)
        assert_adds_up(result)
    together = replace(ours, rule=">", missing="skip", clipping="video", past_end="clip")
    result = explain("charades_sta", samples, file, ours, together)
    assert_adds_up(result)
    assert result["parts"]["parsing"] == result["parts"]["label file"] == dict.fromkeys(result["difference"], 0.0)


def test_a_number_is_not_checked_by_a_truth_that_its_query_lacks(tmp_path):
    absent = [Sample(f"a_{i}", "a.mp4", 20.0, f"event {i}", []) for i in range(2)]
    rows = [{"qid": f"charades_{i}", "pred": [9, 11], "target": [9, 12], "output_text": ""} for i in range(2)]
    (tmp_path / "some.jsonl").write_text(lines(rows[1:]))
    with pytest.raises(PredictionError, match="name their query by number alone, and there are 1 of them for 2 queries"):
        read_prediction_file(tmp_path / "some.jsonl", absent)
    (tmp_path / "all.jsonl").write_text(lines(rows))
    assert read_prediction_file(tmp_path / "all.jsonl", absent).ways == {"number": 2}


def test_parts_add_up_where_both_numbers_lie_halfway_between_two_decimals(tmp_path):
    "Of 128 queries 3 are above 0.5 and 2 at it: 2.34375 and 3.90625 %, which four decimals round up and down."
    samples = [Sample(f"q{i}", "v.mp4", 20.0, f"event {i}", [[0.0, 10.0]]) for i in range(128)]
    ends = [8, 8, 8, 5, 5] + [1] * 123
    (tmp_path / "p.jsonl").write_text(lines([{"qid": s.qid, "pred": [0, end]} for s, end in zip(samples, ends)]))
    file = read_prediction_file(tmp_path / "p.jsonl", samples)
    above, reaching = (replace(CONVENTIONS["ours"], rule=rule) for rule in (">", "≥"))
    for first, second in ((above, reaching), (reaching, above)):
        result = explain("samples", samples, file, first, second)
        assert abs(result["difference"]["R1@0.5"]) == 1.5624
        assert_adds_up(result)
        assert result["parts"]["parsing"] == dict.fromkeys(result["difference"], 0.0)


def test_parts_are_the_mean_over_all_orders(tmp_path):
    "Compared with a slow computation: the causes are exchanged one by one, in every order."
    rows = [{"qid": "AAAAA_0", "pred": [0, 5]}, {"qid": "AAAAA_1", "pred": [5, 25]}, {"qid": "BBBBB_4", "pred": [20, 30]}]
    charades(tmp_path, log__jsonl=lines(rows))
    samples, _ = load_benchmark("charades_sta", tmp_path / "charades_test.json")
    file = read_prediction_file(tmp_path / "log.jsonl", samples)
    first, second = CONVENTIONS["ours"], replace(CONVENTIONS["ours"], rule=">", missing="skip", clipping="video", past_end="clip")
    first = replace(first, rule="≥")

    def value(causes: tuple[str, ...], metric: str) -> float:
        mixed = replace(first, **{cause: getattr(second, cause) for cause in causes})
        return explain("charades_sta", samples, file, mixed, mixed)["first"][metric]

    names = ("rule", "missing", "clipping", "past_end")
    orders = list(itertools.permutations(names))
    result = explain("charades_sta", samples, file, first, second)
    for metric in ("R1@0.5", "R1@0.7", "mIoU"):
        for name in names:
            effects = [value(order[: order.index(name) + 1], metric) - value(order[: order.index(name)], metric) for order in orders]
            assert result["parts"][CAUSES[name]][metric] == pytest.approx(sum(effects) / len(orders), abs=1e-3)


def test_parsing_and_label_file_have_their_parts(tmp_path, capsys):
    "Time-R1 took a span out of the thinking of query 0, and was scored with a clipped label of query 4."
    rows = [
        {
            "qid": "charades_0",
            "pred": [0, 10],
            "target": [0, 10],
            "output_text": "<think>From 0 to 10 he opens it.</think><answer>I cannot say</answer>",
        },
        {"qid": "charades_4", "pred": [20, 30], "target": [20, 30], "output_text": "<answer>20 to 30</answer>"},
    ]
    charades(tmp_path, log__jsonl=lines(rows))
    result = explained(tmp_path, capsys, "--between", "ours,time_r1")
    assert_adds_up(result)
    assert result["conventions"] == ["ours", "time_r1"]
    assert result["differs"] == {
        "parsing": ["answer", "stated"],
        "threshold rule": ["≥", ">"],
        "missing answers": ["zero", "skip"],
        "label file": ["annotations", "file"],
    }
    assert result["first"]["mIoU"] == pytest.approx(20 * 10 / 13, abs=1e-3) and result["second"]["mIoU"] == 100
    assert result["parts"]["parsing"]["mIoU"] > 20 and result["parts"]["label file"]["mIoU"] > 20 * 3 / 13


def test_a_second_label_file_has_its_part_and_must_hold_the_same_queries(tmp_path, capsys):
    charades(tmp_path, log__jsonl=lines([{"qid": "BBBBB_4", "pred": [20, 30]}]))
    clipped = json.loads(json.dumps(CHARADES))
    clipped["BBBBB"]["timestamps"][1][1] = 30
    (tmp_path / "clipped.json").write_text(json.dumps(clipped))
    result = explained(tmp_path, capsys, "--between", "ours,ours", "--other-annotations", str(tmp_path / "clipped.json"))
    assert result["parts"]["label file"]["mIoU"] == result["difference"]["mIoU"] == pytest.approx(20 * 3 / 13, abs=1e-3)
    clipped["BBBBB"]["sentences"][1] = "another one"
    (tmp_path / "clipped.json").write_text(json.dumps(clipped))
    message = refusal(tmp_path, capsys, "log.jsonl", options=("--explain", "--other-annotations", str(tmp_path / "clipped.json")))
    assert "the label files differ in 1 queries; the first is number 4" in message


def test_explain_leaves_out_queries_without_a_true_span(tmp_path, capsys):
    "A query without a true span has no IoU, and is left out as `score` leaves it out. So is a query for which the second label file has no span."
    spans = {"a": [[0, 10]], "b": [], "c": [[5, 10]]}
    samples = [Sample(qid, "v.mp4", 10.0, f"query {qid}", truth) for qid, truth in spans.items()]
    rows = [{"qid": "a", "pred": [0, 5]}, {"qid": "b", "pred": [0, 5]}, {"qid": "c", "pred": [5, 30]}]
    (tmp_path / "mine.jsonl").write_text(lines([s.to_dict() for s in samples]))
    (tmp_path / "other.jsonl").write_text(lines([replace(s, spans=[] if s.qid == "c" else s.spans).to_dict() for s in samples]))
    (tmp_path / "log.jsonl").write_text(lines(rows))
    result = explained(tmp_path, capsys, "--between", "ours,time_r1", benchmark="samples", annotations="mine.jsonl")
    assert_adds_up(result)
    assert result["first"]["mIoU"] == pytest.approx(100 * (0.5 + 5 / 25) / 2)
    file = read_prediction_file(tmp_path / "log.jsonl", samples)
    clipped = explain("samples", samples, file, CONVENTIONS["ours"], replace(CONVENTIONS["ours"], clipping="video"))
    assert clipped["second"]["mIoU"] == 75
    options = ("--between", "ours,ours", "--other-annotations", str(tmp_path / "other.jsonl"))
    result = explained(tmp_path, capsys, *options, benchmark="samples", annotations="mine.jsonl")
    assert result["first"]["mIoU"] == result["second"]["mIoU"] == 50


def test_explain_prints_its_causes_and_refuses_wrong_options(tmp_path, capsys):
    charades(tmp_path, log__jsonl=lines([time_r1(0, [0, 10])]))
    words = ["--annotations", str(tmp_path / "charades_test.json"), "--predictions", str(tmp_path / "log.jsonl")]
    assert main(["score", "--benchmark", "charades_sta", *words, "--explain"]) == 0
    out = capsys.readouterr().out
    assert "from ours to time_r1" in out and "threshold rule (≥ → >)" in out and "Shapley" in out
    assert main(["score", "--benchmark", "charades_sta", *words, "--explain", "--between", "ours,nobody"]) == 2
    assert "'nobody' is none of ours, time_r1" in capsys.readouterr().err
    assert main(["score", "--benchmark", "charades_sta", *words, "--between", "ours,ours"]) == 2
    assert "--between and --other-annotations are for --explain" in capsys.readouterr().err


@pytest.mark.shared
def test_the_threshold_rule_of_time_r1_is_worth_four_points(shared, tmp_path, capsys):
    "Of Time-R1's own 2,500 training predictions 531 have IoU ≥ 0.5, and 423 have IoU > 0.5. The rule makes all of that difference."
    file = shared / "data" / "annotations" / "timer1" / "train_2k5.json"
    words = ["score", "--benchmark", "timer1", "--annotations", str(file), "--predictions", str(file), "--explain", "--json"]
    assert main(words) == 0
    result = json.loads(capsys.readouterr().out)["explanation"]
    assert_adds_up(result)
    rows = json.loads(file.read_text())
    ious = [iou(row["pred"], row["timestamp"]) for row in rows]
    at_least, above = sum(v >= 0.5 for v in ious), sum(v > 0.5 for v in ious)
    assert (result["first"]["R1@0.5"], result["second"]["R1@0.5"]) == (100 * at_least / 2500, 100 * above / 2500) == (21.24, 16.92)
    assert result["parts"]["threshold rule"]["R1@0.5"] == result["difference"]["R1@0.5"] == -4.32
    assert all(part["R1@0.5"] == 0 for name, part in result["parts"].items() if name != "threshold rule")


# ---- the protocol ----


def test_the_protocol_changes_with_everything_a_score_depends_on(tmp_path):
    "The same way of scoring has the same hash, whatever the predictions. Another value of any field of `Protocol` gives another hash."
    case = case_own()
    annotations, files = write(case, tmp_path)
    said = [{"qid": qid, "response": f"<time>{span}</time>"} for qid, span in BY_QID.items()]
    (tmp_path / "responses.jsonl").write_text(lines(said))
    (tmp_path / "others.jsonl").write_text(files[0].read_text().replace("[0, 5]", "[0, 6]"))

    def hash_of(*options: str, file: Path = files[0], benchmark: str = "charades_sta", labels: Path = annotations) -> str:
        return command(replace(case, benchmark=benchmark), labels, [file], *options)["protocol"]["hash"]

    one = hash_of()
    assert hash_of(file=tmp_path / "others.jsonl") == one
    (tmp_path / "other.json").write_text(json.dumps(CHARADES, indent=1))
    others = [
        hash_of("--missing", "skip"),
        hash_of(file=tmp_path / "responses.jsonl"),
        hash_of(benchmark="activitynet"),
        hash_of(labels=tmp_path / "other.json"),
        hash_of("--past-end", "clip"),
    ]
    assert len({one, *others}) == 6
    protocol = Protocol("charades_sta", "0" * 12, 5, "IoU ≥ m", "stated spans", "zero")
    changed = [replace(protocol, **{f.name: 6 if f.name == "queries" else "another"}) for f in fields(Protocol)]
    assert len({p.hash for p in (protocol, *changed)}) == 1 + len(fields(Protocol))


def test_a_folder_of_labels_has_a_digest(tmp_path):
    (tmp_path / "a.csv").write_text("1")
    first = file_digest(tmp_path)
    (tmp_path / "notes.txt").write_text("not a label")
    assert file_digest(tmp_path) == first
    (tmp_path / "a.csv").write_text("2")
    assert file_digest(tmp_path) != first


if __name__ == "__main__":
    import tempfile

    DOCUMENT.write_text(document(Path(tempfile.mkdtemp())), encoding="utf-8")
