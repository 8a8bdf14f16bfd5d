"""What a compiled program costs, against closed forms and against XLA's own count."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from trainer.train.costs import costs, group_size
from trainer.train.hlo import arrays, parse


def compiled(function, *shapes: tuple[int, ...]) -> Any:
    args = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    # as instructions of XLA, not as calls of a library that its cost analysis cannot look into
    options: dict[str, Any] = {
        "xla_cpu_use_onednn": False,
        "xla_cpu_experimental_ynn_fusion_type": "",
    }
    return jax.jit(function).lower(*args).compile(compiler_options=options)


def convolve(x, kernel, **more):
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), **more
    )


def test_a_matrix_product_is_two_flops_for_each_multiply_add():
    found = costs(compiled(lambda a, b: a @ b, (32, 64), (64, 48)).as_text())
    assert found.flops == 2 * 32 * 64 * 48
    assert found.memory >= 4 * (32 * 64 + 64 * 48 + 32 * 48)
    assert found.collectives == {} and found.exchanged == 0


def test_a_convolution_counts_what_meets_a_pixel():
    """Along a side of n pixels, a kernel of 3 with padding meets 3n - 2 of 3n."""
    program = compiled(convolve, (2, 8, 12, 5), (3, 3, 5, 7))
    wanted = 2 * 2 * (3 * 8 - 2) * (3 * 12 - 2) * 5 * 7
    assert costs(program.as_text()).flops == wanted
    assert program.cost_analysis()["flops"] == pytest.approx(wanted, rel=0.01)


def test_a_convolutions_gradients_are_counted_as_xla_counts_them():
    def loss(x, kernel):
        return jnp.square(convolve(x, kernel)).sum()

    program = compiled(jax.grad(loss, (0, 1)), (2, 8, 12, 5), (3, 3, 5, 7))
    ours, theirs = costs(program.as_text()).flops, program.cost_analysis()["flops"]
    assert 0.95 * theirs < ours <= theirs  # theirs has the squares too


def test_a_loop_costs_its_body_as_often_as_it_runs():
    def loop(x, kernels):
        return lax.scan(lambda x, k: (jnp.tanh(x @ k), None), x, kernels)[0]

    program = compiled(loop, (16, 32), (9, 32, 32))
    assert costs(program.as_text()).flops == 9 * 2 * 16 * 32 * 32
    assert program.cost_analysis()["flops"] < 3 * 2 * 16 * 32 * 32  # XLA's own counts it once
    twice = compiled(lambda x, k: loop(loop(x, k), k), (16, 32), (9, 32, 32))
    assert costs(twice.as_text()).flops == 2 * 9 * 2 * 16 * 32 * 32


def test_a_slice_costs_its_own_bytes_not_those_of_what_it_is_cut_from():
    def loop(x, table):
        return lax.scan(lambda x, row: (x * row, None), x, table)[0]

    found = costs(compiled(loop, (256,), (1000, 256)).as_text())
    assert found.memory < 1000 * 256 * 4 * 8  # far below 1000 x the table


EXCHANGE = """
ENTRY %main (p: bf16[8,128]) -> bf16[64,128] {
  %p = bf16[8,128]{1,0:T(8,128)(2,1)} parameter(0)
  %gathered = bf16[64,128]{1,0} all-gather(%p), replica_groups=mesh['a'=8,'b'=1] {'a'}
  %sum = bf16[8,128]{1,0:S(1)} all-reduce(%p), replica_groups={{0,1,2,3},{4,5,6,7}}
  %start = (bf16[8,128]{1,0}, bf16[4,128]{1,0}) all-to-all-start(%p), replica_groups=[4,2]<=[8]
  %done = bf16[8,128]{1,0} all-to-all-done(%start)
  ROOT %r = bf16[64,128]{1,0} copy(%gathered)
}
"""


def test_collectives_are_counted_by_kind_with_the_bytes_that_are_received():
    found = costs(EXCHANGE).collectives
    size = 8 * 128 * 2
    assert {kind: (c.count, c.bytes) for kind, c in found.items()} == {
        "all-gather": (1, 7 * size),
        "all-reduce": (1, 2 * size * 3 / 4),
        "all-to-all": (1, size / 2),
    }
    assert group_size("replica_groups=mesh['a'=4,'b'=2] {'a','b'}") == 8
    assert group_size("replica_groups=mesh['a'=4,'b'=2] {'a':(1)2}") == 2


SCATTER = """
%all-reduce-scatter (input: bf16[64,128]) -> bf16[8,128] {
  %input = bf16[64,128]{1,0} parameter(0)
  %sum = bf16[64,128]{1,0} all-reduce(%input), replica_groups=[1,8]<=[8], to_apply=%add
  %id = u32[] partition-id()
  %zero = u32[] constant(0)
  ROOT %own = bf16[8,128]{1,0} dynamic-slice(%sum, %id, %zero), dynamic_slice_sizes={8,128}
}

ENTRY %main (p: bf16[64,128]) -> bf16[8,128] {
  %p = bf16[64,128]{1,0} parameter(0)
  ROOT %fusion = bf16[8,128]{1,0} fusion(%p), kind=kCustom, calls=%all-reduce-scatter
}
"""


def test_a_sum_fused_with_its_slice_is_a_reduce_scatter():
    [(kind, found)] = costs(SCATTER).collectives.items()
    assert (kind, found.count, found.bytes) == ("reduce-scatter", 1, 64 * 128 * 2 * 7 / 8)


def test_types_are_read_with_their_place():
    [array, tiny] = arrays("(bf16[4,256]{1,0:T(8,128)S(1)}, /*index=1*/pred[])")
    assert (array.shape, array.bytes, array.fast) == ((4, 256), 2048, True)
    assert (tiny.shape, tiny.bytes, tiny.fast) == ((), 1, False)
    computations, entry = parse(EXCHANGE)
    assert entry == "main" and computations[entry].root.opcode == "copy"
