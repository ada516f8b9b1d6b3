"""Are two losses the same? Values and gradients with respect to every floating input, on designed probes.

    report = compare_losses(my_cross_entropy, torch.nn.CrossEntropyLoss(ignore_index=0))

The probes of a task hold what mistakes in losses need to be seen: ignored labels and a row that has no others,
class weights that differ, errors on both sides of every knee, repeated labels in CTC and targets that no path
can spell. A loss is judged where both frameworks define it by one formula: away from kinks, and CTC at the
logits, because torch's gradient with respect to log-probabilities is not the derivative.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from parity.cases import INSTALL
from parity.environment import environment
from parity.losses.probes import TASK_NAMES, TASKS, probes_of
from parity.probe import Probe
from parity.verdict import CaseResult, Report
from parity.weighing import Judgement, explained, put_in_words, try_probe


def task_of(reference: Any) -> str | None:
    """Return what one of torch's losses is asked; None for any other."""
    torchs = importlib.import_module("parity.running.functions_torch")
    return TASKS.get(torchs.name_of(torchs.as_module(reference)))


# The judge ------------------------------------------------------------------------------------------------


def compare_losses(
    candidate: Any,
    reference: Any,
    probes: Iterable[Probe] | None = None,
    *,
    task: str | None = None,
    probe_set: str = "designed",
    seed: int = 0,
    name: str = "loss",
) -> Report:
    """Judge a JAX loss by a torch loss: values and gradients, in float64 and in float32.

    candidate: a function of arrays, with the arguments of the reference in the same order.
    reference: a `torch.nn` loss, such a loss in words (``"CrossEntropyLoss(ignore_index=0)"``), or a function of
        tensors.
    probes: what to ask; else those of `task`, which is known for torch's own losses. Of the task "ctc" both receive
        `log_softmax` of the logits.

    Raises:
        ValueError: neither probes nor a task for a reference that is not torch's own.
    """
    started = time.perf_counter()
    result = judge_loss(candidate, reference, probes, task=task, probe_set=probe_set, seed=seed, id=name)
    return Report((result,), environment(), time.perf_counter() - started)


def judge_loss(
    candidate: Any,
    reference: Any,
    probes: Iterable[Probe] | None = None,
    *,
    task: str | None = None,
    probe_set: str = "designed",
    seed: int = 0,
    id: str = "loss",
    summary: str = "",
    progress: Callable[[], None] = lambda: None,
) -> CaseResult:
    """Put probes to both losses; where they diverge, say why."""
    torchs = importlib.import_module("parity.running.functions_torch")
    ours = importlib.import_module("parity.running.functions_jax")
    loss = torchs.Loss(reference) if isinstance(reference, str) else torchs.as_module(reference)
    if probes is None:
        task = task or task_of(loss)
        if task is None:
            raise ValueError(
                f"{torchs.name_of(loss)} is none of torch's losses: pass task=, one of {sorted(TASK_NAMES)}, or "
                "probes=."
            )
        probes = probes_of(task, torchs.options_of(loss), probe_set, seed)
    at_logits = task == "ctc"
    function = ours.from_text(candidate) if isinstance(candidate, str) else candidate
    model = ours.as_module(function, log_softmax=at_logits)
    loss = torchs.behind_log_softmax(loss) if at_logits else loss
    judgements = []
    for probe in probes:
        judgements.append(try_probe(model, loss, probe))
        progress()
    return conclude(id, summary, judgements)


def conclude(id: str, summary: str, judgements: list[Judgement]) -> CaseResult:
    """Return the case's result; where it diverges, with its diagnosis."""
    result = CaseResult(id, summary, tuple(judgement.comparison for judgement in judgements))

    def explain(result: CaseResult) -> CaseResult:
        from parity.losses.diagnosis import diagnose_losses

        return dataclasses.replace(result, diagnosis=diagnose_losses(judgements))

    return explained(result, explain)


# Every loss of jaxrnn -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LossCase:
    """A loss that exists twice: calls as text; `task` where it is not the reference's own."""

    id: str
    reference: str
    candidate: str
    task: str | None = None

    @property
    def summary(self) -> str:
        """Both calls."""
        return f"{self.candidate} against torch.nn.{self.reference}"


def judge_case(
    case: LossCase, probe_set: str = "designed", seed: int = 0, progress: Callable[[], None] = lambda: None
) -> CaseResult:
    """Judge one row; a missing package leaves it NOT RUN, and any other exception makes its verdict ERROR."""
    if importlib.util.find_spec("torch") is None:
        return CaseResult(case.id, case.summary, not_run=f"torch not installed; {INSTALL['torch']}")
    try:
        return judge_loss(
            case.candidate,
            case.reference,
            task=case.task,
            probe_set=probe_set,
            seed=seed,
            id=case.id,
            summary=case.summary,
            progress=progress,
        )
    except Exception as error:
        return CaseResult(case.id, case.summary, error=put_in_words(error))


_WEIGHTS = "[0.5, 2.0, 0.25, 1.0, 3.0]"


def _row(id: str, reference: str, candidate: str, options: str = "", task: str | None = None) -> LossCase:
    """Make a row of a loss with the same options on both sides."""
    return LossCase(id, f"{reference}({options})", f"jaxrnn.losses.{candidate}({options})", task)


CASES = (
    _row("cross_entropy", "CrossEntropyLoss", "cross_entropy"),
    _row("cross_entropy-weights", "CrossEntropyLoss", "cross_entropy", f"weight={_WEIGHTS}"),
    _row("cross_entropy-ignore", "CrossEntropyLoss", "cross_entropy", "ignore_index=0"),
    _row("cross_entropy-last", "CrossEntropyLoss", "cross_entropy", "ignore_index=-1, reduction='sum'"),
    _row("cross_entropy-smooth", "CrossEntropyLoss", "cross_entropy", "label_smoothing=0.1"),
    _row(
        "cross_entropy-all",
        "CrossEntropyLoss",
        "cross_entropy",
        f"weight={_WEIGHTS}, label_smoothing=0.3",
    ),
    _row("cross_entropy-each", "CrossEntropyLoss", "cross_entropy", "reduction='none'"),
    _row(
        "cross_entropy-soft",
        "CrossEntropyLoss",
        "cross_entropy",
        f"weight={_WEIGHTS}, label_smoothing=0.1",
        "soft_classification",
    ),
    _row("nll_loss", "NLLLoss", "nll_loss", f"weight={_WEIGHTS}"),
    _row("mse_loss", "MSELoss", "mse_loss"),
    _row("mse_loss-masked", "functional.mse_loss", "mse_loss", "", "masked_regression"),
    _row("l1_loss", "L1Loss", "l1_loss", "reduction='none'"),
    _row("huber_loss", "HuberLoss", "huber_loss", "delta=0.3"),
    _row("smooth_l1_loss", "SmoothL1Loss", "smooth_l1_loss", "beta=2.5"),
    _row("binary_cross_entropy", "BCELoss", "binary_cross_entropy", f"weight={_WEIGHTS}"),
    _row(
        "binary_cross_entropy_with_logits",
        "BCEWithLogitsLoss",
        "binary_cross_entropy_with_logits",
        f"pos_weight={_WEIGHTS}",
    ),
    _row("kl_div", "KLDivLoss", "kl_div"),
    _row("kl_div-batch", "KLDivLoss", "kl_div", "reduction='batchmean', log_target=True"),
    _row("gaussian_nll_loss", "GaussianNLLLoss", "gaussian_nll_loss", "full=True, eps=0.5"),
    _row("poisson_nll_loss", "PoissonNLLLoss", "poisson_nll_loss", "full=True"),
    _row("cosine_similarity", "CosineSimilarity", "cosine_similarity"),
    _row("cosine_embedding_loss", "CosineEmbeddingLoss", "cosine_embedding_loss", "margin=-0.4"),
    _row("ctc_loss", "CTCLoss", "ctc_loss"),
    _row("ctc_loss-infeasible", "CTCLoss", "ctc_loss", "zero_infinity=True, blank=2"),
    _row("ctc_loss-each", "CTCLoss", "ctc_loss", "reduction='none', blank=4"),
)
