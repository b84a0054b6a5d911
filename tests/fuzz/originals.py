"""Intact inputs of the fuzz harness, written by the libraries whose files they are."""

import json
import shutil
import struct
import tarfile
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import peft
import sentencepiece
import torch
import transformers as reference
import yaml
from inputs import TARGETS
from mutations import write_gguf
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn

import zoo
from zoo.assembly.compose import compose
from zoo.commands.index.store import Manifest, hash_file
from zoo.interop.whisper import system as whisper

TINY = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.o_proj": "attn_output",
    **{f"self_attn.{letter}_proj": f"attn_{letter}" for letter in "qkv"},
    **{f"mlp.{word}_proj": f"ffn_{word}" for word in ("gate", "up", "down")},
    "model.layers": "blk",
}
SWEEP_FILES = {
    "hydra/job_logging": {
        "version": 1,
        "handlers": {"x": {"class": "logging.StreamHandler", "level": "INFO"}},
        "root": {"handlers": ["x"]},
    },
    "experiment": {"training": {"max_steps": 3}, "system": {"head": {"embed_dim": 32}}},
}
TOWER = {"image_size": 8, "patch_size": 4, "dim": 16, "depth": 1, "num_heads": 2, "pre_norm": True, "patch_bias": False, "eps": 1e-5}


def make_originals(folder: Path) -> Path:
    """Write one intact input of each target into a folder of its name."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    for name in TARGETS:
        (folder / name).mkdir(parents=True)
    model: Any = zoo.create_model("clip_vit_nano")
    model.processor.fit(["a cat", "a dog"])
    zoo.save(model, folder / "saved")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _towers(folder)
        _language_models(folder)
        _systems(folder)
        _whispers(folder)
        _tokenizers(folder / "tokenizers")
    _index(folder / "index")
    _configs(folder)
    _data(folder)
    return folder


def _towers(folder: Path) -> None:
    """Encoders of images and texts, and a CLIP: whole, in two shards, as a pickle and as a TorchScript archive."""
    vit = reference.ViTForImageClassification(reference.ViTConfig(**TINY, image_size=8, patch_size=4, num_labels=3))
    vit.save_pretrained(folder / "vit")
    settings = {"image_processor_type": "ViTImageProcessor", "size": {"height": 8, "width": 8}, "resample": 2, "do_resize": True}
    settings |= {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "vit" / "preprocessor_config.json").write_text(json.dumps(settings))
    shutil.copytree(folder / "vit", folder / "pickle", dirs_exist_ok=True)
    (folder / "pickle" / "model.safetensors").unlink()
    torch.save(vit.state_dict(), folder / "pickle" / "pytorch_model.bin")
    bert = reference.BertModel(reference.BertConfig(**TINY, vocab_size=30, max_position_embeddings=8))
    bert.save_pretrained(folder / "bert")
    _word_pieces(folder / "bert")
    parts = {"text_config": {**TINY, "vocab_size": 30, "max_position_embeddings": 8}}
    clip = reference.CLIPModel(reference.CLIPConfig(**parts, vision_config={**TINY, "image_size": 8, "patch_size": 4}, projection_dim=8))
    clip.save_pretrained(folder / "clip")
    clip.save_pretrained(folder / "sharded", max_shard_size="10KB")
    model = zoo.create_model("vit_nano")
    torch.jit.save(torch.jit.script(_Named(model.state_dict())), folder / "torchscript" / "weights.pt")


class _Named(nn.Module):
    """Holder of tensors by dotted names, which TorchScript keeps."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        super().__init__()
        for name in dict.fromkeys(name.partition(".")[0] for name in tensors):
            below = {key.partition(".")[2]: value for key, value in tensors.items() if key.partition(".")[0] == name}
            if "" in below:
                self.register_buffer(name, below[""])
            else:
                self.add_module(name, _Named(below))

    def forward(self) -> None:
        """Do nothing."""


def _language_models(folder: Path) -> None:
    """A LLaMA with tokenizer and template, also beside an adapter and as GGUF."""
    llama = reference.LlamaForCausalLM(reference.LlamaConfig(**TINY, vocab_size=260, max_position_embeddings=64))
    llama.save_pretrained(folder / "llama")
    _chat_files(folder / "llama")
    _gguf(folder / "gguf" / "model.gguf", llama)
    shutil.copytree(folder / "llama", folder / "adapter", dirs_exist_ok=True)
    settings = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], base_model_name_or_path=".")
    peft.get_peft_model(llama, settings).save_pretrained(folder / "adapter")


def _chat_files(folder: Path) -> None:
    _tokenizer().save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<s>", "eos_token": "</s>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m.role }}: {{ m.content }}</s>{% endfor %}")


def _gguf(path: Path, llama: Any) -> None:
    words = ["<unk>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "ab"]
    sizes = {"block_count": 1, "context_length": 64, "embedding_length": 16, "feed_forward_length": 16, "attention.head_count": 2}
    sizes |= {"attention.head_count_kv": 2, "attention.layer_norm_rms_epsilon": 1e-6}
    tokens = {"model": "gpt2", "pre": "smollm", "tokens": words, "token_type": [3, 3, 3, *[1] * 257], "merges": ["a b"]}
    tokens |= {"bos_token_id": 1, "eos_token_id": 2}
    metadata: dict[str, Any] = {"general.architecture": "llama", **{f"llama.{key}": value for key, value in sizes.items()}}
    metadata |= {f"tokenizer.ggml.{key}": value for key, value in tokens.items()}
    metadata["tokenizer.chat_template"] = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    found = {}
    for name, tensor in llama.state_dict().items():
        if "q_proj" in name or "k_proj" in name:
            tensor = tensor.unflatten(0, (2, 2, -1)).transpose(1, 2).flatten(0, 2)
        for there, here in GGUF_NAMES.items():
            name = name.replace(there, here)
        found[name] = tensor.contiguous().numpy()
    write_gguf(path, metadata, found)


def _systems(folder: Path) -> None:
    """A LLaVA and a Kosmos-2, written by our export, whose files transformers reads (tests/convert)."""
    image = {"image": {"name": "vit", **TOWER}}
    llava = zoo.create_system({"encoders": image, "head": "llava", "language": "llama_nano"})
    llava.processor.fit(["what is it?", "seven"])
    zoo.export(llava, folder / "llava")
    words = {"vocab_size": 40, "max_position_embeddings": 90, "embed_dim": 16, "layers": 1, "ffn_dim": 16, "attention_heads": 2}
    vision = {**TINY, "image_size": 8, "patch_size": 4}
    config = reference.Kosmos2Config(text_config=words, vision_config=vision, latent_query_num=2)
    reference.Kosmos2ForConditionalGeneration(config).save_pretrained(folder / "kosmos2")


def _whispers(folder: Path) -> None:
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    sizes |= {"encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "max_source_positions": 10, "max_target_positions": 16, "vocab_size": 51865}
    model = reference.WhisperForConditionalGeneration(reference.WhisperConfig(**sizes))
    model.save_pretrained(folder / "whisper")
    tensors = whisper.to_zoo(model.state_dict())
    dims = {"n_mels": 80, "n_audio_ctx": 10, "n_audio_state": 16, "n_audio_head": 2, "n_audio_layer": 1, "n_vocab": 51865}
    dims |= {"n_text_ctx": 16, "n_text_state": 16, "n_text_head": 2, "n_text_layer": 1}
    published = {"dims": dims, "model_state_dict": whisper.from_zoo(tensors, origin="openai-whisper")}
    torch.save(published, folder / "openai_whisper" / "tiny.pt")
    _ctranslate2(folder / "ctranslate2" / "model.bin", whisper.from_zoo(tensors, origin="CTranslate2"))
    (folder / "ctranslate2" / "config.json").write_text(json.dumps({"alignment_heads": [[0, 0]], "suppress_ids": [], "lang_ids": [50259]}))


def _ctranslate2(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write a ``model.bin`` as CTranslate2's ``ModelSpec.save`` does."""

    def name(text: str) -> bytes:
        return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"

    heads = {f"{half}/num_heads": torch.tensor(2, dtype=torch.int16) for half in ("encoder", "decoder")}
    variables = {**heads, "decoder/pre_norm": torch.tensor(1, dtype=torch.int8), **tensors}
    kinds = {torch.float32: 0, torch.int8: 1, torch.int16: 2}
    data = struct.pack("<I", 6) + name("WhisperSpec") + struct.pack("<II", 3, len(variables))
    for key, value in variables.items():
        data += name(key) + struct.pack("<B", value.ndim) + struct.pack(f"<{value.ndim}I", *value.shape)
        data += struct.pack("<BI", kinds[value.dtype], value.nbytes) + value.contiguous().numpy().tobytes()
    path.write_bytes(data + struct.pack("<I", 0))


def _tokenizers(folder: Path) -> None:
    """One folder for each kind of tokenizer files."""
    for kind in ("fast", "word_pieces", "bpe", "sentence_pieces"):
        (folder / kind).mkdir()
    _chat_files(folder / "fast")
    _word_pieces(folder / "word_pieces")
    letters = [*"abcdefgh", *(f"{letter}</w>" for letter in "abcdefgh"), "ab", "<|startoftext|>", "<|endoftext|>"]
    (folder / "bpe" / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(letters)}))
    (folder / "bpe" / "merges.txt").write_text("#version: 0.2\na b\n")
    (folder / "bpe" / "special_tokens_map.json").write_text(json.dumps({"bos_token": {"content": "<|startoftext|>"}, "pad_token": "a"}))
    corpus = {
        "sentence_iterator": iter(["a photo of a cat", "hello world", "photo 12345"] * 4),
        "vocab_size": 40,
        "hard_vocab_limit": False,
    }
    ids: Any = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(model_prefix=str(folder / "sentence_pieces" / "spiece"), **corpus, **ids)
    (folder / "sentence_pieces" / "tokenizer_config.json").write_text('{"tokenizer_class": "T5Tokenizer", "eos_token": "</s>"}')


def _word_pieces(folder: Path) -> None:
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxy"]))
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": true, "model_max_length": 8}')


def _configs(folder: Path) -> None:
    config = compose("train", ["system=clip_vit_nano", "data=digits"])
    (folder / "run" / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    (folder / "compose" / "overrides.txt").write_text("training.max_steps=3\nsystem.head.embed_dim=32\nseed=1", encoding="utf-8")
    (folder / "sweep" / "overrides.txt").write_text("seed=1,2\nhydra/job_logging=mine\nexperiment=mine", encoding="utf-8")
    for group, content in SWEEP_FILES.items():
        path = folder / "sweep" / "extra" / group / "mine.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(yaml.safe_dump(content))


def _tokenizer() -> Tokenizer:
    words = ["<unk>", "<s>", "</s>", *"abcdefghijklmnopqrstuvwxyz:", "user", "assistant", " "]
    found = Tokenizer(models.WordLevel({word: number for number, word in enumerate(dict.fromkeys(words))}, unk_token="<unk>"))
    found.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    found.add_special_tokens(["<s>", "</s>"])
    return found


def _index(folder: Path) -> None:
    items = [{"path": f"{name}.png", "size": 3, "mtime_ns": 4} for name in "ab"]
    (folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    (folder / "failed.jsonl").write_text("")
    np.save(folder / "embeddings.npy", np.eye(2, 4, dtype=np.float32))
    texts = dict.fromkeys(("model", "weights", "preprocessing", "origin", "listing"), "a")
    facts = {"format": 1, "modality": "image", "dim": 4, "dtype": "float32", "storage": "npy", "count": 2, "failed": 0}
    manifest = Manifest(**texts, **facts, items=hash_file(folder / "items.jsonl"))
    (folder / "manifest.json").write_text(json.dumps(asdict(manifest)))


def _data(folder: Path) -> None:
    (folder / "rows" / "rows.jsonl").write_text('{"a": "x", "b": [1, {"c": 2}]}\n{"a": "y", "b": 3}\n')
    (folder / "rows" / "rows.csv").write_text('a,b\nx,1\n"y, z",2\n')
    turns = [{"role": "user", "content": [{"type": "text", "text": "hi"}]}, {"role": "assistant", "content": "yes"}]
    (folder / "chats" / "chats.json").write_text(json.dumps([{"messages": turns, "id": str(i)} for i in range(8)]))
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8))
    for suffix in ("png", "jpg", "gif", "bmp", "tiff", "webp", "ppm"):
        picture.save(folder / "pictures" / f"a.{suffix}")
    import soundfile

    wave = np.sin(np.arange(4000) / 20).astype(np.float32)
    for suffix in ("wav", "flac", "ogg", "mp3"):
        soundfile.write(str(folder / "recordings" / f"a.{suffix}"), wave, 16000)
    members = {"1.jpg": (folder / "pictures" / "a.jpg").read_bytes(), "1.txt": b"a cat", "1.cls": b"1", "1.json": b'{"caption": "a"}'}
    with tarfile.open(folder / "shards" / "a.tar", "w") as archive:
        for name, content in members.items():
            place = folder / "shards" / name
            place.write_bytes(content)
            archive.add(place, name)
            place.unlink()
