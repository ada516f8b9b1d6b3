"""The mistakes that people make when they port a network.

Planted in a candidate a fault is a mutant, which the judge must find; planted in the reference, in float64, it is a
hypothesis: the one that explains a candidate to rounding error is the diagnosis. In recurrent layers a fault is one
exchanged part of the spelled-out network (`Fault`), elsewhere one exchanged function of torch (`Substitution`).
"""

from parity.faults import functions, losses, numerics, sequences, states, steps, weights
from parity.faults.fault import Fault
from parity.faults.substitution import Substitution

RECURRENT: tuple[Fault, ...] = (
    *weights.FAULTS,
    *steps.FAULTS,
    *states.FAULTS,
    *sequences.FAULTS,
)
FUNCTIONS: tuple[Substitution, ...] = (*functions.FAULTS, *numerics.FAULTS, *losses.FAULTS)

__all__ = ["FUNCTIONS", "RECURRENT", "Fault", "Substitution"]
