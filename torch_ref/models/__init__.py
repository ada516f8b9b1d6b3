"""Models built on the layers, one file per task shape."""

from torch_ref.models.forecaster import Forecaster

__all__ = ["Forecaster"]
