"""The lecture's models, one file per task shape."""

from jaxrnn.models.captioner import Captioner, ImageEncoder
from jaxrnn.models.classifier import Classifier, TextClassifier
from jaxrnn.models.decoding import (
    Decoded,
    beam_search,
    beam_search_from,
    greedy,
    greedy_from,
    sample,
    sample_from,
)
from jaxrnn.models.forecaster import Forecaster, Gaussian, GaussianForecaster
from jaxrnn.models.language_model import LanguageModel
from jaxrnn.models.seq2seq import Decoder, Encoder, Seq2Seq, shift_right
from jaxrnn.models.tagger import Tagger
from jaxrnn.models.transformer import Transformer, TransformerDecoder, TransformerEncoder
from jaxrnn.models.transformer_layers import TransformerDecoderLayer, TransformerEncoderLayer
from jaxrnn.models.translator import TransformerTranslator, sinusoidal_positions

__all__ = [
    "Captioner",
    "Classifier",
    "Decoded",
    "Decoder",
    "Encoder",
    "Forecaster",
    "Gaussian",
    "GaussianForecaster",
    "ImageEncoder",
    "LanguageModel",
    "Seq2Seq",
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
    "shift_right",
    "sinusoidal_positions",
]
