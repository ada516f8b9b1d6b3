"""The lecture's models, one file per task shape."""

from jaxrnn.models.forecaster import Forecaster

__all__ = ["Forecaster"]
