"""CLEAN starts processes that have the heavy libraries loaded already.

They are forked from a server process that only imports, so a test can run a stage in its own process without waiting for imports."""

import multiprocessing

CLEAN = multiprocessing.get_context("forkserver")
CLEAN.set_forkserver_preload(
    [
        "vtg_r1.sft",
        "vtg_r1.grpo",
        "vtg_r1.difficulty",
        "vtg_r1.benchmarks",
        "trl.trainer.sft_trainer",
        "trl.trainer.grpo_trainer",
        "torch.distributed.fsdp",
        "transformers.models.qwen2_5_vl.modeling_qwen2_5_vl",
        "seaborn",
        "papermill",
    ]
)
