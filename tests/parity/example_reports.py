"""Reports to show: measured by the gates on drawn arrays, with places and diagnoses as the judge finds them."""

import dataclasses
import functools

import numpy as np

from parity.compare import compare_arrays
from parity.verdict import CaseResult, Comparison, Diagnosis, Divergence, Explanation, Node, Report

ENVIRONMENT = {
    "python": "3.11.7",
    "jax": "0.10.2",
    "jax device": "cpu (cpu)",
    "x64": "off (on in the float64 runs)",
    "matmul precision": "highest (pinned)",
    "flax": "0.12.8",
    "torch": "2.13.0+cpu",
    "torch threads": "1",
    "numpy": "2.4.6",
}
PARAMETERS = {
    f"encoder.rnn.{name}_l{layer}{direction}": shape
    for layer in (0, 1)
    for direction in ("", "_reverse")
    for name, shape in (("weight_ih", (12, 3)), ("weight_hh", (12, 4)), ("bias_ih", (12,)))
} | {"fc.weight": (2, 8)}
STATES = {"output": ("output", (5, 9, 8)), "h_n": ("state", (4, 5, 4))}


@functools.cache
def probe(name="1x", wrong=(), seed=0, **options):
    """Compare drawn arrays; those named in `wrong`, or all, are off by a tenth."""
    rng = np.random.default_rng(seed)
    kinds = dict.fromkeys(PARAMETERS, "param")
    shapes = dict(PARAMETERS)
    for name_, (kind, shape) in STATES.items():
        kinds[name_], shapes[name_] = kind, shape
    for name_ in PARAMETERS:
        for kind in ("grad", "step"):
            kinds[f"{kind}({name_})"], shapes[f"{kind}({name_})"] = kind, PARAMETERS[name_]
    kinds["grad(input)"], shapes["grad(input)"] = "grad", (5, 9, 3)
    o = {n: rng.standard_normal(s).astype(np.float32).astype(np.float64) for n, s in shapes.items()}
    r = {
        n: (v if kinds[n] == "param" else v * (1 + 1e-7 * rng.standard_normal(v.shape))) for n, v in o.items()
    }
    c = {
        n: (v if kinds[n] == "param" else v * (1 + 1e-7 * rng.standard_normal(v.shape))) for n, v in o.items()
    }
    c64 = dict(o)
    for n in c:
        if kinds[n] != "param" and (wrong == "all" or n in wrong):
            c[n], c64[n] = 1.1 * c[n], 1.1 * c64[n]
    results = compare_arrays(
        {n: v.astype(np.float32) for n, v in c.items()},
        {n: v.astype(np.float32) for n, v in r.items()},
        o,
        c64,
        kinds=kinds,
        candidate_names={n: n.replace("fc.weight", "readout.kernel") for n in kinds},
        batch_axes={"output": 0},
    )
    given = {"expected": len(results), "tiers": ("semantic", "numeric"), "oracle": "torch_ref in float64"}
    return Comparison(name, results, **(given | options))


def equivalent(id="gru"):
    return CaseResult(id, "two layers, bidirectional", tuple(probe(f"{scale}x") for scale in (1, 4)))


def divergence():
    """Layer 1 reverse leaves the reference at t=6, and pollutes what follows."""
    free, forced = {}, {}
    for layer in (0, 1):
        for direction in (0, 1):
            for step in range(9):
                for quantity in ("z_f", "f", "c", "h"):
                    node = Node("encoder.rnn", layer, direction, step, quantity)
                    late = step <= 6 if direction else step >= 6
                    wrong = (layer, direction) == (1, 1) and quantity != "z_f"
                    free[node] = 10.0 ** -(step % 4 + 1) if late and layer == 1 else 3e-16
                    forced[node] = 0.02 if wrong and step == 6 else 1e-16
    root = Node("encoder.rnn", 1, 1, 6, "f")
    return Divergence("forward", (root,), (root,), free, forced)


def divergent(id="lstm", wrong="all", explanations=1):
    """Return a case that is wrong in some tensors or all, found and explained."""
    fix = "remove unit_forget_bias; torch adds nothing"
    found = [
        Explanation(f"L0{n}", f"forget bias +{n} applied at run time", fix, 1.2)
        for n in range(1, explanations + 1)
    ]
    nearest = Explanation("G03", "b_hn missing (as in flax.nnx.GRUCell)", "add it", 3e4)
    probes = tuple(probe(f"{scale}x", wrong) for scale in (1, 4, 0.1))
    return CaseResult(
        id,
        "two layers, bidirectional",
        probes,
        first_divergence=divergence(),
        diagnosis=Diagnosis(tuple(found), nearest, 53),
    )


def inconclusive(id="constant"):
    case = equivalent(id)
    first, *rest = case.comparisons
    vague = dataclasses.replace(
        first.tensors[-1],
        verdict="INCONCLUSIVE",
        gate="vacuity",
        message="zero everywhere: nothing was tested",
    )
    return dataclasses.replace(
        case, comparisons=(dataclasses.replace(first, tensors=(*first.tensors[:-1], vague)), *rest)
    )


LONG = "ZeroDivisionError: a bug in the candidate, and much more is said about it " * 9

REPORTS = {
    "one equivalent": Report((equivalent(),), ENVIRONMENT, 3.0),
    "31 equivalent": Report(tuple(equivalent(f"case_{n}") for n in range(31)), ENVIRONMENT, 3.0),
    "one divergent in every tensor": Report((divergent(),), ENVIRONMENT, 3.0),
    "one divergent in one tensor": Report((divergent(wrong=("grad(input)",)),), ENVIRONMENT, 3.0),
    "all divergent": Report(tuple(divergent(f"case_{n}") for n in range(31)), ENVIRONMENT, 3.0),
    "not explained": Report((divergent(explanations=0),), ENVIRONMENT, 3.0),
    "two explanations": Report((equivalent(), divergent(explanations=2)), ENVIRONMENT, 3.0),
    "error in a case": Report((CaseResult("a", error=LONG), divergent(), equivalent()), ENVIRONMENT, 3.0),
    "error in a probe": Report(
        (CaseResult("a", comparisons=(Comparison("1x", error=LONG),)),), ENVIRONMENT, 3.0
    ),
    "errors everywhere": Report(
        tuple(CaseResult(f"a{n}", error=LONG) for n in range(9))
        + tuple(divergent(f"d{n}") for n in range(9))
        + tuple(CaseResult(f"n{n}", not_run="no torch: pip install 'jaxrnn[torch]'") for n in range(9)),
        ENVIRONMENT,
        3.0,
    ),
    "inconclusive": Report((inconclusive(),), ENVIRONMENT, 3.0),
    "not run": Report((CaseResult("n", not_run="no torch: pip install 'jaxrnn[torch]'"),), ENVIRONMENT, 3.0),
    "nothing": Report((), {}, 0.0),
}
SMALL = [name for name, report in REPORTS.items() if len(report.cases) < 31]  # where the number says no more
