"""The gate: what learns is called learning, and nothing else is."""

import numpy as np
import pytest

from netdoctor.facts import Facts, Loss, Parameter
from netdoctor.history import History
from netdoctor.progress import progress, weight_updates

NOISE = np.random.default_rng(0).normal(0, 0.1, 400)


def run(loss: object, constant: float | None = 2.3, facts: Facts | None = None) -> History:
    losses = np.asarray(loss, float).tolist()
    if constant is None:
        return History.of(facts, loss=losses)
    return History.of(facts, loss=losses, constant_loss=[constant] * len(losses))


def test_a_falling_loss_learns() -> None:
    found = progress(run(2.3 * 0.99 ** np.arange(400) + NOISE))
    assert found is not None
    assert found.learned
    assert not found.stalled
    assert found.gain == pytest.approx(1.0, abs=0.05)


def test_noise_about_the_constant_prediction_is_stalled() -> None:
    found = progress(run(2.3 + NOISE))
    assert found is not None
    assert found.stalled
    assert not found.falling


def test_a_constant_that_needs_more_numbers_than_the_model_has_is_no_measure() -> None:
    facts = Facts(parameters=(Parameter("level", "", (10,), "other"),), loss=Loss("mse", outputs=(32, 48)))
    found = progress(run(2.3 + NOISE, facts=facts))
    assert found is not None
    assert found.constant is None
    pixels = facts.with_changes(loss=Loss("cross-entropy", outputs=(32, 2, 48)))  # the constant has two numbers
    found = progress(run(2.3 + NOISE, facts=pixels))
    assert found is not None
    assert found.constant == pytest.approx(2.3)


def test_a_pretrained_model_that_stays_good_has_learned() -> None:
    found = progress(run(0.1 + NOISE / 10))
    assert found is not None
    assert found.learned


def test_a_small_gain_counts_where_it_exceeds_the_noise() -> None:
    small = 0.05 * (np.arange(400) > 100)
    quiet, noisy = progress(run(1.0 + NOISE / 10 - small, 1.0)), progress(run(1.0 + 5 * NOISE - small, 1.0))
    assert quiet is not None
    assert quiet.learned
    assert noisy is not None
    assert not noisy.learned


def test_a_plateau_after_a_fall_to_the_constant_prediction_is_stalled() -> None:
    found = progress(run(np.maximum(3.0 * 0.95 ** np.arange(400), 2.3) + NOISE))
    assert found is not None
    assert found.stalled


def test_no_constant_stands_for_targets_that_move() -> None:
    losses = (0.01 * 0.99 ** np.arange(400)).tolist()
    found = progress(History.of(loss=losses, constant_loss=np.linspace(1e-4, 0.05, 400).tolist()))
    assert found is not None
    assert found.constant is None
    assert found.learned  # as against the start


def test_a_slow_fall_that_matters_is_falling_and_one_that_does_not_is_stalled() -> None:
    slow, slower = np.linspace(2.4, 2.3, 400), np.linspace(2.4, 2.395, 400)
    assert progress(run(slow + NOISE / 10)).falling  # type: ignore[union-attr]
    assert progress(run(slower + NOISE / 100)).stalled  # type: ignore[union-attr]


def test_nothing_is_said_where_the_loss_does_not_tell() -> None:
    assert progress(run([2.3] * 9)) is None
    assert progress(run(2.3 + NOISE, facts=Facts(several_losses=True))) is None
    assert progress(run(NOISE, None)) is None  # a policy gradient's surrogate
    assert progress(run([float("nan")] * 20)) is None


def test_the_start_is_the_first_loss_where_the_first_steps_throw_the_model_away() -> None:
    blown = progress(run([2.3, 2480.0, 900.0, *[2.4] * 50], None))
    assert blown is not None
    assert blown.start == pytest.approx(2.3)
    assert not blown.learned


def test_the_start_of_a_long_run_is_not_the_mean_of_its_first_rows() -> None:
    losses = np.concatenate(([2.3, 2.3], np.full(9000, 0.5)))
    found = progress(run(losses, None))
    assert found is not None
    assert found.start == pytest.approx(2.3)
    assert found.learned


def test_the_answer_follows_the_history() -> None:
    history = run(2.3 + NOISE)
    assert progress(history) == progress(history)
    for step in range(401, 500):
        history.record(step, "loss", [0.1])
    assert progress(history).learned  # type: ignore[union-attr]


def test_updates_leave_out_what_tells_nothing() -> None:
    parameters = (
        Parameter("a.weight", "a", (4, 4), "weight"),
        Parameter("b.weight", "b", (4, 4), "weight"),
        Parameter("zero.weight", "zero", (4, 4), "weight"),
        Parameter("frozen.weight", "frozen", (4, 4), "weight", trainable=False),
        Parameter("a.bias", "a", (4,), "bias"),
    )
    history = History(Facts(parameters=parameters))
    names = tuple(p.name for p in parameters)
    history.record(1, "weight_rms", [1, 1, 0, 1, 1], names)
    history.record(1, "update_ratio", [1e-3, 3e-3, float("inf"), 0, 0.5], names)
    history.record(2, "update_ratio", [1e-3, float("nan"), 9, 0, 0.5], names)
    history.record(3, "update_ratio", [float("nan")] * 5, names)
    steps, median, largest = weight_updates(history)
    assert steps.tolist() == [1, 2]
    assert median.tolist() == pytest.approx([2e-3, 1e-3])
    assert largest.tolist() == pytest.approx([3e-3, 1e-3])
    assert all(len(series) == 0 for series in weight_updates(History()))
