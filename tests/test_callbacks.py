"Training ends early on a plateau of the reward or without unequal rewards; what the other callbacks log, restore and average."

import contextlib

import pytest
import torch
from transformers import TrainerControl, TrainerState, TrainingArguments

from vtg_r1.core.prompts import response_text
from vtg_r1.core.runtime import RunError
from vtg_r1.data.model_inputs import VideoInputConfig
from vtg_r1.difficulty import make_curriculum
from vtg_r1.grpo import GRPOParams, grpo_trainer
from vtg_r1.models.tiny import build_tiny
from vtg_r1.rewards import set_tiou_reward, tiou_reward
from vtg_r1.train.callbacks import CompletionLogger, PeriodicEval, PlateauStop, WeightAverage, plateaued
from vtg_r1.train.evaluation import EvalSet
from vtg_r1.train.trainer import fit

RISING = [0.02 * step for step in range(40)]


@pytest.mark.parametrize(
    "rewards, patience, plateau",
    [
        ([], 1, False),
        ([0.5] * 10, 1, False),  # a plateau needs more than one window of ten steps
        ([0.5] * 11, 1, True),
        ([0.5] * 11, 2, False),
        (RISING, 1, False),
        (RISING + [0.8] * 19, 5, True),
        ([0.5, 0.6] * 20, 3, True),  # going up and down is no gain
        ([0.5 + 0.0001 * step for step in range(40)], 25, True),  # less than a hundredth is no gain either
    ],
)
def test_a_plateau_is_patience_steps_without_a_gain(rewards, patience, plateau):
    assert plateaued(rewards, patience) is plateau


def test_only_the_log_of_a_training_step_ends_a_training_on_a_plateau():
    for rewards, logs, ends in ((RISING, {"loss": 0.1}, False), ([0.5] * 20, {"eval": 1}, False), ([0.5] * 20, {"loss": 0.1}, True)):
        control = TrainerControl()
        state = TrainerState(global_step=len(rewards), log_history=[{"loss": 0.1, "reward": r} for r in rewards] + [{"eval": 1}])
        PlateauStop(5).on_log(None, state, control, logs=logs)
        assert control.should_training_stop is ends


def test_a_training_whose_reward_does_not_rise_ends_after_its_patience(world, toy_samples, tmp_path, capsys):
    "The reward stays 0, so every step after the first window of ten has no gain. A patience of 0 turns the stop off."
    for patience, steps in ((2, 12), (0, 13)):
        with pytest.warns(UserWarning):
            log = fit(untrained(toy_samples, world, tmp_path / str(patience), steps=13), "", {}, early_stopping_patience=patience)
        assert len(log) == steps
    assert capsys.readouterr().out == "step 12: no gain in reward for 2 steps, training ends here\n"


def test_the_histogram_of_tious_counts_false_refusals_as_0_and_leaves_out_what_has_no_tiou(tmp_path):
    args, state, logger = TrainingArguments(str(tmp_path / "checkpoints"), use_cpu=True), TrainerState(global_step=1), CompletionLogger(keep=2)
    state.log_history = [{"loss": 0.1, "step": 1}]
    refusal, answer = response_text(None, []), response_text(None, [[0, 4]])
    truths = [[[0, 4]], [[0, 8]], [[0, 4]], [[0, 4]], []]
    paid = logger.wrap_reward(set_tiou_reward)(completions=[answer, answer, refusal, refusal, refusal], spans=truths, qid=list("abcde"))
    assert paid == [1, 0.5, -0.5, -0.5, 1]
    assert logger.wrap_reward(tiou_reward)(completions=[answer], spans=[[]], qid=["f"]) == [None]  # of one span, where there is none
    logger.on_train_begin(args, state, TrainerControl())
    logger.on_log(args, state, TrainerControl(), logs={"loss": 0.1})
    assert state.log_history[0]["tiou_histogram"] == [2, 0, 0, 0, 0, 1, 0, 0, 0, 2]


def untrained(toy_samples, world, tmp_path, steps, **changes):
    "A trainer of a model with random weights: it never gets a reward, and never ends a response."
    view = VideoInputConfig(str(world / "videos"), 8, 28 * 28, "short")
    params = GRPOParams(prompts_per_step=2, num_generations=4, per_device_batch_size=4, steps=steps, max_completion_length=6, **changes)
    return grpo_trainer(*build_tiny(0), toy_samples[:8], view, tmp_path, params)


def test_steps_with_equal_rewards_in_every_group_give_warnings_and_end_the_run(world, toy_samples, tmp_path):
    trainer = untrained(toy_samples, world, tmp_path, steps=6)
    with pytest.warns(UserWarning) as caught:
        log = fit(trainer, "", {}, zero_std_patience=4)
    messages = [str(w.message) for w in caught]
    assert len(log) == 4 and all(row["frac_reward_zero_std"] == 1 and row["reward"] == 0 for row in log)
    for start in (
        "step 1: the rewards of every group are equal (mean 0)",
        "step 4: no group had unequal rewards for 4 steps (mean 0)",
        "step 1: 100 % of the responses were clipped at max_completion_length = 6 tokens",
        "4 of 4 steps had equal rewards in every group, 4 of them in a row",
        "4 of 4 steps: 90 % of the responses or more were clipped",
    ):
        assert any(message.startswith(start) for message in messages), start


@pytest.mark.parametrize("patience, entropy_coef", [(0, 0.0), (2, 1e-3)])
def test_a_run_without_unequal_rewards_may_go_on(world, toy_samples, tmp_path, patience, entropy_coef):
    "By the parameter, or because an entropy bonus changes the policy all the same."
    trainer = untrained(toy_samples, world, tmp_path, steps=4, entropy_coef=entropy_coef)
    with pytest.warns(UserWarning, match="4 of 4 steps had equal rewards"):
        assert len(fit(trainer, "", {}, zero_std_patience=patience)) == 4


def test_a_resumed_training_at_its_last_step_keeps_its_history_and_the_rewards_of_its_curriculum(world, toy_samples, tmp_path):
    "A run that was killed in its final evaluation has nothing left to train. Everything is read from its last checkpoint."
    view = VideoInputConfig(str(world / "videos"), 4, 28 * 28, "short")
    sizes = dict(prompts_per_step=2, num_generations=2, per_device_batch_size=4, steps=2, save_steps=2, max_completion_length=3)

    def ended():
        model, processor = build_tiny(0)
        curriculum = make_curriculum(toy_samples[:4], "drop_all_correct")
        trainer = grpo_trainer(model, processor, toy_samples[:4], view, tmp_path, GRPOParams(**sizes), curriculum)
        looks = PeriodicEval(processor, [EvalSet("", toy_samples[4:6], view.video_root)], view, 1, 2, 3)
        trainer.add_callback(looks)
        resumed = (tmp_path / "checkpoints").exists()
        with contextlib.nullcontext() if resumed else pytest.warns(UserWarning):
            fit(trainer, "", {})
        return looks.history, curriculum.last_rewards

    history, rewards = ended()
    assert [row["step"] for row in history] == [0, 1, 2] and rewards
    assert ended() == (history, rewards)


def test_the_sums_of_a_weight_average_move_to_the_device_of_the_weights():
    "A checkpoint gives sums on the CPU, while the weights may be on a GPU. The meta device, whose tensors have no values, takes its place here."
    average, model = WeightAverage(4), torch.nn.Linear(2, 1)
    average.on_step_end(None, TrainerState(global_step=1, max_steps=4), TrainerControl(), model=model)
    average.on_step_end(None, TrainerState(global_step=2, max_steps=4), TrainerControl(), model=model)
    assert torch.equal(average.sums["weight"], 2 * model.weight)
    average.on_step_end(None, TrainerState(global_step=3, max_steps=4), TrainerControl(), model=model.to("meta"))
    assert {total.device.type for total in average.sums.values()} == {"meta"}


@pytest.mark.parametrize("variable", ["ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"])
def test_averaged_weights_are_refused_where_they_are_spread(monkeypatch, variable):
    "The launcher says so by the environment: the arguments of a trainer have no trace of it."
    monkeypatch.setenv(variable, "true")
    with pytest.raises(RunError, match="average_weights needs whole weights"):
        WeightAverage(4).on_train_begin(None, TrainerState(global_step=0, max_steps=4), TrainerControl())
