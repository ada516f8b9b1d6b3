"""The lecture's models, one file per task shape."""

from jaxrnn.models.classifier import Classifier, TextClassifier
from jaxrnn.models.forecaster import Forecaster, Gaussian, GaussianForecaster
from jaxrnn.models.language_model import LanguageModel
from jaxrnn.models.tagger import Tagger
from jaxrnn.models.transformer import Transformer, TransformerDecoder, TransformerEncoder
from jaxrnn.models.transformer_layers import TransformerDecoderLayer, TransformerEncoderLayer
from jaxrnn.models.translator import TransformerTranslator, sinusoidal_positions

__all__ = [
    "Classifier",
    "Forecaster",
    "Gaussian",
    "GaussianForecaster",
    "LanguageModel",
    "Tagger",
    "TextClassifier",
    "Transformer",
    "TransformerDecoder",
    "TransformerDecoderLayer",
    "TransformerEncoder",
    "TransformerEncoderLayer",
    "TransformerTranslator",
    "sinusoidal_positions",
]
