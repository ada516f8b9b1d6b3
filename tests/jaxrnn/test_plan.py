"""A plan, but for its compilers: what is refused before them, counted, searched and shown."""

import json
import math
import sys

import jax
import jax.numpy as jnp
import pytest
from click.testing import CliRunner

import jaxrnn
from jaxrnn.cli import main
from jaxrnn.ops.memory import Memory
from jaxrnn.ops.planning import planning_for
from jaxrnn.plan import command, counting, policies, profile, programs, report, topologies, worker
from jaxrnn.plan.programs import Custom, Network
from jaxrnn.plan.report import Report, Row
from jaxrnn.plan.search import MOST_STEPS, Point, search
from jaxrnn.plan.topologies import GIB, target

planning = sys.modules["jaxrnn.plan"]  # the package: `jaxrnn.plan` is its function


@pytest.fixture
def no_compiler(monkeypatch):
    """Nothing may be compiled."""
    monkeypatch.setattr(planning, "Compiler", lambda *args: pytest.fail("a compiler was started"))


# What is refused ---------------------------------------------------------------------------------------------

SIZE = {"kind": "LSTM", "hidden_features": 8, "batch": 4, "steps": 16}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": 0}, "steps should be a positive whole number, got 0"),
        ({"batch": 2.0}, "batch should be"),
        ({"hidden_features": True}, "hidden_features should be"),
        ({"input_features": -1}, "input_features should be"),
        ({"layers": 0}, "layers should be"),
        ({"vocabulary": 0}, "vocabulary should be"),
        ({"kind": "LSTN"}, "kind='LSTN' is not one of LSTM, GRU, RNN, PeepholeLSTM"),
        ({"dtype": "float64"}, "dtype='float64' is not one of float32"),
        ({"param_dtype": "int8"}, "param_dtype='int8'"),
        ({"batch": 6, "topology": "v5e:2x2"}, "batch=6 cannot be shared by 4 devices"),
        ({"bidirectional": True, "vocabulary": 256}, "a language model reads one way"),
        ({"memory": "gate"}, "memory='gate' is not one of 'gates'"),
        ({"memory": "1 TB"}, "memory='1 TB' is not one of"),
        ({"memory": "1 KiB"}, "memory='1 KiB' is too little"),
        ({"memory": [(2, 4)]}, "outermost first"),
        ({"memory": []}, "at least one policy"),
        ({"kind": None}, "kind: needed"),
        ({"step": "a:b"}, "kind, hidden_features, batch: a step of your own has its own sizes"),
        ({"topology": "cpu", "profile": True}, "libtpu, which does not compile for cpu"),
        ({"topology": "v5"}, "There are v4, v5e, v5p, v6e, v7x, h100, cpu"),
        ({"topology": "v5e:2x2x1"}, "slices of v5e have 2 sides, for instance v5e:2x2"),
        ({"topology": "v5p:2x2"}, "for instance v5p:2x2x1"),
        ({"topology": "v4:0x1x1"}, "slices of v4 have 3 sides"),
        ({"topology": "v6e:two"}, "slices of v6e"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_compiled(change, words, no_compiler):
    with pytest.raises(ValueError, match=words.replace("(", r"\(")):
        jaxrnn.plan(**SIZE | change)


@pytest.mark.parametrize(("topology", "remedy"), [("v5e", "libtpu"), ("h100", "CUDA plug-in")])
def test_a_compiler_that_is_not_installed_is_named_with_the_command_that_installs_it(
    topology, remedy, no_compiler, monkeypatch
):
    monkeypatch.setattr(topologies, "_is_installed", lambda module: False)
    with pytest.raises(topologies.MissingCompilerError, match=rf"{remedy}.*pip install 'jaxrnn\[aot\]'"):
        jaxrnn.plan(**SIZE, topology=topology)
    result = CliRunner().invoke(
        main, ["plan", "LSTM", "--hidden", "8", "--batch", "4", "--steps", "16", "--topology", topology]
    )
    assert result.exit_code == 2
    assert "pip install 'jaxrnn[aot]'" in result.stderr


def test_each_policy_with_a_name_is_planned_unless_others_are_asked_for(monkeypatch):
    asked = []

    class Compiler:
        """Takes everything."""

        __init__ = lambda self, target: None  # noqa: E731
        __enter__ = lambda self: self  # noqa: E731
        __exit__ = lambda self, *error: None  # noqa: E731

        def __call__(self, job):
            asked.append(job.memory)
            return {
                "fits": True,
                "device_bytes": 1,
                "flops": 1,
                "streamed_bytes": 1,
                "implementation": ["scan"],
            }

    monkeypatch.setattr(planning, "Compiler", Compiler)
    jaxrnn.plan(**SIZE, topology="cpu")
    assert asked == list(policies.NAMED)
    jaxrnn.plan(step="train:factory", steps=8, topology="cpu")
    assert asked[6:] == ["gates"]
    jaxrnn.plan(**SIZE, topology="cpu", memory=[8, "gates", 8, [8, 2]])
    assert asked[7:] == [8, "gates", (8, 2)]


def test_a_step_that_no_other_process_can_import_is_refused(no_compiler):
    with pytest.raises(ValueError, match="cannot be imported"):
        jaxrnn.plan(step=lambda steps, memory, mesh: None, steps=8)
    with pytest.raises(ValueError, match="dtype: a step of your own has its own sizes"):
        jaxrnn.plan(step="train:factory", steps=8, dtype="bfloat16")
    with pytest.raises(ValueError, match=r"package\.module:factory"):
        jaxrnn.plan(step="train", steps=8)
    with pytest.raises(ValueError, match="steps should be"):
        jaxrnn.plan(step="train:factory", steps=0)


# Topologies --------------------------------------------------------------------------------------------------


def test_a_slice_has_as_many_devices_as_its_chips_have_cores_that_jax_sees():
    counts = {
        name: target(name).devices for name in ("v5e", "v5e:4x4", "v4:2x2x1", "v5p", "v7x", "v7x:2x2x1")
    }
    assert counts == {"v5e": 1, "v5e:4x4": 16, "v4:2x2x1": 4, "v5p": 1, "v7x": 2, "v7x:2x2x1": 8}
    assert target("v7x").peak_flops == 2307e12 / 2  # a device is half a chip
    assert target("v5e:4x4").usable_bytes == target("v5e").usable_bytes == 15.75 * GIB


def test_the_limit_of_a_gpu_is_the_share_that_jax_takes_of_it(monkeypatch):
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
    usual = target("h100").usable_bytes
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.375")
    assert target("h100").usable_bytes == usual // 2
    assert target("h100").peak("bfloat16") == 2 * target("h100").peak("float32")


def test_the_flags_of_the_user_reach_the_compiler_too(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_mine=1")
    assert target("h100").environment["XLA_FLAGS"].startswith("--xla_mine=1 --xla_gpu")
    assert "XLA_FLAGS" not in target("v5e").environment
    assert target("v5e").environment["JAX_PLATFORMS"] == "cpu"


# What is counted ---------------------------------------------------------------------------------------------


def counted(function, *shapes, on_chip=2**40):
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return counting.count(jax.make_jaxpr(function)(*arrays), on_chip)


def work(memory, **sizes):
    network = Network(
        **{"kind": "LSTM", "hidden_features": 16, "batch": 4, "steps": 96, "input_features": 8} | sizes
    )
    mesh = jax.sharding.Mesh(jax.devices()[:1], (programs.AXIS,))
    step = network.lower(memory, mesh)
    return counting.count(jax.make_jaxpr(step.function)(*step.arguments), 2**40)


@pytest.mark.parametrize(("kind", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1), ("PeepholeLSTM", 4)])
def test_the_products_of_a_training_step_are_counted_to_the_last(kind, gates):
    once = 2 * 96 * 4 * gates * 16  # per feature that is multiplied
    forward, states, weights = once * (8 + 16), once * 16, once * (8 + 16)
    assert work("gates", kind=kind).flops == forward + states + weights
    assert work(12, kind=kind).flops == 2 * forward + states + weights  # the recurrence, once more
    assert work((24, 6), kind=kind).flops == 3 * forward + states + weights
    if kind != "RNN":  # its output is all that it keeps, and nothing is computed again
        assert work("h", kind=kind).flops == 2 * forward + states + weights


def test_a_language_model_in_segments_computes_all_of_its_products_twice():
    sizes = {"vocabulary": 32}
    once, again = work("gates", **sizes), work(12, **sizes)
    forward = 2 * 96 * 4 * (4 * 16 * (8 + 16) + 16 * 32)
    assert again.flops - once.flops == forward
    # states, weights, the readout's two, and the embedding's input
    assert once.flops == forward + 2 * 96 * 4 * (4 * 16 * (16 + 8 + 16 + 8) + 2 * 16 * 32)


def test_loops_branches_and_batches_count_as_often_as_they_run():
    assert counted(lambda a, b: a @ b, (3, 4), (4, 5)).flops == 2 * 3 * 4 * 5
    batched = jax.vmap(jax.vmap(jnp.matmul))
    assert counted(batched, (7, 2, 3, 4), (7, 2, 4, 5)).flops == 7 * 2 * 2 * 3 * 4 * 5

    def loop(a, xs):
        return jax.lax.fori_loop(0, 6, lambda n, a: jax.lax.scan(lambda a, x: (a @ x, a), a, xs)[0], a)

    assert counted(loop, (3, 3), (5, 3, 3)) == (6 * 5 * 2 * 27, (2 * 9 + 45) * 4, True, 0)

    def endless(a):
        return jax.lax.while_loop(lambda a: a.sum() > 0, lambda a: a @ a, a)

    assert counted(endless, (3, 3))[:3:2] == (2 * 27, False)  # one round, and it says so

    def either(a):
        return jax.lax.cond(a.sum() > 0, lambda a: a @ a, lambda a: a, a)

    assert counted(either, (3, 3)).flops == 2 * 27
    convolution = counted(lambda x, w: jax.lax.conv(x, w, (1, 1), "SAME"), (1, 2, 5, 5), (3, 2, 3, 3))
    assert convolution.flops == 2 * 3 * 25 * 2 * 9


def test_products_within_the_tpus_kernels_are_counted_and_the_kernels_named():
    sizes = {"hidden_features": 128, "batch": 8, "steps": 64, "input_features": 128, "dtype": "bfloat16"}
    with planning_for("tpu", "TPU v5 lite"):
        one = work("gates", **sizes)
    with planning_for("tpu", "TPU v5 lite", devices=4):  # XLA cannot divide a kernel among chips
        several = work("gates", **sizes)
    once = 2 * 64 * 8 * 4 * 128
    assert (several.kernels, several.flops) == (0, once * (256 + 128 + 256))
    assert one.kernels == 2
    assert one.flops == several.flops + once * 256  # gates, again, in the kernel that goes back
    assert (worker.chosen(one), worker.chosen(several)) == ("pallas", "scan")


def test_what_does_not_fit_on_the_chip_is_moved_each_time_it_is_used():
    def step(weight, xs):
        return jax.lax.scan(lambda h, x: (h @ weight, h + x), jnp.zeros((1, 64)), xs)

    ends = 4 * (64 * 64 + 100 * 64 + 64 + 100 * 64)
    assert counted(step, (64, 64), (100, 1, 64)).streamed_bytes == ends
    loop = 4 * 2 * 100 * 64  # what is sliced and what is stacked
    assert counted(step, (64, 64), (100, 1, 64), on_chip=4 * 64 * 64).streamed_bytes == ends + loop
    weights = 100 * 4 * 64 * 64  # in every step
    assert (
        counted(step, (64, 64), (100, 1, 64), on_chip=4 * 64 * 64 - 1).streamed_bytes == ends + loop + weights
    )


def test_the_roofline_is_the_larger_of_two_times():
    v5e = target("v5e")
    assert report.roofline(197 * 10**12, 1, v5e, "bfloat16") == (1.0, "compute")
    assert report.roofline(197 * 10**12, 2 * 819 * 10**9, v5e, "bfloat16") == (2.0, "memory")
    assert report.roofline(1, 1, target("cpu"), "float32") is None


# The longest that fits ---------------------------------------------------------------------------------------


def found_by_search(needed, usable, first, *, says=True, multiple=1):
    asked = []

    def compile_at(steps):
        asked.append(steps)
        fits = needed(steps) <= usable
        return Point(steps, fits, int(needed(steps)) if fits or says else None)

    longest, points = search(compile_at, compile_at(first), usable, multiple)
    assert len(points) == len(asked) == len(set(asked))
    return longest, asked


CURVES = {  # bytes, and how many compilations are few
    "a line": (lambda t: 5e8 + 16e4 * t, 6),
    "a root": (lambda t: 1e9 + 4e5 * t**0.5 + 300 * t, 12),
    "a line of bumps": (lambda t: 16e4 * t * (1 + 0.02 * math.sin(t)), 13),
    "a bend up": (lambda t: 1e4 * t + 1e-1 * t**2, 13),
}


@pytest.mark.parametrize("first", [1000, 90_000, 3_000_000])
@pytest.mark.parametrize("says", [True, False])
@pytest.mark.parametrize("curve", CURVES)
def test_the_longest_sequence_is_found_to_one_per_cent_by_few_compilations(curve, says, first):
    (needed, few), usable = CURVES[curve], 16e9
    longest, asked = found_by_search(needed, usable, first, says=says)
    assert needed(longest.fits) <= usable < needed(longest.refused)
    assert longest.fits < longest.refused <= longest.fits * 1.011
    assert len(asked) <= few


def test_lengths_are_multiples_of_the_segments_that_were_asked_for():
    longest, asked = found_by_search(lambda t: 1e5 * t, 16e9, 100_000, multiple=3000)
    assert all(steps % 3000 == 0 for steps in asked[1:])
    assert (longest.fits, longest.refused) == (159_000, 162_000)


def test_where_nothing_fits_or_nothing_is_refused_the_search_ends():
    longest, asked = found_by_search(lambda t: 1e12, 16e9, 1000, says=False)
    assert longest.fits is None
    assert longest.refused == 1
    longest, asked = found_by_search(lambda t: 1e3, 16e9, 1000)
    assert longest.refused is None
    assert longest.fits > 0.95 * MOST_STEPS
    assert max(asked) <= MOST_STEPS


# The static profile ------------------------------------------------------------------------------------------

MODULE = """
HloModule jit_f

%twice (p: f32[8,8]) -> f32[8,8] {
  %p = f32[8,8]{1,0} parameter(0)
  ROOT %add.1 = f32[8,8]{1,0} add(%p, %p)
}

%again (q: f32[8,8]) -> f32[8,8] {
  %q = f32[8,8]{1,0} parameter(0)
  ROOT %add.2 = f32[8,8]{1,0} add(%q, %q)
}

%condition (c: (s32[], f32[8,8])) -> pred[] {
  %c = (s32[], f32[8,8]{1,0}) parameter(0)
  %limit = s32[]{:T(128)} constant(50)
  ROOT %lt = pred[] compare(%i, %limit), direction=LT
}

%body (b: (s32[], f32[8,8])) -> (s32[], f32[8,8]) {
  %b = (s32[], f32[8,8]{1,0}) parameter(0)
  %fusion.2 = f32[8,8]{1,0} fusion(%x), kind=kLoop, calls=%again, metadata={op_name="b"}
  ROOT %t = (s32[], f32[8,8]{1,0}) tuple(%i, %fusion.2)
}

ENTRY %main (x: f32[8,8]) -> f32[8,8] {
  %x = f32[8,8]{1,0} parameter(0)
  %fusion.1 = f32[8,8]{1,0} fusion(%x), kind=kLoop, calls=%twice, metadata={op_name="a"}
  ROOT %while.1 = (s32[], f32[8,8]{1,0}) while(%t), condition=%condition, body=%body
}
"""


def test_a_profile_is_summed_over_loops_and_over_the_same_work_under_another_name():
    assert profile.total(MODULE, {"fusion.1": 7}) == 7 + 50 * 7
    assert profile.total(MODULE, {"fusion.1": 7, "fusion.2": 3}) == 7 + 50 * 3
    known = MODULE.replace("body=%body", 'body=%body, config={"known_trip_count":{"n":"4"}}')
    assert profile.total(known, {"fusion.1": 7}) == 7 + 4 * 7


def test_a_profile_of_a_loop_that_does_not_say_how_often_it_runs_is_none():
    assert profile.total(MODULE.replace("constant(50)", "parameter(1)"), {"fusion.1": 7}) is None


# What is shown -----------------------------------------------------------------------------------------------


def example():
    network = Network("LSTM", 512, 8, 100_000, 32, dtype="bfloat16")
    rows = (
        Row(
            "gates", "gates", True, 15 * GIB, 0, 3.0, 5 * 10**12, 10**9, True, 1.0, 0.055, "memory", 0, ("scan",),
            longest=102_400, refused=103_424,
            points=(Point(100_000, True, 15 * GIB), Point(103_424, False, 16 * GIB)),
        ),
        Row(
            "offload", "500 offload", True, 2**28, 2**27, 15.0, 7 * 10**12, 10**9, True, 4 / 3, 0.035, "compute", 0,
            ("scan",),
        ),
        Row("carry", "carry", False, None, None, 15.0, 7 * 10**12, 10**9, True, 4 / 3, 0.035, "compute"),
        Row("h", "h", error="signal 6. the compiler aborted [bold]"),
    )  # fmt: skip
    return Report(network, target("v5e"), rows, {"jax": "0.0"})


def test_the_table_says_what_fits_of_how_much_and_how_the_time_was_estimated():
    shown = str(example())
    for words in (
        "LSTM, T = 100,000, B = 8, I = 32, H = 512, bfloat16, parameters float32", "on v5e:1x1: 1 chip, 15.75 GiB",
        "15.00 GiB", "128 MiB", "offload = 500 offload", "55 ms (memory)", "1.33 x", "102,400", "103,424", "scan",
        "roofline, the larger of FLOPs / 197 TFLOP/s and streamed bytes / 819 GB/s",
        "h: signal 6. the compiler aborted [bold]",
    ):  # fmt: skip
        assert words in shown, words
    lines = {
        line.split()[0]: line.split()[1]
        for line in shown.splitlines()
        if line.startswith(("gates", "carry", "h "))
    }
    assert lines == {"gates": "yes", "carry": "no", "h": "error"}
    assert example()["carry"].fits is False
    with pytest.raises(KeyError, match="gates"):
        example()["all"]


def test_columns_that_say_nothing_are_left_out():
    plain = Report(example().program, target("cpu"), (Row("gates", "gates", True, GIB),), {})
    shown = str(plain)
    assert "host" not in shown
    assert "longest" not in shown
    assert "at least" not in shown


def test_a_plan_becomes_json_and_back():
    document = json.loads(json.dumps(example().to_json()))
    assert document["schema"] == "jaxrnn-plan/1"
    assert programs.from_json(document["program"]) == example().program
    assert document["target"]["usable_bytes"] == 15.75 * GIB
    gates, offload, carry, failed = document["rows"]
    assert gates["points"][1] == {"steps": 103_424, "fits": False, "bytes": 16 * GIB}
    assert offload["host_bytes"] == 2**27
    assert carry["fits"] is False
    assert failed["fits"] is None
    custom = Custom("a:b", 5)
    assert programs.from_json(programs.to_json(custom)) == custom


def test_memory_is_drawn_against_the_length_with_the_limit(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    from matplotlib import pyplot

    drawn = []
    monkeypatch.setattr(pyplot, "close", drawn.append)
    example().plot(tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    (axis,) = drawn[0].axes
    limits = [line.get_ydata()[0] for line in axis.get_lines() if line.get_linestyle() == "--"]
    assert limits == [15.75]
    gates, refused = axis.get_lines()[:2]
    assert list(gates.get_xdata()) == [100_000, 103_424]
    assert list(refused.get_xdata()) == [103_424]
    with pytest.raises(ValueError, match=r"\.png, \.svg, \.pdf"):
        example().plot(tmp_path / "a.gif")


# The command line --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("gates", "gates"),
        ("2048", 2048),
        ("65536,256", (65536, 256)),
        ("2 GiB", "2 GiB"),
        ("2048 offload", Memory(segments=(2048,), offload=True)),
        ("65536,256 offload", Memory(segments=(65536, 256), offload=True)),
        ("offload", "offload"),
    ],
)
def test_policies_are_written_on_the_command_line_as_they_are_shown(text, policy):
    assert policies.parse(text) == policy
    assert policies.label(policy) == text


def test_the_command_prints_writes_and_draws_what_was_planned(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    asked = {}
    monkeypatch.setattr(command, "plan", lambda **options: asked.update(options) or example())
    arguments = [
        "--hidden",
        "512",
        "--batch",
        "8",
        "--steps",
        "100_000",
        "--memory",
        "gates",
        "--memory",
        "64,8",
    ]
    files = ["--json", str(tmp_path / "a.json"), "--plot", str(tmp_path / "a.svg")]
    result = CliRunner().invoke(main, ["plan", "LSTM", *arguments, "--backend", "v6e", *files])
    assert result.exit_code == 0, result.output
    assert [line.rstrip() for line in result.stdout.splitlines()] == str(example()).splitlines()
    assert json.loads((tmp_path / "a.json").read_text()) == json.loads(json.dumps(example().to_json()))
    assert "<svg" in (tmp_path / "a.svg").read_text()
    assert asked["memory"] == ["gates", (64, 8)]
    assert (asked["topology"], asked["steps"], asked["curve"]) == ("v6e", 100_000, True)


def test_the_exit_code_is_one_where_nothing_fits(monkeypatch):
    nothing = Report(example().program, target("v5e"), (Row("gates", fits=False), Row("h", error="?")), {})
    monkeypatch.setattr(command, "plan", lambda **options: nothing)
    assert CliRunner().invoke(main, ["plan", "LSTM", "--steps", "8"]).exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["LSTM"], "Missing option '--steps'"),
        (["LSTM", "--steps", "0"], "x>=1"),
        (["LSTN", "--steps", "8"], "'PeepholeLSTM'"),
        (["LSTM", "--steps", "8", "--hidden", "8"], "batch: needed"),
        (
            ["LSTM", "--steps", "8", "--hidden", "8", "--batch", "8", "--topology", "v9"],
            "v4, v5e, v5p, v6e, v7x",
        ),
        (["--steps", "8", "--memory", "12,x"], "whole numbers"),
        (["--steps", "8", "--memory", "x offload"], "whole numbers"),
        (["--steps", "8", "--plot", "a.gif"], ".png, .svg, .pdf"),
        (["--steps", "8", "--json", "no/such/folder/a.json"], "create it first"),
    ],
)
def test_wrong_usage_is_one_message_and_exit_code_2(arguments, words, no_compiler):
    result = CliRunner().invoke(main, ["plan", *arguments])
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.split())
