"""Small runs of the stages. 03 reads what 01 wrote, and 04 asks the model of 03. 02 to 05 run as notebooks.

The notebooks of 01, 06 and 07 run in test_curation, test_claims and test_benchmarks_stage."""

import json
import math

import pytest

from vtg_r1.cli import main
from vtg_r1.core.prompts import response_text
from vtg_r1.core.runtime import resolve
from vtg_r1.core.samples import SampleError, iter_jsonl, load_samples, write_jsonl
from vtg_r1.curation import CurationParams
from vtg_r1.curation import main as curation
from vtg_r1.data.sources import find_videos, read_annotations
from vtg_r1.data.toyworld import make_world, read_scripts, toy_teacher
from vtg_r1.grpo import GRPOParams
from vtg_r1.grpo import main as grpo
from vtg_r1.runs.parameters import from_mapping
from vtg_r1.runs.run import read_manifest
from vtg_r1.sft import SFTParams
from vtg_r1.sft import main as cold_start

pytestmark = pytest.mark.slow


class Chain:
    "Runs stages into one outputs folder and remembers where they went."

    def __init__(self, outputs):
        self.outputs, self.world = outputs, make_world(outputs / "world", videos=12, seed=1)
        self.videos = str(self.world / "videos")

    def run(self, notebook: str, run_name: str, **parameters):
        given = {"outputs_dir": str(self.outputs), "run_name": run_name, **parameters}
        pairs = [x for name, value in given.items() for x in ("-p", name, json.dumps(value))]
        assert main(["run", f"nbs/{notebook}.ipynb", *pairs]) == 0
        folder = self.outputs / notebook.split("_", 1)[1] / run_name
        assert read_manifest(folder)["status"] == "finished"
        assert (folder / f"{notebook}.ipynb").is_file()
        return folder

    def run_here(self, params_class, main, run_name: str, **parameters):
        "Runs a stage by its function in this process, without figures. It saves the seconds in which a kernel starts and imports."
        given = {"outputs_dir": str(self.outputs), "run_name": run_name, "figures": False, **parameters}
        folder = main(from_mapping(params_class, given))
        assert read_manifest(folder)["status"] == "finished"
        return folder

    @staticmethod
    def metrics(folder) -> dict:
        metrics = json.loads((folder / "metrics.json").read_text())
        assert all(v is None or math.isfinite(v) for v in metrics.values()) and "n" in metrics and "seed" in metrics
        return metrics


SMALL = {"threads": 1, "seed": 0}
RL = {**SMALL, "model": "tiny", "steps": 2, "prompts_per_step": 2, "num_generations": 4, "per_device_batch_size": 8, "max_completion_length": 16}


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    return Chain(tmp_path_factory.mktemp("outputs"))


@pytest.fixture(scope="module")
def curated(chain):
    return curation(CurationParams(outputs_dir=str(chain.outputs), run_name="c", toy_videos=24, seed=0))  # its notebook: tests/test_curation.py


@pytest.fixture(scope="module")
def tuned(chain, curated):
    root = str(resolve(read_manifest(curated)["config"]["video_root"]))
    return chain.run(
        "03_sft",
        "s",
        annotations=str(curated / "coldstart.jsonl"),
        video_root=root,
        epochs=1.0,
        batch_size=4,
        per_device_batch_size=4,
        max_completion_length=16,
        **SMALL,
    )


@pytest.fixture(scope="module")
def trained(chain):
    return chain.run("05_grpo", "g", annotations=str(chain.world / "samples.jsonl"), video_root=chain.videos, **RL)


def test_curation_splits_by_the_teachers_iou(curated):
    cold, rl = load_samples(curated / "coldstart.jsonl"), load_samples(curated / "rl.jsonl")
    assert cold and rl and all(s.teacher["iou"] > 0.8 for s in cold) and all(s.teacher["iou"] >= 0.4 for s in rl)


def test_sft_on_the_curated_file_writes_metrics_model_and_figure(tuned):
    m = Chain.metrics(tuned)
    assert m["train_samples"] > 0 and "final/mIoU" in m
    assert (tuned / "model/model.safetensors").is_file() and (tuned / "figs/loss.png").is_file()


def test_grpo_writes_metrics_predictions_manifest_and_figure(trained):
    m = Chain.metrics(trained)
    assert {"initial/mIoU", "final/mIoU", "initial/R1@0.5", "final/R1@0.3", "final/R1@0.7", "n", "seed"} <= set(m)
    rows = [row for _, row in iter_jsonl(trained / "predictions.jsonl")]
    assert len(rows) == m["n"] and all(set(r) >= {"qid", "pred", "response"} for r in rows)
    manifest = read_manifest(trained)
    assert (
        manifest["inputs"]["annotations"]["sha256"]
        and manifest["config"]["trainer"]["beta"] == 0.0
        and manifest["config"]["trainer"]["num_generations"] == 4
    )
    assert (trained / "figs/reward.png").is_file()


def test_a_training_run_lists_the_samples_that_it_trained_on(tuned, trained, curated):
    for folder in (tuned, trained):
        rows = [row for _, row in iter_jsonl(folder / "train_samples.jsonl")]
        assert len(rows) == Chain.metrics(folder)["train_samples"] and all(set(r) == {"qid", "video", "query"} for r in rows)
    cold = {s.qid for s in load_samples(curated / "coldstart.jsonl")}
    assert {row["qid"] for _, row in iter_jsonl(tuned / "train_samples.jsonl")} <= cold


def test_manifests_name_the_policy_that_a_run_began_from(tuned, trained):
    from vtg_r1.models.loading import model_fingerprint

    for folder in (tuned, trained):
        assert read_manifest(folder)["policy"] == {"path": "tiny", "key": model_fingerprint("tiny")}


def test_grpo_with_the_same_seed_gives_the_same_metrics_to_the_last_digit(chain, trained):
    "The first run is the notebook in its kernel, the second the function of the stage in this process. Another seed trains differently."
    again = chain.run_here(GRPOParams, grpo, "g2", annotations=str(chain.world / "samples.jsonl"), video_root=chain.videos, **RL)
    assert (again / "metrics.json").read_bytes() == (trained / "metrics.json").read_bytes()
    other = chain.run_here(GRPOParams, grpo, "g3", annotations=str(chain.world / "samples.jsonl"), video_root=chain.videos, **{**RL, "seed": 1})
    rewards = [[row["reward"] for _, row in iter_jsonl(folder / "log.jsonl")] for folder in (trained, again, other)]
    losses = [[row["loss"] for _, row in iter_jsonl(folder / "log.jsonl")] for folder in (trained, again, other)]
    assert rewards[0] == rewards[1] and losses[0] == losses[1] != losses[2]


def test_a_start_that_was_just_scored_is_not_scored_again(chain, trained):
    """The run that made the start model ended with an evaluation on the same questions: a new run takes its answers.

    With another batch size the new run asks again, and gets the same answers."""
    own = {"annotations": str(chain.world / "samples.jsonl"), "video_root": chain.videos, **RL, "model": str(trained / "model"), "steps": 1}
    taken = chain.run_here(GRPOParams, grpo, "after", **own)
    made = chain.run_here(GRPOParams, grpo, "after-anew", **own, eval_batch_size=5)
    assert read_manifest(taken)["scored_by"] == "grpo/g" and "scored_by" not in read_manifest(made)
    before = [(folder / "predictions_before.jsonl").read_text() for folder in (taken, made)]
    assert before == [(trained / "predictions.jsonl").read_text()] * 2
    assert all(Chain.metrics(folder)["initial/mIoU"] == Chain.metrics(trained)["final/mIoU"] for folder in (taken, made))


def test_difficulty_scores_every_sample(chain, tuned):
    scored = chain.run(
        "04_difficulty",
        "d",
        annotations=str(chain.world / "samples.jsonl"),
        video_root=chain.videos,
        model=str(tuned / "model"),
        max_samples=6,
        num_rollouts=3,
        **SMALL,
    )
    samples = load_samples(scored / "rl_scored.jsonl")
    assert len(samples) == 6 and all(len(s.difficulty["ious"]) == 3 for s in samples)


def test_rewards_notebook_draws_its_figures(chain):
    assert any((chain.run("02_rewards", "r", groups=40) / "figs").iterdir())


@pytest.fixture(scope="module")
def real(shared):
    "Real annotations of three real mp4 files, and held-out ones of a fourth."
    folder = shared / "data/annotations"
    train = [("charades_sta", "charades_sta/charades_sta_test.txt"), ("activitynet", "activitynet_captions/val_2.json")]
    return {
        "annotations": [{"path": str(folder / path), "dataset": name} for name, path in train],
        "eval_annotations": [{"path": str(folder / "nextgqa"), "dataset": "nextgqa", "split": "val"}],
        "video_root": str(shared / "data/videos"),
        "missing_videos": "skip",
    }


@pytest.fixture(scope="module")
def schooled(chain, real):
    "A cold start on the real samples with their true spans. The tiny model has never read English: without a cold start, no rollout gets a reward."
    samples = find_videos(read_annotations(real["annotations"]), real["video_root"], "skip")
    rows = [{**s.to_dict(), "teacher": {"response": response_text("it is seen.", [round(t) for t in s.spans[0]])}} for s in samples]
    write_jsonl(chain.outputs / "real.jsonl", rows)
    given = {
        "annotations": str(chain.outputs / "real.jsonl"),
        "eval_annotations": real["eval_annotations"],
        "model": "tiny",
        "missing_videos": "skip",
        "video_root": real["video_root"],
        "eval_before_training": False,
        "eval_limit": 2,
    }
    return chain.run_here(
        SFTParams,
        cold_start,
        "real",
        **given,
        epochs=25.0,
        learning_rate=2e-3,
        batch_size=11,
        per_device_batch_size=11,
        max_completion_length=32,
        **SMALL,
    )


@pytest.mark.shared
def test_grpo_on_real_annotations_and_videos(chain, real, schooled):
    how = {**RL, "model": str(schooled / "model"), "prompts_per_step": 4, "per_device_batch_size": 16, "max_completion_length": 32}
    folder = chain.run_here(GRPOParams, grpo, "real", **real, eval_limit=2, **how)
    log = [row for _, row in iter_jsonl(folder / "log.jsonl")]
    assert len(log) == 2 and all(math.isfinite(row["loss"]) for row in log) and read_manifest(folder)["decode"]["videos"] == 3
    assert all(row["reward"] > 0 and row["grad_norm"] > 0 for row in log), [(row["reward"], row["grad_norm"]) for row in log]


@pytest.mark.shared
def test_spans_of_real_annotations_equal_the_files(shared):
    path = shared / "data/annotations/charades_sta/charades_sta_test.txt"
    samples = find_videos(read_annotations(str(path), "charades_sta"), shared / "data/videos", "skip")
    lines = [line for line in path.read_text().splitlines() if line.split()[0] in ("OHOFG", "Y1HGC")]
    assert samples and [(s.query, s.spans) for s in samples] == [
        (t, [[float(a), float(b)]]) for head, t in (line.split("##") for line in lines) for _, a, b in [head.split()]
    ]


def test_a_missing_video_is_named_and_the_run_marked_as_failed(tmp_path, chain):
    samples = load_samples(chain.world / "samples.jsonl")
    write_jsonl(
        tmp_path / "s.jsonl",
        [
            *(s.to_dict() for s in samples),
            {**samples[0].to_dict(), "qid": "x", "video": "gone.mp4", "teacher": toy_teacher(samples[0], read_scripts(chain.world))},
        ],
    )
    given = {"outputs_dir": str(tmp_path), "run_name": "m", "annotations": str(tmp_path / "s.jsonl"), "video_root": chain.videos, "model": "tiny"}
    with pytest.raises(SampleError, match="gone.mp4"):  # the command's one line: tests/test_cli.py
        grpo(from_mapping(GRPOParams, given))
    assert read_manifest(tmp_path / "grpo/m")["status"] == "failed" and not (tmp_path / "grpo/m/metrics.json").exists()
