"""The lecture's models, one file per task shape."""

from jaxrnn.models.classifier import Classifier, TextClassifier
from jaxrnn.models.forecaster import Forecaster, Gaussian, GaussianForecaster
from jaxrnn.models.language_model import LanguageModel
from jaxrnn.models.tagger import Tagger

__all__ = [
    "Classifier",
    "Forecaster",
    "Gaussian",
    "GaussianForecaster",
    "LanguageModel",
    "Tagger",
    "TextClassifier",
]
