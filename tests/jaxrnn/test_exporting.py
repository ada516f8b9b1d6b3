"""An exported model computes what the model does, in any size it was exported for, without its class."""

import subprocess
import sys
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrnn
from tests.jaxrnn.common import draw

BATCH, TIME = jax.export.symbolic_shape("batch, time")


def same(found, expected):
    """Compare trees: one program is fused as the other is not, a few units of float32 apart."""
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, expected)


class Reader(nnx.Module):
    """Embeds, reads, drops, and says what it ended with."""

    def __init__(self, layer, **options):
        self.embedding = nnx.Embed(7, 3, rngs=nnx.Rngs(1))
        self.rnn = layer(3, 4, batch_first=True, rngs=nnx.Rngs(0), **options)
        self.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(2))

    def __call__(self, tokens):
        output, state = self.rnn(self.embedding(tokens))
        return {"output": self.dropout(output), "state": state}


@pytest.mark.parametrize(
    ("layer", "options"),
    [
        (jaxrnn.LSTM, {}),
        (jaxrnn.GRU, {"num_layers": 2, "bidirectional": True, "dropout": 0.3}),
        (jaxrnn.RNN, {"param_dtype": jnp.bfloat16, "dtype": jnp.float32}),
        (jaxrnn.PeepholeLSTM, {"memory": "h"}),
        (jaxrnn.LSTM, {"proj_size": 2}),
    ],
)
def test_one_file_serves_batches_of_every_size(tmp_path, layer, options):
    model = Reader(layer, **options)
    model.eval()
    jaxrnn.export(model, tmp_path / "net.zip", jax.ShapeDtypeStruct((BATCH, TIME), jnp.int32))
    loaded = jaxrnn.load_exported(tmp_path / "net.zip")
    assert loaded.inputs == ("int32[batch,time]",)
    for rows, steps in ((1, 1), (5, 9), (200, 3)):
        tokens = np.random.default_rng(rows).integers(0, 7, (rows, steps)).astype(np.int32)
        same(loaded(tokens), model(tokens))


def test_an_associative_scan_is_exported_for_a_number_of_steps(tmp_path):
    model, path = jaxrnn.MinGRU(3, 4, batch_first=True, rngs=nnx.Rngs(0)), tmp_path / "net.zip"
    with pytest.raises(NotImplementedError, match="export it for a number, not for a symbol"):
        jaxrnn.export(model, path, jax.ShapeDtypeStruct((BATCH, TIME, 3), jnp.float32))
    jaxrnn.export(model, path, jax.ShapeDtypeStruct((BATCH, 6, 3), jnp.float32))
    x = draw(0, 5, 6, 3).astype(np.float32)
    same(jaxrnn.load_exported(path)(x), model(x))


def test_a_classifier_of_ragged_rows_takes_its_lengths(tmp_path):
    model = jaxrnn.models.Classifier(jaxrnn.GRU, 3, 8, 5, rngs=nnx.Rngs(0))
    x, lengths = draw(0, 4, 6, 3).astype(np.float32), np.array([6, 1, 4, 2], np.int32)
    jaxrnn.export(model, tmp_path / "net.zip", x, lengths)
    loaded = jaxrnn.load_exported(tmp_path / "net.zip")
    same(loaded(x, lengths), model(x, lengths))
    assert {"rnn.weight_hh_l0", "fc.kernel"} <= loaded.weights.keys()
    with pytest.raises(ValueError, match="for args"):
        loaded(x[:3], lengths[:3])


def test_a_program_for_other_platforms_is_written_here(tmp_path):
    model = jaxrnn.GRU(3, 4, rngs=nnx.Rngs(0))
    x = draw(0, 5, 2, 3).astype(np.float32)
    jaxrnn.export(model, tmp_path / "net.zip", x, platforms=("cpu", "tpu", "cuda"))
    loaded = jaxrnn.load_exported(tmp_path / "net.zip")
    assert loaded.program.platforms == ("cpu", "tpu", "cuda")
    same(loaded(x), model(x))


def test_another_process_runs_it_without_the_models_class(tmp_path):
    model = Reader(jaxrnn.LSTM)
    model.eval()
    tokens = np.arange(6, dtype=np.int32).reshape(2, 3)
    jaxrnn.export(model, tmp_path / "net.zip", tokens)
    program = (
        "import numpy as np, jaxrnn; net = jaxrnn.load_exported('net.zip'); "
        "print(repr(float(net(np.arange(6, dtype=np.int32).reshape(2, 3))['output'].sum())))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert float(done.stdout) == pytest.approx(float(model(tokens)["output"].sum()), rel=1e-5)


@pytest.mark.parametrize(
    "model", [Reader(jaxrnn.LSTM), jaxrnn.GRU(3, 4, num_layers=2, dropout=0.5, rngs=nnx.Rngs(0))]
)
def test_a_model_that_would_drop_is_refused(tmp_path, model):
    with pytest.raises(ValueError, match=r"drops, by random numbers: call model.eval\(\) first"):
        jaxrnn.export(model, tmp_path / "net.zip", jnp.zeros((2, 3), jnp.int32))
    assert not (tmp_path / "net.zip").exists()


@pytest.mark.parametrize(
    "norm",
    [nnx.BatchNorm(3, rngs=nnx.Rngs(0)), jaxrnn.migration.Sequential(jaxrnn.migration.BatchNorm1d(3))],
)
def test_a_model_that_normalises_by_its_batch_is_refused(tmp_path, norm):
    with pytest.raises(ValueError, match=r"normalises by its batch: call model.eval\(\) first"):
        jaxrnn.export(norm, tmp_path / "net.zip", jnp.zeros((2, 3)))
    norm.eval()
    x = draw(0, 2, 3).astype(np.float32)
    jaxrnn.export(norm, tmp_path / "net.zip", x)
    same(jaxrnn.load_exported(tmp_path / "net.zip")(x), norm(x))


@pytest.mark.parametrize(
    ("inputs", "platforms", "error", "message"),
    [
        (((2, 5, 3),), None, TypeError, "input 0 is .2, 5, 3.; give an array, or jax.ShapeDtypeStruct"),
        ((jnp.zeros((2, 5, 3)), "lengths"), None, TypeError, "input 1 is 'lengths'; give an array"),
        ((jnp.zeros((2, 5, 3)),), ("cpu", "gpu"), ValueError, "'gpu' is not one of .'cpu', 'cuda', 'rocm'"),
    ],
)
def test_inputs_and_platforms_that_are_none_are_named(tmp_path, inputs, platforms, error, message):
    model = jaxrnn.GRU(3, 4, rngs=nnx.Rngs(0))
    with pytest.raises(error, match=message):
        jaxrnn.export(model, tmp_path / "net.zip", *inputs, platforms=platforms)
    assert not (tmp_path / "net.zip").exists()


@pytest.mark.torch
def test_a_module_of_torch_is_sent_to_from_torch(torch, tmp_path):
    with pytest.raises(
        TypeError, match=r"an nnx.Module, got torch.nn.modules.linear.Linear; jaxrnn.from_torch"
    ):
        jaxrnn.export(torch.nn.Linear(3, 4), tmp_path / "net.zip", jnp.zeros((2, 3)))


def test_an_exported_model_is_shown_by_its_inputs_not_its_weights(tmp_path):
    shape = jax.ShapeDtypeStruct((BATCH, 5, 3), "float32")
    jaxrnn.export(jaxrnn.GRU(3, 4, rngs=nnx.Rngs(0)), tmp_path / "net.zip", shape, platforms=("cpu", "tpu"))
    shown = repr(jaxrnn.load_exported(tmp_path / "net.zip"))
    assert shown == f"ExportedModel(float32[batch,5,3]; 4 weights; cpu, tpu; JAX {jax.__version__})"


def test_a_damaged_or_foreign_file_is_one_clear_error(tmp_path):
    path = tmp_path / "net.zip"
    jaxrnn.export(jaxrnn.GRU(3, 4, rngs=nnx.Rngs(0)), path, jnp.zeros((2, 5, 3)))
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}

    def written(changes):
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in (parts | changes).items():
                if content is not None:
                    archive.writestr(name, content)

    for cut in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match="damaged, or no file of"):
            jaxrnn.load_exported(path)
    for changes, message in (
        ({"program": None}, "no file of jaxrnn.export"),
        ({"manifest.json": b"[]"}, "no file of jaxrnn.export"),
        ({"manifest.json": parts["manifest.json"].replace(b'"format": 1', b'"format": 2')}, "is of format 2"),
        ({"program": b"\0" * 40}, "cannot read a program"),
        ({"program": parts["program"][:100]}, "cannot read a program"),
        ({"weights.npz": b"PK"}, "cannot read a program"),
    ):
        written(changes)
        with pytest.raises(ValueError, match=message):
            jaxrnn.load_exported(path)
