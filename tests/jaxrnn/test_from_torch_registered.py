"""What a team registers for classes of its own, and what is shared: modules, tied weights, frozen ones."""

import pytest
from flax import nnx

import jaxrnn
from jaxrnn.torch_names import Frozen
from tests.jaxrnn.common import assert_same
from tests.jaxrnn.torch_modules import (
    Residual,
    bits,
    convert_residual,
    filled,
    floats,
    numbers_in_jax,
    numbers_in_torch,
    residual,
)

pytestmark = pytest.mark.torch


@pytest.fixture
def nn(torch):
    return torch.nn


# What is registered


def test_a_registered_class_is_built_by_its_function(torch, nn, x64):
    module = filled(torch, nn.Sequential(residual()(residual()(nn.Linear(3, 3))), nn.Tanh()))
    twin = jaxrnn.from_torch(module, register={residual(): convert_residual})
    assert bits(jaxrnn.state_dict(twin)) == bits(
        module.state_dict()
    )  # in float64, which the class did not say
    args = [floats(2, 3)]
    ours = numbers_in_jax(twin, args, {})
    assert_same(ours, numbers_in_torch(torch, module, args, {}), 1e-12)  # float64, short sums


def test_parts_that_a_function_builds_itself_get_weights_and_mode(nn):
    def build(module, convert):
        return Residual(nnx.Linear(3, 3, rngs=nnx.Rngs(0)))

    module = residual()(nn.Linear(3, 3))
    assert bits(jaxrnn.state_dict(jaxrnn.from_torch(module, register={residual(): build}))) == bits(
        module.state_dict()
    )

    def build_dropping(module, convert):
        twin = Residual(nnx.Sequential(nnx.Linear(3, 3, rngs=nnx.Rngs(0)), nnx.Dropout(0.5)))
        return twin

    module = residual()(nn.Sequential(nn.Linear(3, 3), nn.AlphaDropout(0.5)))
    module.inner[1].eval()
    twin = jaxrnn.from_torch(module, register={residual(): build_dropping})
    assert twin.inner.layers[1].deterministic


def test_a_registered_class_goes_before_the_table(nn):
    register = {nn.Linear: lambda module, convert: nnx.Linear(3, 3, use_bias=False, rngs=nnx.Rngs(0))}
    with pytest.raises(RuntimeError, match=r'Unexpected key.*"0\.bias"') as raised:
        jaxrnn.from_torch(nn.Sequential(nn.Linear(3, 3)), register=register)
    assert "nnx.Param by torch's name" in raised.value.__notes__[0]


def test_all_weights_that_do_not_match_are_one_error(nn):
    def build(module, convert):
        twin = Residual(nnx.Linear(2, 3, rngs=nnx.Rngs(0)))
        del twin.shift
        return twin

    module = nn.Sequential(residual()(nn.Linear(3, 3)), residual()(nn.Linear(3, 3)))
    with pytest.raises(RuntimeError) as raised:
        jaxrnn.from_torch(module, register={residual(): build})
    for part in ('"0.shift", "1.shift"', "size mismatch for 0.inner.weight", "mismatch for 1.inner.weight"):
        assert part in str(raised.value)


def test_a_function_that_fails_is_named_with_its_place(nn):
    module = nn.Sequential(nn.ReLU(), residual()(nn.ReLU()))
    with pytest.raises(ZeroDivisionError) as raised:
        jaxrnn.from_torch(module, register={residual(): lambda module, convert: 1 / 0})
    (note,) = raised.value.__notes__
    assert note.startswith("In the function registered for Residual, at 1; ")
    assert "lambda module, convert: OursResidual(..., rngs=nnx.Rngs(0))" in note
    with pytest.raises(TypeError, match=r"^1: .* Residual returned a float, not an nnx\.Module"):
        jaxrnn.from_torch(module, register={residual(): lambda module, convert: 1.0})
    with pytest.raises(TypeError, match=r"convert takes a torch\.nn\.Module, got int"):
        jaxrnn.from_torch(module, register={residual(): lambda module, convert: convert(3)})
    with pytest.raises(TypeError, match="register maps classes to functions"):
        jaxrnn.from_torch(module, register={"Residual": convert_residual})


# What is shared


def test_a_module_used_twice_is_one_module(torch, nn, x64):
    linear = nn.Linear(3, 3)
    module = filled(torch, nn.Sequential(linear, nn.Tanh(), residual()(linear)))
    twin = jaxrnn.from_torch(module, register={residual(): convert_residual})
    assert twin[0] is twin[2].inner
    args = [floats(2, 3)]
    ours = numbers_in_jax(twin, args, {})
    theirs = numbers_in_torch(torch, module, args, {})
    assert_same(ours, theirs, 1e-12)
    assert bits(jaxrnn.state_dict(twin)) == bits(module.state_dict())


def test_a_tied_parameter_is_one_variable(torch, nn, x64):
    module = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3), nn.GRU(3, 3), nn.GRU(3, 3))
    module[2].weight = module[0].weight
    module[4].weight_hh_l0 = module[3].weight_hh_l0
    twin = jaxrnn.from_torch(filled(torch, module))
    assert twin[2].kernel is twin[0].kernel
    assert twin[2].bias is not twin[0].bias
    assert twin[4].weight_hh_l0 is twin[3].weight_hh_l0
    assert bits(jaxrnn.state_dict(twin)) == bits(module.state_dict())
    args = [floats(2, 3)]
    ours = numbers_in_jax(jaxrnn.from_torch(module[:3]), args, {})
    assert_same(ours, numbers_in_torch(torch, module[:3], args, {}), 1e-12)


def test_embeddings_of_both_kinds_can_be_tied(torch, nn):
    module = nn.ModuleDict({"a": nn.Embedding(5, 2), "b": nn.Embedding(5, 2, padding_idx=1)})
    module["b"].weight = module["a"].weight
    twin = jaxrnn.from_torch(module)
    assert twin.a.weight is twin.b.weight
    assert bits(jaxrnn.state_dict(twin)) == bits(module.state_dict())


def test_a_tie_between_layouts_is_refused(nn):
    module = nn.ModuleDict({"words": nn.Embedding(5, 2), "out": nn.Linear(2, 5)})
    module["out"].weight = module["words"].weight
    with pytest.raises(NotImplementedError, match=r"words\.weight and out\.weight are one tied.*Untie"):
        jaxrnn.from_torch(module)


def test_a_frozen_parameter_is_not_trained(torch, nn, x64):
    module = filled(torch, nn.Sequential(nn.Linear(3, 3), nn.LSTM(3, 3), nn.Identity()))
    module[0].weight.requires_grad_(False)
    module[1].weight_hh_l0.requires_grad_(False)
    twin = jaxrnn.from_torch(module)
    assert isinstance(twin[0].kernel, Frozen)
    assert isinstance(twin[1].weight_hh_l0, Frozen)
    assert bits(jaxrnn.state_dict(twin)) == bits(module.state_dict())
    args = [floats(2, 3)]
    ours, theirs = numbers_in_jax(twin, args, {}), numbers_in_torch(torch, module, args, {})
    assert "grad 0.weight" not in ours
    assert_same(ours, theirs, 1e-12)
