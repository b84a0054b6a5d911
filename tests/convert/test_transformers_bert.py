"""transformers' BertModel against our ``bert``, through the converter."""

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, BertModel

from zoo.errors import ConfigError
from zoo.interop.text_encoders import bert as transformers_bert
from zoo.registry.construct import build_part
from zoo.storage.tensors import load_strictly

SIZES = {"vocab_size": 101, "hidden_size": 60, "num_attention_heads": 5, "num_hidden_layers": 3, "intermediate_size": 100}
CONFIG = {**SIZES, "max_position_embeddings": 19, "attn_implementation": "eager"}
FLAVOURS = {
    "pooler": lambda: BertModel(BertConfig(**CONFIG)),
    "no pooler": lambda: BertModel(BertConfig(**CONFIG), add_pooling_layer=False),
    "three types, tanh gelu, another eps": lambda: BertModel(
        BertConfig(**CONFIG, type_vocab_size=3, hidden_act="gelu_new", layer_norm_eps=1e-3)
    ),
}
EVERY_FLAVOUR = pytest.mark.parametrize("flavour", FLAVOURS)


def ours_of(reference, pooling=None):
    """Our encoder, made from the reference's config, with its weights."""
    state = reference.state_dict()
    config = transformers_bert.arguments(reference.config.to_dict(), state, pooling)
    model = build_part("encoder", {"name": "bert", **config}, "encoder").eval()
    drop = transformers_bert.POOLER if pooling is not None else ()
    load_strictly(model, transformers_bert.to_zoo(state, drop=drop), origin="transformers")
    return model


@pytest.fixture
def batch():
    torch.manual_seed(0)
    ids = torch.randint(1, 101, (4, 19))
    mask = torch.arange(19) < torch.tensor([[19], [7], [1], [12]])
    return ids, mask


@EVERY_FLAVOUR
def test_outputs_equal_those_of_the_reference(flavour, scramble, batch):
    reference = scramble(FLAVOURS[flavour]()).eval()
    ids, mask = batch
    with torch.no_grad():
        theirs, ours = reference(input_ids=ids, attention_mask=mask.long()), ours_of(reference)(ids, mask)
    torch.testing.assert_close(ours.tokens[mask], theirs.last_hidden_state[mask], rtol=0, atol=1e-5)
    if theirs.pooler_output is None:
        assert ours.pooled is None
    else:
        torch.testing.assert_close(ours.pooled, theirs.pooler_output, rtol=0, atol=1e-5)


@EVERY_FLAVOUR
def test_the_way_back_is_bit_equal_and_its_config_builds_the_same_model(flavour, scramble):
    reference = scramble(FLAVOURS[flavour]())
    state, keys = reference.state_dict(), transformers_bert.arguments(reference.config.to_dict(), reference.state_dict())
    back = transformers_bert.from_zoo(ours_of(reference).state_dict())
    assert back.keys() == state.keys() and all(torch.equal(back[name], state[name]) for name in state)
    config = transformers_bert.config({**keys, "embedding_dim": None})
    assert transformers_bert.arguments(config, list(back)) == keys


def test_sentence_transformers_mean_is_over_real_tokens_and_leaves_the_pooler_out(scramble, batch):
    reference = scramble(BertModel(BertConfig(**CONFIG))).eval()
    ids, mask = batch
    model = ours_of(reference, {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False})
    with torch.no_grad():
        hidden = reference(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        ours = model(ids, mask).pooled
    expected = torch.stack([row[keep].mean(0) for row, keep in zip(hidden, mask, strict=True)])
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


def test_a_model_with_a_head_is_read_without_it(scramble):
    reference = scramble(BertForMaskedLM(BertConfig(**CONFIG)))
    state = reference.state_dict()
    assert transformers_bert.recognises(state)
    ours = transformers_bert.to_zoo(state, drop=transformers_bert.CLASSIFIER)
    assert torch.equal(ours["embedding.weight"], reference.bert.embeddings.word_embeddings.weight)
    assert len(ours) == len(reference.bert.state_dict()) - 3 * 4  # q, k and v of three layers are one weight and one bias each


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"is_decoder": True}, "is_decoder: got True"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type: got 'relative_key'"),
        ({"hidden_act": "mish"}, "hidden_act: our bert has no 'mish'"),
        ({"model_type": "roberta"}, "model_type: got 'roberta'"),
    ],
)
def test_what_ours_does_not_have_is_refused(change, words):
    with pytest.raises(ConfigError, match=words):
        transformers_bert.arguments({**BertConfig(**SIZES).to_dict(), **change})


def test_two_poolings_at_once_are_refused():
    with pytest.raises(ConfigError, match="pools by max, mean; allowed is one of: mean, cls, max"):
        transformers_bert.arguments({"model_type": "bert"}, pooling={"pooling_mode_max_tokens": True, "pooling_mode_mean_tokens": True})
