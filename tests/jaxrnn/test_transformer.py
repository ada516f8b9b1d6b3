"""The Transformer gives the numbers of `torch.nn.Transformer`, and refuses what it cannot mean."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrnn
from jaxrnn import optim
from tests.jaxrnn.common import draw, mostly_slow

# torch says that it will not take a faster path.
pytestmark = [pytest.mark.filterwarnings(f"ignore:{text}") for text in ("enable_nested", "Support for mism")]

B, S, T, E, HEADS, WIDE = 3, 5, 4, 6, 2, 7
SIZES = (E, HEADS, 1, 2, WIDE)
KINDS = {
    "plain": {},
    "pre-norm gelu": {"norm_first": True, "activation": "gelu"},
    "no bias": {"bias": False, "layer_norm_eps": 0.1},
}
# float64: the same maths in another order, each operation off by 1.1e-16.
SAME = {"rtol": 1e-10, "atol": 1e-12}


def padding(steps, *lengths):
    return np.arange(steps) >= np.array(lengths)[:, None]


def hidden(seed, *shape):
    mask = draw(seed, *shape) > 1
    mask[..., 0] = False
    return mask


CAUSAL = np.triu(np.ones((T, T), bool), 1)
PADDED = {"src_key_padding_mask": padding(S, S, 1, 3), "memory_key_padding_mask": padding(S, S, 1, 3)}
EMPTY = {"src_key_padding_mask": padding(S, S, 0, 3), "memory_key_padding_mask": padding(S, S, 0, 3)}
MASKS = {
    "none": {},
    "causal and padding": {"tgt_mask": CAUSAL, "tgt_key_padding_mask": padding(T, T, 1, 3), **PADDED},
    # The first positions of a row that is padded in front see nothing but padding.
    "padding in front": {"tgt_mask": CAUSAL, "tgt_key_padding_mask": padding(T, T, 1, 3)[:, ::-1]},
    "every mask": {"src_mask": hidden(1, S, S), "tgt_mask": hidden(2, T, T), "memory_mask": hidden(3, T, S)},
    "every head": {"src_mask": hidden(1, B * HEADS, S, S), "memory_mask": draw(3, B * HEADS, T, S)},
    "floating": {
        "tgt_mask": np.where(CAUSAL, -np.inf, 0.0),
        "memory_mask": draw(3, T, S),
        "memory_key_padding_mask": draw(4, B, S),
    },
    "a row all hidden": EMPTY,
}


def drawn(module):
    """Fill a module, so that no parameter is zero."""
    values = jaxrnn.state_dict(module)
    jaxrnn.load_state_dict(
        module, {name: draw(30 + n, *v.shape) * 0.5 for n, (name, v) in enumerate(values.items())}
    )
    return module


def made(kind, name="Transformer", sizes=SIZES, **options):
    options = {"dropout": 0.0, "batch_first": True} | kind | options
    return drawn(getattr(jaxrnn, name)(*sizes, **options, param_dtype=jnp.float64, rngs=nnx.Rngs(0)))


def inputs(rows=B, source=S, target=T):
    return [draw(20, rows, source, E), draw(21, rows, target, E)]


def of_jax(module, arrays, masks):
    """Return output and gradients of inputs, and gradients of parameters by torch's names."""
    graph, params, rest = nnx.split(module, nnx.Param, ...)

    def run(params, arrays):
        output = nnx.merge(graph, params, rest)(*arrays, **masks)
        return (output * draw(90, *output.shape)).sum(), output

    gradients, output = jax.grad(run, (0, 1), has_aux=True)(params, [jnp.asarray(a) for a in arrays])
    return [output, *gradients[1]], jaxrnn.state_dict(nnx.merge(graph, gradients[0], rest))


def of_torch(torch, module, arrays, masks):
    given = [torch.tensor(a, requires_grad=True) for a in arrays]
    as_tensors = {
        name: torch.tensor(np.array(a)) if name.endswith("mask") else a for name, a in masks.items()
    }
    output = module(*given, **as_tensors)
    names, parameters = zip(*module.named_parameters(), strict=True)
    found = torch.autograd.grad(output, [*given, *parameters], torch.tensor(draw(90, *output.shape)))
    numbers = [a.detach().numpy() for a in (output, *found)]
    return numbers[: 1 + len(given)], dict(zip(names, numbers[1 + len(given) :], strict=True))


def twin(torch, module, kind, name="Transformer", sizes=SIZES, **options):
    options = {"dropout": 0.0, "batch_first": True} | kind | options
    theirs = getattr(torch.nn, name)(*sizes, **options, dtype=torch.float64)
    theirs.load_state_dict({name: torch.tensor(value) for name, value in jaxrnn.state_dict(module).items()})
    return theirs


def assert_same(torch, ours, theirs, arrays, masks):
    ours, theirs = of_jax(ours, arrays, masks), of_torch(torch, theirs, arrays, masks)
    for a, b in zip(ours[0], theirs[0], strict=True):
        np.testing.assert_allclose(a, b, **SAME)
    assert set(ours[1]) == set(theirs[1])
    for name, gradient in theirs[1].items():
        np.testing.assert_allclose(ours[1][name], gradient, **SAME, err_msg=name)


@pytest.mark.essential
@pytest.mark.usefixtures("x64")
@pytest.mark.torch
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("mask", mostly_slow(MASKS, fast=("causal and padding",)))
@pytest.mark.parametrize("kind", mostly_slow(KINDS, fast=("plain",)))
def test_outputs_and_gradients_are_those_of_torch(torch, kind, mask, training):
    ours = made(KINDS[kind])
    theirs = twin(torch, ours, KINDS[kind]).train(training)
    (ours.train if training else ours.eval)()
    assert_same(torch, ours, theirs, inputs(), MASKS[mask])


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.torch
@pytest.mark.parametrize(("rows", "source", "target"), [(1, S, T), (B, 1, T), (B, S, 1), (1, 1, 1)])
def test_one_row_and_one_step_are_nothing_special(torch, rows, source, target):
    ours = made({})
    assert_same(torch, ours, twin(torch, ours, {}), inputs(rows, source, target), {})


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.torch
def test_there_may_be_a_head_for_every_feature(torch):
    sizes = (E, E, 1, 1, WIDE)
    ours = made({}, sizes=sizes)
    assert_same(torch, ours, twin(torch, ours, {}, sizes=sizes), inputs(), {})


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.torch
def test_time_may_lead_and_the_batch_be_missing(torch):
    ours = made({}, batch_first=False)
    theirs = twin(torch, ours, {}, batch_first=False)
    masks = {"tgt_mask": CAUSAL, "src_key_padding_mask": padding(S, S, 1, 3)}
    assert_same(torch, ours, theirs, [np.swapaxes(a, 0, 1) for a in inputs()], masks)
    one = {"tgt_mask": CAUSAL, "src_key_padding_mask": padding(S, 3)[0]}
    assert_same(torch, ours, theirs, [a[0] for a in inputs()], one)


@pytest.mark.usefixtures("x64")
@pytest.mark.torch
@pytest.mark.parametrize("kind", ["Encoder", "Decoder"])
def test_layers_and_stacks_alone_are_those_of_torch(torch, kind):
    sizes, arrays = (E, HEADS, WIDE), inputs()[: 1 if kind == "Encoder" else 2]
    layer = made({}, f"Transformer{kind}Layer", sizes)
    torch_layer = twin(torch, layer, {}, f"Transformer{kind}Layer", sizes)
    assert_same(torch, layer, torch_layer, arrays, {})
    stack = getattr(jaxrnn, f"Transformer{kind}")(layer, 2, rngs=nnx.Rngs(0))
    torch_stack = getattr(torch.nn, f"Transformer{kind}")(torch_layer, 2)
    assert_same(torch, stack, torch_stack, arrays, {})  # both copied the layer's weights


@pytest.mark.torch
def test_torchs_fast_path_makes_a_row_nan_and_is_not_followed(torch):
    """torch.nn.TransformerEncoderLayer answers in two ways; ours is the one that it trains with."""
    ours = jaxrnn.TransformerEncoderLayer(E, HEADS, WIDE, 0.0, batch_first=True, rngs=nnx.Rngs(0))
    theirs = torch.nn.TransformerEncoderLayer(E, HEADS, WIDE, 0.0, batch_first=True)
    theirs.load_state_dict({name: torch.tensor(value) for name, value in jaxrnn.state_dict(ours).items()})
    x, empty = inputs()[0].astype(np.float32), EMPTY["src_key_padding_mask"]
    masks = {"src_key_padding_mask": torch.tensor(empty)}
    with torch.no_grad():
        fast = theirs.eval()(torch.tensor(x), **masks).numpy()
        slow = theirs.train()(torch.tensor(x), **masks).numpy()
    ours.eval()
    np.testing.assert_allclose(ours(x, src_key_padding_mask=empty), slow, rtol=1e-4, atol=1e-5)
    assert np.isfinite(slow).all()
    assert np.isnan(fast[1]).all()


@pytest.mark.usefixtures("x64")
def test_what_is_in_the_padding_reaches_neither_a_result_nor_a_gradient():
    module, (src, tgt) = made({}), inputs()
    changed = np.where(PADDED["src_key_padding_mask"][:, :, None], 100 * src, src)
    (first, _), (second, _) = (of_jax(module, [a, tgt], PADDED) for a in (src, changed))
    np.testing.assert_allclose(first[0], second[0], rtol=1e-12)
    assert not np.any(np.asarray(first[1])[PADDED["src_key_padding_mask"]])


@pytest.mark.usefixtures("x64")
def test_no_position_sees_a_later_one():
    module, (src, tgt) = made({"norm_first": True}), inputs()
    later = tgt.copy()
    later[:, 2:] = draw(22, B, T - 2, E)
    mask = module.generate_square_subsequent_mask(T)
    for options in ({"tgt_mask": mask}, {"tgt_mask": mask, "tgt_is_causal": True}):
        first, second = (module(jnp.asarray(src), jnp.asarray(a), **options) for a in (tgt, later))
        np.testing.assert_array_equal(first[:, :2], second[:, :2])
        assert np.abs(first[:, 2:] - second[:, 2:]).max(-1).min() > 0.01


@pytest.mark.usefixtures("x64")
def test_compiled_it_returns_what_it_returns_otherwise():
    module, arrays = made({}, dropout=0.3), [jnp.asarray(a) for a in inputs()]
    masks = masks_for(module, *arrays)

    @nnx.jit
    def compiled(module, src, tgt, masks):  # what is known while `jit` traces is checked all the same
        return module(src, tgt, tgt_mask=CAUSAL, tgt_is_causal=True, dropout_masks=masks)

    expected = module(*arrays, tgt_mask=CAUSAL, dropout_masks=masks)
    np.testing.assert_allclose(compiled(module, *arrays, masks), expected, **SAME)


# Weights


@pytest.mark.torch
@pytest.mark.parametrize("options", [{}, {"bias": False}, {"dtype": "float64"}], ids=str)
def test_one_seed_gives_torchs_bits(torch, options):
    theirs_options = options | ({"dtype": torch.float64} if "dtype" in options else {})
    ours_options = {"param_dtype": options["dtype"]} if "dtype" in options else options
    with jax.enable_x64("dtype" in options):
        module = jaxrnn.Transformer(8, 2, 2, 3, 16, **ours_options, rngs=nnx.Rngs(0))
    for seed in (0, 1234):
        torch.manual_seed(seed)
        theirs = torch.nn.Transformer(8, 2, 2, 3, 16, **theirs_options).state_dict()
        ours = jaxrnn.state_dict(jaxrnn.init.like_torch(module, seed))
        assert list(ours) == list(theirs)
        assert all(ours[name].tobytes() == theirs[name].numpy().tobytes() for name in ours)


class Tagger(nnx.Module):
    def __init__(self, rngs):
        self.before = nnx.Linear(3, 8, rngs=rngs)
        layer = jaxrnn.TransformerEncoderLayer(8, 2, 16, rngs=rngs)
        self.stack = jaxrnn.TransformerEncoder(layer, 3, nnx.LayerNorm(8, rngs=rngs), rngs=rngs)
        self.decoder_layer = jaxrnn.TransformerDecoderLayer(8, 4, 16, rngs=rngs)
        self.after = nnx.Linear(8, 2, rngs=rngs)


@pytest.mark.torch
def test_layers_and_stacks_inside_a_model_get_torchs_bits(torch):
    torch.manual_seed(7)
    parts = torch.nn.ModuleDict(
        {
            "before": torch.nn.Linear(3, 8),
            "stack": torch.nn.TransformerEncoder(
                torch.nn.TransformerEncoderLayer(8, 2, 16), 3, torch.nn.LayerNorm(8)
            ),
            "decoder_layer": torch.nn.TransformerDecoderLayer(8, 4, 16),
            "after": torch.nn.Linear(8, 2),
        }
    )
    ours, theirs = jaxrnn.init.like_torch(Tagger(nnx.Rngs(0)), 7), parts.state_dict()
    assert set(jaxrnn.state_dict(ours)) == set(theirs)
    for name, value in jaxrnn.state_dict(ours).items():
        assert value.tobytes() == theirs[name].numpy().tobytes(), name
    with pytest.raises(ValueError, match="the order in which its parts were built is lost"):
        jaxrnn.init.like_torch(nnx.clone(ours), 7)


def test_copies_of_a_layer_start_equal_and_train_apart():
    layer = jaxrnn.TransformerEncoderLayer(E, HEADS, WIDE, batch_first=True, rngs=nnx.Rngs(0))
    stack = jaxrnn.TransformerEncoder(layer, 2, rngs=nnx.Rngs(1))
    before = jaxrnn.state_dict(stack)
    for name, value in jaxrnn.state_dict(layer).items():
        np.testing.assert_array_equal(before[f"layers.0.{name}"], value)
        np.testing.assert_array_equal(before[f"layers.1.{name}"], value)
    x = jnp.asarray(inputs()[0], jnp.float32)
    optimizer = nnx.Optimizer(stack, optim.sgd(0.1), wrt=nnx.Param)

    @nnx.jit(donate_argnums=(0, 1))  # two copies that shared a buffer could not be given away
    def step(stack, optimizer):
        optimizer.update(stack, nnx.grad(lambda stack: (stack(x) ** 3).mean())(stack))

    step(stack, optimizer)
    after = jaxrnn.state_dict(stack)
    assert np.abs(after["layers.0.linear1.weight"] - after["layers.1.linear1.weight"]).max() > 1e-4
    assert np.array_equal(before["layers.0.linear1.weight"], jaxrnn.state_dict(layer)["linear1.weight"])


@pytest.mark.parametrize("name", ["encoder", "decoder"])
def test_matrices_are_drawn_by_xaviers_rule_and_biases_copied(name):
    module = jaxrnn.Transformer(32, 2, 2, 2, 64, rngs=nnx.Rngs(0))
    values = jaxrnn.state_dict(module)
    first, second = (values[f"{name}.layers.{n}.linear1.weight"] for n in (0, 1))
    bound = np.sqrt(6 / (32 + 64))
    assert bound * 0.99 < np.abs(first).max() <= bound  # of 2048 draws the largest misses the end by 0.05 %
    assert np.abs(first - second).max() > 0.1
    bias = values[f"{name}.layers.0.linear1.bias"]
    assert 0.9 < np.abs(bias).max() * np.sqrt(32) <= 1
    np.testing.assert_array_equal(bias, values[f"{name}.layers.1.linear1.bias"])


# Dropout


def masks_for(module, src, tgt):
    """Return a mask for every dropout of SIZES, as torch would shape it."""
    rows = src.shape[0]
    shapes = {"dropout": (rows, -1, WIDE), "self_attn.dropout": (rows, HEADS, -1, -1)}
    shapes |= {f"dropout{n}": (rows, -1, E) for n in (1, 2)}
    decoder = shapes | {"dropout3": (rows, -1, E), "multihead_attn.dropout": (rows, HEADS, -1, src.shape[1])}
    of = {f"encoder.layers.0.{name}": (shape, src.shape[1]) for name, shape in shapes.items()}
    of |= {
        f"decoder.layers.{n}.{name}": (shape, tgt.shape[1]) for n in (0, 1) for name, shape in decoder.items()
    }
    return {
        name: draw(50 + n, *(steps if size < 0 else size for size in shape)) > -0.5
        for n, (name, (shape, steps)) in enumerate(of.items())
    }


@pytest.mark.usefixtures("x64")
@pytest.mark.torch
@pytest.mark.parametrize("kind", ["plain", "pre-norm gelu"])
def test_given_masks_make_training_that_of_the_mirror(torch, kind):
    import torch_ref

    ours, arrays = made(KINDS[kind], dropout=0.3), inputs()
    theirs = torch_ref.Transformer(*SIZES, dropout=0.3, batch_first=True, **KINDS[kind]).double()
    theirs.load_state_dict({name: torch.tensor(value) for name, value in jaxrnn.state_dict(ours).items()})
    masks = masks_for(ours, *arrays)
    found = of_jax(ours, arrays, MASKS["causal and padding"] | {"dropout_masks": masks})
    given = {"dropout_masks": {name: torch.tensor(mask) for name, mask in masks.items()}}
    expected = of_torch(torch, theirs, arrays, MASKS["causal and padding"] | given)
    for a, b in zip(found[0], expected[0], strict=True):
        np.testing.assert_allclose(a, b, **SAME)
    for name, gradient in expected[1].items():
        np.testing.assert_allclose(found[1][name], gradient, **SAME, err_msg=name)


def test_every_dropout_draws_on_its_own_in_training_and_is_still_in_evaluation():
    layer = jaxrnn.TransformerEncoderLayer(E, HEADS, WIDE, 0.5, batch_first=True, rngs=nnx.Rngs(0))
    stack = jaxrnn.TransformerEncoder(layer, 2, rngs=nnx.Rngs(1))
    streams = [part.rngs for _, part in nnx.iter_modules(stack) if isinstance(part, jaxrnn.dropout.Dropout)]
    keys = {jax.random.key_data(stream.key[...]).tobytes() for stream in streams}
    assert len(streams) == len(keys) == 8
    x = jnp.asarray(inputs()[0], jnp.float32)
    assert np.abs(stack(x) - stack(x)).max() > 0.1
    stack.eval()
    np.testing.assert_array_equal(stack(x), stack(x))


def test_masks_of_other_names_are_refused_with_those_that_there_are():
    module = jaxrnn.Transformer(*SIZES, dropout=0.3, batch_first=True, rngs=nnx.Rngs(0))
    arrays = [jnp.asarray(a, jnp.float32) for a in inputs()]
    masks = masks_for(module, *arrays)
    wrong = {
        ("encoder.dropout" if name == "encoder.layers.0.dropout" else name): m for name, m in masks.items()
    }
    text = 'missing are "encoder.layers.0.dropout", unknown are "encoder.dropout"'
    with pytest.raises(ValueError, match=text) as caught:
        module(*arrays, dropout_masks=wrong)
    assert all(name in str(caught.value) for name in masks)
    module.eval()
    with pytest.raises(ValueError, match=r"nothing is dropped.*call train\(\)"):
        module(*arrays, dropout_masks=masks)


# Errors


X = np.ones((B, S, E), np.float32)
WRONG = [
    (
        (X[..., :4], X[..., :4]),
        {},
        RuntimeError,
        "feature number of src and tgt must be equal to d_model",
    ),
    ((X, X[..., :4]), {}, RuntimeError, "feature number of src and tgt must be equal to d_model"),
    (
        (X, X[:2]),
        {},
        RuntimeError,
        "the batch number of src and tgt must be equal.*is batch_first what you mean",
    ),
    ((X, X[0]), {}, ValueError, "both have a batch axis, or neither"),
    ((X[None], X[None]), {}, ValueError, "unbatched 2D or batched 3D.*jax.vmap"),
    ((X, X), {"src_is_causal": True}, RuntimeError, "Need attn_mask if specifying the is_causal hint"),
    ((X, X), {"tgt_is_causal": True, "tgt_mask": np.zeros((S, S), bool)}, ValueError, "but it is another"),
    ((X, X), {"src_mask": np.zeros((2, 2), bool)}, RuntimeError, "The shape of the 2D attn_mask"),
    (
        (X, X),
        {"memory_key_padding_mask": np.zeros((B, 2), bool)},
        ValueError,
        "key_padding_mask should be of",
    ),
    ((X.astype(np.float16), X.astype(np.float16)), {}, ValueError, "TransformerEncoderLayer input dtype"),
    (([1.0], X), {}, TypeError, "src should be a JAX or NumPy array"),
]


@pytest.mark.parametrize(("arrays", "options", "error", "message"), WRONG)
def test_inputs_that_do_not_fit_are_refused(arrays, options, error, message):
    module = jaxrnn.Transformer(*SIZES, batch_first=True, rngs=nnx.Rngs(0))
    with pytest.raises(error, match=message):
        module(*arrays, **options)


@pytest.mark.parametrize("norm_first", [True, False])
def test_a_layer_alone_refuses_features_that_would_broadcast(norm_first):
    layer = jaxrnn.TransformerEncoderLayer(E, HEADS, WIDE, norm_first=norm_first, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="embedding dimension of 6, but got 1: src is of shape"):
        layer(X[..., :1])


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((7, 2), {}, ValueError, "embed_dim must be divisible by num_heads"),
        ((8, 2, 0), {}, ValueError, "num_layers must be greater than zero"),
        ((8, 2), {"activation": "tanh"}, RuntimeError, "activation should be relu/gelu, not tanh. Pass"),
        ((8, 2), {"dropout": 2}, ValueError, r"in range \[0, 1\]"),
        (
            (8, 2),
            {"device": "cpu"},
            TypeError,
            r"Transformer.__init__\(\) got an unexpected keyword .*'device'",
        ),
        (
            (8, 2, 1, 1, 16, 0.0, "relu", None, None, 1e-5, 1),
            {},
            TypeError,
            "batch_first should be of type bool",
        ),
    ],
)
def test_constructors_that_mean_nothing_are_refused(arguments, options, error, message):
    with pytest.raises(error, match=message):
        jaxrnn.Transformer(*arguments, **options, rngs=nnx.Rngs(0))


def test_an_option_of_torchs_encoder_that_chooses_its_kernels_is_not_there():
    layer = jaxrnn.TransformerEncoderLayer(8, 2, 16, rngs=nnx.Rngs(0))
    with pytest.raises(TypeError, match=r"TransformerEncoder.__init__\(\) got .*'enable_nested_tensor'"):
        jaxrnn.TransformerEncoder(layer, 2, enable_nested_tensor=False, rngs=nnx.Rngs(0))


# Beyond torch


def test_half_precision_stays_half():
    module = jaxrnn.Transformer(8, 2, 1, 1, 16, batch_first=True, param_dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    mixed = jaxrnn.Transformer(8, 2, 1, 1, 16, batch_first=True, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    for each, dtype in ((module, jnp.bfloat16), (mixed, jnp.float32)):
        x = jnp.ones((2, 3, 8), dtype)
        assert each(x, x, tgt_mask=each.generate_square_subsequent_mask(3)).dtype == jnp.bfloat16
    assert mixed.encoder.layers[0].linear1.kernel.dtype == jnp.float32


def test_custom_parts_are_called_as_those_of_torch():
    class Twice(nnx.Module):
        def __init__(self):
            self.weight = nnx.Param(jnp.ones((E, E)))

        def __call__(self, src, mask=None, src_key_padding_mask=None, is_causal=None):
            return src @ self.weight[...]

    custom = Twice()
    module = jaxrnn.Transformer(E, HEADS, 1, 1, WIDE, 0.0, "relu", custom, batch_first=True, rngs=nnx.Rngs(0))
    assert module.encoder is custom
    assert np.abs(custom.weight[...] - 1).min() > 0  # drawn anew by Xavier's rule, as torch does
    x = jnp.asarray(X)
    np.testing.assert_array_equal(module(x, x), module.decoder(x, custom(x)))
