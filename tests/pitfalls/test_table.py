"""Every known pitfall of monitors that hook a model has a test that is named after it, or is refused with a message."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
HERE, HARMLESS = "pitfalls/test_", "test_harmless"
SAME, RANKS = "distributed/test_same_numbers", "distributed/test_ranks"
PITFALLS: dict[int, tuple[str, str, str]] = {  # what it is; file and test
    1: ("full backward hooks raise on in-place operations", "outputs", "test_in_place_operations_on_hooked_outputs"),
    2: ("dict and dataclass outputs, inputs by keyword", "outputs", "test_nested_outputs_and_inputs_by_keyword"),
    3: ("full backward hooks keep gradients alive with create_graph", "outputs", "test_second_derivatives"),
    4: ("a kept activation changes in place", "outputs", "test_in_place_operations_on_hooked_outputs"),
    5: ("kept outputs keep their graph alive", "outputs", "test_outputs_are_not_kept_alive"),
    6: ("gradients are seen with the loss scale", "mixed_precision", "test_gradients_are_seen_without_their_scale"),
    7: ("fused optimizers unscale; skipped steps", "mixed_precision", "test_skipped_steps_are_no_explosions"),
    8: ("micro-batches are counted as steps", "gradients", "test_accumulation_is_counted_in_optimizer_steps"),
    9: ("clipping hides explosions", "gradients", "test_clipping_does_not_hide_an_explosion"),
    10: ("closures run after the step hook", "optimizers", "test_backward_inside_a_closure"),
    11: ("optimizers that step in the backward pass", "optimizers", "test_optimizer_in_backward"),
    12: ("DDP: hooks see the local gradient", SAME, "test_ddp"),
    13: ("FSDP2: hooks of parameters never fire", SAME, "test_fully_shard"),
    14: ("norms of DTensors are those of a shard", SAME, "test_tensor_parallel"),
    15: ("parameters on several meshes", SAME, "test_tensor_parallel_of_four"),
    16: ("empty shards", SAME, "test_fully_shard_of_four"),
    17: ("ranks that reduce different things hang", RANKS, "test_watched_on_the_first_rank_alone"),
    18: ("watched before or after fully_shard", SAME, "test_fully_shard"),
    19: ("checkpoints run their layers twice", "checkpointing", "test_statistics_are_those_without_checkpoints"),
    20: ("hooks break compiled graphs", "compiled", "test_outputs_graphs_and_statistics"),
    21: ("gradient hooks inside a compiled region", "compiled", "test_outputs_graphs_and_statistics"),
    22: ("hooks that come after compiling", "compiled", "test_a_function_that_was_compiled_before_the_watch"),
    23: ("the wrapper of a compiled model is hooked, too", "copies", "test_wrappers_around_the_model"),
    24: ("CUDA graphs write to fixed addresses", "compiled", "test_cuda_graphs"),
    25: ("pickling fails on hooks", HARMLESS, "test_copies_are_not_watched"),
    26: ("copies report as the model", "copies", "test_averaged_models"),
    27: ("replicas of DataParallel share hooks", "copies", "test_replicas_of_data_parallel"),
    28: ("TorchScript takes no hooks", "copies", "test_torchscript"),
    29: ("torch.func forbids writing to buffers", "copies", "test_transforms_of_torch_func"),
    30: ("tied weights and wrappers' prefixes", "copies", "test_wrappers_inside_the_model"),
    31: ("parameters that thaw, or are replaced", "optimizers", "test_replaced_parameters"),
    32: ("experts that are not used have no gradient", "gradients", "test_unused_experts"),
    33: ("outputs in tuples", "outputs", "test_outputs_of_recurrent_layers"),
    34: ("module.forward() bypasses hooks", "outputs", "test_calls_of_forward_itself"),
    35: ("norms overflow in float16", "gradients", "test_norms_of_half_precision_gradients"),
    36: ("sparse gradients, float8, packed integers", "gradients", "test_parameters_of_other_formats"),
    37: ("what hooks return replaces something", "outputs", "test_hooks_return_nothing"),
    38: ("watched twice, cells run again", HARMLESS, "test_watching_twice_gives_the_same_monitor"),
    39: ("several optimizers", "optimizers", "test_gan_with_an_optimizer_that_steps_seldom"),
    40: ("DeepSpeed ZeRO has no gradients: refused", "copies", "test_deepspeed_is_refused_clearly"),
    41: ("torch.optim.optimizer is no attribute", "optimizers", "test_module_of_the_step_hooks"),
    42: ("gloo aborts at exit without a barrier", RANKS, "test_all_ranks_sample_the_same_steps"),
    43: ("XLA freezes on statistics: refused", "copies", "test_xla_is_refused_clearly"),
}


def test_all_are_there() -> None:
    assert list(PITFALLS) == list(range(1, 44))


@pytest.mark.parametrize("number", PITFALLS)
def test_it_has_a_test(number: int) -> None:
    what, place, name = PITFALLS[number]
    file = TESTS / f"{place if place in (HARMLESS, SAME, RANKS) else HERE + place}.py"
    assert what
    if place in (SAME, RANKS) and not file.parent.exists():
        pytest.skip("several ranks are tested elsewhere")
    tree = ast.parse(file.read_text(encoding="utf-8"))
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert name in functions, f"pitfall {number}, {what}, has no test {name} in {file.relative_to(TESTS)}"
