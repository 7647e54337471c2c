"When a reward has stopped rising, and that training then ends."

import pytest
from transformers import TrainerControl, TrainerState

from vtg_r1.train.callbacks import PlateauStop, plateaued

RISING = [0.02 * step for step in range(40)]


@pytest.mark.parametrize(
    "rewards, patience, flat",
    [
        ([], 1, False),
        ([0.5] * 9, 1, False),  # nothing is said before there is one whole window
        ([0.5] * 11, 1, True),
        ([0.5] * 11, 2, False),
        (RISING, 1, False),
        (RISING + [0.8] * 19, 5, True),
        ([0.5, 0.6] * 20, 3, True),  # to and fro is no gain
        ([0.5 + 0.0001 * step for step in range(40)], 25, True),  # nor is less than a hundredth
    ],
)
def test_a_plateau_is_patience_steps_without_a_gain(rewards, patience, flat):
    assert plateaued(rewards, patience) is flat


def test_training_ends_on_a_plateau_alone(capsys):
    for rewards, ends in ((RISING, False), ([0.5] * 20, True)):
        control = TrainerControl()
        state = TrainerState(global_step=len(rewards), log_history=[{"loss": 0.1, "reward": r} for r in rewards] + [{"eval": 1}])
        PlateauStop(5).on_log(None, state, control, logs={"eval": 1})
        assert not control.should_training_stop
        PlateauStop(5).on_log(None, state, control, logs=state.log_history[0])
        assert control.should_training_stop is ends
    assert capsys.readouterr().out == "step 20: no gain in reward for 5 steps, training ends here\n"
