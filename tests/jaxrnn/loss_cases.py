"""One table of losses, with the inputs that make mistakes visible, and both frameworks' numbers for a row of it."""

import functools
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrnn import losses

UNIT = {np.float32: 2.0**-24, jnp.bfloat16: 2.0**-8, np.float16: 2.0**-11}  # rounding units


class Case(NamedTuple):
    """A call of one loss, with torch's keywords."""

    loss: str
    inputs: dict[str, np.ndarray]  # differentiated
    fixed: dict[str, np.ndarray]  # labels and what torch does not differentiate
    options: dict[str, Any]
    reductions: tuple[str | None, ...] = ("none", "mean", "sum")


def _draw(seed: int, *shape: int) -> np.ndarray:
    # Rounded to float32, so that all precisions start from the same numbers.
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32).astype(np.float64)


def _uniform(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.02, 0.98, shape).astype(np.float32).astype(np.float64)


def _logits(seed: int, *shape: int) -> np.ndarray:
    """Normal logits, with rows at ±30 and ±200 to saturate softmax and sigmoid."""
    logits = _draw(seed, *shape)
    logits[0] = 30 * np.sign(logits[0])
    logits[1] = 200 * np.sign(logits[1])
    return logits


LOGITS, IMAGES = _logits(0, 7, 5), _logits(1, 3, 5, 4)  # [N, C] and [N, C, d]
CLASS_WEIGHTS = np.array([0.5, 2.0, 0.25, 1.0, 3.0])
LABELS = np.array([4, 0, 1, 2, 3, 1, 0])
SOME = np.array([4, 0, -100, 2, 3, -100, 0])  # some ignored
IMAGE_LABELS = np.random.default_rng(2).integers(0, 5, (3, 4))
ROW_IGNORED = IMAGE_LABELS.copy()
ROW_IGNORED[1] = 2  # with ignore_index=2 no label of this row counts
PROBABILITIES = np.random.default_rng(3).dirichlet(np.ones(5), 7).astype(np.float32).astype(np.float64)
IMAGE_PROBABILITIES = np.moveaxis(np.random.default_rng(4).dirichlet(np.ones(5), (3, 4)), -1, 1)
LOG_PROBS = LOGITS.clip(-30, 30) - np.log(np.exp(LOGITS.clip(-30, 30)).sum(1, keepdims=True))
LOG_PROBS = LOG_PROBS.astype(np.float32).astype(np.float64)
X, Y = 3 * _draw(5, 7, 5), 3 * _draw(6, 7, 5)  # errors on both sides of every knee used below
ELEMENT_WEIGHTS = np.abs(_draw(7, 7, 5)) + 0.1
P, Q = _uniform(8, 7, 5), _uniform(9, 7, 5)
YES = np.array([0.0, 1.0, 0.3])[np.random.default_rng(10).integers(0, 3, (7, 5))]
COUNTS = np.random.default_rng(11).integers(0, 6, (7, 5)).astype(np.float64)
PAIRS = np.array([1, -1, -1, 1, 1, -1, -1])


def _classes(input: np.ndarray, target: np.ndarray, options: dict[str, Any], weight: Any = None) -> Case:
    fixed = {"target": target} | ({} if weight is None else {"weight": weight})
    return Case("cross_entropy", {"input": input}, fixed, options)


def _pairs(loss: str, input: np.ndarray, target: np.ndarray, **options: Any) -> Case:
    return Case(loss, {"input": input, "target": target}, {}, options)


CASES = {
    "cross_entropy": _classes(LOGITS, LABELS, {}),
    "cross_entropy, weights": _classes(LOGITS, LABELS, {}, CLASS_WEIGHTS),
    "cross_entropy, ignored": _classes(LOGITS, SOME, {}),
    "cross_entropy, ignored, weights": _classes(LOGITS, SOME, {}, CLASS_WEIGHTS),
    "cross_entropy, smooth": _classes(LOGITS, SOME, {"label_smoothing": 0.1}),
    "cross_entropy, smooth, weights": _classes(LOGITS, SOME, {"label_smoothing": 0.3}, CLASS_WEIGHTS),
    "cross_entropy, all smooth": _classes(LOGITS, SOME, {"label_smoothing": 1.0}, CLASS_WEIGHTS),
    "cross_entropy, images": _classes(IMAGES, IMAGE_LABELS, {}, CLASS_WEIGHTS),
    "cross_entropy, images, a row ignored": _classes(
        IMAGES, ROW_IGNORED, {"ignore_index": 2, "label_smoothing": 0.1}, CLASS_WEIGHTS
    ),
    "cross_entropy, -1 ignored": _classes(LOGITS, np.array([4, 0, -1, 2, 3, -1, 0]), {"ignore_index": -1}),
    "cross_entropy, all ignored": _classes(LOGITS, np.full(7, -100), {"label_smoothing": 0.1}, CLASS_WEIGHTS),
    "cross_entropy, one": _classes(LOGITS[3], np.array(2), {"label_smoothing": 0.1}, CLASS_WEIGHTS),
    "cross_entropy, probabilities": _pairs("cross_entropy", LOGITS, PROBABILITIES),
    "cross_entropy, probabilities, all": Case(
        "cross_entropy",
        {"input": LOGITS, "target": PROBABILITIES},
        {"weight": CLASS_WEIGHTS},
        {"label_smoothing": 0.1},
    ),
    "cross_entropy, probabilities, images": Case(
        "cross_entropy", {"input": IMAGES, "target": IMAGE_PROBABILITIES}, {"weight": CLASS_WEIGHTS}, {}
    ),
    "cross_entropy, probabilities, one": _pairs("cross_entropy", LOGITS[3], PROBABILITIES[3]),
    "nll_loss": Case("nll_loss", {"input": LOG_PROBS}, {"target": SOME, "weight": CLASS_WEIGHTS}, {}),
    "nll_loss, images": Case("nll_loss", {"input": IMAGES}, {"target": ROW_IGNORED}, {"ignore_index": 2}),
    "nll_loss, one": Case("nll_loss", {"input": LOG_PROBS[3]}, {"target": np.array(2)}, {}),
    "mse_loss": _pairs("mse_loss", X, Y),
    "mse_loss, weights": Case("mse_loss", {"input": X, "target": Y, "weight": ELEMENT_WEIGHTS}, {}, {}),
    "mse_loss, numbers": _pairs("mse_loss", X[0, 0], Y[0, 0]),
    "l1_loss": _pairs("l1_loss", X, Y),
    "l1_loss, weights": Case("l1_loss", {"input": X, "target": Y, "weight": ELEMENT_WEIGHTS}, {}, {}),
    "huber_loss": _pairs("huber_loss", X, Y),
    "huber_loss, narrow": _pairs("huber_loss", X, Y, delta=0.3),
    "huber_loss, wide": _pairs("huber_loss", X, Y, delta=float("inf")),
    "huber_loss, weights": Case(
        "huber_loss", {"input": X, "target": Y, "weight": ELEMENT_WEIGHTS}, {}, {"delta": 2.5}
    ),
    "smooth_l1_loss": _pairs("smooth_l1_loss", X, Y),
    "smooth_l1_loss, wide": _pairs("smooth_l1_loss", X, Y, beta=2.5),
    "smooth_l1_loss, narrow": _pairs("smooth_l1_loss", X, Y, beta=0.3),
    "smooth_l1_loss, sharp": _pairs("smooth_l1_loss", X, Y, beta=0.0),
    "binary_cross_entropy": _pairs("binary_cross_entropy", P, Q),
    "binary_cross_entropy, weights": Case(
        "binary_cross_entropy", {"input": P, "target": YES}, {"weight": CLASS_WEIGHTS}, {}
    ),
    "binary_cross_entropy_with_logits": _pairs("binary_cross_entropy_with_logits", LOGITS, YES),
    "binary_cross_entropy_with_logits, weights": Case(
        "binary_cross_entropy_with_logits",
        {"input": LOGITS, "target": YES},
        {"weight": ELEMENT_WEIGHTS, "pos_weight": CLASS_WEIGHTS},
        {},
    ),
    "kl_div": Case("kl_div", {"input": LOG_PROBS, "target": Q}, {}, {}, ("none", "batchmean", "mean", "sum")),
    "kl_div, logarithms": Case(
        "kl_div", {"input": LOG_PROBS, "target": np.float64(np.float32(np.log(Q)))}, {}, {"log_target": True},
        ("none", "batchmean", "mean", "sum"),
    ),
    "gaussian_nll_loss": Case("gaussian_nll_loss", {"input": X, "target": Y, "var": ELEMENT_WEIGHTS}, {}, {}),
    "gaussian_nll_loss, one variance": Case(
        "gaussian_nll_loss",
        {"input": X, "target": Y[:1], "var": ELEMENT_WEIGHTS[:, 0]},
        {},
        {"full": True, "eps": 0.5},
    ),
    "gaussian_nll_loss, a number": Case("gaussian_nll_loss", {"input": X, "target": Y}, {}, {"var": 0.75}),
    "poisson_nll_loss": _pairs("poisson_nll_loss", X / 3, COUNTS),
    "poisson_nll_loss, means": _pairs("poisson_nll_loss", P, COUNTS, log_input=False, eps=0.01),
    "poisson_nll_loss, full": Case("poisson_nll_loss", {"input": P}, {"target": COUNTS}, {"full": True}),
    "cosine_similarity": Case("cosine_similarity", {"x1": X, "x2": Y}, {}, {}, (None,)),
    "cosine_similarity, other axis": Case(
        "cosine_similarity", {"x1": X, "x2": Y[:, :1]}, {}, {"dim": -2, "eps": 4.0}, (None,)
    ),
    "cosine_similarity, vectors": Case("cosine_similarity", {"x1": X[0], "x2": Y[0]}, {}, {"dim": 0}, (None,)),
    "cosine_embedding_loss": Case("cosine_embedding_loss", {"input1": X, "input2": Y}, {"target": PAIRS}, {}),
    "cosine_embedding_loss, margin": Case(
        "cosine_embedding_loss", {"input1": X, "input2": Y}, {"target": PAIRS}, {"margin": -0.4}
    ),
    "cosine_embedding_loss, one": Case(
        "cosine_embedding_loss", {"input1": X[0], "input2": Y[0]}, {"target": np.array(-1)}, {"margin": -1.0}
    ),
}  # fmt: skip
ONE_EACH = {case.loss: name for name, case in CASES.items()}  # the last row of each loss


Numbers = dict[str, np.ndarray]  # "mean: loss" and "mean: d input", for each reduction and input


def loss_of(case: Case, fixed: dict[str, Any], reduction: str | None) -> Any:
    """The loss as a function of its differentiated inputs."""
    options = case.options if reduction is None else case.options | {"reduction": reduction}
    return lambda inputs: getattr(losses, case.loss)(**inputs, **fixed, **options)


def jax_arrays(case: Case, dtype: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The differentiated and the fixed arrays of a case."""
    fixed = {k: a if a.dtype.kind == "i" else jnp.asarray(a, dtype) for k, a in case.fixed.items()}
    return {k: jnp.asarray(a, dtype) for k, a in case.inputs.items()}, fixed


@functools.cache
def jax_numbers(loss: str, dtype: Any) -> dict[str, Numbers]:
    """The loss and the gradients of all inputs, for each case of one loss and each reduction."""
    cases = {name: case for name, case in CASES.items() if case.loss == loss}

    @jax.jit  # one program for all of them: compiling is what takes time
    def run(arrays):
        return {name: numbers(case, *arrays[name]) for name, case in cases.items()}

    with jax.enable_x64(dtype == np.float64):
        arrays = {name: jax_arrays(case, dtype) for name, case in cases.items()}
        return {
            name: {k: np.asarray(each, np.float64) for k, each in found.items()}
            for name, found in run(arrays).items()
        }


def numbers(case: Case, inputs: dict[str, Any], fixed: dict[str, Any]) -> dict[str, jax.Array]:
    """The loss and the gradients of all inputs, for each reduction and a fixed random cotangent."""
    found = {}
    for reduction in case.reductions:
        value, pull = jax.vjp(loss_of(case, fixed, reduction), inputs)
        (gradients,) = pull(jnp.asarray(cotangent(value.shape), value.dtype))
        found[f"{reduction}: loss"] = value
        found |= {f"{reduction}: d {name}": gradient for name, gradient in gradients.items()}
    assert {each.dtype for each in found.values()} == {each.dtype for each in inputs.values()}
    return found


def torch_numbers(case: Case, dtype: Any) -> Numbers:
    """The same from torch."""
    import torch

    precision = getattr(torch, jnp.dtype(dtype).name)
    fixed = {
        name: torch.tensor(array, dtype=torch.int64 if array.dtype.kind == "i" else precision)
        for name, array in case.fixed.items()
    }
    inputs = {
        name: torch.tensor(array, dtype=precision, requires_grad=True) for name, array in case.inputs.items()
    }
    found = {}
    for reduction in case.reductions:
        options = case.options if reduction is None else case.options | {"reduction": reduction}
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", "reduction: 'mean' divides"
            )  # of kl_div: it will change one day
            value = getattr(torch.nn.functional, case.loss)(**inputs, **fixed, **options)
        weights = torch.tensor(cotangent(value.shape), dtype=value.dtype)
        gradients = torch.autograd.grad(value, list(inputs.values()), weights)
        found[f"{reduction}: loss"] = value
        found |= {f"{reduction}: d {name}": g for name, g in zip(inputs, gradients, strict=True)}
    return {name: each.detach().double().numpy() for name, each in found.items()}


def cotangent(shape: Any) -> np.ndarray:
    """A number for every element of the result, different for each: their order must matter."""
    return 1.0 + 0.25 * _draw(12, *shape)


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))
