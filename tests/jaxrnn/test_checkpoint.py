"""Weights by torch's names: through modules and mappings, and what does not fit."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrnn
from jaxrnn import checkpoint, torch_names
from tests.jaxrnn.tagger import (
    DTYPES,
    Tagger,
    assert_same,
    assert_same_bits,
    draw,
    numpy_dict,
    tagger,
    torch_tagger,
)


def lstm(*args, **options):
    return jaxrnn.LSTM(*args, **options, rngs=nnx.Rngs(0))


@pytest.mark.torch
def test_names_shapes_and_order_are_torchs(torch):
    ours = checkpoint.state_dict(Tagger())
    assert [(name, value.shape) for name, value in ours.items()] == [
        (name, tuple(value.shape)) for name, value in torch_tagger(torch).state_dict().items()
    ]


@pytest.mark.torch
@pytest.mark.parametrize("dtype", DTYPES)
def test_torchs_weights_arrive_bit_for_bit(torch, dtype):
    twin, module = torch_tagger(torch, dtype), tagger(dtype)
    assert checkpoint.load_state_dict(module, twin.state_dict()) == ([], [])
    assert_same_bits(checkpoint.state_dict(module), numpy_dict(twin.state_dict()))
    kernel = np.asarray(module.head.layers[0].kernel[...])
    np.testing.assert_array_equal(kernel.T.astype(np.float64), twin.head[0].weight.detach().double().numpy())


def test_what_is_not_a_parameter_has_no_name():
    module = nnx.Sequential(nnx.Dropout(0.5, rngs=nnx.Rngs(0)), nnx.Linear(2, 3, rngs=nnx.Rngs(0)))
    module.counter = nnx.Variable(jnp.zeros(3))
    assert list(checkpoint.state_dict(module)) == ["1.weight", "1.bias"]


def test_frozen_parameters_and_buffers_have_names():
    module = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    module.kernel, module.steps = (
        torch_names.Frozen(module.kernel[...]),
        torch_names.Buffer(jnp.zeros((), jnp.int32)),
    )
    named = checkpoint.state_dict(module)
    assert [(name, value.dtype) for name, value in named.items()] == [
        ("weight", np.float32),
        ("bias", np.float32),
        ("steps", np.int64),  # as torch counts
    ]
    assert [parameter.name for parameter in torch_names.parameters(module)] == ["bias"]
    checkpoint.load_state_dict(module, named | {"steps": np.int64(7), "weight": np.ones((3, 2), np.float32)})
    assert module.steps[...] == 7
    assert np.all(module.kernel[...] == 1)
    with pytest.raises(RuntimeError, match="steps: the values do not fit into int32"):
        checkpoint.load_state_dict(module, named | {"steps": np.int64(2**31)})


def test_the_order_of_a_module_that_names_its_attributes_is_kept():
    class Model(nnx.Module):
        torch_order = ("weight", "bias")

        def __init__(self):
            self.weight, self.bias = nnx.Param(jnp.ones(1)), nnx.Param(jnp.ones(1))

    assert list(checkpoint.state_dict(nnx.clone(Model()))) == ["weight", "bias"]


def test_parts_in_plain_lists_and_dicts_have_names():
    class Model(nnx.Module):
        def __init__(self):
            self.rows = nnx.data([nnx.Linear(1, 2, rngs=nnx.Rngs(0)) for _ in range(11)])
            self.by_name = nnx.Dict(b=nnx.Param(jnp.ones(1)), a=nnx.Param(jnp.ones(1)))

    names = list(checkpoint.state_dict(Model()))
    assert names[::2] == [f"rows.{index}.weight" for index in range(11)] + ["by_name.b"]
    assert names[-1] == "by_name.a"


def test_jit_does_not_reorder_the_names_of_a_layer():
    layer = lstm(3, 4, 12, proj_size=2, bidirectional=True)
    before = list(checkpoint.state_dict(layer))
    nnx.jit(lambda layer: None)(layer)
    assert list(vars(layer)) == sorted(vars(layer))  # Flax sorted the attributes
    assert list(checkpoint.state_dict(layer)) == before
    assert before[:6] == [f"{name}_l0" for name in torch_names._RECURRENT_ORDER[:5]] + [
        "weight_ih_l0_reverse"
    ]


@pytest.mark.parametrize(
    "part",
    [
        lambda rngs: nnx.ConvTranspose(2, 3, (3,), rngs=rngs),
        lambda rngs: nnx.BatchNorm(2, use_bias=False, use_scale=False, rngs=rngs),
        lambda rngs: nnx.MultiHeadAttention(2, 4, rngs=rngs),
        lambda rngs: nnx.LSTMCell(2, 3, rngs=rngs),
        lambda rngs: nnx.LinearGeneral(2, (3, 4), rngs=rngs),
        lambda rngs: nnx.LoRALinear(2, 3, lora_rank=1, rngs=rngs),
    ],
)
def test_a_module_whose_names_would_be_wrong_is_refused(part):
    part = part(nnx.Rngs(0))
    with pytest.raises(NotImplementedError, match=rf"^1\.0: flax's {type(part).__name__} has no translation"):
        checkpoint.state_dict(nnx.List([nnx.Linear(1, 1, rngs=nnx.Rngs(0)), nnx.List([part])]))


@pytest.mark.torch
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_a_convolution_with_torchs_weights_gives_torchs_numbers(torch, axes, groups):
    """Flax has channels last, in the kernel too."""
    kernel, image = (2, 3, 4)[:axes], (7, 6, 5)[:axes]
    theirs = getattr(torch.nn, f"Conv{axes}d")(4, 6, kernel, stride=2, padding=1, groups=groups)
    ours = nnx.Conv(
        4, 6, kernel, strides=2, padding=((1, 1),) * axes, feature_group_count=groups, rngs=nnx.Rngs(0)
    )
    jaxrnn.load_state_dict(ours, theirs.state_dict())
    assert_same_bits(checkpoint.state_dict(ours), numpy_dict(theirs.state_dict()))
    x = np.random.default_rng(2).standard_normal((3, 4, *image), np.float32)
    found = jnp.moveaxis(ours(jnp.moveaxis(jnp.asarray(x), 1, -1)), -1, 1)
    np.testing.assert_allclose(
        found, theirs(torch.tensor(x)).detach(), rtol=1e-5, atol=1e-5
    )  # sums of 96 float32


def test_a_subclass_is_translated_like_its_base():
    class Head(nnx.Linear):
        pass

    assert checkpoint.state_dict(Head(3, 2, rngs=nnx.Rngs(0)))["weight"].shape == (2, 3)


def test_two_parameters_of_one_name_are_refused():
    with pytest.raises(ValueError, match=re.escape('would be called "a.b"')):
        checkpoint.state_dict(
            nnx.Dict({"a.b": nnx.Param(jnp.ones(1)), "a": nnx.Dict(b=nnx.Param(jnp.ones(1)))})
        )


def test_a_module_that_contains_itself_is_refused():
    module = nnx.Dict(a=nnx.Dict())
    module.a.back = module
    with pytest.raises(ValueError, match=r"a\.back contains itself"):
        checkpoint.state_dict(module)


def test_only_modules_have_a_state_dict():
    with pytest.raises(TypeError, match="Expected a Flax NNX module, got dict"):
        checkpoint.state_dict({"a": nnx.Param(jnp.ones(1))})
    with pytest.raises(TypeError, match="abstract"):
        checkpoint.state_dict(nnx.eval_shape(lambda: lstm(2, 3)))


def tied():
    class Tied(nnx.Module):
        def __init__(self):
            self.a = nnx.Linear(3, 3, rngs=nnx.Rngs(0))
            self.b = nnx.Linear(3, 3, rngs=nnx.Rngs(1))
            self.b.kernel = self.a.kernel

    return Tied()


def test_a_tied_parameter_has_both_names_and_one_value():
    module = tied()
    named = checkpoint.state_dict(module)
    assert list(named) == ["a.weight", "a.bias", "b.weight", "b.bias"]
    doubled = {name: 2 * value for name, value in named.items()}
    checkpoint.load_state_dict(module, doubled)
    assert module.a.kernel is module.b.kernel
    assert_same(checkpoint.state_dict(module), doubled)
    doubled["b.weight"] = named["b.weight"]
    with pytest.raises(RuntimeError, match=r"a\.weight and b\.weight are one tied parameter"):
        checkpoint.load_state_dict(module, doubled)


def test_a_state_dict_is_a_copy_both_ways():
    module = lstm(2, 3)
    named = checkpoint.state_dict(module)
    before = {name: value.copy() for name, value in named.items()}
    module.weight_ih_l0.set_value(jax.jit(lambda w: w + 1, donate_argnums=0)(module.weight_ih_l0[...]))
    assert_same(named, before)
    checkpoint.load_state_dict(module, named)
    named["weight_ih_l0"][:] = 7
    assert_same(checkpoint.state_dict(module), before)


@pytest.mark.torch
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("source", DTYPES)
def test_values_are_cast_as_torch_casts_them(torch, source, dtype):
    rng = np.random.default_rng(0)
    # Normal, tiny and huge: rounding, subnormals of float16 and overflow to inf, and NaN.
    weights = rng.standard_normal((6, 50)) * 10.0 ** rng.uniform(-9, 6, (6, 50))
    weights[0, 0] = np.nan
    theirs = torch.from_numpy(weights).to(getattr(torch, source))
    twin = torch.nn.Linear(50, 6, bias=False, dtype=getattr(torch, dtype))
    twin.load_state_dict({"weight": theirs})
    with jax.enable_x64(True):
        module = nnx.Linear(50, 6, use_bias=False, param_dtype=jnp.dtype(dtype), rngs=nnx.Rngs(0))
    checkpoint.load_state_dict(module, {"weight": theirs})
    ours = checkpoint.state_dict(module)["weight"]
    assert ours.dtype == dtype
    np.testing.assert_array_equal(ours.astype(np.float64), twin.weight.detach().double().numpy())


def test_a_float64_parameter_stays_float64_and_devices_are_kept():
    with jax.enable_x64(True):
        module = nnx.Linear(2, 3, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
        module.bias.set_value(jax.device_put(module.bias[...], jax.devices()[0]))
    value = np.full((3, 2), 1 + 2.0**-40)
    checkpoint.load_state_dict(module, {"weight": value, "bias": value[:, 0]})
    assert_same(checkpoint.state_dict(module), {"weight": value, "bias": value[:, 0].copy()})
    assert module.bias[...].committed
    assert not module.kernel[...].committed


def test_an_abstract_module_gets_its_values():
    module = nnx.eval_shape(lambda: lstm(2, 3))
    named = checkpoint.state_dict(draw(lstm(2, 3)))
    checkpoint.load_state_dict(module, named)
    assert_same(checkpoint.state_dict(module), named)


# What does not fit


@pytest.mark.torch
@pytest.mark.parametrize(
    ("saved", "model"),
    [
        ({"num_layers": 2}, {}),
        ({}, {"num_layers": 2}),
        ({"bidirectional": True}, {}),
        ({}, {"bidirectional": True}),
        ({"bias": False}, {"bias": True}),
        ({"proj_size": 2}, {}),
        ({}, {"proj_size": 2, "num_layers": 3, "bias": False}),
    ],
)
def test_the_error_has_torchs_words(torch, saved, model):
    source = torch.nn.LSTM(3, 4, **saved).state_dict()
    with pytest.raises(RuntimeError) as theirs:
        torch.nn.LSTM(3, 5, **model).load_state_dict(source)
    module = lstm(3, 5, **model)
    before = checkpoint.state_dict(module)
    with pytest.raises(RuntimeError) as ours:
        checkpoint.load_state_dict(module, source)
    text, _, remedy = str(ours.value).partition("\nTo do: ")
    assert text == str(theirs.value)
    assert remedy
    assert_same(checkpoint.state_dict(module), before)  # not even the weights that fit


@pytest.mark.parametrize(
    ("saved", "model", "remedy"),
    [
        ({"num_layers": 2}, {}, "num_layers=2"),
        ({}, {"num_layers": 3}, "num_layers=1"),
        ({"bidirectional": True}, {}, "bidirectional=True"),
        ({}, {"bidirectional": True}, "bidirectional=False"),
        ({"bias": False}, {}, "bias=False"),
        ({}, {"bias": False}, "bias=True"),
        ({"proj_size": 2}, {}, "proj_size of the checkpoint"),
        ({}, {"proj_size": 2}, "proj_size=0"),
    ],
)
def test_the_error_names_the_argument_that_differs(saved, model, remedy):
    with pytest.raises(RuntimeError) as raised:
        checkpoint.load_state_dict(lstm(3, 4, **model), checkpoint.state_dict(lstm(3, 4, **saved)))
    advice = str(raised.value).split("\nTo do: ")[1:]
    assert advice == [f"to match the checkpoint, construct the model with {advice[0].split(' with ')[1]}"]
    assert remedy in advice[0]


def test_the_error_guesses_prefixes_and_new_names():
    named = checkpoint.state_dict(lstm(3, 4))
    parallel = {f"module.{name}": value for name, value in named.items()}
    with pytest.raises(RuntimeError, match=r"name\.removeprefix\('module\.'\)"):
        checkpoint.load_state_dict(lstm(3, 4), parallel)
    with pytest.raises(RuntimeError, match="the checkpoint is of the model's 'rnn' alone"):
        checkpoint.load_state_dict(nnx.Dict(rnn=lstm(3, 4)), named)
    head = nnx.Dict(linear=nnx.Linear(2, 3, rngs=nnx.Rngs(0)))
    renamed = {
        name.replace("linear", "linear1"): value for name, value in checkpoint.state_dict(head).items()
    }
    with pytest.raises(RuntimeError, match=r"'linear\.weight' may be 'linear1\.weight' in the checkpoint"):
        checkpoint.load_state_dict(head, renamed)


def test_peepholes_tell_the_two_lstms_apart():
    peephole = jaxrnn.PeepholeLSTM(3, 4, rngs=nnx.Rngs(0))
    with pytest.raises(RuntimeError, match="construct the model with a PeepholeLSTM, not an LSTM"):
        checkpoint.load_state_dict(lstm(3, 4), checkpoint.state_dict(peephole))


def test_not_strict_loads_what_matches_and_returns_the_rest():
    module, named = lstm(3, 4), checkpoint.state_dict(draw(lstm(3, 4)))
    other = named | {"extra": np.ones(2)}
    del other["bias_hh_l0"]
    before = checkpoint.state_dict(module)
    keys = checkpoint.load_state_dict(module, other, strict=False)
    assert keys == checkpoint.IncompatibleKeys(missing_keys=["bias_hh_l0"], unexpected_keys=["extra"])
    assert_same(checkpoint.state_dict(module), named | {"bias_hh_l0": before["bias_hh_l0"]})


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (np.ones((16, 4)), "size mismatch for weight_ih_l0: .*torch.Size.*16, 4.* torch.Size.*16, 3"),
        (np.ones((16, 3), np.int32), "dtype mismatch for weight_ih_l0: int32 does not become float32"),
        (np.ones((16, 3), bool), "dtype mismatch"),
        (np.ones((16, 3), complex), "dtype mismatch"),
        (np.ones((16, 3)).astype("V2"), "dtype mismatch"),
        ([[1.0] * 3] * 16, "received <class 'list'>"),
        (None, "received <class 'NoneType'>"),
    ],
)
@pytest.mark.parametrize("strict", [True, False])
def test_a_value_of_the_wrong_kind_changes_nothing(value, error, strict):
    module = lstm(3, 4)
    before = checkpoint.state_dict(module)
    with pytest.raises(RuntimeError, match=error):
        checkpoint.load_state_dict(
            module, checkpoint.state_dict(draw(lstm(3, 4))) | {"weight_ih_l0": value}, strict
        )
    assert_same(checkpoint.state_dict(module), before)


def test_a_nested_or_unnamed_source_is_refused():
    named = checkpoint.state_dict(lstm(3, 4))
    with pytest.raises(TypeError, match='pass one of its entries "model_state"'):
        checkpoint.load_state_dict(lstm(3, 4), {"model_state": named, "epoch": 3}, strict=False)
    with pytest.raises(TypeError, match="got list"):
        checkpoint.load_state_dict(lstm(3, 4), list(named.items()))
