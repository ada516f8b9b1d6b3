"""The lecture's models, one file per task shape."""

from torch_ref.models.captioner import Captioner, ImageEncoder
from torch_ref.models.classifier import Classifier, TextClassifier
from torch_ref.models.decoding import Decoded, beam_search, greedy, sample
from torch_ref.models.forecaster import Forecaster, GaussianForecaster
from torch_ref.models.language_model import LanguageModel
from torch_ref.models.seq2seq import Decoder, Encoder, Seq2Seq, shift_right
from torch_ref.models.tagger import Tagger
from torch_ref.models.transformer import Transformer, TransformerDecoder, TransformerEncoder
from torch_ref.models.transformer_layers import TransformerDecoderLayer, TransformerEncoderLayer
from torch_ref.models.translator import TransformerTranslator, sinusoidal_positions

__all__ = [
    "Captioner",
    "Classifier",
    "Decoded",
    "Decoder",
    "Encoder",
    "Forecaster",
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
    "greedy",
    "sample",
    "shift_right",
    "sinusoidal_positions",
]
