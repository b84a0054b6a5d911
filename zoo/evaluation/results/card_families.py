"""Families of models that share one verification card, and why a line of a card may be missing.

A family has every encoder, language model and system whose name matches its patterns; the sizes of a family run the same code, so that one
card counts for all of them. A test asserts that each row of ``conf/`` has a family.
"""

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from zoo.registry import rows

KINDS = ("encoder", "language", "system")
OURS = "our own combination of published parts; no reference code exists, and the parts have their own cards"
NO_FORMAT = "no library has a format for it; zoo.save and zoo.load keep it bit for bit"


@dataclass(frozen=True)
class Family:
    """Models that share one card.

    Attributes:
        names: patterns of row names; a row belongs to the first family that has a pattern for it.
        absent: capabilities that do not apply, with the reason.
    """

    names: Sequence[str]
    absent: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


def _because(reason: str, *capabilities: str) -> dict[str, str]:
    return dict.fromkeys(capabilities, reason)


TRAINING = ("trains", "resumes exactly")
FAMILIES: dict[str, Family] = {
    "siglip": Family(("siglip_*", "siglip2_*", "*_siglip_*", "*_siglip2_*", "text_siglip_*", "text_bidirectional_nano")),
    "htsat": Family(("clap_htsat_*", "htsat_*", "roberta_base_clap")),
    "clap": Family(
        ("clap_*", "bind_*"),
        absent=_because(OURS, "equals its reference") | _because(NO_FORMAT, "goes back"),
    ),
    "clip": Family(("clip_*", "*_clip_*", "text_*")),
    "vig": Family(("vig_*", "classifier_vig_*")),
    "pvig": Family(("pvig_*", "classifier_pvig_*")),
    "classifier": Family(("classifier_*",)),
    "dinov2": Family(("*_dinov2*",)),
    "vit": Family(("vit_*", "deit_*")),
    "llava": Family(("llava_*", "smolvlm_*", "idefics3_*", "internvl*", "paligemma*", "qwen*_vl_*", "qwen_vision_*")),
    "reward": Family(("reward_*",)),
    "kosmos_2": Family(("kosmos_2", "kosmos_2_*")),
    "kosmos": Family(
        ("kosmos_*", "magneto_*"),
        absent=_because("no weights of Kosmos-1 are published; Kosmos-2's are compared, see its card", "equals its reference", "goes back"),
    ),
    "whisper": Family(("whisper_*",)),
    "tacotron2": Family(("tacotron2*",)),
    "tacotron": Family(
        ("tacotron*", "cbhg_*"),
        absent=_because("the authors published neither code nor weights", "equals its reference", "goes back", "speed"),
    ),
    "bert": Family(("bert_*", "minilm_*")),
    "albert": Family(("albert_*",)),
    "roberta": Family(("roberta_*",)),
    "xlm": Family(("xlm_*",)),
    "electra": Family(("electra_*",)),
    "deberta": Family(("deberta_*", "mdeberta_*")),
    "xlnet": Family(("xlnet_*",)),
    "modernbert": Family(("modernbert_*",)),
    "transformer": Family(("transformer_*",), absent=_because("no weights of 2017 are published; see the card marian", "goes back")),
    "marian": Family(("marian*",)),
    "bart": Family(("bart_*", "mbart_*", "pegasus_*")),
    "t5": Family(("t5_*", "mt5_*")),
    "switch": Family(("switch_*",)),
    "trocr": Family(("caption_*",)),
    "speech_seq2seq": Family(
        ("speech_seq2seq_*",),
        absent=_because(OURS, "equals its reference", "speed") | _because(NO_FORMAT, "goes back"),
    ),
    "gpt1": Family(("gpt1*",)),
    "gpt2": Family(("gpt2*",)),
    "gpt3": Family(("gpt3_*",)),
    "llama": Family(("llama_*", "llama2_*", "tinyllama_*", "vicuna_*")),
    "mistral": Family(("mistral_*",)),
    "mixtral": Family(("mixtral_*",)),
    "smollm2": Family(("smollm2_*",)),
    "qwen2": Family(("qwen2_*",)),
    "qwen3": Family(("qwen3_*",)),
    "gemma": Family(("gemma*",)),
    "phi": Family(("phi*",)),
    "rwkv4": Family(("rwkv4_*",)),
    "rwkv7": Family(("rwkv7_*",)),
    "conse": Family(
        ("conse_*",),
        absent=_because("it makes an embedding of a trained classifier without training", *TRAINING) | _because(NO_FORMAT, "goes back"),
    ),
    "fusion": Family(
        ("fusion_*",),
        absent=_because(OURS, "equals its reference", "speed") | _because(NO_FORMAT, "goes back"),
    ),
    "hosted": Family(
        ("timm_*", "transformers_*"), absent=_because("the module is the library's own, with its names of weights", "goes back", "speed")
    ),
}
BENCH = "python scripts/bench.py {rows} --peers --write"
SPEED_ROWS = {  # by family: rows of scripts/bench.py that compare it with another library; a test compares them with its table
    "bert": "minilm",
    "classifier": "training_step training_step_bf16",
    "clip": "clip_image clip_text clip_training_step",
    "kosmos_2": "kosmos",
    "pvig": "pvig_training_step",
    "smollm2": "decode prefill generation",
    "tacotron2": "tacotron2_inference",
    "vig": "vig_training_step",
    "vit": "vit_base vit_small",
    "whisper": "whisper whisper_decode",
}
SAME_CODE = {  # by family: the measured family whose layers do its work
    **dict.fromkeys(
        ("gpt1", "gpt2", "gpt3", "llama", "mistral", "mixtral", "qwen2", "qwen3", "gemma", "phi", "reward", "llava"), "smollm2"
    ),
    **dict.fromkeys(("albert", "roberta", "electra", "xlm"), "bert"),
    **{"siglip": "clip", "dinov2": "vit", "conse": "classifier", "kosmos": "kosmos_2"},
}


def family_of(name: str) -> str | None:
    """Return the family of a row (or of a family's own name); None if no pattern fits, as for rows of plug-ins and heads."""
    return name if name in FAMILIES else next((f for f, each in FAMILIES.items() if _fits(name, each)), None)


def members(family: str) -> list[str]:
    """Return the names of a family's rows: encoders, language models, systems."""
    return [name for kind in KINDS for name in rows(kind) if family_of(name) == family]


def reason_for(family: str, capability: str) -> tuple[str, str] | None:
    """Return status and reason of a capability that no test of a family verifies; None if no reason is declared."""
    absent = FAMILIES[family].absent
    if capability in absent:
        return "does not apply", absent[capability]
    return ("not verified", _no_speed(family)) if capability == "speed" else None


def _no_speed(family: str) -> str:
    """Say why a family has no figure of speed, and which command gives one."""
    if family in SPEED_ROWS:
        return f"not measured yet; this command does: {BENCH.format(rows=SPEED_ROWS[family])}"
    if family in SAME_CODE:
        other = SAME_CODE[family]
        return f"no row of its own; its layers are those of {other}, which this command measures: {BENCH.format(rows=SPEED_ROWS[other])}"
    return "no row compares it with another library; to have one, add it to ROWS in scripts/benchmarks/text_peers.py or a neighbour of it"


def _fits(name: str, family: Family) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in family.names)
