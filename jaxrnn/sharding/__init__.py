"""Recurrent networks on many devices, by JAX's own partitioning."""

from jaxrnn.sharding.data import data_parallel
from jaxrnn.sharding.hidden import HiddenSharded
from jaxrnn.sharding.time import wavefront

__all__ = ["HiddenSharded", "data_parallel", "wavefront"]
