"""The judge: are two models the same function, and is one as accurate as the other?

    report = parity.compare(candidate, reference, inputs)        # nnx.Module, torch.nn.Module
    parity.assert_equivalent(candidate, reference, inputs)       # raises ParityError with the table

Importing this package imports NumPy only; JAX and PyTorch are loaded when a model is run. `parity.compare` is
the function; the gates it rests on are in the module of the same name: `from parity.compare import compare_arrays`.
"""

from parity.compare import compare_arrays
from parity.judge import ParityError, assert_equivalent, compare, port
from parity.probe import Probe
from parity.trace import Trace
from parity.verdict import CaseResult, Comparison, Report, TensorResult

__all__ = [
    "CaseResult",
    "Comparison",
    "ParityError",
    "Probe",
    "Report",
    "TensorResult",
    "Trace",
    "assert_equivalent",
    "compare",
    "compare_arrays",
    "port",
]
