"""Wrong lines, each with the tests that have to notice it; `mutants.py` plants them one at a time.

Each is a slip that a person could make and a review could miss: a strict comparison, an end that
is one off, a factor forgotten. The tests named are the cheapest that see it, not the only ones.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """A line of `file` as it is and as it is planted, both without indentation.

    `tests` are pytest's names of what has to fail: paths from the top of the tree, with `::`.
    """

    file: str
    old: str
    new: str
    tests: tuple[str, ...]


PROGRAM = "tests/ir/test_program.py::"
TABLE = "tests/pricing/test_table.py::"
SOLVERS = "tests/solvers/test_solvers.py::"
LAWS = "tests/test_mutants.py::"
EXECUTION = "tests/run/test_execution.py::"
KINDS = "tests/run/test_execution_kinds.py::"
KERNELS = "tests/c/test_emission_kernels.py::"
TILES = "tests/c/test_emission_quantised.py::test_sizes_around_the_tiles_are_bit_exact"
EPISODES = "tests/data/test_episodes.py::"
INTERVALS = "tests/studies/test_intervals.py::"
FROZEN = "tests/problem/test_frozen.py::"
GRADIENTS = "tests/models/test_tracing_gradients.py::"

MUTANTS = (
    # What an operator says of itself.
    Mutant(
        "costsim/ir/operators/source.py",
        "adds_bias = False",
        "adds_bias = True",
        (f"{PROGRAM}test_a_value_that_is_a_parameter_is_as_narrow_as_a_weight",),
    ),
    # The training program.
    Mutant(
        "costsim/ir/program/forward.py",
        "if call.bias is not None and call.operator.adds_bias",
        'if call.bias is not None and call.operator.kind in ("convolution", "linear")',
        (f"{PROGRAM}test_every_bias_that_is_added_to_products_is_as_wide_as_their_sum",),
    ),
    Mutant(
        "costsim/ir/program/forward.py",
        "and self.last_reader[storage.name] == call.name",
        "and self.last_reader[storage.name] is not None",
        (f"{EXECUTION}test_what_two_branches_read_is_overwritten_by_neither",),
    ),
    Mutant(
        "costsim/ir/program/backward.py",
        'if form == "in_place" and last and alone:',
        'if form == "in_place" and last:',
        (f"{EXECUTION}test_what_two_branches_read_is_overwritten_by_neither",),
    ),
    Mutant(
        "costsim/ir/program/compile.py",
        "return source.value in self.kept_channels and source.storage not in self.kept_whole",
        "return source.value in self.kept_channels",
        (
            f"{PROGRAM}test_what_several_need_is_kept_once",
            f"{TABLE}test_table_and_program_agree_exactly",
        ),
    ),
    Mutant(
        "costsim/ir/program/compile.py",
        "self.step.passes > 1 and live.storage.category is Category.WEIGHT_GRADIENT",
        "self.step.passes > 1 and live.storage.category is Category.GRADIENT",
        (f"{PROGRAM}test_micro_batches_hold_gradients_through_the_step",),
    ),
    Mutant(
        "costsim/ir/program/segments.py",
        "open_values = {v for v in open_values if last_use[v] > position}",
        "open_values = {v for v in open_values if last_use[v] > position + 1}",
        (f"{PROGRAM}test_cuts_are_where_one_value_is_all_that_is_read_later",),
    ),
    # The arena.
    Mutant(
        "costsim/ir/program/arena.py",
        "if birth > last or death < first:",
        "if birth > last or death <= first:",
        (f"{PROGRAM}test_arena_holds_every_live_buffer_apart",),
    ),
    Mutant(
        "costsim/ir/program/arena.py",
        "change[buffer.death + 1] -= _aligned(buffer.bytes)",
        "change[buffer.death] -= _aligned(buffer.bytes)",
        (f"{PROGRAM}test_arena_holds_every_live_buffer_apart",),
    ),
    # The cost table.
    Mutant(
        "costsim/pricing/derivation/memory.py",
        "span = self.of.written_at[storage.name], last",
        "span = self.of.written_at[storage.name], last - 1",
        (f"{TABLE}test_table_and_program_agree_exactly",),
    ),
    Mutant(
        "costsim/pricing/derivation/memory.py",
        "keep.position < self.of.schedule.loss_position,",
        "keep.position <= self.of.positions,",
        (
            f"{TABLE}"
            "test_channels_that_two_layers_share_in_a_second_pass_are_not_kept_from_the_first",
        ),
    ),
    Mutant(
        "costsim/pricing/derivation/macs.py",
        "macs = step.macs * of.step.passes",
        "macs = step.macs",
        (f"{TABLE}test_table_and_program_agree_exactly",),
    ),
    Mutant(
        "costsim/pricing/derivation/seconds.py",
        "times = 1 if step.direction is Direction.UPDATE else self.of.step.passes",
        "times = self.of.step.passes",
        (f"{TABLE}test_table_and_program_agree_exactly",),
    ),
    Mutant(
        "costsim/pricing/table.py",
        "partial = keep.channel_bytes * union * ~met[:, keep.whole]",
        "partial = keep.channel_bytes * union",
        (f"{TABLE}test_table_and_program_agree_exactly",),
    ),
    Mutant(
        "costsim/pricing/table.py",
        "chosen[:, : len(rank)] |= rank < counts[:, reader, None]",
        "chosen[:, : len(rank)] |= rank <= counts[:, reader, None]",
        (f"{TABLE}test_channels_that_two_layers_take_in_different_orders_are_counted_once",),
    ),
    Mutant(
        "costsim/pricing/derivation/dominance.py",
        "able = able[(rows[np.ix_(some, able)] >= column[some, None]).all(axis=0)]",
        "able = able[(rows[np.ix_(some, able)] > column[some, None]).all(axis=0)]",
        (
            "tests/pricing/test_dominance.py::test_what_is_left_is_what_comparing_all_with_all_leaves",
        ),
    ),
    # The solvers.
    Mutant(
        "solvers/enumeration.py",
        "self.least[at] = self.least[below] + level.costs.min(axis=0)",
        "self.least[at] = self.least[below] + level.costs.max(axis=0)",
        (f"{LAWS}test_enumeration_of_small_problems_is_exact",),
    ),
    Mutant(
        "solvers/lagrangian.py",
        "return Bound(float(multipliers @ self.room + best.sum()), multipliers, net, best)",
        "return Bound(float(best.sum()), multipliers, net, best)",
        (f"{SOLVERS}test_exact_equals_brute_force",),
    ),
    Mutant(
        "solvers/search.py",
        "self._split(node, [opened, node.case.close(closed)])",
        "self._split(node, [opened])",
        (f"{SOLVERS}test_the_optimum_of_a_budget_that_a_plan_meets_exactly",),
    ),
    Mutant(
        "solvers/dominance.py",
        "better[1:] = gain[1:] > np.maximum.accumulate(gain)[:-1]",
        "better[1:] = gain[1:] < np.maximum.accumulate(gain)[:-1]",
        (f"{LAWS}test_enumeration_of_small_problems_is_exact",),
    ),
    Mutant(
        "solvers/greedy.py",
        "key=lambda i: -scores[problem.candidates[i].layer, problem.candidates[i].axis],",
        "key=lambda i: scores[problem.candidates[i].layer, problem.candidates[i].axis],",
        (
            f"{SOLVERS}test_greedy_ranks_a_normalisation_too",
            "tests/problem/test_bias_items.py::test_greedy_ranks_a_bias_as_a_layer_of_its_own",
        ),
    ),
    Mutant(
        "solvers/greedy.py",
        "counts = np.arange(1, costs.sizes[index] + 1)",
        "counts = np.arange(1, costs.sizes[index])",
        (f"{SOLVERS}test_without_limits_everything_is_taken",),
    ),
    Mutant(
        "solvers/ilp.py",
        "offset = float(seconds[start + 1]) - slope * (start + 1)",
        "offset = float(seconds[start + 1]) - slope * start",
        (f"{SOLVERS}test_one_program_equals_brute_force",),
    ),
    # Execution.
    Mutant(
        "costsim/run/execution/masks.py",
        "return x > 0",
        "return x >= 0",
        (f"{EXECUTION}test_at_a_jump_a_gradient_is_passed_as_by_torch",),
    ),
    Mutant(
        "costsim/run/execution/masks.py",
        "return (x >= o.minimum) & (x <= o.maximum)",
        "return (x > o.minimum) & (x < o.maximum)",
        (f"{EXECUTION}test_at_a_jump_a_gradient_is_passed_as_by_torch",),
    ),
    Mutant(
        "costsim/run/execution/convolution.py",
        "stride = (height * width * c, 1, width * c, c)",
        "stride = (height * width * c, 1, height * c, c)",
        ("tests/run/test_execution_layout.py::test_both_formats_make_the_same_step",),
    ),
    Mutant(
        "costsim/run/execution/convolution.py",
        "return own[0] if n == 1 else own.sum(0)",
        "return own[0]",
        (f"{KINDS}test_convolutions_of_images_agree_in_single_precision_too[depthwise]",),
    ),
    Mutant(
        "costsim/run/execution/weight_gradient.py",
        "return dy.reshape(-1, *bias.shape).sum(0)",
        "return dy.reshape(-1, *bias.shape)[0]",
        (f"{KINDS}test_each_kind_agrees_with_autograd[linear-alone]",),
    ),
    Mutant(
        "costsim/run/execution/update.py",
        "scale: float = (1 - h.beta2**step) ** 0.5",
        "scale: float = (1 - h.beta2 ** (step + 1)) ** 0.5",
        (f"{EXECUTION}test_full_training_is_torch_optims[1-immediate-adam]",),
    ),
    # Emission.
    Mutant(
        "costsim/c/emission/parts.py",
        'begun and axis == "input",',
        "begun,",
        ("tests/c/test_emission.py::test_blocks_of_groups_say_what_they_add_to",),
    ),
    Mutant(
        "costsim/c/emission/memory.py",
        'return f"{symbol} + {block.offset}" if block.offset else symbol',
        "return symbol",
        (f"{KERNELS}test_some_channels_are_updated_as_in_pytorch[multiplied_depthwise]",),
    ),
    Mutant(
        "costsim/c/emission/kernels/convolution.c",
        "*high = start < size ? (size - start + step - 1) / step : 0;",
        "*high = start < size ? (size - start) / step : 0;",
        (f"{KERNELS}test_each_kind_steps_as_in_pytorch[max_pool-alone]",),
    ),
    Mutant(
        "costsim/c/emission/kernels/convolution.c",
        "float *image = dx + (k->first_in + costsim_number(k->ins, i)) * plane;",
        "float *image = dx + costsim_number(k->ins, i) * plane;",
        (f"{KERNELS}test_each_kind_steps_as_in_pytorch[multiplied_depthwise-alone]",),
    ),
    Mutant(
        "costsim/c/emission/kernels/learning.c",
        "state[i] = momentum * state[i] + dw[i];",
        "state[i] = momentum * (state[i] + dw[i]);",
        ("tests/c/test_emission.py::test_optimizers_updates_and_passes",),
    ),
    Mutant(
        "costsim/c/emission/kernels/quantised.c",
        "return (int8_t)(q > 127 ? 127 : q < -128 ? -128 : q);",
        "return (int8_t)(q > 127 ? 127 : q < -127 ? -127 : q);",
        ("tests/c/test_emission_quantised.py::test_inverted_bottlenecks_are_bit_exact",),
    ),
    Mutant(
        "costsim/c/emission/kernels/convolution.c",
        "first[d] = at % step;",
        "first[d] = 0;",
        (f"{TILES}[3 taps a row, stride 2]",),
    ),
    Mutant(
        "costsim/c/emission/kernels/quantised_products.c",
        "column[1] = (int16_t)(a[step] - x_zero);",
        "column[1] = (int16_t)(a[0] - x_zero);",
        (f"{TILES}[several columns]",),
    ),
    Mutant(
        "costsim/c/emission/kernels/quantised_gradients.c",
        "const float *at = list ? g + list[m] * step : g;",
        "const float *at = g;",
        (f"{TILES}[several runs of floats]",),
    ),
    # Drawing episodes.
    Mutant(
        "costsim/data/episode.py",
        "return images[:shots], images[shots:]",
        "return images[:shots], images",
        (f"{EPISODES}test_a_fixed_episode_is_what_sample_task_draws",),
    ),
    Mutant(
        "costsim/data/episode.py",
        "ways = self.least_ways + int(rng.random() * (most - self.least_ways + 1))",
        "ways = self.least_ways + int(rng.random() * (most - self.least_ways))",
        (f"{EPISODES}test_ways_and_support_vary_over_their_whole_range",),
    ),
    Mutant(
        "costsim/data/episode.py",
        "return _any_between(_sums(sizes), queries, sum(sizes) - shots)",
        "return _any_between(_sums(sizes), queries, sum(sizes))",
        (f"{EPISODES}test_no_track_is_on_both_sides",),
    ),
    # What is claimed of results.
    Mutant(
        "costsim/base/intervals.py",
        "half = _t(count - 1) * stdev(values) / math.sqrt(count)",
        "half = _t(count) * stdev(values) / math.sqrt(count)",
        (f"{INTERVALS}test_it_is_students_t_of_one_value_a_task",),
    ),
    Mutant(
        "costsim/base/intervals.py",
        "half = math.hypot(*halves) / len(known) if len(halves) == len(known) else None",
        "half = sum(halves) / len(known) if len(halves) == len(known) else None",
        (f"{INTERVALS}test_domains_count_the_same_and_one_that_is_missing_is_not_made_up",),
    ),
    Mutant(
        "costsim/studies/engine/cell_store.py",
        'if sums.pop(row["key"], None) != checksum(row):',
        'if sums.pop(row["key"], None) is None:',
        ("tests/studies/test_cells.py::test_a_byte_that_a_disk_changed_is_noticed",),
    ),
    # What is refused, and what is left alone.
    Mutant(
        "costsim/models/tracing/own_gradients.py",
        "if parameter._backward_hooks or accumulated:",
        "if parameter._backward_hooks:",
        (f"{GRADIENTS}test_hooks_registered_before_are_refused_until_they_are_removed",),
    ),
    Mutant(
        "costsim/models/tracing/own_gradients.py",
        "and any(isinstance(item, Tensor) and item.requires_grad for item in passed)",
        "and all(isinstance(item, Tensor) and item.requires_grad for item in passed)",
        (f"{GRADIENTS}test_gradients_of_its_own_are_refused",),
    ),
    Mutant(
        "costsim/ir/graph.py",
        "return int(bias is not None and not bias.frozen)",
        "return int(bias is not None)",
        (f"{FROZEN}test_no_solver_updates_what_is_frozen",),
    ),
    Mutant(
        "costsim/ir/graph.py",
        "return 0 if weight is None or weight.frozen else self.channels(layer, axis)",
        "return 0 if weight is None else self.channels(layer, axis)",
        (f"{FROZEN}test_no_solver_updates_what_is_frozen",),
    ),
    # Readers, and what a call returns.
    Mutant(
        "costsim/base/yaml_text.py",
        "if aliased > MAXIMUM_ALIASED:",
        "if size > MAXIMUM_ALIASED:",
        ("tests/data/test_readers.py::test_aliases_are_counted_together",),
    ),
    Mutant(
        "costsim/data/containers.py",
        "left -= info.file_size",
        "left -= 0",
        ("tests/data/test_readers.py::test_a_zip_does_not_unpack_to_far_more_than_it_is",),
    ),
    Mutant(
        "costsim/base/trust.py",
        "trusted = trusted or (kept is not None and kept == _content(known, files))",
        "trusted = trusted or kept is not None",
        ("tests/data/test_readers.py::test_code_that_changed_is_to_be_named_again",),
    ),
    Mutant(
        "costsim/models/tracing/returned_inputs.py",
        "return not on or not probability",
        "return not on",
        ("tests/models/test_tracing_plain.py::test_a_call_that_returns_its_input_is_no_copy",),
    ),
)
"""In the order of the data flow: what a step is, what it costs, who chooses, who runs it."""
