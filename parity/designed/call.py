"""What the classes of this room share: one probe for each scale of the weights."""

from __future__ import annotations

from parity.probe import SCALES, Probe


class Call:
    """What a model is called with; a class says how one probe of it is made, in `_probe`."""

    def probes(self, probe_set: str, seed: int) -> list[Probe]:
        """Return one probe per weight scale of the set."""
        return [self._probe(scale, [seed, number]) for number, scale in enumerate(self._scales(probe_set))]

    def _scales(self, probe_set: str) -> list[float]:
        return list(SCALES[probe_set])

    def _probe(self, scale: float, seed: list[int]) -> Probe:
        raise NotImplementedError
