"""The designed probes of the table of cases, by topic; `parity.probe` says why they are as they are."""

from parity.designed.attention import AttentionCall
from parity.designed.forecasters import ForecasterCall, GaussianCall
from parity.designed.generators import CaptionerCall, Seq2SeqCall
from parity.designed.layers import CellCall, LayerCall
from parity.designed.sequences import SequencesCall, TextCall
from parity.designed.sizes import (
    BATCH,
    CLASSES,
    CONVOLVED,
    DROPOUT,
    EMBEDDED,
    FEATURES,
    HEADS,
    HIDDEN,
    IMAGE,
    PREDICTED,
    PROJECTED,
    STEPS,
    TARGET_WORDS,
    WIDE,
    WORD_SIZE,
    WORDS,
)
from parity.designed.transformers import TransformerCall, TranslatorCall

__all__ = [
    "BATCH",
    "CLASSES",
    "CONVOLVED",
    "DROPOUT",
    "EMBEDDED",
    "FEATURES",
    "HEADS",
    "HIDDEN",
    "IMAGE",
    "PREDICTED",
    "PROJECTED",
    "STEPS",
    "TARGET_WORDS",
    "WIDE",
    "WORDS",
    "WORD_SIZE",
    "AttentionCall",
    "CaptionerCall",
    "CellCall",
    "ForecasterCall",
    "GaussianCall",
    "LayerCall",
    "Seq2SeqCall",
    "SequencesCall",
    "TextCall",
    "TransformerCall",
    "TranslatorCall",
]
