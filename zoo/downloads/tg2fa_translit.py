"""Converter of the Tajik to Persian transliterator of the package tg2fa-translit: ``torch.nn.Transformer`` over characters.

Reference: tg2fa-translit 1.0, ``transformer.py`` and ``decode.py``. Its preparation of texts (numbers, punctuation) is not taken.
"""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from zoo.downloads.seq2seq_directory import symbol_tokenizer, write_translator
from zoo.storage.tensors import read_tensors

FILE = "model_2.9.zip"
SPECIAL = ("<unk>", "<pad>", "<bos>", "<eos>")
TAJIK = (*SPECIAL, *" -~абвгдежзийклмнопрстуфхчшъьэюяёғқҳҷӣӯ")
PERSIAN = (*SPECIAL, *"ه -آئابتثجحخدذرزسشصضطظعغفقلمنوي\u0651\u0652\u0654پچژکگی\u200c")
SIZES = {"dim": 64, "depth": 3, "num_heads": 8, "hidden_dim": 64, "final_norm": True, "context_length": 128}
CHARACTER = r"[\s\S]"
SELF = {"self_attn.in_proj_{w}": "attention.qkv.{w}", "self_attn.out_proj.{w}": "attention.out.{w}", "norm1.{w}": "residual1.norm.{w}"}
MLP = {"linear1.{w}": "mlp.fc1.{w}", "linear2.{w}": "mlp.fc2.{w}"}
ENCODER = {**SELF, **MLP, "norm2.{w}": "residual2.norm.{w}"}
DECODER = {
    **SELF,
    **MLP,
    "multihead_attn.out_proj.{w}": "cross.out.{w}",
    "norm2.{w}": "residual2.norm.{w}",
    "norm3.{w}": "residual3.norm.{w}",
}


def convert(source: Path, target: Path) -> None:
    """Write a directory for ``zoo.load``.

    Args:
        source: folder that contains the package's file of weights.
    """
    tensors = renamed(read_tensors(source / FILE, "model_state_dict"))
    words, target_words = symbol_tokenizer(TAJIK, CHARACTER), symbol_tokenizer(PERSIAN, CHARACTER)
    write_translator(target, SIZES, tensors, words, target_words, lowercase=True)


def renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of ``nn.Transformer`` with embeddings and output layer under our names, without the table of sinusoids."""
    found = {
        "encoders.text.embedding.weight": tensors["src_tok_emb.embedding.weight"],
        "head.decoder.embedding.weight": tensors["tgt_tok_emb.embedding.weight"],
        "head.decoder.output.weight": tensors["generator.weight"],
        "head.decoder.output_bias": tensors["generator.bias"],
    }
    for side, ours, table in (("encoder", "encoders.text", ENCODER), ("decoder", "head.decoder", DECODER)):
        for word in ("weight", "bias"):
            found[f"{ours}.norm.{word}"] = tensors[f"transformer.{side}.norm.{word}"]
            for layer in range(SIZES["depth"]):
                theirs, block = f"transformer.{side}.layers.{layer}", f"{ours}.blocks.{layer}"
                found |= {f"{block}.{new}".format(w=word): tensors[f"{theirs}.{old}".format(w=word)] for old, new in table.items()}
                if side == "decoder":
                    query, *rest = tensors[f"{theirs}.multihead_attn.in_proj_{word}"].split([SIZES["dim"], 2 * SIZES["dim"]])
                    found |= {f"{block}.cross.query.{word}": query.clone(), f"{block}.cross.key_value.{word}": rest[0].clone()}
    return found
