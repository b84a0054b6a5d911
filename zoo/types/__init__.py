"""The glossary: value types that pass between parts, and one base class per kind of part.

Everything is imported from here: ``from zoo.types import Batch, Encoder``. May import: nothing of zoo but ``errors``.
Add a word that a part may declare: with its default and its check (``zoo.testing``), in the base class of its kind.

One word for one thing everywhere: ``dim depth num_heads head_dim mlp_ratio patch_size image_size num_mels context_length
vocab_size``; ``num_`` for counts; a mask is True where attention is allowed; tensors are called ``pixels`` [B, 3, H, W] float,
``mels`` [B, num_mels, frames] float, ``token_ids`` [B, L] int64, ``tokens`` [B, N, dim], ``logits``.
"""

from zoo.types.batch import (
    FRAMES,
    IGNORED,
    MAGNITUDES,
    MASKED,
    MELS,
    PLACEHOLDER_IDS,
    PREFIXES,
    PRESENT,
    SUPERVISED,
    TARGET_IDS,
    TARGET_POSITIONS,
    TEACHER,
    TURNS,
    Batch,
    Encoded,
    HeadOutput,
    Predictions,
    in_parts,
    presence_of,
)
from zoo.types.connector import Connector
from zoo.types.contract import check_encoded, check_encoder_words
from zoo.types.encoder import Encoder, EncoderSpec, encode
from zoo.types.evaluation import Evaluation, Result
from zoo.types.generators import unchanged_generators
from zoo.types.head import Accepts, FeatureHead, Head, LanguageHead, SampledAnswer, Wiring, need_encoded, patches_of
from zoo.types.host import all_real, follow, on_host, send, update
from zoo.types.language import LanguageModel
from zoo.types.objective import Objective, SamplingObjective
from zoo.types.outputs import (
    BAND,
    LARGEST_JUMP,
    LARGEST_RETURN,
    LEAST_DIAGONALITY,
    LEAST_FOCUS,
    REASONS,
    SATURATED,
    SILENCE,
    STEP_LIMIT,
    STOP_TOKEN,
    UNREAD,
    Segment,
    Speech,
    Transcript,
    Word,
    diagonality,
    focus,
)
from zoo.types.part import Part
from zoo.types.processor import ModalityProcessor, Processor, Tokenizer
from zoo.types.reward import Reward
from zoo.types.source import Sample, Source, Split
from zoo.types.system import SystemLike, config_of, encoders_of, head_of, is_system, part_of, processor_of, verbs_of
from zoo.types.tiler import Plan, Tiler
