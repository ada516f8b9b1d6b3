"""`jaxrnn.lengths`: known lengths are checked, traced ones clipped."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrnn.lengths import check_lengths, length_mask


def test_lengths_may_be_zero_except_in_a_pack():
    assert check_lengths([0, 3], 2, 3).tolist() == [0, 3]
    with pytest.raises(ValueError, match=r"lengths\[1\] is -1, but must be from 0 to 3"):
        check_lengths([0, -1], 2, 3)
    with pytest.raises(RuntimeError, match=r"greater than 0.*which accepts 0"):
        check_lengths([0, 3], 2, 3, allow_zero=False)


@pytest.mark.parametrize(
    "kind", [list, tuple, np.array, jnp.array, *map(np.dtype, ["int8", "uint8", "int64", "uint64"])]
)
def test_lengths_come_in_any_integer_kind(kind):
    given_lengths = np.array([3, 0], kind) if isinstance(kind, np.dtype) else kind([3, 0])
    checked = check_lengths(given_lengths, 2, 3)
    assert isinstance(checked, jax.Array)
    assert checked.dtype == jnp.int32
    assert checked.tolist() == [3, 0]


def test_a_list_of_traced_lengths_is_a_vector_of_lengths():
    mask = jax.jit(lambda n: length_mask([n, 2, 0], 3))(1)
    assert mask.tolist() == [[True, False, False], [True, True, False], [False, False, False]]


def test_traced_lengths_are_clipped():
    def masked(lengths):
        return check_lengths(lengths, 3, 4), length_mask(lengths, 4)

    for kind in (np.int8, np.int32):
        checked, mask = jax.jit(masked)(np.array([-2, 3, 100], kind))
        assert checked.tolist() == [0, 3, 4]
        assert mask.sum(axis=1).tolist() == [0, 3, 4]
    with pytest.raises(TypeError, match="float32"):
        jax.jit(masked)(np.ones(3, np.float32))
    with pytest.raises(RuntimeError, match="batch_size=3"):
        jax.jit(masked)(np.ones(2, np.int32))
