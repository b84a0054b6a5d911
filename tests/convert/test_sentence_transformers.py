"""Directories that sentence-transformers saves today: our pooled vectors are its ``encode``, and it reads our exports."""

import json

import pytest
import torch
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
from tokenizers import Tokenizer, models, pre_tokenizers, processors

import zoo
from zoo.interop.base.recognise import describe, unknown_files
from zoo.interop.base.source import read_source

SIZES = {"hidden_size": 24, "num_attention_heads": 3, "num_hidden_layers": 2, "intermediate_size": 40, "vocab_size": 50}
TEXTS = ["a cat", "cat", "a cat a cat a cat a cat a cat a cat a cat"]  # the last one is longer than max_seq_length
MODES = ["mean", "cls", "max", "weightedmean", "lasttoken", "mean_sqrt_len_tokens"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A tiny random BERT with a tokenizer that allows 9 tokens."""
    transformers.utils.logging.disable_progress_bar()
    folder = tmp_path_factory.mktemp("base")
    words = {word: i for i, word in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "cat", "find"))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "model_max_length": 9}
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    torch.manual_seed(0)
    transformers.BertModel(transformers.BertConfig(**SIZES, max_position_embeddings=20)).save_pretrained(folder)
    return folder


def save(base, folder, *modules, **settings):
    model = SentenceTransformer(modules=[Transformer(str(base)), *modules], device="cpu", **settings)
    model.save(str(folder))
    return torch.from_numpy(model.encode(TEXTS))


def pooled(source, texts=TEXTS):
    encoder = zoo.load(source)
    ids, mask = encoder.processor["text"](texts)
    found = [encoder(ids, mask, reads=reads).pooled.detach() for reads in ("tokens", "pooled")]
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-5)
    return encoder, found[0]


@pytest.mark.parametrize("mode", MODES)
def test_every_pooling_gives_what_encode_gives_and_goes_back(mode, base, tmp_path):
    prompts = {"prompts": {"query": "find a ", "document": ""}, "default_prompt_name": "query"} if mode == "cls" else {}
    expected = save(base, tmp_path / "theirs", Pooling(24, mode), *([Normalize()] if mode in ("cls", "max") else []), **prompts)
    encoder, found = pooled(tmp_path / "theirs")
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert unknown_files(read_source(tmp_path / "theirs")) == [] == list(describe(read_source(tmp_path / "theirs")).left_out)
    zoo.save(encoder, tmp_path / "ours")
    torch.testing.assert_close(pooled(tmp_path / "ours")[1], expected, rtol=0, atol=1e-5)
    zoo.export(encoder, tmp_path / "out")
    again = SentenceTransformer(str(tmp_path / "out"), device="cpu", local_files_only=True)
    torch.testing.assert_close(torch.from_numpy(again.encode(TEXTS)), expected, rtol=0, atol=1e-5)


def test_limits_of_both_files_and_the_older_dialect_are_read(base, tmp_path):
    save(base, tmp_path, Pooling(24, "mean"))
    for limit, asked in ((5, {"max_seq_length": 5}), (9, {})):
        (tmp_path / "sentence_bert_config.json").write_text(json.dumps(asked))
        assert zoo.load(tmp_path).processor["text"].max_length == limit
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 24, "pooling_mode_lasttoken": True}))
    assert zoo.load(tmp_path).pool == "last"
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 24, "pooling_mode_mean_tokens": False}))
    assert zoo.load(tmp_path).pool == "mean"  # as sentence-transformers does if none is chosen


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("1_Pooling/config.json", {"pooling_mode": ["cls", "mean"]}, "pools by cls, mean; allowed is one of"),
        ("1_Pooling/config.json", {"pooling_mode": "attention"}, "pools by attention"),
        ("1_Pooling/config.json", {"include_prompt": False}, "include_prompt: false leaves the tokens of the prompt"),
        ("config_sentence_transformers.json", {"default_prompt_name": "no"}, "default_prompt_name: got 'no'"),
        ("sentence_bert_config.json", {"transformer_task": "fill-mask"}, "transformer_task: got 'fill-mask'"),
    ],
)
def test_settings_without_a_counterpart_are_refused_by_name(file, changes, message, base, tmp_path):
    save(base, tmp_path, Pooling(24, "mean"), prompts={"query": "find a "}, default_prompt_name="query")
    path = tmp_path / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(zoo.ConfigError, match=message):
        zoo.load(tmp_path)


def test_a_dense_layer_is_refused_and_other_prompts_and_similarities_are_named(base, tmp_path):
    save(base, tmp_path / "dense", Pooling(24, "mean"), Dense(24, 8))
    with pytest.raises(zoo.ConfigError, match="modules.dense.Dense has no part of ours"):
        zoo.load(tmp_path / "dense")
    save(base, tmp_path / "dot", Pooling(24, "mean"), prompts={"query": "find a "}, similarity_fn_name="dot")
    told = " ".join(describe(read_source(tmp_path / "dot")).left_out)
    assert "prompts query; put them before the texts yourself" in told and "similarity 'dot'; ours is the cosine" in told
