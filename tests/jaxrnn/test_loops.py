"""A compiled program is read as it is: loops within loops, what they launch, multiply, write and copy."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from jaxrnn.plan.loops import Loop, collectives, launched, loops

TEXT = """
HloModule jit_f, is_scheduled=true

%fused (p.0: f32[4,4], p.1: f32[4,4]) -> f32[4,4] {
  %p.0 = f32[4,4]{1,0} parameter(0)
  %p.1 = f32[4,4]{1,0} parameter(1)
  ROOT %dot.1 = f32[4,4]{1,0} dot(%p.0, %p.1), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%write (p.2: f32[9,4,4], p.3: f32[4,4], p.4: s32[]) -> f32[9,4,4] {
  %p.2 = f32[9,4,4]{2,1,0} parameter(0)
  ROOT %dus = f32[9,4,4]{2,1,0} dynamic-update-slice(%p.2, %p.3, %p.4)
}

%inner_body (a: (s32[], f32[4,4])) -> (s32[], f32[4,4]) {
  %a = (s32[], f32[4,4]{1,0}) parameter(0)
  %x = f32[4,4]{1,0} get-tuple-element(%a), index=1
  %copy.1 = s32[] copy(%i)
  %copy.2 = f32[4,4]{1,0} copy(%x)
  %fusion.1 = f32[4,4]{1,0} fusion(%x, %copy.2), kind=kCustom, calls=%fused
  ROOT %t = (s32[], f32[4,4]{1,0}) tuple(%copy.1, %fusion.1)
}

%outer_body (b: (s32[], f32[9,4,4])) -> (s32[], f32[9,4,4]) {
  %b = (s32[], f32[9,4,4]{2,1,0}) parameter(0)
  %while.1 = (s32[], f32[4,4]{1,0}) while(%init), body=%inner_body, config={"known_trip_count":{"n":"3"}}
  ROOT %fusion.2 = f32[9,4,4]{2,1,0} fusion(%b), kind=kLoop, calls=%write
}

ENTRY %main (x: f32[9,4,4]) -> f32[9,4,4] {
  %x = f32[9,4,4]{2,1,0} parameter(0)
  ROOT %while.2 = (s32[], f32[9,4,4]{2,1,0}) while(%x), body=%outer_body, config={"known_trip_count":{"n":"5"}}
}
"""


def test_loops_are_found_within_loops_with_what_their_fusions_hold():
    assert loops(TEXT) == [
        Loop(trips=5, depth=0, kernels=1, products=0, updates=1, copies=0),
        Loop(trips=3, depth=1, kernels=3, products=1, updates=0, copies=1),
    ]


def test_a_loop_in_a_loop_launches_as_often_as_it_runs():
    assert launched(loops(TEXT)) == 5 * (1 + 3 * 3)
    one = loops(TEXT)[0]
    assert launched([one, replace(one, trips=2), one]) == 5 + 2 + 5
    with pytest.raises(ValueError, match="cannot be counted"):
        launched([replace(one, trips=None)])


def test_a_program_without_loops_has_none():
    assert loops(jax.jit(jnp.tanh).lower(jnp.ones(3)).compile().as_text()) == []


def test_the_loop_of_a_compiled_scan_is_read():
    def run(weight, h):
        return lax.scan(lambda h, _: (jnp.tanh(h @ weight), h), h, length=11)

    (loop,) = loops(jax.jit(run).lower(jnp.ones((64, 64)), jnp.ones((8, 64))).compile().as_text())
    assert (loop.trips, loop.products, loop.updates) == (11, 1, 1)


COLLECTIVE = """
%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

%one (c: f32[4]) -> f32[4] {
  ROOT %send = f32[4]{0} collective-permute(%c), source_target_pairs={{0,1}}
}

%other (d: f32[4]) -> f32[4] {
  ROOT %d = f32[4]{0} parameter(0)
}

%inner (e: f32[4]) -> f32[4] {
  %part = f32[4]{0} reduce-scatter(%e), dimensions={0}, frontend_attributes={chain_id="7"}, to_apply=%add
  %gather = (f32[1]{0:T(256)}, f32[4]{0:T(256)S(1)}) all-gather-start(%e), dimensions={0}
  ROOT %done = f32[4]{0} all-gather-done(%gather)
}

%outer (f: f32[4]) -> f32[4] {
  %while.1 = f32[4]{0} while(%f), body=%inner, condition=%c
  ROOT %choice = f32[4]{0} conditional(%p, %f, %f), branch_computations={%one, %other}
}

ENTRY %main (x: f32[4]) -> f32[4] {
  %start = f32[4]{0} reduce-scatter(%x), dimensions={0}, frontend_attributes={chain_id="7"}, to_apply=%add
  %while.2 = f32[4]{0} while(%start), body=%outer, condition=%c
  ROOT %all = (f32[4]{0}, /*index=1*/f32[]) all-reduce(%while.2, %n), to_apply=%add
}
"""


def test_collectives_are_counted_by_the_loops_around_them():
    assert collectives(COLLECTIVE) == {
        ("all-reduce", 0): 1,  # of two arrays
        ("collective-permute", 1): 1,  # in a branch
        ("all-gather", 2): 1,  # started and done
        ("reduce-scatter", 0): 1,  # goes on beside the loops
    }
    assert collectives(TEXT) == {}
