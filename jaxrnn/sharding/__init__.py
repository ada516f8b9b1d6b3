"""Recurrent networks on many devices, by JAX's own partitioning."""

from jaxrnn.sharding.data import data_parallel

__all__ = ["data_parallel"]
