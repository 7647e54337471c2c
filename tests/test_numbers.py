"""The outputs and sentences of the notebooks agree with the committed runs in outputs/reference, and perf/README.md with its measurements.

Outputs of run cells come from `make outputs`. Each paragraph of 01 to 07 that names a committed run has a function here that checks numbers of it.
"""

import ast
import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from vtg_r1.core.prompts import think_text
from vtg_r1.core.runtime import project_root

ROOT = project_root()
REFERENCE = ROOT / "outputs/reference"
STAGES = sorted((ROOT / "nbs").glob("[0-9]*.ipynb"))


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def rows(name: str) -> list[dict]:
    "Rows of a JSONL file below outputs/reference."
    return [json.loads(line) for line in (REFERENCE / name).read_text(encoding="utf-8").splitlines()]


def metrics(name: str) -> dict[str, float]:
    return read(REFERENCE / name / "metrics.json")


def source_of(cell: dict) -> str:
    return "".join(cell["source"])


@pytest.fixture(scope="module")
def outputs():
    "The module docs/outputs.py, which `make outputs` runs."
    spec = importlib.util.spec_from_file_location("outputs", ROOT / "docs/outputs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_run_cells_show_the_committed_runs(outputs):
    runs = outputs.notebooks_with_runs()
    assert set(STAGES) <= set(runs), "every stage needs a committed run"
    for path, run in runs.items():
        notebook = read(path)
        assert outputs.filled(notebook, outputs.executed_cells(run, path.stem)) == notebook, f"{path.stem}: run `make outputs`"


@pytest.mark.parametrize("path", STAGES, ids=lambda p: p.stem)
def test_a_stage_shows_figures_and_tables_in_less_than_3_megabytes(path):
    kinds = {kind for cell in read(path)["cells"] for output in cell.get("outputs", []) for kind in output.get("data", {})}
    assert "image/png" in kinds and kinds & {"text/html", "text/markdown"}
    assert path.stat().st_size < 3e6


FOLDERS = re.compile(r"(?<![\w.…])/(?:home|root|tmp|work|Users|mnt|private)/[\w.-]+")


def texts_of(notebook: dict) -> list[str]:
    "All texts in a notebook's outputs."
    outputs = [o for cell in notebook["cells"] for o in cell.get("outputs", [])]
    data = [text for o in outputs for kind, text in o.get("data", {}).items() if kind.startswith("text/")]
    return ["".join(text) for text in [*data, *(o["text"] for o in outputs if "text" in o)]]


@pytest.mark.parametrize("path", sorted((ROOT / "nbs").rglob("*.ipynb")), ids=lambda p: p.stem)
def test_no_output_names_a_folder_of_a_machine(path):
    assert [found for text in texts_of(read(path)) for found in FOLDERS.findall(text)] == []


def test_the_search_for_folders_finds_one():
    printed = {"cells": [{"outputs": [{"text": ["Everything is in /home/me/outputs/grpo/x, not in outputs/work/y"]}]}]}
    assert FOLDERS.findall(texts_of(printed)[0]) == ["/home/me"]


# ---- tables beside metrics.json ----


def shown(stem: str, cell_id: str) -> str:
    "The text outputs of a cell of a stage."
    notebook = read(ROOT / f"nbs/{stem}.ipynb")
    return "\n".join(texts_of({"cells": [cell for cell in notebook["cells"] if cell["id"] == cell_id]}))


@pytest.mark.parametrize(("stem", "cell_id", "run"), [("03_sft", "c6493d2d", "sft/toy-s0"), ("05_grpo", "aaf4ad8e", "grpo/toy-s0")])
def test_tables_of_scores_show_the_metrics_of_the_run(stem, cell_id, run):
    table, values = shown(stem, cell_id), metrics(run)
    for key in ("mIoU", "R1@0.3", "R1@0.5", "R1@0.7"):
        for side in ("initial", "final"):
            assert f"{values[f'{side}/{key}']:.1f}" in table


def test_07_shows_the_score_of_its_run():
    values = metrics("benchmarks/toy-s0")
    line = shown("07_benchmarks", "137f9259")
    assert f"mIoU {values['mIoU']:.1f} [{values['mIoU/low']:.1f}, {values['mIoU/high']:.1f}] " in line
    assert f" {values['n']} queries, " in line


def interval(values: dict[str, float], side: str) -> str:
    return f"{values[f'{side}/mIoU']:.1f} [{values[f'{side}/interval/mIoU/low']:.1f}, {values[f'{side}/interval/mIoU/high']:.1f}]"


@pytest.mark.parametrize(("stem", "cell_id", "run"), [("03_sft", "9ca5e174", "sft/toy-s0"), ("05_grpo", "d75eba9b", "grpo/toy-s0")])
def test_tables_with_blind_answers_show_the_metrics_of_the_run(stem, cell_id, run):
    table, values = shown(stem, cell_id), metrics(run)
    blind = {name: value for name, value in values.items() if name.startswith("blind/") and name.endswith("/mIoU")}
    assert len(blind) >= 4 and all(f"{value:.1f} [" in table for value in blind.values())
    assert interval(values, "initial") in table and interval(values, "final") in table
    assert values["final/above_blind/difference"] > 0 and f"{values['final/above_blind/difference']:+.1f} [" in table


def test_the_last_line_of_05_agrees_with_the_log_and_the_metrics():
    log, values = rows("grpo/toy-s0/log.jsonl"), metrics("grpo/toy-s0")
    first, last = (np.mean([row["reward"] for row in part]) for part in (log[:10], log[-10:]))
    line = shown("05_grpo", "15c78c80")
    assert f"{first:.3f} in the first ten steps, {last:.3f} in the last ten" in line
    assert f"{interval(values, 'initial')} before RL, {interval(values, 'final')} after RL" in line and f"{values['n']} queries" in line


# ---- sentences ----


def reasoning_responses(name: str) -> int:
    "How many responses of a file of predictions have words in their think block."
    return sum(bool(think_text(row["response"])) for row in rows(name))


def seeds_of(run: str, arm: str, key: str) -> list[float]:
    "A metric of every seed of an arm."
    return [read(p)[key] for p in sorted((REFERENCE / run / "runs").glob(f"*/{arm}-s[0-9]-*/metrics.json"))]


def cold_start_is_tighter_and_loses_some() -> bool:
    found, arms = metrics("sft/toy-s0"), metrics("claims")
    return (
        found["final/R1@0.7"] > 1.5 * found["initial/R1@0.7"]
        and found["final/R1@0.3"] < found["initial/R1@0.3"]
        and -5 < found["final/format_rate"] - found["initial/format_rate"] < 0
        and found["final/thinking_rate"] > 80 > found["initial/thinking_rate"]
        and abs(arms["sft/ood"] - arms["base/ood"]) < 1
    )


def cold_start_has_longer_events() -> bool:
    found = metrics("curation/toy-s0")
    cold, rest, filtered = (
        [found[f"event seconds/{name}/{percent}"] for percent in (0, 50, 75, 100)] for name in ("cold start and RL", "RL only", "filtered")
    )
    return (
        cold[0] > 1
        and cold[1] == rest[1] == filtered[1] == 3
        and cold[2] == 5
        and rest[2] == filtered[2] == 4
        and filtered[3] > max(cold[3], rest[3])
    )


def share_of_rl_holds_the_cold_start() -> bool:
    found, params = metrics("curation/toy-s0"), read(REFERENCE / "curation/toy-s0/manifest.json")["parameters"]
    share, without = (100 * size / found["n"] for size in (found["rl"], found["rl"] - found["coldstart"]))
    text = "\n".join(paragraphs("01_curation"))
    return (
        params["keep_coldstart_in_rl"]
        and f"{share:.1f} % against {100 * 18 / 56:.1f} %" in text
        and f"it would have {without:.1f} % of the pool" in text
    )


def policy_and_teacher_disagree() -> bool:
    found = metrics("difficulty/toy-s0")
    return f"{found['spearman_teacher_policy']:.2f}" == "0.14" and found["mean_iou_below_0.1"] + found["mean_iou_above_0.9"] < 0.06 * found["n"]


def one_strategy_does_harm() -> bool:
    scores = {arm: seeds_of("strategies", arm, "final/mIoU") for arm in ("r1-all", "r1-drop", "r1-drop-flat")}
    rewards = [read(p) for p in (REFERENCE / "strategies/runs").glob("*/r1-drop-s*/metrics.json")]
    behind = np.mean(scores["r1-all"]) - np.mean(scores["r1-drop"])
    return (
        len(rewards) == 2
        and all(r["reward/last"] < r["reward/first"] for r in rewards)
        and 15 < behind < 25
        and round(np.mean(scores["r1-drop-flat"])) == 91
    )


def the_words_go() -> bool:
    printed = shown("05_grpo", "278cd2fa")
    before, after = (reasoning_responses(f"grpo/toy-s0/{name}.jsonl") for name in ("predictions_before", "predictions"))
    told = next(re.search(r"Of (\d+) chains (\d+) name", p) for p in paragraphs("05_grpo") if "chains" in p and "nine of ten" in p)
    share = metrics("grpo/toy-s0")["initial/thinking_rate"]
    forms = [
        sum(bool(re.search(form, row["response"])) for row in rows(f"grpo/toy-s0/{name}.jsonl"))
        for name, form in (("predictions_before", r"<time>\[[\d.]+, [\d.]+\]"), ("predictions", r"<time>\[[\d.]+-[\d.]+\]"))
    ]
    return (
        f"{told[2]} of the {told[1]} chains before RL name" in printed
        and (before, after) == (int(told[1]), 0)
        and round(share / 10) == 9
        and forms == [319, 347]
        and any("319 of 347 answers are like `[0, 4]`, after it all are like `[0-4]`" in p for p in paragraphs("05_grpo"))
    )


def runs_of(kind: str) -> list[dict[str, float]]:
    "The metrics of the committed runs of a kind, by seed."
    return sorted((read(p) for p in (REFERENCE / "sets").glob(f"{kind}-s[0-9]*.json")), key=lambda run: run["seed"])


def gain(runs: list[dict[str, float]], name: str) -> tuple[float, float]:
    "The 95 % interval of the mean gain of a metric over the seeds."
    return ttest_1samp([run[f"final/{name}"] - run[f"initial/{name}"] for run in runs], 0).confidence_interval()


def told(runs: list[dict[str, float]], name: str, title: str = "") -> str:
    "A metric as 05 writes it: its means before and after RL, and the interval of the gain."
    before, after = (np.mean([run[f"{when}/{name}"] for run in runs]) for when in ("initial", "final"))
    low, high = gain(runs, name)
    return f"{title or name} {before:.1f} → {after:.1f} ({low:+.1f} to {high:+.1f})".replace("-", "−")


def rule_of_the_sets_holds() -> bool:
    "All seeds of the rule were run, and the intervals of its three gains are above zero."
    runs = runs_of("toysets")
    text = "\n".join(paragraphs("05_grpo"))
    return (
        [run["seed"] for run in runs] == list(range(11, 19))
        and {run["steps"] for run in runs} == {120}
        and all(gain(runs, name)[0] > 0 for name in ("count accuracy", "F1@0.5", "refusal F1"))
        and all(told(runs, name.strip("`"), name) in text for name in ("count accuracy", "`F1@0.5`", "refusal F1"))
        and all(gain(runs, f"mIoU/{level}")[0] > -2 for level in ("direct", "ordinal"))  # their queries have one span
    )


def one_seed_unlearned_the_second_span() -> bool:
    seeds = {run["seed"]: run for run in runs_of("toysets")}
    counted = {seed: run["final/count accuracy"] - run["initial/count accuracy"] for seed, run in seeds.items()}
    lost, text = seeds[15], "\n".join(paragraphs("05_grpo"))
    return [seed for seed, change in counted.items() if change < 0] == [15] and all(
        f"{lost[f'initial/{name}']:.1f} → {lost[f'final/{name}']:.1f}" in text for name in ("count accuracy", "mIoU")
    )


def rule_of_the_questions_holds() -> bool:
    "All seeds of the rule were run. On each of them, letter and span gain, and gain more than the control from the same start."
    letter, control = runs_of("qa"), runs_of("qa-span")
    rises, theirs = ([run["final/Acc@GQA"] - run["initial/Acc@GQA"] for run in runs] for runs in (letter, control))
    return (
        [run["seed"] for run in letter] == [run["seed"] for run in control] == [41, 42, 43]
        and {run["steps"] for run in (*letter, *control)} == {400}
        and all(run["initial/Acc@GQA"] == other["initial/Acc@GQA"] for run, other in zip(letter, control))
        and all(rise > max(0, other) for rise, other in zip(rises, theirs))
        and np.mean(rises) >= 3
    )


def three(values: list[float]) -> str:
    return "{:.1f}, {:.1f} and {:.1f} points".format(*values)


def questions_gain() -> bool:
    letter, control, trials = runs_of("qa"), runs_of("qa-span"), read(REFERENCE / "sets/choice-qa.json")
    text = "\n".join(paragraphs("05_grpo"))
    rises = [run["final/Acc@GQA"] - run["initial/Acc@GQA"] for run in letter]
    above = [run["final/Acc@GQA"] - other["final/Acc@GQA"] for run, other in zip(letter, control)]
    first = [trials[f"four epochs: rate 1e-4, 120 steps, seed {seed}"] for seed in (21, 22, 23)]
    second = [trials[f"two epochs: rate 1e-4, 300 steps, weights averaged{name}"] for name in ("", ", seed 31", ", seed 32")]
    means = {name: np.mean([run[f"final/{name}"] - run[f"initial/{name}"] for run in letter]) for name in ("Acc@QA", "Acc@GQA", "Acc@IoU", "mIoU")}
    return (
        told(letter, "Acc@GQA", "with letter and span") in text
        and told(control, "Acc@GQA", "for the span alone") in text
        and f"rises by {three(rises)} on the three seeds, and ends {three(above)} above" in text
        and f"rose by {three([rows[-1]['Acc@GQA'] - rows[0]['Acc@GQA'] for rows in first])} on three seeds" in text
        and [rows[-1]["Acc@GQA"] < rows[0]["Acc@GQA"] for rows in second] == [False, True, False]
        and max(means, key=means.get) == "Acc@QA"
        and f"mIoU changes by {means['mIoU']:+.1f} points".replace("-", "−") in text
    )


def refusals_become_precise() -> bool:
    runs = runs_of("toysets")
    names = ("count accuracy", "F1@0.5", "refusal F1", "refusal precision", "refusal recall")
    gains = {name: np.mean([run[f"final/{name}"] - run[f"initial/{name}"] for run in runs]) for name in names}
    return max(gains, key=gains.get) == "refusal precision" and told(runs, "refusal recall", "Their recall pays for it a little:") in "\n".join(
        paragraphs("05_grpo")
    )


def values_of_the_sets_were_chosen() -> bool:
    looks = {name: {row["step"]: row for row in rows} for name, rows in read(REFERENCE / "sets/choice.json").items()}
    start, half, chosen, last = (looks["rate 1e-4 (chosen)"][step] for step in (0, 60, 120, 150))
    others = [looks[name][120] for name in looks if "chosen" not in name]
    return (
        f"{start['refusal F1']:.1f} before, {half['refusal F1']:.1f} after 60 steps, {chosen['refusal F1']:.1f} after 120 and {last['refusal F1']:.1f} after 150"
        in "\n".join(paragraphs("05_grpo"))
        and min(row["count accuracy"] for row in looks["rate 2e-4"].values()) < 75 < start["count accuracy"]
        and all(row[name] <= chosen[name] for row in others for name in ("count accuracy", "F1@0.5", "refusal F1"))
    )


def styles_differ_before_rl() -> bool:
    thinking, (direct,) = metrics("grpo/toy-s0"), runs_of("direct")
    text = "\n".join(paragraphs("05_grpo"))
    return (
        all(f"{run['initial/mIoU']:.1f} → {run['final/mIoU']:.1f} with" in text for run in (thinking, direct))
        and f"Of the groups of the direct run {direct['frac_reward_zero_std']:.0f} %" in text
        and direct["seed"] == thinking["seed"] == 0
        and direct["final/thinking_rate"] == thinking["final/thinking_rate"] == 0
    )


def some_seeds_reason_and_some_do_not() -> bool:
    none, second, *others = sorted(seeds_of("claims", "r1", "final/thinking_rate"))
    return none == 0 and f"{second:.0f}" == "19" and [f"{others[0]:.0f}", f"{others[-1]:.0f}", len(others)] == ["86", "99", 3]


def claims_took_their_time() -> bool:
    found = metrics("claims")
    return found["runs"] == 99 and f"{found['seconds_of_runs'] / 3600:.1f}" == "1.3"


def first_group_of_the_run() -> bool:
    group = rows("grpo/toy-s0/completions.jsonl")[:8]
    cell = next(source_of(c) for c in read(ROOT / "nbs/05_grpo.ipynb")["cells"] if "\nrollouts = [" in source_of(c))
    written = ast.literal_eval(cell.split("rollouts = ")[1].split("\n]\n")[0] + "]")
    same = written == [(row["response"], row["pred"]) for row in group]
    return same and {row["step"] for row in group} == {1} and len({row["qid"] for row in group}) == 1 and group[0]["truth"] == [[1.0, 3.0]]


def dataset_priors_differ() -> bool:
    here, cold_start, rl = (metrics(run)["blind/dataset prior/mIoU"] for run in ("benchmarks/toy-s0", "sft/toy-s0", "grpo/toy-s0"))
    same = [metrics(run)["blind/whole video/mIoU"] for run in ("benchmarks/toy-s0", "sft/toy-s0", "grpo/toy-s0")]
    return (f"{here:.1f}", f"{cold_start:.1f}", f"{rl:.1f}") == ("25.4", "26.4", "26.4") and len(set(same)) == 1


def more_than_the_best_blind_answer() -> bool:
    found = metrics("benchmarks/toy-s0")
    return found["mIoU/low"] > max(value for name, value in found.items() if name.startswith("blind/"))


def refusing_gains_little() -> bool:
    found = metrics("benchmarks/toy-s0")
    answered, right, kept = (found[f"agreement/{name}"] for name in ("answered", "right", "kept"))
    right_ones = found["agreement/right_without_refusal"] / 100 * found["agreement/n"]
    error = 100 * (0.9 * 0.1 / right_ones) ** 0.5
    return (
        f"{right:.1f} % of the answers are right instead of {found['agreement/right_without_refusal']:.1f} %"
        in "\n".join(paragraphs("07_benchmarks"))
        and f"{right_ones:.0f}" == "133"
        and f"{kept:.1f}" == "85.7"
        and abs(kept - 90) < 1.96 * error
        and answered < 90
    )


SENTENCES: dict[tuple[str, str], Callable[[], bool]] = {  # (notebook, words of a paragraph) → whether it agrees with the numbers
    (
        "01_curation",
        "In the committed run the median length is 3 s in all three sets. The 75th percentile is 5 s in the cold start",
    ): cold_start_has_longer_events,
    ("01_curation", "The share of RL is twice the paper's in the committed run"): share_of_rl_holds_the_cold_start,
    ("03_sft", "In the committed run far more responses than before are nearly exact (`R1@0.7` rises)"): cold_start_is_tighter_and_loses_some,
    (
        "04_difficulty",
        "In the committed run they hardly do: the rank correlation at the end of this page is weak (0.14)",
    ): policy_and_teacher_disagree,
    ("04_difficulty", "They are some twenty points behind the plain order"): one_strategy_does_harm,
    ("05_grpo", "Before RL nine of ten responses reason."): the_words_go,
    ("05_grpo", "Refusals take longest: their F1 is 80.0 before"): values_of_the_sets_were_chosen,
    ("05_grpo", "The rule was set before the runs that it judges, on seeds 11 to 18"): rule_of_the_sets_holds,
    ("05_grpo", "The precision of refusals rises most"): refusals_become_precise,
    ("05_grpo", "The rule was set before these runs, on seeds 41 to 43"): rule_of_the_questions_holds,
    ("05_grpo", "The rule holds: Acc@GQA"): questions_gain,
    ("05_grpo", "The mean hides one seed."): one_seed_unlearned_the_second_span,
    ("05_grpo", "The way there differs, the end hardly."): styles_differ_before_rl,
    ("05_grpo", "The eight rollouts below are the first group of the committed run"): first_group_of_the_run,
    ("06_ablations", "The 99 runs of the committed run took 1.3 hours together"): claims_took_their_time,
    (
        "06_ablations",
        "In the committed run the reasoning is gone from one seed of R1: none of its in-domain answers reasons at the end. In a second seed 19 % do, in the other three from 86 to 99 %.",
    ): some_seeds_reason_and_some_do_not,
    ("07_benchmarks", "In the committed run the mean tIoU rises with the agreement up to an agreement of about 0.4"): refusing_gains_little,
    ("07_benchmarks", "`dataset prior` is 25.4 here and 26.4 in"): dataset_priors_differ,
    ("07_benchmarks", "The committed run scores the policy of the cold start"): more_than_the_best_blind_answer,
}


def paragraphs(stem: str) -> list[str]:
    return [p for cell in read(ROOT / f"nbs/{stem}.ipynb")["cells"] if cell["cell_type"] == "markdown" for p in source_of(cell).split("\n\n")]


@pytest.mark.parametrize(("stem", "words"), SENTENCES, ids=lambda x: x[:40])
def test_a_sentence_about_a_committed_run_is_true(stem, words):
    assert any(words in p for p in paragraphs(stem)), "the sentence has changed: change its check in SENTENCES too"
    assert SENTENCES[stem, words]()


@pytest.mark.parametrize("path", STAGES, ids=lambda p: p.stem)
def test_every_paragraph_about_a_committed_run_has_a_check(path):
    about = [p for p in paragraphs(path.stem) if re.search(r"committed runs?\b", p)]
    known = [words for stem, words in SENTENCES if stem == path.stem]
    assert [p[:90] for p in about if not any(words in p for words in known)] == []


def test_published_numbers_in_prose_are_those_of_the_grid():
    "The paper's scores that 03 quotes are those in configs/claims.yaml."
    text = next(p for p in paragraphs("03_sft") if "28.91" in p)
    published = (ROOT / "configs/claims.yaml").read_text(encoding="utf-8")
    assert all(number in published for number in re.findall(r"\d\d\.\d\d", text))


def test_index_counts_the_seeds_that_stop_reasoning():
    said = next(p for p in paragraphs("index") if "RL drops the reasoning in" in p)
    silent = sum(rate < 10 for rate in seeds_of("claims", "r1", "final/thinking_rate"))
    assert f"in {['no seed', 'one seed', 'two seeds', 'three seeds', 'four seeds', 'five seeds'][silent]} of five" in said


def test_cells_that_nbdev_does_not_test_can_be_parsed():
    "nbdev's tests skip cells with `#| eval: false`."
    for path in STAGES:
        for cell in read(path)["cells"]:
            if cell["cell_type"] == "code" and source_of(cell).startswith("#| eval: false"):
                ast.parse(source_of(cell))


# ---- perf/README.md beside outputs/reference/bench ----

BENCH = REFERENCE / "bench"


def measured(name: str, variant: str, **what) -> dict:
    "The row of a file of `bench` with these values."
    (row,) = [row for row in read(BENCH / f"{name}.json")["rows"] if row["variant"] == variant and what.items() <= row.items()]
    return row


def speed(name: str, *others: str, **what) -> list[float]:
    "The seconds of other variants divided by those of the shared prefix."
    ours = measured(name, "shared prefix", **what)["seconds"]
    return [measured(name, other, **what)["seconds"] / ours for other in others]


def seconds(name: str, *variants: str, **what) -> list[float]:
    return [measured(name, variant, **what)["seconds"] for variant in variants]


def gigabytes(name: str, *variants: str, **what) -> list[float]:
    return [measured(name, variant, **what)["peak_gb"] for variant in variants]


OURS, STOCK, ROWS, BATCH, SINGLE = "shared prefix", "stock", "stock, row by row", "stock, batched", "one by one"
SMALL, LARGE = dict(P=1952, C=64), dict(P=4016, C=300)
FIVE, SHORT, LONG, TWO = (dict(P=p, C=c, queries=n) for p, c, n in ((1943, 64, 5), (1943, 16, 5), (4007, 64, 5), (1943, 64, 2)))
PARTS = ("preprocessing", "prefill", "decoding", "update")


def parts_of_a_step() -> list[float]:
    "For each part of a step and for their sum: seconds of stock divided by those of the shared prefix."
    theirs, ours = ([measured("anatomy", variant, part=part)["seconds"] for part in PARTS] for variant in (STOCK, OURS))
    return [*np.divide(theirs, ours), sum(theirs) / sum(ours)]


def decoded_frames() -> list[float]:
    "Seconds of qwen_vl_utils divided by ours, without and with the cache: geometric means over the real clips."
    clips = [row for row in read(BENCH / "frames.json")["rows"] if not row["synthetic"]]
    return [float(np.exp(np.mean([np.log(row["qwen_vl_utils"] / row[way]) for row in clips]))) for way in ("cold", "warm")]


def trained(size: str) -> list[float]:
    "A preset on one GPU: seconds per step, seconds of its rollouts, peak memory, and responses per second."
    (row,) = [row for row in map(json.loads, (BENCH / "memory.jsonl").read_text().splitlines()) if row["size"] == size]
    return [row["step_seconds"], row["rollout_seconds"], row["peak_gb"], row["per_second"]]


TABLE: dict[str, Callable[[], list[float]]] = {  # text of perf/README.md with # in place of each number → the numbers of the files
    "# × row by row (# / # s), # × batched (# s); peak memory # GB against # and # GB |\n| | the same, P 4016": lambda: [
        *speed("update", ROWS, **SMALL),
        *seconds("update", ROWS, OURS, **SMALL),
        *speed("update", BATCH, **SMALL),
        *seconds("update", BATCH, **SMALL),
        *gigabytes("update", OURS, ROWS, BATCH, **SMALL),
    ],
    "P 4016, C 300 | 4.5 × | # × row by row (# / # s); peak memory # GB against # GB": lambda: [
        *speed("update", ROWS, **LARGE),
        *seconds("update", ROWS, OURS, **LARGE),
        *gigabytes("update", OURS, ROWS, **LARGE),
    ],
    "| rollout, P 1952, C 64, G 8 | 4 × | # × (# / # s); peak memory # GB against # GB": lambda: [
        *speed("rollout", STOCK),
        *seconds("rollout", STOCK, OURS),
        *gigabytes("rollout", OURS, STOCK),
    ],
    "2 prompts × 8 | 5 × | # × row by row (# / # s), # × batched (# s); peak memory # GB against # and # GB": lambda: [
        *speed("train", ROWS),
        *seconds("train", ROWS, OURS),
        *speed("train", BATCH),
        *seconds("train", BATCH),
        *gigabytes("train", OURS, ROWS, BATCH),
    ],
    "preprocessing, prefill, decoding, update | | # ×, # ×, # ×, # ×; together # ×": parts_of_a_step,
    "one by one and beside one batch | 3 × | # × (# / # s), # × (# s); peak memory # against # and # GB": lambda: [
        *speed("evaluation", SINGLE, **FIVE),
        *seconds("evaluation", SINGLE, OURS, **FIVE),
        *speed("evaluation", "batched", **FIVE),
        *seconds("evaluation", "batched", **FIVE),
        *gigabytes("evaluation", OURS, SINGLE, "batched", **FIVE),
    ],
    "with two queries | | # ×, # ×; # ×, # ×; # ×, # ×": lambda: [
        ratio for what in (SHORT, LONG, TWO) for ratio in speed("evaluation", SINGLE, "batched", **what)
    ],
    "P 1952, C 64, G 8 | | # × row by row (# / # s; peak memory # against # GB)": lambda: [
        *speed("update_3b", ROWS, **SMALL),
        *seconds("update_3b", ROWS, OURS, **SMALL),
        *gigabytes("update_3b", OURS, ROWS, **SMALL),
    ],
    "P 4016, C 300 | | # × row by row (# / # s; # against # GB)": lambda: [
        *speed("update_3b", ROWS, **LARGE),
        *seconds("update_3b", ROWS, OURS, **LARGE),
        *gigabytes("update_3b", OURS, ROWS, **LARGE),
    ],
    "| rollout, P 1952, C 64, G 8 | | # × (# / # s)": lambda: [*speed("rollout_3b", STOCK), *seconds("rollout_3b", STOCK, OURS)],
    "took decord's pictures unchecked (# ×, from the cache # ×)": decoded_frames,
    "3B | GRPO, one query per step | one H200 | # s per step, # s of it for 8 responses of 1024 tokens | # GB | # |": lambda: trained("3b"),
    "7B | GRPO, one query per step | one H200 | # s per step, # s of it for 8 responses of 1024 tokens | # GB | # |": lambda: trained("7b"),
}


@pytest.mark.parametrize("text", TABLE)
def test_the_numbers_of_perf_readme_are_those_of_the_files(text):
    "Each number is that of the file, rounded to the digits that the page shows."
    lines = (ROOT / "perf/README.md").read_text(encoding="utf-8").replace("`", "")
    (numbers,) = re.findall(re.escape(text).replace(r"\#", r"(\d+(?:\.\d+)?)"), lines)
    values = TABLE[text]()
    assert [f"{value:.{len(number.partition('.')[2])}f}" for value, number in zip(values, numbers, strict=True)] == list(numbers)


def test_the_seconds_in_the_files_are_medians_of_their_times():
    runs = [row for file in sorted(BENCH.glob("*.json")) for row in read(file)["rows"] if row.get("times") and "seconds" in row]
    assert len(runs) > 20 and all(row["seconds"] == np.median(row["times"]) for row in runs)
