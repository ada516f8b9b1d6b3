"""The whole suite of cases holds under every plan of the fast unroll, not only under those that short probes get.

The designed probes have nine steps, which the planner takes at once; long sequences and large batches are cut.
"""

import jax
import pytest

pytest.importorskip("torch")

from jaxrnn.ops import scan
from jaxrnn.ops.planning import Plan
from parity.cases import CASES
from parity.judge import judge_case
from parity.running import jax_side

pytestmark = [pytest.mark.torch, pytest.mark.slow]

PLANS = {
    "one step": Plan(1, joined=False),
    "chunks and a remainder": Plan(4, joined=True),
    "packed and unrolled": Plan(3, joined=False, packed=True, unroll=2),
    "gates computed again": Plan(3, joined=False, keep="h"),
    "layers together, directions beside each other": Plan(4, joined=True, together=True, beside=True),
}
# Single steps and linear recurrences have no plan.
UNROLLED = [case for case in CASES if "_cell" not in case.id and not case.id.startswith("min_")]


def forget_programs():
    jax_side._compiled.cache_clear()
    jax.clear_caches()


@pytest.fixture(params=PLANS.values(), ids=PLANS, scope="module")
def planned(request):
    """Cut every unroll by one plan."""
    asked = []

    def choose(cell, *size, **options):
        asked.append(size)
        return request.param._replace(joined=request.param.joined and cell.joinable)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "choose", choose)
        forget_programs()
        yield
        forget_programs()
    assert asked, "no unroll asked for a plan"


@pytest.mark.usefixtures("planned")
@pytest.mark.parametrize("case", UNROLLED, ids=lambda case: case.id)
def test_every_case_holds_under_every_plan(case):
    result = judge_case(case)
    assert result.verdict == "EQUIVALENT", [tensor.message for tensor in result.tensors if tensor.message]
