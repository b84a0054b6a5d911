"""Converter of annalog's model of analogues of a molecule: SMILES to SMILES, by the Transformer of 2017 with learned positions.

Reference: annalog 1.0.6, ``seq2seq_attention.py``, ``model_handler.py`` and ``vocabulary.py`` (class ``SMILESTokenizer``).
"""

import pickletools
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from zoo.downloads.seq2seq_directory import joined, symbol_tokenizer, write_translator
from zoo.storage.tensors import read_tensors

FILE, VOCABULARY = "Lev_extended.pt", "vocabulary.pkl"
SYMBOL = r"\[[^\]]*\]|%\d{2}|Br|Cl|[\s\S]"  # an atom in brackets, a ring number of two digits, two letters, or any other character
SIZES = {"dim": 256, "depth": 3, "num_heads": 8, "hidden_dim": 512, "positions": "learned", "context_length": 102}
SELF = {"self_attention.fc_o.{w}": "attention.out.{w}", "self_attn_layer_norm.{w}": "residual1.norm.{w}"}
MLP = {"positionwise_feedforward.fc_1.{w}": "mlp.fc1.{w}", "positionwise_feedforward.fc_2.{w}": "mlp.fc2.{w}"}
ENCODER = {**SELF, **MLP, "ff_layer_norm.{w}": "residual2.norm.{w}"}
DECODER = {
    **SELF,
    **MLP,
    "encoder_attention.fc_q.{w}": "cross.query.{w}",
    "encoder_attention.fc_o.{w}": "cross.out.{w}",
    "enc_attn_layer_norm.{w}": "residual2.norm.{w}",
    "ff_layer_norm.{w}": "residual3.norm.{w}",
}


def convert(source: Path, target: Path) -> None:
    """Write a directory for ``zoo.load``.

    Args:
        source: folder that contains the package's files of weights and vocabulary.
    """
    words = symbol_tokenizer(symbols((source / VOCABULARY).read_bytes()), SYMBOL)
    write_translator(target, SIZES, renamed(read_tensors(source / FILE)), words, words, lowercase=False)


def symbols(content: bytes) -> list[str]:
    """Return the list ``itos`` of the pickled vocabulary, in the order of the ids; nothing is unpickled, because a pickle can run code."""
    strings = [str(argument) for code, argument, _ in pickletools.genops(content) if code.name.endswith("UNICODE")]
    return strings[strings.index("itos") + 1 : strings.index("stoi")]


def renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return their tensors under our names."""
    found = {"head.decoder.output.weight": tensors["decoder.fc_out.weight"], "head.decoder.output_bias": tensors["decoder.fc_out.bias"]}
    for side, ours, table in (("encoder", "encoders.text", ENCODER), ("decoder", "head.decoder", DECODER)):
        found[f"{ours}.embedding.weight"] = tensors[f"{side}.tok_embedding.weight"]
        found[f"{ours}.positions.table"] = tensors[f"{side}.pos_embedding.weight"]
        for word in ("weight", "bias"):
            for layer in range(SIZES["depth"]):
                theirs, block = f"{side}.layers.{layer}", f"{ours}.blocks.{layer}"
                found |= {f"{block}.{new}".format(w=word): tensors[f"{theirs}.{old}".format(w=word)] for old, new in table.items()}
                found[f"{block}.attention.qkv.{word}"] = joined(tensors, ("fc_q", "fc_k", "fc_v"), f"{theirs}.self_attention.", word)
                if side == "decoder":
                    found[f"{block}.cross.key_value.{word}"] = joined(tensors, ("fc_k", "fc_v"), f"{theirs}.encoder_attention.", word)
    return found
