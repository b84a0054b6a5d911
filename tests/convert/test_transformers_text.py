"""Text encoders of transformers, with and without their heads, against ours: directories in, directories out."""

import json

import pytest
import torch
import transformers
from transformers import (
    AlbertConfig,
    AlbertForMaskedLM,
    AlbertForPreTraining,
    AlbertModel,
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    BertModel,
    DebertaConfig,
    DebertaForMaskedLM,
    DebertaModel,
    DebertaV2Config,
    DebertaV2ForMaskedLM,
    DebertaV2Model,
    ElectraConfig,
    ElectraForMaskedLM,
    ElectraForPreTraining,
    ElectraModel,
    ModernBertConfig,
    ModernBertForMaskedLM,
    ModernBertModel,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaModel,
    T5Config,
    T5EncoderModel,
    T5ForConditionalGeneration,
    XLMConfig,
    XLMModel,
    XLMWithLMHeadModel,
    XLNetConfig,
    XLNetModel,
)

import zoo
from zoo.storage.tensors import read_tensors
from zoo.types import IGNORED, MASKED, Batch

SIZES = {"vocab_size": 101, "hidden_size": 60, "num_attention_heads": 5, "num_hidden_layers": 3, "intermediate_size": 100}
BERT = {**SIZES, "max_position_embeddings": 19}
ROBERTA = {**SIZES, "max_position_embeddings": 21, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
ALBERT = {**SIZES, "max_position_embeddings": 19, "embedding_size": 28}
ELECTRA = {**SIZES, "max_position_embeddings": 19, "embedding_size": 28}
DEBERTA = {
    **{**SIZES, "max_position_embeddings": 19, "type_vocab_size": 0, "relative_attention": True, "position_biased_input": False},
    **{"pos_att_type": ["c2p", "p2c"]},
}
V3 = {**DEBERTA, "position_buckets": 8, "max_relative_positions": 19, "share_att_key": True, "norm_rel_ebd": "layer_norm"}
MODERN = {
    **{**SIZES, "num_attention_heads": 5, "max_position_embeddings": 19, "local_attention": 8, "num_hidden_layers": 5},
    **dict.fromkeys(("pad_token_id", "cls_token_id"), 0),
    **dict.fromkeys(("bos_token_id", "eos_token_id", "sep_token_id"), 1),
}
XLM = {"vocab_size": 101, "emb_dim": 60, "n_heads": 5, "n_layers": 3, "max_position_embeddings": 19, "pad_token_id": 0, "n_langs": 3}
XLM |= {"bos_token_id": 1, "eos_token_id": 1}
XLNET = {"vocab_size": 101, "d_model": 60, "n_head": 5, "n_layer": 3, "d_inner": 100}
T5 = {"vocab_size": 101, "d_model": 60, "d_kv": 7, "num_heads": 5, "d_ff": 100, "num_layers": 3}
ENCODERS = {
    "bert": lambda: BertModel(BertConfig(**BERT)),
    "bert without pooler": lambda: BertModel(BertConfig(**BERT, hidden_act="gelu_new"), add_pooling_layer=False),
    "roberta": lambda: RobertaModel(RobertaConfig(**ROBERTA)),
    "roberta of two types, padding 0": lambda: RobertaModel(RobertaConfig(**{**ROBERTA, "type_vocab_size": 2, "pad_token_id": 0})),
    "albert": lambda: AlbertModel(AlbertConfig(**ALBERT)),
    "albert without pooler": lambda: AlbertModel(AlbertConfig(**ALBERT, hidden_act="gelu"), add_pooling_layer=False),
    "electra": lambda: ElectraModel(ElectraConfig(**ELECTRA)),
    "electra as wide as its table": lambda: ElectraModel(ElectraConfig(**{**ELECTRA, "embedding_size": 60, "hidden_act": "relu"})),
    "deberta v1": lambda: DebertaModel(DebertaConfig(**DEBERTA)),
    "deberta v1, p2c alone": lambda: DebertaModel(DebertaConfig(**{**DEBERTA, "pos_att_type": "p2c"})),
    "deberta v3": lambda: DebertaV2Model(DebertaV2Config(**V3)),
    "deberta v2, with a convolution": lambda: DebertaV2Model(DebertaV2Config(**V3, conv_kernel_size=3, conv_act="gelu")),
    "deberta, convolution with tanh": lambda: DebertaV2Model(DebertaV2Config(**V3, conv_kernel_size=5)),
    "deberta, a row for each distance": lambda: DebertaV2Model(DebertaV2Config(**DEBERTA)),
    "deberta, c2p alone": lambda: DebertaV2Model(DebertaV2Config(**{**DEBERTA, "pos_att_type": "c2p", "position_buckets": 4})),
    "modernbert": lambda: ModernBertModel(ModernBertConfig(**MODERN)),
    "modernbert with biases": lambda: ModernBertModel(
        ModernBertConfig(**MODERN, norm_bias=True, attention_bias=True, mlp_bias=True, hidden_activation="silu", classifier_pooling="mean")
    ),
    "xlm": lambda: XLMModel(XLMConfig(**XLM)),
    "xlm, causal, of one language": lambda: XLMModel(XLMConfig(**{**XLM, "n_langs": 1, "causal": True, "gelu_activation": False})),
    "xlnet": lambda: XLNetModel(XLNetConfig(**XLNET)),
    "xlnet with silu": lambda: XLNetModel(XLNetConfig(**XLNET, ff_activation="silu", layer_norm_eps=1e-5)),
    "t5": lambda: T5EncoderModel(T5Config(**T5)),
    "t5 1.1": lambda: T5EncoderModel(T5Config(**T5, feed_forward_proj="gated-gelu")),
    "t5 gated silu": lambda: T5EncoderModel(
        T5Config(**T5, feed_forward_proj="gated-silu", relative_attention_num_buckets=16, relative_attention_max_distance=11)
    ),
}
HEADS = {
    "BertForPreTraining": lambda: BertForPreTraining(BertConfig(**BERT)),
    "BertForMaskedLM": lambda: BertForMaskedLM(BertConfig(**BERT, hidden_act="relu")),
    "RobertaForMaskedLM": lambda: RobertaForMaskedLM(RobertaConfig(**ROBERTA, hidden_act="relu")),
    "AlbertForPreTraining": lambda: AlbertForPreTraining(AlbertConfig(**ALBERT)),
    "AlbertForMaskedLM": lambda: AlbertForMaskedLM(AlbertConfig(**ALBERT)),
    "ElectraForMaskedLM": lambda: ElectraForMaskedLM(ElectraConfig(**ELECTRA)),
    "DebertaForMaskedLM": lambda: DebertaForMaskedLM(DebertaConfig(**DEBERTA)),
    "DebertaV2ForMaskedLM": lambda: DebertaV2ForMaskedLM(DebertaV2Config(**V3)),
    "XLMWithLMHeadModel": lambda: XLMWithLMHeadModel(XLMConfig(**XLM)),
    "ModernBertForMaskedLM": lambda: ModernBertForMaskedLM(ModernBertConfig(**MODERN)),
}


@pytest.fixture(autouse=True)
def _no_bars():
    transformers.utils.logging.disable_progress_bar()


@pytest.fixture
def batch():
    ids = torch.randint(2, 101, (4, 19))
    mask = torch.arange(19) < torch.tensor([[19], [7], [1], [12]])
    return ids, mask


def padded(ids, mask, reference):
    return torch.where(mask, ids, getattr(reference.config, "pad_token_id", 0) or 0)


@pytest.mark.parametrize("kind", ENCODERS)
@torch.no_grad()
def test_an_encoder_comes_in_and_goes_back(kind, scramble, batch, same_state, close, tmp_path):
    reference = scramble(ENCODERS[kind]())
    reference.save_pretrained(tmp_path / "theirs")
    model, (ids, mask) = zoo.load(tmp_path / "theirs"), batch
    ids = padded(ids, mask, reference)
    theirs, ours = reference(input_ids=ids, attention_mask=mask.long()), model(ids, mask)
    close(ours.tokens[mask], theirs.last_hidden_state[mask])
    if theirs.get("pooler_output") is not None:
        close(ours.pooled, theirs.pooler_output)
    zoo.export(model, tmp_path / "back")
    same_state(read_tensors(tmp_path / "back" / "model.safetensors"), read_tensors(tmp_path / "theirs" / "model.safetensors"))
    words = {"add_pooling_layer": False} if kind.endswith("without pooler") else {}
    again, report = type(reference).from_pretrained(tmp_path / "back", output_loading_info=True, **words)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    close(again.eval()(input_ids=ids, attention_mask=mask.long()).last_hidden_state, theirs.last_hidden_state)


@pytest.mark.parametrize("kind", HEADS)
@torch.no_grad()
def test_a_model_with_its_head_comes_in_and_goes_back(kind, scramble, batch, same_state, close, tmp_path):
    reference = scramble(HEADS[kind]())
    reference.save_pretrained(tmp_path / "theirs")
    system, (ids, mask) = zoo.load(tmp_path / "theirs"), batch
    ids = padded(ids, mask, reference)
    labels = torch.where(mask & (torch.rand(mask.shape) < 0.4), ids, IGNORED)
    targets = {MASKED: labels, "labels": torch.tensor([0, 1, 1, 0])}
    pairs = {"BertForPreTraining": "next_sentence_label", "AlbertForPreTraining": "sentence_order_label"}
    words = {pairs[kind]: targets["labels"]} if kind in pairs else {}
    theirs = reference(input_ids=ids, attention_mask=mask.long(), labels=labels, **words)
    ours = system(Batch({"text": ids}, {"text": mask}, targets))
    logits = theirs.prediction_logits if kind in pairs else theirs.logits
    close(ours.outputs["logits"], logits[labels != IGNORED])
    close(ours.loss, theirs.loss)
    zoo.export(system, tmp_path / "back")
    same_state(read_tensors(tmp_path / "back" / "model.safetensors"), read_tensors(tmp_path / "theirs" / "model.safetensors"))
    again, report = type(reference).from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    close(again.eval()(input_ids=ids, attention_mask=mask.long(), labels=labels, **words).loss, theirs.loss)
    assert json.loads((tmp_path / "back" / "config.json").read_text())["architectures"] == [kind]


FROM_THE_LEFT = (
    "bert",
    "albert",
    "electra",
    "xlm",
    "roberta",
    "deberta v1",
    "deberta v3",
    "deberta v2, with a convolution",
    "modernbert",
    "xlnet",
)
COUNT_PADDING = ("bert", "albert", "electra", "xlm")  # their absolute positions do, in the reference too


@pytest.mark.parametrize("kind", [*FROM_THE_LEFT, "t5", "t5 1.1"])
@torch.no_grad()
def test_padding_before_a_text_changes_as_little_as_padding_after_it(kind, scramble, close, tmp_path):
    reference = scramble(ENCODERS[kind]())
    reference.save_pretrained(tmp_path)
    model, ids, mask = zoo.load(tmp_path), torch.randint(2, 101, (2, 13)), torch.arange(13) >= torch.tensor([[0], [6]])
    close(model(ids, mask).tokens[mask], reference(input_ids=padded(ids, mask, reference), attention_mask=mask.long())[0][mask])
    if kind not in COUNT_PADDING:
        close(model(ids, mask).tokens[1, 6:], model(ids[1:, 6:]).tokens[0])


@torch.no_grad()
def test_a_discriminator_comes_in_and_goes_back(scramble, batch, same_state, close, tmp_path):
    reference, (ids, mask) = scramble(ElectraForPreTraining(ElectraConfig(**ELECTRA))), batch
    reference.save_pretrained(tmp_path / "theirs")
    system, labels, ids = zoo.load(tmp_path / "theirs"), torch.rand(mask.shape) < 0.3, padded(ids, mask, reference)
    theirs = reference(input_ids=ids, attention_mask=mask.long(), labels=labels.long())
    ours = system(Batch({"text": ids}, {"text": mask}, {"replaced": labels}))
    close(ours.outputs["logits"][mask], theirs.logits[mask])
    close(ours.loss, 50 * theirs.loss)
    zoo.export(system, tmp_path / "back")
    same_state(read_tensors(tmp_path / "back" / "model.safetensors"), read_tensors(tmp_path / "theirs" / "model.safetensors"))
    ElectraForPreTraining.from_pretrained(tmp_path / "back")


@torch.no_grad()
def test_a_deberta_with_the_names_of_microsofts_head_is_read(scramble, batch, close, tmp_path):
    reference, (ids, mask) = scramble(DebertaV2ForMaskedLM(DebertaV2Config(**{**V3, "legacy": False}))), batch
    reference.save_pretrained(tmp_path)
    labels = torch.where(mask & (torch.rand(mask.shape) < 0.4), ids, IGNORED)
    ours = zoo.load(tmp_path)(Batch({"text": ids}, {"text": mask}, {MASKED: labels}))
    close(ours.loss, reference(input_ids=padded(ids, mask, reference), attention_mask=mask.long(), labels=labels).loss)


@torch.no_grad()
def test_the_encoder_of_a_whole_t5_equals_theirs(scramble, batch, close, tmp_path):
    whole = scramble(T5ForConditionalGeneration(T5Config(**T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False)))
    whole.save_pretrained(tmp_path)
    system, (ids, mask) = zoo.load(tmp_path), batch  # with its decoder: tests/convert/test_seq2seq.py
    close(
        system.encode_ready("text", ids, mask).tokens[mask],
        whole.encoder(input_ids=ids, attention_mask=mask.long()).last_hidden_state[mask],
    )


@torch.no_grad()
def test_token_types_are_the_references(scramble, batch, close, tmp_path):
    ids, mask = batch
    types = torch.randint(0, 2, ids.shape)
    for kind in ("bert", "albert"):
        reference = scramble(ENCODERS[kind]())
        reference.save_pretrained(tmp_path / kind)
        theirs = reference(input_ids=ids, attention_mask=mask.long(), token_type_ids=types)
        close(zoo.load(tmp_path / kind)(ids, mask, types=types).tokens[mask], theirs.last_hidden_state[mask])


@torch.no_grad()
def test_languages_of_xlm_are_the_types_and_none_is_added_without_them(scramble, batch, close, tmp_path):
    (ids, mask), reference = batch, scramble(ENCODERS["xlm"]())
    reference.save_pretrained(tmp_path)
    model, languages = zoo.load(tmp_path), torch.randint(0, 3, ids.shape)
    theirs = reference(input_ids=ids, attention_mask=mask.long(), langs=languages)
    close(model(ids, mask, types=languages).tokens[mask], theirs.last_hidden_state[mask])
    close(model(ids, mask).tokens[mask], reference(input_ids=ids, attention_mask=mask.long()).last_hidden_state[mask])


def test_files_of_xlms_tokenizer_are_not_taken_for_clips(scramble, tmp_path, caplog):
    ENCODERS["xlm"]().save_pretrained(tmp_path)
    words = {word: i for i, word in enumerate(["<s>", "</s>", "<pad>", "a</w>", "b", "b</w>"])}
    (tmp_path / "vocab.json").write_text(json.dumps(words))
    (tmp_path / "merges.txt").write_text("a b</w>\n")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))
    with caplog.at_level("INFO", "zoo"):
        model = zoo.load(tmp_path)
    assert not model.processor["text"].is_fitted and "needs Moses" in caplog.text


def test_an_untied_decoder_is_refused(scramble, tmp_path):
    scramble(BertForMaskedLM(BertConfig(**BERT, tie_word_embeddings=False))).save_pretrained(tmp_path)
    with pytest.raises(zoo.WeightsError, match="cls.predictions.decoder.weight: is not .* untied decoders are not read"):
        zoo.load(tmp_path)


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("albert", {"num_hidden_groups": 2}, "num_hidden_groups: got 2"),
        ("albert", {"inner_group_num": 2}, "inner_group_num: got 2"),
        ("roberta", {"pad_token_id": 30}, "pad_token_id: got 30"),
        ("deberta v3", {"position_biased_input": True}, "position_biased_input: got True"),
        ("deberta v3", {"pos_att_type": "p2p|c2p"}, "pos_att_type: our deberta has no 'p2p'"),
        ("modernbert", {"layer_types": ["sliding_attention"] * 5}, "layer_types: got"),
        ("modernbert", {"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, "rope_parameters.full_attention: got"),
        ("xlm", {"asm": True}, "asm: got True"),
        ("xlnet", {"attn_type": "uni"}, "attn_type: got 'uni'"),
        ("xlnet", {"bi_data": True}, "bi_data: got True"),
        ("xlnet", {"clamp_len": 7}, "clamp_len: got 7, which our xlnet does not have; allowed is -1"),
        ("xlnet", {"same_length": True}, "same_length: got True"),
        ("xlnet", {"d_head": 10}, "d_head: got 10"),
        ("xlnet", {"ff_activation": "mish"}, "ff_activation: our xlnet has no 'mish'"),
        ("t5", {"feed_forward_proj": "gated-mish"}, "feed_forward_proj: our t5 has no 'gated-mish'"),
    ],
)
def test_what_ours_does_not_have_is_refused(kind, change, words, tmp_path):
    ENCODERS[kind]().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(zoo.ConfigError, match=words):
        zoo.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("bert_nano", {"embedding_dim": 16}, "embedding_dim: got 16"),
        ("t5_nano", {"activation": "gelu", "gated": True}, "activation: got 'gelu'"),
    ],
)
def test_what_theirs_does_not_have_is_refused(name, words, message, tmp_path):
    with pytest.raises(zoo.ConfigError, match=message):
        zoo.export(zoo.create_model(name, **words), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@torch.no_grad()
def test_a_mean_pool_goes_out_as_sentence_transformers_writes_it_and_comes_back(scramble, batch, tmp_path):
    model, (ids, mask) = scramble(zoo.create_model("bert_nano")), batch
    zoo.export(model, tmp_path)
    again = zoo.load(tmp_path)
    assert again.pool == "mean" and torch.equal(again(ids, mask).pooled, model(ids, mask).pooled)


@torch.no_grad()
def test_a_bert_with_the_norm_names_of_its_first_release_is_read(tmp_path, scramble):
    reference = scramble(BertForPreTraining(BertConfig(**BERT)))
    reference.save_pretrained(tmp_path)
    tensors = read_tensors(tmp_path / "model.safetensors")
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): t for name, t in tensors.items()
    }
    (tmp_path / "model.safetensors").unlink()
    torch.save({**old, "bert.embeddings.position_ids": torch.arange(19)[None]}, tmp_path / "pytorch_model.bin")
    ids = torch.randint(0, 40, (2, 9))
    system, expected = zoo.load(tmp_path), reference.bert(ids)
    encoded = system.encoders["text"](ids)
    torch.testing.assert_close(encoded.tokens, expected.last_hidden_state, rtol=0, atol=1e-5)
    torch.testing.assert_close(encoded.pooled, expected.pooler_output, rtol=0, atol=1e-5)
    assert torch.equal(system.head.norm.weight, reference.cls.predictions.transform.LayerNorm.weight)
