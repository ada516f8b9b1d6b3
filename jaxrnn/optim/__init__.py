"""PyTorch's optimizers, schedulers and clipping as optax transformations, exact to torch's own rounding.

Everything composes with optax and with `nnx.Optimizer`. What a torch program says in other places:

Learning rate scheduler
    ``adam(cosine_annealing_lr(1e-2, 100))``: a schedule takes the place of the learning rate. It counts updates;
    where torch calls ``scheduler.step()`` once per epoch, ``adam(by_epochs(step_lr(1e-2, 10), len(loader)))``.
Gradient clipping
    ``optax.chain(clip_grad_norm(1.0), adam(1e-3))``, in this order.
Parameter groups
    Name a group for every parameter. No weight decay on biases::

        def group(path, parameter):
            return "bias" if "bias" in jax.tree_util.keystr(path) else "weight"

        optimizer = optax.multi_transform(
            {"weight": adamw(1e-3, weight_decay=0.1), "bias": adamw(1e-3, weight_decay=0.0)},
            lambda params: jax.tree_util.tree_map_with_path(group, params),
        )

    Coupled decay can also be masked:
    ``optax.chain(optax.masked(optax.add_decayed_weights(0.1), mask), adam(1e-3))``. A frozen group gets
    ``optax.set_to_zero()``. As in torch, the norm to clip is that of all groups together:
    ``optax.chain(clip_grad_norm(1.0), optimizer)``.
Gradient accumulation
    k calls of ``backward()`` add up: ``optax.MultiSteps(adam(1e-3), k, use_grad_mean=False)``. (The default of
    `MultiSteps` divides by k, which in torch you do to the loss.) It adds in float32; for float64 pass
    ``accumulator_dtype=jnp.float64``.

In bfloat16 or float16, torch keeps the optimizer's state in the parameter's dtype, and so does this package; each
step is computed in float32 and rounded once, where torch rounds after each operation. A mean that decays by 0.999
cannot decay in bfloat16, in neither of the two: the smallest change it can hold is 1/256. Keep such parameters in
float32 (`param_dtype`) and compute in bfloat16 (`dtype`).

Each optimizer is a *direction*, what the gradient is turned into before the learning rate; ``_common.descend``
puts torch's weight decay before it and the learning rate after it.
"""

from jaxrnn.optim.adams import (
    AdamaxState,
    AdamState,
    NAdamState,
    adam,
    adamax,
    adamw,
    nadam,
    radam,
    scale_by_adam,
)
from jaxrnn.optim.adaptive import (
    AdadeltaState,
    AdagradState,
    RMSpropState,
    adadelta,
    adagrad,
    rmsprop,
)
from jaxrnn.optim.clipping import clip_grad_norm, clip_grad_value, clip_gradients, total_norm
from jaxrnn.optim.cycles import cyclic_lr, cyclic_momentum, one_cycle_lr, one_cycle_momentum
from jaxrnn.optim.momentum import MomentumState, scale_by_momentum, sgd
from jaxrnn.optim.plateau import PlateauState, reduce_on_plateau
from jaxrnn.optim.resilient import RpropState, rprop
from jaxrnn.optim.schedules import (
    by_epochs,
    chained_lr,
    constant_lr,
    cosine_annealing_lr,
    cosine_annealing_warm_restarts,
    exponential_lr,
    lambda_lr,
    linear_lr,
    multi_step_lr,
    polynomial_lr,
    sequential_lr,
    step_lr,
)

__all__ = [
    "AdadeltaState",
    "AdagradState",
    "AdamState",
    "AdamaxState",
    "MomentumState",
    "NAdamState",
    "PlateauState",
    "RMSpropState",
    "RpropState",
    "adadelta",
    "adagrad",
    "adam",
    "adamax",
    "adamw",
    "by_epochs",
    "chained_lr",
    "clip_grad_norm",
    "clip_grad_value",
    "clip_gradients",
    "constant_lr",
    "cosine_annealing_lr",
    "cosine_annealing_warm_restarts",
    "cyclic_lr",
    "cyclic_momentum",
    "exponential_lr",
    "lambda_lr",
    "linear_lr",
    "multi_step_lr",
    "nadam",
    "one_cycle_lr",
    "one_cycle_momentum",
    "polynomial_lr",
    "radam",
    "reduce_on_plateau",
    "rmsprop",
    "rprop",
    "scale_by_adam",
    "scale_by_momentum",
    "sequential_lr",
    "sgd",
    "step_lr",
    "total_norm",
]
