"""Three steps of GRPO of a tiny model with random weights on given responses have the committed loss, gradient norm and reward.

If this fails, the training itself has changed."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from vtg_r1.core.prompts import response_text
from vtg_r1.core.runtime import set_seed
from vtg_r1.core.samples import Sample
from vtg_r1.data.model_inputs import VideoInputConfig
from vtg_r1.grpo import GRPOParams, grpo_trainer
from vtg_r1.models.tiny import build_tiny
from vtg_r1.train.trainer import fit
from vtg_r1.video.reader import read_frames

COMMITTED = Path(__file__).parent / "golden" / "grpo_steps.json"


def given_responses(prompts, trainer):
    "Of four responses to a query each has one word more and a span 2 s longer than the one before. One in eight lacks the format."
    texts = [response_text("seen " * (1 + i % 4), [1, 2 + 2 * (i % 4)]) if i % 8 != 5 else "from 1 to 2" for i in range(len(prompts))]
    tokenizer = trainer.processing_class.tokenizer
    ids = [tokenizer(text)["input_ids"] + [tokenizer.eos_token_id] for text in texts]
    shown = trainer.processing_class.apply_chat_template(prompts, add_generation_prompt=True, tokenize=True, return_dict=True)
    return {"prompt_ids": shown["input_ids"], "completion_ids": ids, "logprobs": [[0.0] * len(c) for c in ids]}


@pytest.fixture
def moving_square(tmp_path):
    "Eight seconds of a moving square, drawn here, so that the numbers do not depend on the toy world."
    import av

    with av.open(str(tmp_path / "v.mp4"), "w") as f:
        stream = f.add_stream("libx264", rate=2, options={"crf": "0", "preset": "ultrafast"})
        stream.width = stream.height = 28
        stream.pix_fmt = "yuv444p"
        for i in range(16):
            frame = np.zeros((28, 28, 3), np.uint8)
            frame[:, i : i + 8] = (200, 40 + 10 * i, 90)
            f.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        f.mux(stream.encode())
    assert len(read_frames(tmp_path / "v.mp4", 8, 28 * 28)[0]) == 8
    return tmp_path


def test_three_steps_of_grpo_have_the_committed_numbers(moving_square, tmp_path):
    samples = [Sample(f"q{i}", "v.mp4", 8.0, f"the square {i}", [[1.0, 3.0 + i]]) for i in range(4)]
    set_seed(0)
    torch.set_num_threads(1)
    model, processor = build_tiny(0)
    sizes = dict(prompts_per_step=2, num_generations=4, per_device_batch_size=4)
    params = GRPOParams(steps=3, learning_rate=1e-3, warmup_steps=0, share_prefix=False, **sizes)
    trainer = grpo_trainer(model, processor, samples, VideoInputConfig(str(moving_square), 8, 28 * 28, "short"), tmp_path, params)
    trainer.rollout_func = given_responses
    log = fit(trainer, "GRPO", {})
    curve = [[row["loss"], row["grad_norm"], row["reward"]] for row in log]
    np.testing.assert_allclose(curve, json.loads(COMMITTED.read_text()), rtol=1e-3, atol=1e-5)
