"""The lecture's models, one file per task shape."""

from jaxrnn.models.classifier import Classifier, TextClassifier
from jaxrnn.models.forecaster import Forecaster, Gaussian, GaussianForecaster
from jaxrnn.models.language_model import LanguageModel
from jaxrnn.models.tagger import Tagger
from jaxrnn.models.transformer import Transformer, TransformerDecoder, TransformerEncoder
from jaxrnn.models.transformer_layers import TransformerDecoderLayer, TransformerEncoderLayer
from jaxrnn.models.translator import TransformerTranslator, sinusoidal_positions
from jaxrnn.models.decoding import Decoded, beam_search, beam_search_from, greedy, greedy_from, sample, sample_from

__all__ = [
    "Classifier",
    "Decoded",
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
    "beam_search",
    "beam_search_from",
    "greedy",
    "greedy_from",
    "sample",
    "sample_from",
    "sinusoidal_positions",
]
