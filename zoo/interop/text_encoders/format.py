"""Text encoders of transformers (BERT and relatives, the encoder of T5) and what sentence-transformers puts around them."""

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from tokenizers import Tokenizer
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.interop.base.files import GENERATION, HARMLESS, TOKENIZERS, TRANSFORMERS, USED, named
from zoo.interop.base.format import CONFIG_SAYS, KEYS_SAY, NO, Description, Export, Format
from zoo.interop.base.library_files import read_optional
from zoo.interop.base.placing import EncoderNames, read_encoder
from zoo.interop.base.recognise import library_config
from zoo.interop.base.source import Source
from zoo.interop.text_encoders import albert as transformers_albert
from zoo.interop.text_encoders import bert as transformers_bert
from zoo.interop.text_encoders import deberta as transformers_deberta
from zoo.interop.text_encoders import deberta_v1 as transformers_deberta_v1
from zoo.interop.text_encoders import electra as transformers_electra
from zoo.interop.text_encoders import modernbert as transformers_modernbert
from zoo.interop.text_encoders import roberta as transformers_roberta
from zoo.interop.text_encoders import t5 as transformers_t5
from zoo.interop.text_encoders import xlm as transformers_xlm
from zoo.interop.text_encoders import xlnet as transformers_xlnet
from zoo.interop.text_encoders.write import text_export
from zoo.processors.tokenizers.library_tokenizers import TOKENIZER_CONFIG, TOKENIZER_FILE, read_tokenizer
from zoo.registry import register
from zoo.storage.checked import check
from zoo.storage.outside import read_json

TEXT: dict[str, ModuleType] = {  # by model_type
    "electra": transformers_electra,  # before BERT, because without its projection the keys are the same
    "bert": transformers_bert,
    "roberta": transformers_roberta,
    "albert": transformers_albert,
    "t5": transformers_t5,
    "deberta-v2": transformers_deberta,
    "deberta": transformers_deberta_v1,
    "modernbert": transformers_modernbert,
    "xlm": transformers_xlm,
    "xlnet": transformers_xlnet,
}
GIVEN = {"tokenizer": "given"}
SENTENCE_MODULES = ("Transformer", "Pooling", "Normalize", "Dropout")  # of sentence-transformers; Dropout is for training only
READS = {"transformer_task": "feature-extraction", "module_output_name": "token_embeddings"}  # of SENTENCE_FILE; no other values are read
POOLING_FILE, SENTENCE_FILE, PROMPTS_FILE = "1_Pooling/config.json", "sentence_bert_config.json", "config_sentence_transformers.json"
OWN_TOKENIZERS = {  # by model_type: tokenizers whose vocab.json and merges.txt would be taken for CLIP's
    "xlm": "vocab.json, merges.txt: the tokenizer, which needs Moses; give token ids, or put a tokenizer.json there",
}
SEPARATORS = {"xlnet": transformers_xlnet.SEPARATOR}  # by model_type: symbols between texts that are not the last symbol of a row
NO_LIMIT = 1_000_000  # transformers writes a number near 1e30 as model_max_length if there is no limit


@register("format")
class TextEncoders(Format):
    """Encoders ``bert``, ``albert``, ``electra``, ``deberta``, ``modernbert``, ``t5``, ``xlnet``, alone or with a pre-training head."""

    targets = ("transformers",)
    takes = "text encoders 'bert', 'albert', 'electra', 'deberta', 'modernbert', 't5' and 'xlnet', alone or with the head 'bert'"
    model_types = tuple(TEXT)
    files = {
        **TRANSFORMERS,
        **TOKENIZERS,
        **GENERATION,
        **dict.fromkeys(("modules.json", POOLING_FILE, SENTENCE_FILE, PROMPTS_FILE), USED),
        **dict.fromkeys(("[0-9]_Normalize/*", "[0-9]_Dropout/*", "data_config.json", "eval/*", "*_evaluation*.csv"), HARMLESS),
        **dict.fromkeys(("colbert_linear.pt", "sparse_linear.pt"), named("further heads of BGE-M3")),
    }

    def recognises(self, source: Source) -> float:
        """Go by the model type, else by the names of the tensors."""
        if any(key.startswith("decoder.block.") for key in source.keys):  # a whole T5: ``zoo.interop.seq2seq``
            return NO
        if source.model_type in self.model_types:
            return CONFIG_SAYS
        return KEYS_SAY if _origin_of_keys(source) is not None else NO

    def describe(self, source: Source) -> Description:
        """Return the encoder with the pooling of sentence-transformers, or a system if the head of the pre-training is there."""
        config = library_config(source, self)
        assert source.directory is not None
        return describe_text(source, source.directory, config)

    def read(self, source: Source, part: str = "", into: nn.Module | None = None) -> Mapping[str, Tensor]:
        """Convert by the names of the tensors; a pooler is left out if the encoder pools in another way."""
        origin = _origin_of_keys(source) or TEXT[source.model_type]
        names = EncoderNames(origin.recognises, origin.to_zoo, origin.CLASSIFIER, origin.classifier_to_zoo, origin.POOLER)
        return read_encoder(names, source, "text", part, into)

    def prepare(self, model: nn.Module, target: str, directory: Path) -> Export | None:
        """Return transformers' files of a text encoder, perhaps with the head of its pre-training."""
        return text_export(model)


def _origin_of_keys(source: Source) -> ModuleType | None:
    return next((origin for origin in TEXT.values() if origin.recognises(source.keys)), None)


def describe_text(source: Source, directory: Path, config: Mapping[str, Any]) -> Description:
    """Describe a directory of transformers or sentence-transformers."""
    modules = _modules(directory)
    origin, keys = TEXT[config["model_type"]], list(source.keys)
    pooling = read_optional(directory / POOLING_FILE)
    encoder = {"name": origin.FAMILY, **origin.arguments(config, keys, pooling or None)}
    if "Normalize" in modules:
        encoder["normalise"] = True
    unread = origin.MODEL_TYPE in OWN_TOKENIZERS and not (directory / TOKENIZER_FILE).is_file()
    found = None if unread else read_tokenizer(directory, model_type=config["model_type"])
    text: dict[str, Any] = dict(found.settings if found is not None else GIVEN)
    tokenizer = None if found is None else found.tokenizer
    if tokenizer is not None and not pooling and _has_types(tokenizer):  # a sentence encoder takes one text, without segments
        ends = SEPARATORS.get(origin.MODEL_TYPE)
        encoder["separator_id"] = text["eot_token_id"] if ends is None else tokenizer.token_to_id(ends)
    text |= _limits(directory, encoder["context_length"], is_sentence_encoder=bool(pooling))
    prompt, others = _prompts(directory, pooling)
    text |= {"prompt": prompt} if prompt else {}
    left_out = (*others, *([OWN_TOKENIZERS[origin.MODEL_TYPE]] if unread else []))
    if not origin.has_head(keys):
        return Description({"encoder": encoder, "processor": {"text": text}}, tokenizer, left_out=left_out)
    head = {"name": "bert", **origin.head_arguments(config, keys)}
    system = {"name": source.name, "encoders": {"text": encoder}, "head": head, "processor": {"text": text}}
    return Description({"system": system}, tokenizer, left_out=left_out)


def _has_types(tokenizer: Tokenizer) -> bool:
    """Return True if the second of two texts has tokens of type 1."""
    return 1 in tokenizer.encode("a", "b").type_ids


def _limits(directory: Path, context_length: int, *, is_sentence_encoder: bool) -> dict[str, Any]:
    """Return the settings of the text processor that cut and lower texts.

    sentence-transformers cuts at ``max_seq_length``; without it, at the tokenizer's ``model_max_length``.
    """
    sentence, words = read_optional(directory / SENTENCE_FILE), read_optional(directory / TOKENIZER_CONFIG)
    longest = sentence.get("max_seq_length") or (words.get("model_max_length") if is_sentence_encoder else None)
    for key, only in READS.items():
        if sentence.get(key, only) != only:
            raise ConfigError(f"{directory / SENTENCE_FILE}: {key}: got {sentence[key]!r}; allowed is {only!r}")
    found: dict[str, Any] = {}
    if isinstance(longest, int | float) and longest < min(context_length, NO_LIMIT):
        found["max_length"] = int(longest)
    if sentence.get("do_lower_case"):
        found["lowercase"] = True
    return found


def _prompts(directory: Path, pooling: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Return the prompt that sentence-transformers puts before every text, and in words the settings that are not applied.

    Raises:
        ConfigError: the default prompt does not exist, or its tokens are not pooled.
    """
    path = directory / PROMPTS_FILE
    settings = read_optional(path)
    prompts = {name: prompt for name, prompt in (settings.get("prompts") or {}).items() if prompt}
    default, similarity = settings.get("default_prompt_name"), settings.get("similarity_fn_name")
    if default is not None and default not in (settings.get("prompts") or {}):
        raise ConfigError(f"{path}: default_prompt_name: got {default!r}; prompts has {', '.join(prompts) or 'none'}")
    prompt = str(prompts.pop(default, ""))
    if prompt and pooling.get("include_prompt") is False:
        raise ConfigError(
            f"{directory / POOLING_FILE}: include_prompt: false leaves the tokens of the prompt {prompt!r} out of the pooling, which our "
            f"encoders do not; remove default_prompt_name from {PROMPTS_FILE}, and put prompts before the texts yourself"
        )
    found = [f"{PROMPTS_FILE}: prompts {', '.join(prompts)}; put them before the texts yourself"] if prompts else []
    if similarity not in (None, "cosine"):
        found.append(f"{PROMPTS_FILE}: similarity {similarity!r}; ours is the cosine")
    return prompt, found


def _modules(directory: Path) -> list[str]:
    """Return the kinds of sentence-transformers' modules; empty for a directory of transformers.

    Raises:
        ConfigError: one of them has no part of ours.
    """
    path = directory / "modules.json"
    if not path.exists():
        return []
    modules = check(read_json(path), list[dict[str, Any]], path, remedy="download the directory again")
    kinds = [str(module.get("type")) for module in modules]
    for kind in kinds:
        if kind.rpartition(".")[2] not in SENTENCE_MODULES:
            raise ConfigError(f"{path}: {kind} has no part of ours; allowed are {', '.join(SENTENCE_MODULES)}")
    return [kind.rpartition(".")[2] for kind in kinds]
