"""What waits to be sampled: for how long, and what never does. That numbers stay right: pitfalls/test_outputs.py."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from netdoctor.probes.waiting import HELD, Waiting

MODULE = nn.Identity()


def learned(*outputs: Tensor) -> Waiting:
    """After a pass in which layers 0, 1, … made these."""
    waiting = Waiting()
    for slot, output in enumerate(outputs):
        waiting.watch(slot, output)
    waiting.learn()
    return waiting


def test_a_layer_waits_once_its_output_is_known() -> None:
    waiting, x = Waiting(), torch.zeros(4)
    assert not waiting.take(0, MODULE, (x,), x)
    waiting = learned(x)
    assert waiting.take(0, MODULE, (x,), x)
    assert waiting.take_gradient(0, x, -1)
    assert not waiting.take(1, MODULE, (x,), x)
    calls, gradients = waiting.release()
    assert [call.output is x for call in calls] == [each.tensor is x for each in gradients] == [True]
    assert waiting.idle


def test_what_is_written_to_is_left_out_and_its_layer_waits_no_more() -> None:
    kept, written = torch.zeros(4), torch.zeros(4)
    waiting = learned(kept, written)
    for slot, output in enumerate((kept, written)):
        assert waiting.take(slot, MODULE, (), output)
        assert waiting.take_gradient(slot, output, -1)
    written.add_(1)
    calls, gradients = waiting.release()
    assert [call.slot for call in calls] == [each.slot for each in gradients] == [0]
    assert not waiting.take(1, MODULE, (), written)


def test_a_layer_behind_which_something_wrote_in_the_first_pass_never_waits() -> None:
    waiting, x = Waiting(), torch.zeros(4)
    waiting.watch(0, x)
    x.relu_()
    waiting.watch(1, x)
    waiting.learn()
    assert not waiting.take(0, MODULE, (), x)
    assert waiting.take(1, MODULE, (), x)


def test_large_outputs_do_not_wait_and_others_no_longer_than_they_may_hold() -> None:
    floats = HELD // 8 // 4
    large, largest = torch.zeros(floats + 1), torch.zeros(floats)
    waiting = learned(large, *[largest] * 8)
    assert not waiting.take(0, MODULE, (), large)
    for slot in range(1, 9):
        assert not waiting.full
        assert waiting.take(slot, MODULE, (), largest)
    assert waiting.full


def test_an_input_that_counts_no_versions() -> None:
    with torch.inference_mode():
        given = torch.zeros(4)
    output = torch.zeros(4)
    waiting = learned(output)
    assert waiting.take(0, MODULE, (given,), output)
    assert len(waiting.release()[0]) == 1
