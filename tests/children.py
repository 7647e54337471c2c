"Children of a process that has the libraries loaded and no threads: a stage in a process of its own, without the seconds of its imports."

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
