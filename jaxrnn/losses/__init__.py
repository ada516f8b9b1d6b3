"""PyTorch's losses: the names, defaults, formulas and subgradients of `torch.nn.functional`.

Arguments stand in torch's order. Where torch has its deprecated `size_average` and `reduce`, the arguments are
keyword-only, so that no positional argument means something else than in torch. Numbers such as `beta` and
`label_smoothing` are Python numbers.

What torch refuses because of a *shape* is refused here too, always. What it refuses because of a *value* (a
label that is no class, a probability of 1.5) raises where the value is known; while `jit`, `vmap` or `grad`
trace it, the loss is NaN there, and so is its gradient. Two things that torch lets pass raise as well: shapes
that only match by broadcasting, and labels that no loss is defined for.

The result has the dtype that its arguments promote to. Bfloat16 and float16 are computed in float32 and rounded
once, at the end. torch rounds every element before it sums them in float32 (`nll_loss` and `cross_entropy` sum in
half precision itself), so a result here is at least as close to the true one, and a mean is finite where only an
element overflows float16.

For padded sequences see `ignore_padding` (labels) and `masked_mean` (everything else).
"""

from jaxrnn.losses.binary import binary_cross_entropy, binary_cross_entropy_with_logits
from jaxrnn.losses.classification import cross_entropy, nll_loss
from jaxrnn.losses.ctc import ctc_loss
from jaxrnn.losses.likelihood import gaussian_nll_loss, kl_div, poisson_nll_loss
from jaxrnn.losses.padding import ignore_padding, masked_mean
from jaxrnn.losses.regression import huber_loss, l1_loss, mse_loss, smooth_l1_loss
from jaxrnn.losses.similarity import cosine_embedding_loss, cosine_similarity

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cosine_embedding_loss",
    "cosine_similarity",
    "cross_entropy",
    "ctc_loss",
    "gaussian_nll_loss",
    "huber_loss",
    "ignore_padding",
    "kl_div",
    "l1_loss",
    "masked_mean",
    "mse_loss",
    "nll_loss",
    "poisson_nll_loss",
    "smooth_l1_loss",
]
