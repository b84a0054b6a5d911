"""Text encoders of transformers: the library's hidden states, padding that changes nothing, tokenizer and pooling of a directory."""

import hosted_types
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

import zoo
import zoo.testing
from zoo.registry import find_row
from zoo.registry.construct import build_part
from zoo.testing.rules.comparison import require_close

# transformers compiles parts of DeBERTa with torch.jit.script when its module is imported.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
KINDS = ("electra", "xlnet", "xlm", "deberta-v2", "modernbert", "t5", "mpnet", "roformer", "fnet", "qwen3")
TEXTS = ["one two three", "two", "three one one two three two"]


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_states_are_those_of_transformers_with_and_without_padding(kind):
    far = hosted_types.text_differences(kind)
    assert max(far.values()) < 1e-5, far


@pytest.mark.parametrize("kind", ["xlnet", "fnet", "t5"])
def test_hosted_text_encoders_keep_the_contract(kind):
    encoder = hosted_types.text_encoder(kind, preprocessing={"tokenizer": "given"})
    zoo.testing.check_encoder(encoder)


def test_pools_read_real_tokens_only():
    ids, mask = torch.randint(5, 90, (2, 6)), torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]]).bool()
    for pool in ("cls", "last", "mean", "max"):
        encoder = hosted_types.text_encoder("electra", pool=pool)
        encoded = encoder(ids, mask)
        row = encoded.tokens[1, :3]
        expected = {"cls": row[0], "last": row[2], "mean": row.mean(0), "max": row.amax(0)}[pool]
        torch.testing.assert_close(encoded.pooled[1], expected, atol=1e-6, rtol=1e-5)
    assert hosted_types.text_encoder("electra", pool="none")(ids).pooled is None


@pytest.fixture
def directory(tmp_path):
    """A directory of an MPNet with a tokenizer, as transformers saves it."""
    words = Tokenizer(models.WordLevel({"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "one": 4, "two": 5, "three": 6}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", unk_token="<unk>", eos_token="</s>")
    fast.save_pretrained(tmp_path / "mpnet")
    hosted_types.their_text_model("mpnet").save_pretrained(tmp_path / "mpnet")
    return tmp_path / "mpnet"


def expected_tokens(directory, texts):
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    model = transformers.AutoModel.from_pretrained(directory).eval()
    return [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0] for text in texts]


@torch.no_grad()
def test_a_directory_is_loaded_with_its_tokenizer_and_saved(directory, tmp_path):
    encoder = zoo.load(directory)
    zoo.save(encoder, tmp_path / "saved")
    for model in (encoder, zoo.load(tmp_path / "saved")):
        ids, mask = model.processor["text"](TEXTS)
        encoded = model(ids, mask)
        for row, expected in enumerate(expected_tokens(directory, TEXTS)):
            torch.testing.assert_close(encoded.tokens[row, mask[row]], expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_system_takes_encoder_and_tokenizer_of_a_directory(directory):
    row = find_row(f"transformers/{directory}")
    assert (row.family, row.modality, row.arguments["preprocessing"]["eot_token_id"]) == ("transformers_text", "text", 2)
    config = {"encoders": {"image": "vit_nano", "text": f"transformers/{directory}"}, "head": "clip_nano"}
    system = zoo.create_system(config, weights=directory, weights_parts=["encoders.text"]).eval()
    found = system.encode("text", TEXTS)
    for place, expected in enumerate(expected_tokens(directory, TEXTS)):
        torch.testing.assert_close(found.tokens[place, : len(expected)], expected, atol=1e-5, rtol=1e-4)
    assert system.embed("text", TEXTS).shape == (3, system.head.embed_dim)


@torch.no_grad()
def test_the_pooling_of_sentence_transformers_goes_along(directory):
    (directory / "1_Pooling").mkdir()
    (directory / "1_Pooling" / "config.json").write_text('{"pooling_mode": "lasttoken"}')
    encoder = zoo.load(directory)
    ids, mask = encoder.processor["text"](TEXTS)
    require_close(encoder(ids, mask).pooled[1], expected_tokens(directory, TEXTS)[1][-1], encoder, "pools by the last token", "")


REFUSED = {
    "bart": "its output comes from a decoder",
    "vit": "is not a text encoder",
    "perceiver": "is not a text encoder",
    "llama4": "gives no hidden_size",
}


@pytest.mark.parametrize("kind", REFUSED)
def test_models_that_encode_no_texts_are_refused(kind):
    with pytest.raises(zoo.ConfigError, match=REFUSED[kind]):
        build_part("encoder", {"name": "transformers_text", "config": {"model_type": kind}}, "encoder")


def test_an_unknown_pool_is_refused():
    with pytest.raises(zoo.ConfigError, match="pool: there is no 'clss'; did you mean 'cls'"):
        hosted_types.text_encoder("electra", pool="clss")
    with pytest.raises(zoo.ConfigError, match="this model gives no pooled vector"):
        hosted_types.text_encoder("electra", pool="pooler")
