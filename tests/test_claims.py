"The experiments of the claims: a tiny grid of real runs, grids of pretended runs, statistics with known answers, training sets of equal size and mix, and strategies of difficulty."

import dataclasses
import importlib
import inspect
import json
import os
import subprocess
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from children import CLEAN

from vtg_r1 import ablations
from vtg_r1.ablations import (
    STAGE_PARAMS,
    arm_table,
    by_level,
    curve_rows,
    draw_effects,
    draw_paths,
    grid_arms,
    judged_claims,
    keep_reference,
    latest,
    paths_of,
    published_table,
    smooth,
    wanted_arms,
)
from vtg_r1.cli import main
from vtg_r1.core.atomic_files import write_json
from vtg_r1.core.prompts import response_text
from vtg_r1.core.runtime import RunError, resolve, sha256
from vtg_r1.core.samples import Sample, SampleError, write_jsonl
from vtg_r1.core.stats import holm, t_quantile
from vtg_r1.data.model_inputs import VideoInputConfig
from vtg_r1.difficulty import STRATEGIES, CurriculumSampler, make_curriculum, resumable_rollouts, with_difficulty
from vtg_r1.runs.experiment_grid import grid_jobs, read_grid, results, run_jobs
from vtg_r1.runs.parameters import from_mapping
from vtg_r1.runs.run import read_manifest, start_run
from vtg_r1.runs.verdicts import UNDECIDED, claim_arms, claim_record, contrast, effect_verdict, judge, of_mean
from vtg_r1.train.stage_data import subsample

GRID = "configs/claims.yaml"


# the grid, run


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    "Outputs folder and parameters of a grid that was run: base, cold start, R1 and R1-Zero, with one seed, two steps and eight held-out queries per set."
    outputs = tmp_path_factory.mktemp("outputs")
    sft = {"steps": 2, "batch_size": 4, "per_device_batch_size": 4, "eval_limit": 8, "max_completion_length": 16}
    grpo = {
        "steps": 2,
        "prompts_per_step": 2,
        "num_generations": 4,
        "per_device_batch_size": 8,
        "eval_limit": 8,
        "eval_steps": 1,
        "eval_subset": 4,
        "max_completion_length": 16,
    }
    given = {
        "outputs_dir": str(outputs),
        "arms": ["base", "sft", "r1", "zero"],
        "seeds": [0],
        "overrides": {"curation": {"toy_videos": 24}, "sft": sft, "grpo": grpo},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ablations, "run_jobs", partial(run_jobs, start=start_warm))
        ablations.main(from_mapping(ablations.AblationsParams, {**given, "run_name": "made"}))
    return outputs, given


class Child:
    "A process that calls the function of a job's stage. It has the libraries loaded already, which the command that executes a notebook has not."

    def __init__(self, job, logs):
        self.process = CLEAN.Process(target=run_stage, args=(job.stage, job.parameters, str(logs / f"{job.name}.log")))
        self.process.start()

    @property
    def returncode(self):
        return self.process.exitcode

    def poll(self):
        return self.process.exitcode

    def terminate(self):
        self.process.terminate()

    def wait(self):
        self.process.join()


def run_stage(stage, parameters, log):
    "What the process of `Child` does."
    with open(log, "w") as f:
        os.dup2(f.fileno(), 1)
        os.dup2(f.fileno(), 2)
    os.chdir(resolve("."))
    importlib.import_module(f"vtg_r1.{stage}").main(from_mapping(STAGE_PARAMS[stage], parameters))


def start_warm(job, logs, lock):
    "Start the first job as `make claims` does, by the command for its notebook, and the other four by the function of their stage."
    if job.stage == "curation":
        return inspect.signature(run_jobs).parameters["start"].default(job, logs, lock)
    return Child(job, logs)


@pytest.fixture(scope="module")
def shown(tiny):
    "The same grid run by its notebook, which finds all runs finished: the outputs folder, and when each run was written."
    outputs, given = tiny
    before = {p: p.stat().st_mtime_ns for p in outputs.glob("*/*/manifest.json")}
    pairs = [x for name, value in given.items() for x in ("-p", name, json.dumps(value))]
    assert main(["run", "nbs/06_ablations.ipynb", "-p", "run_name", "one", *pairs]) == 0
    return outputs, before


@pytest.mark.slow
def test_a_tiny_grid_writes_verdicts_tables_figures_and_a_reference(shown, tmp_path):
    folder = shown[0] / "ablations/one"
    claims = json.loads((folder / "claims.json").read_text())
    assert [c["claim"][:2] for c in claims] == ["C1", "C5"]
    for c in claims:
        assert set(c) >= {"claim", "arms", "n_seeds", "effect", "ci95", "p", "verdict", "note"}
        assert (c["n_seeds"], c["ci95"], c["p"], c["verdict"]) == (1, None, None, "undecided") and np.isfinite(c["effect"])
    metrics = json.loads((folder / "metrics.json").read_text())
    assert (metrics["n"], metrics["n_seeds"]) == (8, 1)  # the queries that were evaluated, not all that are held out
    assert "n = 8 held-out queries in domain, 1 seed" in (folder / "06_ablations.ipynb").read_text()
    assert all("n = 1 seed" in line for line in (folder / "arms.csv").read_text().splitlines()[1:])
    assert metrics["runs"] == 4 and all(0 <= metrics[f"{arm}/mIoU"] <= 100 for arm in ("base", "sft", "r1", "zero"))
    assert {"arms.csv", "curves.csv", "06_ablations.ipynb"} <= {p.name for p in folder.iterdir()} and (folder / "figs/curves.png").is_file()
    kept = keep_reference(folder, tmp_path / "reference")
    assert (kept / "claims.json").is_file() and len(list(kept.glob("runs/*/*/metrics.json"))) == 4 and not list(kept.rglob("*.safetensors"))


def test_a_run_whose_grid_has_changed_since_is_not_kept(tmp_path):
    "The copy would have the rules of today beside the verdicts of then."
    (tmp_path / "grid.yaml").write_text("seeds: [0]")
    run = start_run("ablations", "one", {"seed": 0}, tmp_path)
    run.record(runs={})
    run.add_input(tmp_path / "grid.yaml", "grid")
    run.finish()
    assert (keep_reference(run.path, tmp_path / "kept") / "claims.yaml").read_text() == "seeds: [0]"
    (tmp_path / "grid.yaml").write_text("seeds: [0, 1]")
    with pytest.raises(RunError, match="grid.yaml has changed since"):
        keep_reference(run.path, tmp_path / "kept")


@pytest.mark.slow
def test_each_run_records_levels_lengths_rates_and_its_evaluations(tiny):
    jobs = grid_jobs(read_grid(GRID, overrides=tiny[1]["overrides"]), ["r1"], [0], str(tiny[0]))
    assert all(job.finished for job in jobs.values())
    m = json.loads((jobs["r1", 0].folder / "metrics.json").read_text())
    levels = {"final/mIoU/direct", "final/mIoU/ordinal", "final/thinking_rate/ordinal"}
    assert (
        levels
        | {
            "final/mIoU",
            "final/completion_length",
            "final/thinking_rate",
            "final/format_rate",
            "frac_reward_zero_std",
            "final/ood-pairings/mIoU",
            "samples_seen",
        }
        <= set(m)
        and "initial/mIoU" not in m
    )
    sft = json.loads((jobs["sft", 0].folder / "metrics.json").read_text())
    assert sft["initial/mIoU"] is not None and sft["steps"] == 2 and sft["samples_seen"] == 8
    watched = [json.loads(line) for line in (jobs["r1", 0].folder / "eval_log.jsonl").read_text().splitlines()]
    assert [w["step"] for w in watched] == [0, 1, 2] and "mIoU" in watched[0]


@pytest.mark.slow
def test_finished_runs_are_not_run_again(shown):
    "The notebook uses the runs that the function of the stage has made."
    outputs, before = shown
    assert len(before) == 5 and before == {p: p.stat().st_mtime_ns for p in before}
    first, second = (outputs / "ablations" / name / "claims.json" for name in ("made", "one"))
    assert first.read_bytes() == second.read_bytes()


# the committed run


@pytest.fixture(scope="module")
def committed():
    "The committed run of the claims: its folder, its grid, and the metrics of its runs by arm and seed."
    folder = resolve("outputs/reference/claims")
    grid, manifest, rows = read_grid(folder / "claims.yaml"), read_manifest(folder), {}
    assert manifest["inputs"]["grid"]["sha256"] == sha256(folder / "claims.yaml"), "claims.yaml is not the grid of these runs"
    for name, path in manifest["runs"].items():
        row, _, seed = name.rpartition("-s")
        metrics = json.loads((folder / "runs" / Path(path).parent.name / Path(path).name / "metrics.json").read_text())
        rows |= {(row, int(seed)): metrics} if seed.isdigit() else {(name, s): metrics for s in grid["seeds"]}
    arms = grid_arms(grid)
    return folder, grid, {a: {s: rows[arms[a]["row"], s] for s in grid["seeds"]} for a in wanted_arms(grid)}


def test_the_committed_tables_and_verdicts_follow_from_the_committed_runs(committed):
    folder, grid, scored = committed
    arms = grid_arms(grid)
    assert arm_table(scored, arms).to_csv() == (folder / "arms.csv").read_text()
    for title, rows in read_grid(GRID)["published"].items():
        assert published_table(rows, scored, arms).to_csv() == (folder / f"{title.split(',')[0].lower().replace(' ', '_')}.csv").read_text()
    claims = json.loads((folder / "claims.json").read_text())
    for entry, (name, claim) in zip(claims, judged_claims(grid, list(scored)).items(), strict=True):
        record = claim_record(name, claim, scored, arms, grid["published"])
        assert {k: record[k] for k in ("claim", "arms", "verdict", "note", "n_seeds")} == {
            k: entry[k] for k in ("claim", "arms", "verdict", "note", "n_seeds")
        }
        assert [e["values"] for e in record["effects"]] == [pytest.approx(e["values"]) for e in entry["effects"]]


def test_figures_of_the_committed_claims_show_every_effect_and_seed(committed):
    import matplotlib.pyplot as plt

    folder, grid, scored = committed
    arms, claims = grid_arms(grid), json.loads((folder / "claims.json").read_text())
    names = [label.get_text() for label in draw_effects(claims).axes[0].get_yticklabels()]
    assert names == [f"{c['claim'][:2]}  {e['name']}" for c in claims for e in [*c["effects"], *c.get("secondary", [])]]
    paths = paths_of(grid, list(scored))
    panels = draw_paths(scored, arms, paths).axes
    assert [ax.get_title() for ax in panels] == list(paths) and all(path[0] == "base" for path in paths.values())
    for ax, path in zip(panels, paths.values(), strict=True):
        ends = [line.get_ydata()[-1] for line in ax.lines]  # one line per seed, then their mean
        assert ends[:-1] == pytest.approx([scored[path[-1]][s]["final/mIoU"] for s in grid["seeds"]]) and ends[-1] == pytest.approx(
            np.mean(ends[:-1])
        )
    levels = by_level(scored, arms, "mIoU")
    assert list(levels.index) == [arms[a]["label"] for a in scored] and {"all", "direct", "ordinal"} <= set(levels.columns)
    plt.close("all")


def test_curves_of_a_run_are_smoothed_over_its_last_steps():
    rows = curve_rows("R1", 0, resolve("outputs/reference/grpo/toy-s0"))
    reward = [r["value"] for r in rows if r["curve"] == "reward"]
    assert {r["curve"] for r in rows} >= {"reward", "completion_length", "frac_reward_zero_std"} and len(reward) == max(r["step"] for r in rows)
    smoothed = [r["value"] for r in smooth(rows[::-1]) if r["curve"] == "reward"]
    assert smoothed == pytest.approx([np.mean(reward[max(0, i - 9) : i + 1]) for i in range(len(reward))])


def test_the_latest_run_is_the_last_finished_one_that_is_no_smoke_test(tmp_path, monkeypatch):
    monkeypatch.setattr("vtg_r1.core.runtime.project_root", lambda: tmp_path)
    runs = tmp_path / "outputs" / "ablations"
    with pytest.raises(RunError, match="no finished full run"):
        latest()
    for name, status, quick, ended in [
        ("a", "finished", False, "2026-01-01"),
        ("b", "finished", False, "2026-01-02"),
        ("c", "finished", True, "2026-01-03"),
        ("d", "failed", False, "2026-01-04"),
    ]:
        (runs / name).mkdir(parents=True)
        write_json(runs / name / "manifest.json", {"status": status, "smoke": quick, "ended": ended, "runs": {}})
    assert latest().name == "b"
    with pytest.raises(RunError, match="not a finished run"):
        keep_reference(runs / "d", tmp_path / "kept")


# rules of a grid


def test_every_row_of_the_claims_grid_has_parameters_that_its_notebook_takes():
    grid = read_grid(GRID)
    for quick in (False, True):
        laid = read_grid(GRID, quick, params_classes=STAGE_PARAMS)
        runnable = [name for name, row in laid["rows"].items() if "not_runnable" not in row]
        for job in grid_jobs(laid, runnable, [0]).values():
            assert STAGE_PARAMS[job.stage](**job.parameters).run_name == job.name
    assert set(grid["claims"]) == {"C1", "C2", "C3", "C4", "C5"}
    assert all(set(claim_arms(c)) <= set(grid_arms(grid)) for c in grid["claims"].values())
    assert all(row["arm"] in grid_arms(grid) for rows in grid["published"].values() for row in rows)


def test_a_row_with_a_parameter_that_its_stage_does_not_take_is_refused(tmp_path):
    for change, error in (
        (("steps: 3", "step: 3"), "row 'r1': unknown parameter 'step', did you mean 'steps'"),
        (("steps: 3", "steps: x"), "row 'r1': .*a whole number"),
    ):
        (tmp_path / "grid.yaml").write_text(TABLE.replace(*change))
        with pytest.raises(RunError, match=error):
            read_grid(tmp_path / "grid.yaml", params_classes=STAGE_PARAMS)


def test_claims_without_their_arms_are_left_out_but_untestable_ones_stay():
    grid = read_grid(GRID)
    assert set(judged_claims(grid, ["base", "sft", "r1"])) - {n for n, c in grid["claims"].items() if c.get("untestable")} == {"C1", "C5"}
    assert not judged_claims(grid, ["base", "sft", "r1"])["C1"]["secondary"][1:]  # a control that was not run is not shown
    grid["claims"]["C2"]["untestable"] = "a reason"
    assert "C2" in judged_claims(grid, [])
    with pytest.raises(RunError, match="no such arm: r2"):
        wanted_arms(grid, ["r2"])


def test_a_row_that_cannot_be_run_says_why(tmp_path):
    (tmp_path / "grid.yaml").write_text(TABLE + '  far: {stage: grpo, not_runnable: "it needs a GPU"}\n')
    with pytest.raises(RunError, match="far.*it needs a GPU"):
        grid_jobs(read_grid(tmp_path / "grid.yaml"), ["far"], [0])


TABLE = """
stages:
  curation: {notebook: nbs/01_curation.ipynb}
  sft: {notebook: nbs/03_sft.ipynb}
  grpo: {notebook: nbs/05_grpo.ipynb, steps: 3}
rows:
  data: {stage: curation, shared_across_seeds: true}
  sft: {stage: sft, annotations: $data/coldstart.jsonl}
  r1: {stage: grpo, model: $sft/model}
  zero: {stage: grpo, model: tiny}
"""


@pytest.fixture
def jobs(tmp_path):
    (tmp_path / "grid.yaml").write_text(TABLE)
    return grid_jobs(read_grid(tmp_path / "grid.yaml"), ["r1", "zero"], [0, 1], str(tmp_path / "out"))


class Pretend:
    "In place of training: a process that only writes the run's manifest. `started` lists the runs in order, `early` the inputs that were not finished when a run began."

    def __init__(self, broken=()):
        self.broken, self.started, self.early = broken, [], []

    def __call__(self, job, logs, lock):
        self.started.append((job.row, job.seed))
        self.early += [need for need in job.needs if not list(Path(job.parameters["outputs_dir"]).glob(f"*/{need}/manifest.json"))]
        job.folder.mkdir(parents=True, exist_ok=True)
        (logs / f"{job.name}.log").write_text(f"the log of {job.name}")
        if (job.row, job.seed) in self.broken:
            return subprocess.Popen(["false"])
        write_json(job.folder / "made.json", {"status": "finished", "seconds": 1.0})
        return subprocess.Popen(["sh", "-c", "sleep 0.1; mv made.json manifest.json"], cwd=job.folder)


@pytest.mark.parametrize("processes", [1, 3])
def test_a_run_starts_when_its_inputs_are_finished_and_shared_inputs_run_once(jobs, tmp_path, processes):
    pretend = Pretend()
    run_jobs(jobs.values(), tmp_path / "logs", processes, pretend)
    order = pretend.started
    assert len(order) == len(set(order)) == len(jobs) == 7 and order[0][0] == "data"
    assert all(order.index(("sft", s)) < order.index(("r1", s)) for s in (0, 1)) and not pretend.early


def test_a_failed_run_stops_only_the_runs_that_need_it_and_is_made_again(jobs, tmp_path, capsys):
    with pytest.raises(RunError, match="2 of 7 runs failed") as e:
        run_jobs(jobs.values(), tmp_path / "logs", 2, Pretend(broken={("sft", 0)}))
    assert "the log of sft-s0" in str(e.value) and f"it needs {jobs['sft', 0].name}" in str(e.value)
    assert {k for k, j in jobs.items() if not j.finished} == {("sft", 0), ("r1", 0)} and "5/7" in capsys.readouterr().err
    killed = jobs["zero", 1]
    write_json(killed.folder / "manifest.json", {"status": "running"})  # as SIGKILL leaves it
    again = Pretend()
    run_jobs(jobs.values(), tmp_path / "logs", 2, again)
    assert set(again.started) == {("sft", 0), ("r1", 0), ("zero", 1)} and all(j.finished for j in jobs.values())


def test_a_row_that_all_seeds_share_counts_as_one_seed_and_decides_nothing(tmp_path):
    "Its one number, repeated for each seed of the other arms, would look like a certain result."
    (tmp_path / "grid.yaml").write_text(
        TABLE.replace("zero: {stage: grpo, model: tiny}", "zero: {stage: grpo, model: tiny, shared_across_seeds: true, label: Zero}")
    )
    jobs = grid_jobs(read_grid(tmp_path / "grid.yaml"), ["r1", "zero"], [3, 4, 5], str(tmp_path / "out"))
    for (row, seed), job in jobs.items():
        job.folder.mkdir(parents=True)
        write_json(job.folder / "metrics.json", {"final/mIoU": 90.0 if row == "r1" else 50.0, "n": 8})
    scored = {arm: by_seed for arm, by_seed in results(jobs).items() if arm in ("r1", "zero")}
    arms = {"r1": {"label": "R1"}, "zero": {"label": "Zero"}}
    assert set(scored["zero"]) == {3} and set(scored["r1"]) == {3, 4, 5}
    claim = {"text": "a cold start helps", "effects": [{"name": "over none", "contrast": {"r1": 1, "zero": -1}}]}
    record = claim_record("C1", claim, scored, arms)
    assert (record["verdict"], record["n_seeds"], record["ci95"], record["p"]) == ("undecided", 1, None, None)
    for table in (
        arm_table(scored, arms),
        by_level(scored, arms, "mIoU"),
        published_table([{"arm": a, "values": [1.0]} for a in scored], scored, arms),
    ):
        assert list(table.index) == ["R1", "Zero, n = 1 seed"] and "±" not in "".join(map(str, table.loc["Zero, n = 1 seed"]))
    assert set(results({key: job for key, job in jobs.items() if key[0] == "zero"})) == {"zero"}


def test_a_second_grid_in_the_same_folder_is_refused(jobs, tmp_path):
    def nested(job, logs, lock):
        with pytest.raises(RunError, match="another grid runs here"):
            run_jobs(jobs.values(), tmp_path / "other", 1, Pretend())
        return Pretend()(job, logs, lock)

    run_jobs(list(jobs.values())[:1], tmp_path / "logs", 1, nested)


def test_the_name_of_a_run_changes_with_everything_that_its_result_depends_on(jobs, tmp_path):
    (tmp_path / "other.yaml").write_text(
        TABLE.replace("{stage: curation, shared_across_seeds: true}", "{stage: curation, shared_across_seeds: true, sft_min_iou: 0.5}")
    )
    other = grid_jobs(read_grid(tmp_path / "other.yaml"), ["r1", "zero"], [0, 1], str(tmp_path / "out"))
    same = {k for k in jobs if jobs[k].name == other[k].name}
    assert same == {("zero", 0), ("zero", 1)}  # other data make another cold start and another R1; R1-Zero does not use them in this table


@pytest.mark.parametrize(
    "change,error",
    [
        (("$sft/model", "$gone/model"), "refers to \\$gone"),
        (("stage: sft,", "stage: sftt,"), "has stage 'sftt'"),
        (("r1: {stage: grpo,", "r1: {stage: grpo, shared_across_seeds: true,"), r"row 'r1' is shared across seeds and refers to \$sft"),
    ],
)
def test_a_wrong_name_in_a_grid_is_refused(tmp_path, change, error):
    (tmp_path / "grid.yaml").write_text(TABLE.replace(*change))
    with pytest.raises(RunError, match=error):
        read_grid(tmp_path / "grid.yaml")


@pytest.mark.parametrize("part", ["stages", "rows"])
def test_a_smoke_part_that_changes_what_the_grid_has_not_is_refused(tmp_path, part):
    (tmp_path / "grid.yaml").write_text(f"{TABLE}smoke: {{{part}: {{gone: {{steps: 1}}}}}}\n")
    read_grid(tmp_path / "grid.yaml")
    with pytest.raises(RunError, match=f"smoke changes 'gone', which is none of its {part}"):
        read_grid(tmp_path / "grid.yaml", smoke=True)


@pytest.mark.parametrize(
    "change,error",
    [
        (
            ("{stage: curation, shared_across_seeds: true}", "{stage: curation, shared_across_seeds: true, depends_on: $r1}"),
            r"(\$data → \$r1 → \$sft|\$r1 → \$sft → \$data|\$sft → \$data → \$r1) → \$",
        ),
        (("model: tiny", "model: $zero/model"), r"\$zero → \$zero"),
    ],
)
def test_rows_that_need_each_other_in_a_circle_are_refused_by_name(tmp_path, change, error):
    (tmp_path / "grid.yaml").write_text(TABLE.replace(*change))
    with pytest.raises(RunError, match=error):
        read_grid(tmp_path / "grid.yaml")


# statistics


@pytest.mark.parametrize("df,t95,t99", [(1, 12.7062, 63.6567), (2, 4.3027, 9.9248), (4, 2.7764, 4.6041), (7, 2.3646, 3.4995), (60, 2.0003, 2.6603)])
def test_t_quantiles_are_those_of_a_textbook(df, t95, t99):
    assert t_quantile(0.95, df) == pytest.approx(t95, abs=2e-4) and t_quantile(0.99, df) == pytest.approx(t99, abs=2e-4)


def test_mean_interval_and_p_value_are_those_of_a_textbook_example():
    e = of_mean(
        np.subtract([25.0, 25, 27, 44, 30, 67, 53, 53, 52, 60, 28], [27.0, 29, 37, 56, 46, 82, 57, 80, 61, 59, 43])
    )  # platelets before and after smoking (Levine, 1973)
    assert (
        e.mean == pytest.approx(-10.27, abs=0.01) and e.ci95 == pytest.approx([-15.63, -4.91], abs=0.01) and e.p == pytest.approx(0.00163, abs=1e-5)
    )


def test_equal_values_and_a_single_seed_do_not_divide_by_zero():
    assert 0 <= of_mean([0.1, 0.1, 0.1]).p < 1e-30 and of_mean([0.0, 0.0]).p == 1.0 and of_mean([0.1]).ci95 is None


def verdicts_of(effect, spread, n, seeds=5):
    "Verdict → its share among `n` pairs of arms with this true difference and this spread over seeds."
    rng, arms = np.random.default_rng(0), {"a": {}, "b": {}}
    found = Counter()
    for _ in range(n):
        scored = {arm: {s: {"m": 100 * x} for s, x in enumerate(rng.normal(effect * (arm == "a"), spread, seeds))} for arm in arms}
        found[effect_verdict(contrast(scored, {"a": 1, "b": -1}, {"a": "m", "b": "m"}))] += 1
    return {verdict: count / n for verdict, count in found.items()}


def test_verdicts_on_known_effects_are_right_and_wrong_ones_as_rare_as_promised():
    assert verdicts_of(0.10, 0.02, 300)["helps"] > 0.95 and verdicts_of(-0.10, 0.02, 300)["hurts"] > 0.95
    assert verdicts_of(0.0, 0.004, 300)["no difference"] > 0.95
    noise = verdicts_of(0.0, 0.03, 1000)
    assert noise.get("helps", 0) + noise.get("hurts", 0) < 0.07 and noise["undecided"] > 0.9  # few seeds and much noise: undecided
    at_margin = verdicts_of(0.02, 0.004, 1000)  # an effect as large as the margin must not be called no difference
    assert at_margin.get("no difference", 0) < 0.07


def test_a_claim_is_supported_only_by_all_of_its_effects():
    helps, hurts = of_mean([0.10, 0.11, 0.09]), of_mean([-0.10, -0.11, -0.09])
    nothing, noise = of_mean([0.001, -0.001, 0.002, 0.0]), of_mean([0.2, -0.15, 0.1, -0.18])
    for effects, verdict in (
        ([helps, helps], "supported"),
        ([helps, noise], UNDECIDED),
        ([noise, noise], UNDECIDED),
        ([helps, hurts], "mixed"),
        ([helps, nothing], "mixed"),
        ([nothing, noise], "not supported"),
        ([hurts, hurts], "not supported"),
    ):
        assert judge(effects, [{}, {}]) == verdict, verdict


def test_a_claim_is_not_called_unsupported_if_its_interval_holds_both_zero_and_the_published_effect():
    rng = np.random.default_rng(0)
    for _ in range(300):
        effect, published = of_mean(rng.normal(rng.normal(0, 0.01), 0.008, 4)), float(rng.normal(0.01, 0.01))
        verdict = judge([effect], [{}], [published])
        low, high = effect.ci95
        assert not (verdict == "not supported" and low <= 0 <= high and low <= published <= high)
    assert judge([of_mean([0.001, -0.001, 0.002, 0.0])], [{}], [0.1]) == "not supported"  # control: the published effect is far outside the interval


def test_a_wide_interval_around_zero_does_not_show_that_there_is_no_effect():
    noisy, quiet = of_mean([0.2, -0.15, 0.1, -0.18, 0.04]), of_mean([0.001, -0.002, 0.002, 0.0, -0.001])
    assert judge([noisy], [{"equivalence_margin": 0.02}]) == UNDECIDED and judge([quiet], [{"equivalence_margin": 0.02}]) == "supported"
    assert judge([of_mean([0.10, 0.11, 0.09])], [{"equivalence_margin": 0.02}]) == "not supported"


def test_holms_correction_is_that_of_an_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # Wikipedia's example


def test_the_effect_of_two_arms_is_welchs_test():
    from scipy.stats import ttest_ind

    a, b = [80.1, 73.9, 78.0], [71.5, 63.4, 70.2, 66.0]
    scored = {arm: {s: {"m": x} for s, x in enumerate(values)} for arm, values in (("a", a), ("b", b))}
    effect, reference = contrast(scored, {"a": 1, "b": -1}, {"a": "m", "b": "m"}), ttest_ind(a, b, equal_var=False)
    assert effect.p == pytest.approx(reference.pvalue) and effect.ci95 == pytest.approx(np.array(reference.confidence_interval()) / 100)
    assert len(effect.values) == 3  # for the figure: the seeds that both arms have


def test_a_claim_whose_precondition_fails_is_untestable():
    arms = {a: {"row": a, "label": a} for a in ("long", "short", "none")}
    scored = {a: {s: {"final/mIoU": value + s % 2} for s in range(5)} for a, value in (("long", 60.0), ("short", 50.0), ("none", 70.0))}
    noisy = {s: {"final/mIoU": 70.0 + 30 * (-1) ** s} for s in range(5)}
    scored["long"][0]["final/mIoU"] += 0.5
    claim = {"text": "longer is better", "effects": [{"name": "long over short", "contrast": {"long": 1, "short": -1}}]}
    assert claim_record("C4", claim, scored, arms)["verdict"] == "supported"
    needs = {"name": "thinking helps", "contrast": {"long": 1, "none": -1}}
    record = claim_record("C4", {**claim, "precondition": needs}, scored, arms)
    assert record["verdict"] == "untestable here" and "thinking helps" in record["note"] and record["arms"] == ["long", "short", "none"]
    record = claim_record("C4", {**claim, "precondition": needs}, {**scored, "none": noisy}, arms)
    assert record["verdict"] == UNDECIDED  # it is undecided whether thinking helps, so the claim is undecided


# sets of equal size and mix, and difficulty


def sample(i: int, source: str = "a", teacher: float = 0.6, ious=(0.2, 0.8), length: float = 4.0) -> Sample:
    ious = list(ious)
    record = {"policy": "p", "ious": ious, "mean_iou": float(np.mean(ious)), "pass_rate": 0.5}
    return Sample(
        f"q{i}",
        f"{i}.mp4",
        16.0,
        "the red circle",
        [[2.0, 2.0 + length]],
        source,
        teacher={"response": response_text("it is seen", [2, 6]), "span": [2, 6], "iou": teacher},
        difficulty=record,
    )


def test_a_matched_set_has_the_size_and_the_mix_and_depends_on_the_seed():
    pool = [sample(i, "ab"[i % 3 == 0], length=[3.0, 9.0][i % 2]) for i in range(120)]
    like = [s for s in pool if s.spans[0][1] > 9][:24]
    drawn, other = subsample(pool, like=like, by=("source", "span"), seed=0)
    mix = lambda samples: Counter((s.source, s.spans[0][1]) for s in samples)
    assert mix(drawn) == mix(like) and other == 0 and drawn == subsample(pool, like=like, by=("source", "span"), seed=0)[0]
    assert drawn != subsample(pool, like=like, by=("source", "span"), seed=1)[0]
    assert mix(subsample(pool, like=like, seed=0)[0]) != mix(like)  # control: equal size alone is not equal mix
    short = [s for s in pool if s.spans[0][1] < 9]
    assert subsample(short, like=like, by=("span",))[1] == 24  # none of that kind: 24 other samples fill the set, which it reports
    with pytest.raises(SampleError, match="fewer than the 200"):
        subsample(pool, 200)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_gives_a_plan_of_the_samples_it_was_given(strategy):
    rng = np.random.default_rng(0)
    pool = [sample(i, teacher=rng.random(), ious=np.clip(rng.normal(m, 0.1, 8), 0, 1)) for i, m in enumerate(np.linspace(0, 1, 40))]
    curriculum = make_curriculum(pool, strategy, seed=3)
    assert 0 < len(curriculum.samples) <= 40 and {s.qid for s in curriculum.samples} <= {s.qid for s in pool}
    assert [s.qid for s in make_curriculum(pool, strategy, seed=3).samples] == [s.qid for s in curriculum.samples]
    order = curriculum.epochs(4, seed=1)
    seen = [next(order) for _ in range(len(curriculum.samples) - len(curriculum.samples) % 4)]
    assert len(seen) == len(set(seen))  # one pass has each sample at most once


def test_strategies_name_the_field_that_the_samples_lack():
    bare = [dataclasses.replace(sample(0), teacher=None, difficulty=None)]
    for strategy, missing in (("teacher_threshold", "'teacher'"), ("gaussian", "'difficulty'"), ("easy_to_hard", "'difficulty'")):
        with pytest.raises(SampleError, match=missing):
            make_curriculum(bare, strategy)
    with pytest.raises(SampleError, match="keeps none"):
        make_curriculum([sample(0, teacher=0.1)], "teacher_threshold")


def test_samples_are_dropped_by_their_last_rewards_and_come_back_when_these_change():
    curriculum = CurriculumSampler([sample(i) for i in range(4)], keep_fn=STRATEGIES["drop_all_wrong_and_correct"].keep_fn)
    order = curriculum.epochs(1)
    assert sorted(next(order) for _ in range(4)) == [0, 1, 2, 3]
    curriculum.last_rewards |= {"q0": [0.9, 1.0], "q1": [0.0, 0.0], "q2": [0.5, 0.1]}
    assert sorted(next(order) for _ in range(2)) == [2, 3]
    curriculum.last_rewards["q0"] = [0.1, 0.2]  # the policy has forgotten it
    assert sorted(next(order) for _ in range(3)) == [0, 2, 3]


def test_difficulty_records_are_joined_by_qid(tmp_path):
    write_jsonl(tmp_path / "rl_scored.jsonl", [sample(i) for i in range(3)])
    bare = [dataclasses.replace(sample(i), difficulty=None) for i in (2, 0)]
    assert [s.difficulty["mean_iou"] for s in with_difficulty(bare, tmp_path)] == [0.5, 0.5]
    with pytest.raises(SampleError, match="no difficulty for 1 of 1 samples, e.g. 'q9'"):
        with_difficulty([sample(9)], tmp_path)


def test_interrupted_rollouts_continue_to_the_same_rows(tmp_path):
    import random

    def ask(batch):
        if len(calls) == stop:
            raise KeyboardInterrupt
        calls.append(len(batch))
        return [f"<time>[{random.random()}, 9]</time>" for _ in range(3 * len(batch))]

    pool, calls, stop = [sample(i) for i in range(7)], [], None
    whole = resumable_rollouts(tmp_path / "a.jsonl", ask, pool, 2, seed=5)
    calls, stop = [], 2
    with pytest.raises(KeyboardInterrupt):
        resumable_rollouts(tmp_path / "b.jsonl", ask, pool, 2, seed=5)
    calls, stop = [], None
    assert resumable_rollouts(tmp_path / "b.jsonl", ask, pool, 2, seed=5) == whole and calls == [2, 1]
    assert resumable_rollouts(tmp_path / "c.jsonl", ask, pool, 2, seed=6) != whole


def test_the_trainer_takes_queries_in_the_order_of_the_curriculum(toy_samples, world, tmp_path):
    from vtg_r1.grpo import GRPOParams, grpo_trainer
    from vtg_r1.models.tiny import build_tiny

    view = VideoInputConfig(str(world / "videos"), 4, 28 * 28, "short")
    scored = [
        dataclasses.replace(s, difficulty={"policy": "p", "ious": [i / 20] * 2, "mean_iou": i / 20, "pass_rate": 0})
        for i, s in enumerate(toy_samples[:6])
    ]
    model, processor = build_tiny()
    curriculum = make_curriculum(scored, "easy_to_hard")
    trainer = grpo_trainer(
        model,
        processor,
        curriculum.samples,
        view,
        tmp_path,
        GRPOParams(steps=3, prompts_per_step=2, num_generations=2, per_device_batch_size=4),
        curriculum,
    )
    qids = [row["qid"] for batch in trainer.get_train_dataloader() for row in batch]
    assert qids == [s.qid for s in reversed(scored) for _ in range(2)]
