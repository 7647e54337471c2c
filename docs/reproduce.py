"The page Reproduce the paper: `python docs/reproduce.py > docs/reproduce.md`. Places, hours and published numbers are those of the package; a test compares the page."

from vtg_r1.cli.recipe import Recipe, read_recipe
from vtg_r1.core.tables import markdown_table
from vtg_r1.data.official_benchmarks import published
from vtg_r1.data.where import PLACES
from vtg_r1.runs.execute import launch_config
from vtg_r1.runs.parameters import from_mapping, to_mapping
from vtg_r1.train.estimate import answer_seconds, training_seconds

BASE = "Qwen/Qwen2.5-VL-7B-Instruct"
CARD = "H100"
TRAINED = {"cold_start": 13_000, "difficulty": 512, "rl": 18_000}  # samples: paper, Table 1; 04 takes a part of the RL set
QUERIES = {"charades_sta": 3720, "nextgqa": 5553, "rextime": 921}
LOOK = 256  # held-out queries that the recipe's cold start and RL are evaluated on
TITLES = {"charades_sta": "Charades-STA", "nextgqa": "NExT-GQA", "rextime": "ReXTime"}


def hours(recipe: Recipe) -> list[tuple[str, ...]]:
    "A row for each step that takes GPUs: its name, the number of processes, hours of wall time."
    rows = []
    for step in recipe.steps:
        if step.stage == "curation":  # the teacher's hours are the server's
            continue
        if step.stage == "benchmarks" and not step.name.endswith("-base"):  # the three policies take as long as each other
            continue
        params = from_mapping(type(step.params), {**to_mapping(step.params), "model": BASE})
        processes = int(launch_config(params.accelerate_config).get("num_processes") or 1) if params.accelerate_config else 1
        seconds, answers, name = 0.0, 0.0, step.name
        if step.stage in ("sft", "grpo"):
            seconds = training_seconds(params, TRAINED[step.name], CARD, processes)
            answers = 2 * LOOK / params.eval_batch_size
        elif step.stage == "difficulty":
            answers = TRAINED[step.name] / params.batch_size
        else:
            answers = QUERIES[params.benchmark] / params.batch_size
            name = f"07, {TITLES[params.benchmark]}, one of three policies"
        seconds += answer_seconds(params, answers, CARD) / processes
        rows.append((name, f"{processes}", f"{seconds / 3600:.1f}"))
    return rows


def numbers(benchmark: str) -> list[tuple[str, ...]]:
    "What the paper reports on a benchmark: a row per model, with the step of the recipe to compare it with."
    after = {"Qwen2.5-VL-7B": "base", "TVG-ColdStart": "cold_start", "TVG-R1": "rl", "TVG-R1 (ablation tables)": "rl"}
    rows = [row for row in published(benchmark) if row["model"] in after]
    known = {
        name: {key: "" if value is None else f"{value:.2f}" for key, value in row.items() if key not in ("model", "source", "rule")}
        for name, row in ((row["model"], row) for row in rows)
    }
    sources = {row["model"]: row["source"] for row in rows}
    return [(TITLES[benchmark], after[name], name, *known[name].values(), sources[name]) for name in known]


def page() -> str:
    "The page as Markdown."
    recipe = read_recipe("configs/recipe_7b.yaml")
    places = [(p.name, p.use, p.annotations, p.videos, p.licence, p.gigabytes, f"`{p.layout}`", p.counts) for p in PLACES.values()]
    heads = ("data set (reader)", "use", "annotations", "videos", "licence", "GB of videos", "place here", "size")
    steps = "\n".join(
        f"- `{step.name}`: [{step.notebook}](../{step.notebook}), run `outputs/{step.stage}/{step.params.run_name}`"
        for step in recipe.steps
        if step.stage != "benchmarks"
    )
    ways = [
        ("`vtg-r1 recipe configs/recipe_toy.yaml`", "two CPU cores, minutes"),
        (
            "`vtg-r1 recipe configs/recipe_7b_released.yaml`",
            "the authors' RL set (row tvg_r1) and its videos, their cold start (RuizheChen/TVG_Coldstart), "
            f"the base model ({BASE}), the three test sets with videos, 8 GPUs of 80 GB; no teacher",
        ),
        (
            "`vtg-r1 recipe configs/recipe_7b.yaml`",
            f"all sources below except tvg_r1, the base model ({BASE}), a teacher (56,000 requests), 8 GPUs of 80 GB",
        ),
    ]
    columns = ("benchmark", "after step", "model of the paper", "`R1@0.3`", "`R1@0.5`", "`R1@0.7`", "mIoU", "source")
    return f"""# Reproduce the paper

[arXiv 2507.18100](https://arxiv.org/abs/2507.18100) from its sources to its tables. This page is made by `python docs/reproduce.py` from the tables that `vtg-r1 data where` and the recipes use.

**Nobody has run this here.** Eight GPUs, a teacher's key and the videos were not at hand. What was run is the same recipe on the toy world, with the same commands:

```bash
vtg-r1 recipe configs/recipe_toy.yaml    # minutes on two CPU cores; ends in a table of the same form
```

## Three ways

{markdown_table(("command", "what it needs"), ways)}

`--dry-run` names everything that is missing, all at once, and runs nothing. A recipe that was stopped goes on with the same command; finished stages are kept. `vtg-r1 runs` lists all runs.

## Where annotations and videos come from

`vtg-r1 data where NAME` prints a row. The table has names and repositories only: nothing is copied here, and the rights stay with their owners. Gigabytes are sums of the sizes that the pages of the named archives showed when they were read; an archive may have changed since. An archive without a repository is in that of the videos. "Not known" means that no page that could be read gives it. This command asks the Hugging Face Hub how many gigabytes a folder has:

```bash
python -c "from huggingface_hub import HfApi; print(sum(getattr(f, 'size', 0) for f in HfApi().list_repo_tree('yeliudev/VideoMind-Dataset', 'internvid_vtime', repo_type='dataset')) / 1e9)"
```

{markdown_table(heads, places)}

The authors' README says which folders its scripts fetch (`Download_raw_videos.sh`, `Download_evaluation_raw_videos.sh` in github.com/zjuruizhechen/TVG-R1).

## Layout

```
data/
  videos/            all videos; a stage looks for a video's name, with any usual file ending, in the subfolder that the name gives, or directly here
  <data set>/        its annotation files, as in the column "place here"
outputs/             runs
```

## Hours

These hours are estimates; none is measured. They are extrapolated from LoRA steps of one query and 1024 tokens, with random weights, on one H200 ([perf](../perf/README.md)), to {CARD} cards, the training of all weights and responses of 2048 tokens. Shorter responses take less. `vtg-r1 estimate` does the same for GRPO on one card. Here the processes share all work but the decoding in RL, which takes each of them as long as it would take one alone. [07](../nbs/07_benchmarks.ipynb) asks three policies, base, cold start and RL; each takes the same time.

{markdown_table(("step", "processes", "hours (estimate)"), hours(recipe))}

Training all weights of the 7B model, which has 8.3 billion parameters, takes 16 bytes per parameter: 133 GB, divided among the processes (FSDP2). Activations come on top; their memory was not measured.

## Commands, in order

```bash
vtg-r1 data where                                        # the table above
vtg-r1 data validate --dataset charades_sta --annotations data/charades_sta/charades_sta_test.txt --videos data/videos
vtg-r1 recipe configs/recipe_7b.yaml --dry-run           # what is missing
vtg-r1 recipe configs/recipe_7b.yaml                     # the steps below, then 07 for base, cold start and RL
vtg-r1 runs                                              # state, scores and age of each
```

{steps}

## The number to see after each

- `curation`: `coldstart.jsonl` about 13,000 samples, `rl.jsonl` about 18,000 (paper, Table 1). `table1.json` in the run has the counts by source.
- `difficulty`: the paper has no number for it. `vtg-r1 difficulty` explains the result.
- `cold_start` and `rl`: compare the tables of 07, and the table at the end of the recipe, with the paper:

{markdown_table(columns, [row for benchmark in QUERIES for row in numbers(benchmark)])}

The paper gives two numbers for the same model in different tables. For the cold start Table 3 has mIoU 42.19, 26.14 and 26.26 (Charades-STA, NExT-GQA, ReXTime). `R1@m` is the share of queries whose IoU is at least m. The recipe's table also has answers that see no frame: the whole video, its centre third, a random span and, in `recipe_7b`, the typical span of the training set. Video-OPD ([arXiv 2602.02994](https://arxiv.org/abs/2602.02994)) has measured the released model again, on the corrected labels of TimeLens-Bench: it is below its base on Charades (`R1@0.5` 23.6 against 35.1) and ActivityNet (31.0 against 32.5), and about level on QVHighlights (41.2 against 41.7). So it is open whether the recipe gains on clean labels.
"""


if __name__ == "__main__":
    print(page(), end="")
