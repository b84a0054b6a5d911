"""Description: what a foreign source says of itself."""

from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

from zoo.processors.tokenizers.chat_tokenizer import GivenTokenizer

SIZES = {  # by modality: what a processor must know of its encoder; the first tells which it is
    "text": ("vocab_size", "context_length"),
    "audio": ("num_mels", "context_length"),
    "image": ("image_size",),
}


@dataclass(frozen=True)
class Description:
    """What a foreign source says of itself.

    Attributes:
        config: the content of the ``config.yaml`` that the same model has here: an encoder, or a system.
        tokenizer: that lies beside it.
        certain: whether it says with which activation it was trained; bare weights do not.
        left_out: what of it no part of ours makes yet, in words; empty where it is taken whole.
        conversation: the tokenizer of a language model.
    """

    config: dict[str, Any]
    tokenizer: Tokenizer | None = None
    certain: bool = True
    left_out: str = ""
    conversation: GivenTokenizer | None = None

    def processors(self) -> dict[str, dict[str, Any]]:
        """The whole settings of the processor of each modality, of which the source says something."""
        encoders = self.config["system"]["encoders"] if "system" in self.config else {None: self.config["encoder"]}
        given = self.config.get("system", self.config).get("processor") or {}
        found = {}
        for modality, encoder in encoders.items():
            modality = modality or next((m for m, size in SIZES.items() if size[0] in encoder), "image")
            if modality == "image" and not encoder.get("preprocessing"):
                continue
            own = {**{key: encoder[key] for key in SIZES[modality]}, **encoder.get("preprocessing", {})}
            found[modality] = {**own, **(given.get(modality) or {})}
        if "conversation" in given:
            language = self.config["system"]["head"]["language"]
            found["conversation"] = {**{key: language[key] for key in ("vocab_size", "context_length")}, **given["conversation"]}
        if "transcript" in given:
            head = self.config["system"]["head"]
            found["transcript"] = {**{key: head[key] for key in ("vocab_size", "context_length")}, **given["transcript"]}
        return found
