"""Language models to directories of transformers and back, with their tokenizers; and the real SmolLM2."""

import json

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

import zoo
from zoo.heads.llava import Llava

TEMPLATE = "{% for message in messages %}<s>{{ message['content'] }}</s>{% endfor %}"


@pytest.fixture
def directory(tmp_path):
    """A tiny LLaMA with a tokenizer, as transformers saves it."""
    words = ["<unk>", "<s>", "</s>", "the", "cat", "sat", "on", "mat"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    sizes = {"vocab_size": 12, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "max_position_embeddings": 64}
    config = LlamaConfig(**sizes, num_attention_heads=3, num_key_value_heads=1, eos_token_id=[2, 7])
    LlamaForCausalLM(config).save_pretrained(tmp_path / "theirs")
    tokenizer.save(str(tmp_path / "theirs" / "tokenizer.json"))
    words = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "chat_template": TEMPLATE}
    (tmp_path / "theirs" / "tokenizer_config.json").write_text(json.dumps(words))
    return tmp_path / "theirs"


@torch.no_grad()
def test_a_directory_loads_as_a_system_that_talks_and_goes_back(directory, tmp_path):
    system, reference = zoo.load(directory), AutoModelForCausalLM.from_pretrained(directory)
    assert isinstance(system.head, Llava) and not system.encoders
    zoo.export(system, tmp_path / "ours")
    again, ids = AutoModelForCausalLM.from_pretrained(tmp_path / "ours"), torch.randint(0, 12, (2, 9))
    assert torch.equal(again(ids).logits, reference(ids).logits)
    torch.testing.assert_close(system.head.language.logits(system.head.language(ids)), reference(ids).logits, atol=1e-5, rtol=0)
    theirs, ours = (AutoTokenizer.from_pretrained(path) for path in (directory, tmp_path / "ours"))
    chat = [{"role": "user", "content": "the cat <image> sat"}]
    assert ours.apply_chat_template(chat)["input_ids"] == theirs.apply_chat_template(chat)["input_ids"]
    assert sorted(again.generation_config.eos_token_id) == [2, 7] == system.processor["conversation"].eos_token_ids
    back = zoo.load(tmp_path / "ours")
    assert all(torch.equal(one, other) for one, other in zip(back.state_dict().values(), system.state_dict().values(), strict=True))


def test_a_language_model_alone_is_exported_and_read_by_name(tmp_path):
    for name in ("llama_nano", "mistral_nano", "gpt2_nano"):
        model = zoo.create_model(name)
        zoo.export(model, tmp_path / name)
        again = zoo.create_model(name, weights=tmp_path / name)
        assert all(torch.equal(one, other) for one, other in zip(again.state_dict().values(), model.state_dict().values(), strict=True))
        assert AutoModelForCausalLM.from_pretrained(tmp_path / name).num_parameters() == sum(p.numel() for p in model.parameters())


def test_weights_of_a_language_model_bring_its_tokenizer(directory):
    sizes = {"name": "causal_lm", "vocab_size": 12, "context_length": 64, "dim": 24, "depth": 2, "num_heads": 3, "num_kv_heads": 1}
    language = {**sizes, "hidden_dim": 40, "eps": 1e-6}
    head, processor = {"name": "llava", "language": language}, {"conversation": {"tokenizer": "given", "template": "none"}}
    config = {"encoders": {"image": "vit_nano"}, "head": head, "processor": processor}
    system = zoo.create_system(config, weights=directory, weights_parts=["head.language"])
    assert system.processor["conversation"].tokenizer.encode("cat").ids == [4]
    wrong = {**config, "head": {**head, "language": {**language, "rope_theta": 5e5}}}
    with pytest.raises(zoo.ConfigError, match=r"system.head.language.rope_theta: 500000.0, but .* was trained with 10000.0"):
        zoo.create_system(wrong, weights=directory, weights_parts=["head.language"])


def test_evaluation_lays_weights_out_for_decoding_and_training_lays_them_back():
    model = zoo.create_model("llama_nano")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.new_cache(1, 8)
    assert model.blocks[0].mlp.fc1.weight.stride() == (1, 352) and model.embedding.weight.stride() == (1, 512)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    model.train().new_cache(1, 8)
    assert all(parameter.is_contiguous() for parameter in model.parameters())
    with torch.inference_mode():
        model.eval().new_cache(1, 8)
    model.train()
    model(torch.zeros(1, 3, dtype=torch.int64)).sum().backward()  # no weight became one of inference alone


@pytest.mark.card("smollm2", "equals its reference")
@pytest.mark.card("smollm2", "goes back")
@torch.no_grad()
def test_a_small_smollm2_has_the_logits_of_transformers_and_comes_back(tmp_path, card_figure):
    sizes = {"vocab_size": 97, "context_length": 64, "dim": 48, "depth": 2, "num_heads": 6, "num_kv_heads": 2, "hidden_dim": 80}
    model = zoo.create_model("smollm2_135m", **sizes).eval()
    for parameter in model.parameters():
        parameter.mul_(2)  # so that positions matter
    zoo.export(model, tmp_path)
    ids = torch.randint(97, (2, 33), generator=torch.Generator().manual_seed(0))
    found, expected = model.logits(model(ids)), AutoModelForCausalLM.from_pretrained(tmp_path).eval()(ids).logits
    difference = ((found - expected).abs().max() / expected.abs().max()).item()
    assert difference < 1e-5
    again = zoo.create_model("smollm2_135m", **sizes, weights=tmp_path).state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in model.state_dict().items())
    card_figure(f"max difference {difference:.1e} of the largest logit", "equals its reference")


@pytest.mark.heavy
@torch.inference_mode()
def test_real_smollm2_answers_as_transformers_token_for_token(real):
    smollm2 = real("smollm2")
    system, file = zoo.load(smollm2), next(smollm2.glob("*.gguf")).name
    reference = AutoModelForCausalLM.from_pretrained(smollm2, gguf_file=file, dtype=torch.float32).eval()
    conversation = system.processor["conversation"]
    item = conversation.item({"messages": [{"role": "user", "content": "What is the capital of France?"}]}, for_generation=True)
    ids = item.token_ids[None]
    expected = reference.generate(ids, max_new_tokens=24, min_new_tokens=24, do_sample=False, eos_token_id=None, pad_token_id=2)
    language, found = system.head.language, []
    cache = language.new_cache(1, ids.shape[1] + 24)
    hidden = language(ids, cache=cache)
    for _ in range(24):  # three times as many as the answer has: what follows its end too
        found.append(int(language.logits(hidden[:, -1]).argmax()))
        hidden = language(torch.tensor([[found[-1]]]), cache=cache)
    assert found == expected[0, ids.shape[1] :].tolist()
    assert conversation.decode(found[: found.index(2)]) == "The capital of France is Paris."
    assert system.generate(["What is the capital of France?"], max_new_tokens=24) == ["The capital of France is Paris."]
