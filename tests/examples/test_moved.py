"""Networks out of packages: layouts, cells, sound and text are what they say, and each network is itself."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from click import ClickException
from click.testing import CliRunner
from flax import nnx

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")

import jaxrnn
from examples import translate
from examples.common import packages
from examples.common.results import Agreement
from examples.moved import __main__, chars2vec, common, g2p_en, oracles, page, resemblyzer, textgenrnn
from examples.moved.common import Check, Findings, Mistake, Timing, from_cudnn, from_keras, named
from jaxrnn.ops import ANYWHERE, unroll

# Weights of float32 in sums of some hundreds, a few dozen steps: ten times what was found.
CLOSE = 1e-5
# ONNX Runtime computes sigmoid and tanh by rational functions: ten times what was found.
AS_CLOSE_AS_ONNX = 2e-4


@pytest.fixture
def h5py():
    """What reads the files of Keras 2; where it is not installed, the test is skipped."""
    return pytest.importorskip("h5py")


@pytest.fixture
def onnxruntime():
    """ONNX Runtime; where it is not installed, the test is skipped."""
    pytest.importorskip("onnx")
    return pytest.importorskip("onnxruntime")


def lstm(weights, inputs, hidden):
    layer = jaxrnn.LSTM(inputs, hidden, batch_first=True, rngs=nnx.Rngs(0))
    jaxrnn.load_state_dict(layer, {name.removeprefix("x."): w for name, w in named("x", weights).items()})
    return layer


def keras_weights(rng, inputs, hidden, biases):
    shapes = {"kernel": (inputs, 4 * hidden), "recurrent_kernel": (hidden, 4 * hidden), "bias": (biases,)}
    return {f"l.{name}": rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


# Archives


def test_pip_is_held_to_the_checksum_and_what_it_says_is_passed_on(monkeypatch, tmp_path):
    asked = []

    def refuse(command, **_):
        asked.append(Path(command[-1]).read_text("utf-8"))
        assert "--require-hashes" in command
        return subprocess.CompletedProcess(command, 1, "", "MISMATCH\nExpected sha256 7a\nGot 7b")

    monkeypatch.setenv("JAXRNN_DATA", str(tmp_path))
    monkeypatch.setattr(packages.subprocess, "run", refuse)
    with pytest.raises(ClickException, match=rf"pip did not get.*7a.*Got 7b.*Put it into {tmp_path}"):
        packages.CHARS2VEC.read("anything")
    assert asked == [f"chars2vec==0.1.7 --hash=sha256:{packages.CHARS2VEC.sha256}\n"]
    assert not list(tmp_path.iterdir())


# Layouts


def test_a_keras_lstm_computes_the_same_in_torchs_layout():
    rng = np.random.default_rng(0)
    file, x = keras_weights(rng, 3, 5, 20), rng.normal(size=(2, 7, 3)).astype(np.float32)
    expected = oracles.lstm(x, file["l.kernel"], file["l.recurrent_kernel"], file["l.bias"])
    found = lstm(from_keras(file, "l"), 3, 5)(x)[0]
    assert common.difference(found, expected) < CLOSE


def test_a_cudnn_lstm_computes_the_same_in_torchs_layout_and_transposed_it_does_not():
    rng = np.random.default_rng(0)
    file, x = keras_weights(rng, 3, 5, 40), rng.normal(size=(2, 7, 3)).astype(np.float32)
    expected = oracles.lstm(x, *textgenrnn.as_keras_has_it(file, "l"))
    found = lstm(from_cudnn(file, "l"), 3, 5)(x)[0]
    assert common.difference(found, expected) < CLOSE
    for parts in (("kernel",), ("recurrent_kernel",)):
        naive = lstm(textgenrnn.transposed(file, "l", parts), 3, 5)(x)[0]
        assert common.difference(naive, expected) > 0.1


def test_the_bytes_of_a_cudnn_file_are_those_of_torchs_weights():
    """Keras gives each gate's matrix [H, I] the shape [I, H] without a transpose, and sets them side by side."""
    theirs = {"weight_ih": np.arange(24.0).reshape(8, 3), "weight_hh": np.arange(16.0).reshape(8, 2)}
    gates = {name: np.split(w, 4) for name, w in theirs.items()}
    file = {
        "l.kernel": np.hstack([w.reshape(3, 2) for w in gates["weight_ih"]]),
        "l.recurrent_kernel": np.hstack(gates["weight_hh"]),
        "l.bias": np.arange(16.0),
    }
    ours = from_cudnn(file, "l")
    for name, expected in {**theirs, "bias_ih": np.arange(8.0), "bias_hh": np.arange(8.0, 16.0)}.items():
        np.testing.assert_array_equal(ours[name], expected)


def test_what_reads_a_keras_file_is_asked_for_by_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)  # importing it raises
    with pytest.raises(ClickException, match=r"pip install 'jaxrnn\[formats\]'"):
        common.hdf5(b"")


# The cell with hard sigmoids


def test_the_three_sigmoids_differ_where_they_should():
    a = np.array([-3.0, -2.5, 0.0, 1.0, 2.5, 3.0])
    np.testing.assert_allclose(chars2vec.hard_sigmoid(a), [0, 0, 0.5, 0.7, 1, 1], rtol=1e-6)  # float32
    np.testing.assert_allclose(oracles.hard_sigmoid(a), [0, 0, 0.5, 0.7, 1, 1])
    np.testing.assert_allclose(oracles.hard_sigmoid_of_today(a)[[0, 3, 5]], [0, 2 / 3, 1])
    np.testing.assert_allclose(oracles.sigmoid(a)[2:4], [0.5, 0.7310585786])


@pytest.mark.parametrize("implementation", [name for name in ANYWHERE if name != "reference"])
def test_a_cell_of_ones_own_runs_in_every_implementation(implementation, x64):
    rng = np.random.default_rng(0)
    shapes = chars2vec.HARD_LSTM.parameter_shapes(3, 5)
    params = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    state = chars2vec.LSTMState(rng.normal(size=(2, 5)), rng.normal(size=(2, 5)))
    x, cotangent = rng.normal(size=(2, 9, 3)), rng.normal(size=(2, 9, 5))
    lengths = np.array([9, 4])

    def total(how, params, x, state):
        outputs, last = unroll(chars2vec.HARD_LSTM, params, x, state, lengths=lengths, implementation=how)
        return (outputs * cotangent).sum() + last.c.sum()

    results = [
        jax.value_and_grad(total, argnums=(1, 2, 3))(how, params, x, state)
        for how in ("reference", implementation)
    ]
    # float64 but for the iterations of quasi_deer, which end below 1e-7
    for expected, found in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


def test_a_layer_of_ones_own_cell_stacks_as_all_layers_do():
    layer = chars2vec.HardLSTM(3, 5, 2, rngs=nnx.Rngs(0))
    x = np.random.default_rng(0).normal(size=(2, 7, 3)).astype(np.float32)
    outputs, (h, c) = layer(x)
    assert h.shape == c.shape == (2, 2, 5)
    weights, expected = jaxrnn.state_dict(layer), x
    for number in range(2):
        w_ih, w_hh, b_ih, b_hh = (
            weights[f"{name}_l{number}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        expected = oracles.lstm(expected, w_ih.T, w_hh.T, b_ih + b_hh, oracles.hard_sigmoid)
    assert common.difference(outputs, expected) < CLOSE
    np.testing.assert_array_equal(h[1], outputs[:, -1])


# g2p_en


def test_words_are_said_as_the_equations_say_them():
    network, phones = translate.published()
    spelled = ["recurrent", *g2p_en.words(7)]
    expected = g2p_en.by_equations(spelled, phones)
    assert translate.pronounced(network, phones, spelled) == [said for said, _ in expected]
    said, logits = expected[0]
    assert said == ("R", "IH0", "K", "ER1", "AH0", "N", "T")
    source = jnp.array([translate.published_tokens("recurrent")])
    given = jnp.array([[2, *logits.argmax(axis=1)[:-1]]])
    assert common.difference(network(source, given)[0], logits) < CLOSE
    keras = g2p_en.in_order(network, (1, 0, 2))
    assert translate.pronounced(keras, phones, spelled) != [said for said, _ in expected]


def test_one_bias_for_two_leaves_the_gates_alone_and_moves_the_candidate():
    network, _ = translate.published()
    both, one = (jaxrnn.state_dict(each) for each in (network, g2p_en.one_bias(network)))
    for part in ("encoder", "decoder"):
        ih, hh = (both[f"{part}.rnn.bias_{name}_l0"] for name in ("ih", "hh"))
        np.testing.assert_array_equal(one[f"{part}.rnn.bias_ih_l0"], ih + hh)
        assert not one[f"{part}.rnn.bias_hh_l0"].any()
        assert np.abs(hh[512:]).max() > 0.01  # b_hn, which the reset gate should multiply


# resemblyzer


def test_the_mel_bands_have_area_one_and_a_tone_falls_into_its_band():
    bands = resemblyzer.filters()
    assert bands.shape == (40, 201)
    # Sampled every 40 Hz: a narrow triangle of two or three samples is off by a fifth.
    np.testing.assert_allclose(bands.sum(axis=1) * 40, 1, atol=0.25)
    np.testing.assert_allclose(bands[20:].sum(axis=1) * 40, 1, atol=0.02)
    tone = np.sin(2 * np.pi * 3000 * np.arange(16_000) / 16_000)
    powers = resemblyzer.mel(tone)
    assert powers.shape == (101, 40)
    assert set(powers[2:-2].argmax(axis=1)) == {int(bands[:, 75].argmax())}
    # Of a sine, |DFT| is half the sum of the window, 100, at its frequency, and 50 on either side.
    np.testing.assert_allclose(powers[50], bands[:, 74:77] @ [50**2, 100**2, 50**2], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(resemblyzer.mel(2 * tone), 4 * powers, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0.5, 1), (1.6, 1), (1.6 + 0.77 - 0.42, 1), (1.6 + 0.77 - 0.38, 2), (5, 5)]
)
def test_a_clip_has_as_many_windows_as_are_three_quarters_full(seconds, expected):
    samples = np.random.default_rng(0).normal(size=round(16_000 * seconds))
    assert resemblyzer.windows(samples, resemblyzer.mel).shape == (expected, 160, 40)


def test_quiet_clips_are_raised_and_loud_ones_left_alone():
    quiet, loud = np.full(100, 1e-3), np.full(100, 0.5)
    np.testing.assert_allclose(resemblyzer.raised(quiet), 10**-1.5)  # -30 dB
    np.testing.assert_array_equal(resemblyzer.raised(loud), loud)


def test_a_separation_counts_pairs_and_neighbours():
    similar = np.array([[1, 0.9, 0.2, 0.3], [0.9, 1, 0.5, 0.1], [0.2, 0.5, 1, 0.4], [0.3, 0.1, 0.4, 1]])
    found = resemblyzer.separation(similar, ["a", "a", "b", "b"])
    np.testing.assert_array_equal(found.same, [0.9, 0.4])
    np.testing.assert_array_equal(np.sort(found.other), [0.1, 0.2, 0.3, 0.5])
    assert found.ordered == 100 * 7 / 8
    assert found.nearest == 3  # the third's is of the other voice


def test_the_speaker_encoder_is_what_its_file_says():
    frames = resemblyzer.windows(resemblyzer.clips(1)[0].samples, resemblyzer.mel)[:2, :20]
    found = resemblyzer.published()(jnp.asarray(frames))
    assert common.difference(found, resemblyzer.by_equations(frames)) < CLOSE
    np.testing.assert_allclose(jnp.linalg.norm(found, axis=1), 1, rtol=1e-6)  # a sum of 256 squares


@pytest.mark.slow
def test_the_speaker_encoder_tells_voices_apart():
    spoken = resemblyzer.clips(2)
    heard = resemblyzer.hear(resemblyzer.published(), spoken)
    voices = [clip.voice for clip in spoken]
    told = resemblyzer.separation(heard.points @ heard.points.T, voices)
    assert told.nearest == len(spoken) == 8
    assert told.same.min() > told.other.max()


@pytest.mark.torch
def test_the_old_checkpoint_has_the_bits_that_torch_reads(torch, tmp_path):
    (tmp_path / "a.pt").write_bytes(packages.RESEMBLYZER.read(resemblyzer.FILE))
    content = torch.load(tmp_path / "a.pt", map_location="cpu", weights_only=True)
    theirs, ours = content["model_state"], resemblyzer.state_dict()
    assert list(ours) == list(theirs)
    for name, tensor in theirs.items():
        assert ours[name].tobytes() == tensor.numpy().tobytes(), name


# textgenrnn


def test_texts_are_filled_up_in_front_and_cut_there(h5py):
    files = textgenrnn.published()
    assert "\N{SNOWMAN}" not in files.tokens
    tokens = files.encoded(["a\N{SNOWMAN}b", "x" * 50])
    start, a, b = (files.tokens[each] for each in ("<s>", "a", "b"))
    assert tokens[0].tolist() == [0] * 37 + [start, a, b]
    assert tokens.shape == (2, 40)
    assert set(tokens[1]) == {files.tokens["x"]}
    assert files.text([a, b, start, a]) == "ab"


def test_a_step_reads_the_last_forty_and_never_chooses_nothing(h5py):
    files = textgenrnn.published()
    network = files.network()
    tokens = files.encoded(["To be or not to be"])
    logits, state = network.step(jnp.asarray(tokens[:, -1]), network.start(tokens[:, :-1]))
    np.testing.assert_array_equal(logits[:, 1:], network(jnp.asarray(tokens))[:, 1:])
    assert np.isneginf(logits[0, textgenrnn.NOTHING])
    np.testing.assert_array_equal(state, tokens[:, 1:])


def test_bits_are_those_of_the_characters_that_follow():
    log_p = np.log(np.array([[0.5, 0.25, 0.25], [0.125, 0.875, 0]]) + 1e-300)
    assert textgenrnn.bits(log_p, np.array([0, 0])) == pytest.approx(2)  # (1 + 3) / 2


def test_logits_are_those_of_the_equations_and_a_transpose_is_noise(h5py):
    files = textgenrnn.published()
    texts, following = textgenrnn.beginnings(files, textgenrnn.lines(20))
    tokens = files.encoded(texts)
    expected = textgenrnn.by_equations(files.weights, tokens)
    assert common.difference(files.network()(jnp.asarray(tokens)), expected) < CLOSE
    assert textgenrnn.bits(textgenrnn.log_probabilities(files.weights, tokens), following) < 4
    naive = files.network(textgenrnn.transposed)(jnp.asarray(tokens))
    assert textgenrnn.bits(np.asarray(jax.nn.log_softmax(naive)), following) > 10


# chars2vec


def test_words_become_points_as_the_equations_have_it(h5py, onnxruntime):
    files = chars2vec.published()
    network = files.network()
    letters = files.one_hot(["Language", "langauge", "\N{SNOWMAN}cat"])
    assert letters.shape == (3, 8, 59)
    np.testing.assert_array_equal(letters.sum(axis=(1, 2)), [8, 8, 3])  # of the snowman nothing is known
    assert not letters[2, :5].any()
    for check in chars2vec.checks(files, network, letters):
        assert check.difference < CLOSE, check
    smooth = chars2vec.by_equations(files.weights, letters, oracles.sigmoid)
    assert common.difference(network(jnp.asarray(letters)), smooth) > 0.02


def test_keras_itself_makes_the_same_points_of_the_file(h5py):
    keras = pytest.importorskip("parity.gallery.keras_peer").keras  # it chooses the backend
    files = chars2vec.published()
    x = letters = files.one_hot(["sequence", "seqeunce", "memory"])
    for name in chars2vec.LAYERS:
        layer = keras.layers.LSTM(
            chars2vec.FEATURES, recurrent_activation=chars2vec.hard_sigmoid, return_sequences=True
        )
        layer.build(x.shape)
        layer.set_weights(
            [files.weights[f"{name}.{part}"] for part in ("kernel", "recurrent_kernel", "bias")]
        )
        x = np.asarray(layer(x))
    assert common.difference(files.network()(jnp.asarray(letters)), x[:, -1].astype(np.float64)) < CLOSE


def test_a_typo_exchanges_two_letters_that_differ():
    rng = np.random.default_rng(0)
    for word in ("aab", "letters", "sequence"):
        typo = chars2vec.mistyped(word, rng)
        apart = [n for n, (one, other) in enumerate(zip(word, typo, strict=True)) if one != other]
        assert len(apart) == 2
        assert sorted(typo) == sorted(word)
    assert chars2vec.recognised(np.eye(3), np.array([[0.9, 0.1, 0], [0.6, 0.4, 0]])) == 50


# The page and the command

FINDINGS = Findings(
    (Agreement("a", "EQUIVALENT", 22, 1e-6, (5, 5)),),
    (Check("NumPy", "words", equal=(3, 3)), Check("ONNX Runtime", "outputs", 2e-6)),
    (Mistake("left out", "bits", 9.25, 2.0),),
    (Timing("a word", 3, 2.0, 1.0),),
    remarks=("No more.",),
)


def test_findings_are_written_and_read_back(tmp_path):
    common.write("a", FINDINGS, tmp_path)
    back, content = common.read("a", tmp_path)
    assert back == FINDINGS
    assert content["environment"]["jax"] == jax.__version__


def test_every_table_says_what_was_found(tmp_path):
    for name in __main__.NAMES:
        common.write(name, FINDINGS, tmp_path)
    made = page.blocks(__main__.moves(), tmp_path)
    assert "| g2p_en | a | EQUIVALENT | 22 | 1e-06 |" in made["verdicts"]
    assert "| g2p_en | words | NumPy | 3 of 3 equal |" in made["checks"]
    assert "| g2p_en | outputs | ONNX Runtime | 2e-06 |" in made["checks"]
    assert "| chars2vec | left out | bits | 9.25 | 2 |" in made["mistakes"]
    assert "| chars2vec | a word | 3 | 2 | 1 |" in made["timings"]
    assert "* textgenrnn: No more." in made["remarks"]
    assert "Resemblyzer 0.1.4, `pretrained.pt`" in made["networks"]


def test_a_page_gets_its_tables_between_its_markers(tmp_path):
    for name in __main__.NAMES:
        common.write(name, FINDINGS, tmp_path)
    made = page.blocks(__main__.moves(), tmp_path)
    kept = tmp_path / "page.md"
    kept.write_text(
        "".join(f"<!-- begin {name} -->\nold\n<!-- end {name} -->\nText.\n" for name in made), "utf-8"
    )
    page.write(__main__.moves(), kept, tmp_path)
    text = kept.read_text("utf-8")
    assert "old" not in text
    assert text.count("Text.") == len(made)
    assert all(f"<!-- begin {name} -->\n{table}\n<!-- end {name} -->" in text for name, table in made.items())


def test_the_docs_are_written_after_all_networks_ran(monkeypatch):
    done = []
    monkeypatch.setattr(__main__, "_run", lambda *given: done.append(given))
    monkeypatch.setattr(page, "write", lambda moves: done.append(list(moves)))
    assert CliRunner().invoke(__main__.main, ["docs", "--run"]).exit_code == 0
    assert done == [((), False, common.FOLDER), list(__main__.NAMES)]


def test_the_page_is_made_from_the_results():
    text = page.PAGE.read_text("utf-8")
    for name, made in page.blocks(__main__.moves(), common.FOLDER).items():
        kept = text.split(f"<!-- begin {name} -->\n")[1].split(f"\n<!-- end {name} -->")[0]
        assert kept == made, "python -m examples.moved docs writes it anew"
    for name in __main__.NAMES:
        for figure in json.loads((common.FOLDER / f"{name}.json").read_text("utf-8"))["figures"]:
            assert (common.FOLDER / f"{figure}.png").stat().st_size > 5000
            assert f"](moved/{figure}.png)" in text


@pytest.mark.parametrize("name", __main__.NAMES)
def test_the_kept_results_are_those_of_faithful_moves(name):
    require_faithful(common.read(name, common.FOLDER)[0])


def require_faithful(found):
    assert {agreement.verdict for agreement in found.agreements} == {"EQUIVALENT"}
    for check in found.checks:
        assert check.equal is None or check.equal[0] == check.equal[1], check
        limit = AS_CLOSE_AS_ONNX if check.oracle == "ONNX Runtime" else CLOSE
        assert check.difference is None or check.difference < limit, check


def test_the_command_lists_the_networks_and_refuses_others(tmp_path):
    listed = CliRunner().invoke(__main__.main, [])
    assert listed.exit_code == 0
    assert [line.split()[0] for line in listed.output.splitlines()] == list(__main__.NAMES)
    refused = CliRunner().invoke(__main__.main, ["run", "gpt", "--output", str(tmp_path)])
    assert refused.exit_code == 2
    assert "no network is called gpt" in refused.output


def test_the_command_says_what_it_judges_by_where_that_is_missing(monkeypatch):
    monkeypatch.setattr(__main__.judging, "torch_is_installed", lambda: False)
    done = CliRunner().invoke(__main__.main, ["run", "g2p_en"])
    assert done.exit_code == 1
    assert "pip install 'jaxrnn[torch]'" in done.output


def test_the_command_fails_where_the_frameworks_do_not_agree():
    wrong = Findings((Agreement("a", "DIVERGENT", 22, 1e-6),), (), (), ())
    with pytest.raises(ClickException, match="a: JAX and PyTorch do not agree"):
        __main__.show("a", wrong)


@pytest.mark.slow
@pytest.mark.torch
@pytest.mark.parametrize("name", __main__.NAMES)
def test_a_network_is_moved_faithfully_with_all_its_inputs(name, torch, h5py, onnxruntime):
    found = __main__.moves()[name].run(False)
    require_faithful(found)
    assert all(mistake.wrong != mistake.right for mistake in found.mistakes if "find" not in mistake.quantity)


@pytest.mark.slow
@pytest.mark.torch
def test_the_command_runs_a_network_with_few_inputs(tmp_path, torch, h5py, onnxruntime):
    done = CliRunner().invoke(__main__.main, ["run", "chars2vec", "--small", "--output", str(tmp_path)])
    assert done.exit_code == 0, done.output
    require_faithful(common.read("chars2vec", tmp_path)[0])
    assert "EQUIVALENT" in done.output
