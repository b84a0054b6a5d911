"""Adapters of PEFT: merged into the weights beside them, or into those of the base that they name, as PEFT merges them."""

import json

import peft
import pytest
import torch
import transformers
from safetensors.torch import save_file

import zoo
from zoo.interop.base.recognise import describe, unknown_files
from zoo.interop.base.source import read_source

WIDE = {"hidden_size": 24, "num_attention_heads": 3, "num_hidden_layers": 2, "intermediate_size": 40}
SEEN, READ = {**WIDE, "image_size": 28, "patch_size": 14}, {**WIDE, "vocab_size": 50, "max_position_embeddings": 20}
LLAMA = {**READ, "num_key_value_heads": 3}
GPT2 = {"vocab_size": 50, "n_positions": 20, "n_embd": 24, "n_layer": 1, "n_head": 3}
WHISPER = {"vocab_size": 60, "num_mel_bins": 80, "d_model": 24, "encoder_layers": 1, "decoder_layers": 1, "max_source_positions": 10}
WHISPER |= {"encoder_attention_heads": 3, "decoder_attention_heads": 3, "encoder_ffn_dim": 40, "decoder_ffn_dim": 40}
WHISPER |= {"pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 2}
KOSMOS = {"vocab_size": 50, "max_position_embeddings": 20, "embed_dim": 24, "layers": 1, "ffn_dim": 40, "attention_heads": 3}
MODELS = {
    "llama": ("LlamaForCausalLM", LLAMA),
    "gpt2": ("GPT2LMHeadModel", GPT2),
    "bert": ("BertForMaskedLM", READ),
    "vit": ("ViTForImageClassification", {**SEEN, "num_labels": 3}),
    "clip": ("CLIPModel", {"text_config": READ, "vision_config": SEEN, "projection_dim": 16}),
    "llava": ("LlavaForConditionalGeneration", {"text_config": LLAMA, "vision_config": SEEN, "image_token_index": 49}),
    "whisper": ("WhisperForConditionalGeneration", WHISPER),
    "kosmos-2": ("Kosmos2ForConditionalGeneration", {"text_config": KOSMOS, "vision_config": SEEN, "latent_query_num": 4}),
}
QV = {"target_modules": ["q_proj", "v_proj"], "init_lora_weights": False}
RANKS = {"rank_pattern": {"q_proj": 3}, "alpha_pattern": {"v_proj": 5}, "layers_to_transform": [1], "layers_pattern": "layers"}
ADAPTERS = {  # name: base, settings of PEFT
    "rslora": ("llama", peft.LoraConfig(**QV, use_rslora=True, task_type="CAUSAL_LM")),
    "dora": ("llama", peft.LoraConfig(**QV, use_dora=True)),
    "patterns": ("llama", peft.LoraConfig(**QV, **RANKS)),
    "embedding": ("llama", peft.LoraConfig(target_modules=["embed_tokens"], init_lora_weights=False, modules_to_save=["lm_head"])),
    "ia3": ("llama", peft.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"], init_ia3_weights=False)),
    "loha": ("llama", peft.LoHaConfig(target_modules=["q_proj"], init_weights=False)),
    "fan_in_fan_out": ("gpt2", peft.LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True, init_lora_weights=False)),
    "bias": ("bert", peft.LoraConfig(target_modules=["query"], bias="all", init_lora_weights=False)),
    "modules_to_save": ("vit", peft.LoraConfig(**QV, modules_to_save=["classifier"])),
    "clip": ("clip", peft.LoraConfig(**QV)),
    "llava": ("llava", peft.LoraConfig(**QV)),
    "whisper": ("whisper", peft.LoraConfig(**QV)),
    "kosmos-2": ("kosmos-2", peft.LoraConfig(**QV)),
}


@pytest.fixture(autouse=True)
def _no_bars():
    transformers.utils.logging.disable_progress_bar()


def save_base(family, directory):
    """Save a tiny random model of transformers."""
    torch.manual_seed(0)
    name, keywords = MODELS[family]
    made = getattr(transformers, name)
    made(made.config_class(**keywords)).save_pretrained(directory)
    return getattr(transformers, name).from_pretrained(directory)


def save_adapter(model, settings, adapter, merged):
    """Save an adapter with random weights, and what PEFT merges from it."""
    model = peft.get_peft_model(model, settings)
    for name, parameter in model.named_parameters():
        if "modules_to_save" in name or (settings.peft_type == "LORA" and settings.bias == "all" and name.endswith("bias")):
            torch.nn.init.normal_(parameter)
    model.save_pretrained(adapter, save_embedding_layers=False)  # "auto" warns
    model.merge_and_unload().save_pretrained(merged)


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_is_merged_into_its_base_as_peft_merges_it(name, tmp_path):
    family, settings = ADAPTERS[name]
    save_adapter(save_base(family, tmp_path / "base"), settings, tmp_path / "adapter", tmp_path / "merged")
    found, expected = zoo.load(tmp_path / "adapter").state_dict(), zoo.load(tmp_path / "merged").state_dict()
    base = zoo.load(tmp_path / "base").state_dict()
    assert found.keys() == expected.keys() and any(not torch.equal(found[key], base[key]) for key in found)
    for key, tensor in expected.items():
        torch.testing.assert_close(found[key], tensor, rtol=0, atol=1e-6)
    assert unknown_files(read_source(tmp_path / "adapter")) == []


@torch.no_grad()
def test_an_adapter_beside_the_weights_gives_the_logits_of_transformers(tmp_path):
    settings = peft.LoraConfig(**QV, task_type="CAUSAL_LM")
    peft.get_peft_model(save_base("llama", tmp_path), settings).save_pretrained(tmp_path)
    ids = torch.randint(0, 50, (2, 9))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert (expected := theirs(ids).logits).isfinite().all() and unknown_files(read_source(tmp_path)) == []
    hosted = zoo.create_model(f"transformers/{tmp_path}", weights=tmp_path)
    for model in (zoo.load(tmp_path).head.language, hosted):
        torch.testing.assert_close(model.logits(model(ids)), expected, rtol=0, atol=1e-5)


@pytest.fixture
def saved(tmp_path):
    """A base LLaMA with a tokenizer, and an adapter in a directory beside it."""
    base = save_base("llama", tmp_path / "base")
    model = peft.get_peft_model(base, peft.LoraConfig(**QV))
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "base", tmp_path / "adapter"


def change(adapter, **settings):
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def test_a_base_may_be_given_and_files_beside_the_adapter_count(saved):
    base, adapter = saved
    expected = zoo.load(adapter).state_dict()
    change(adapter, base_model_name_or_path="/gone")
    (adapter / "generation_config.json").write_text(json.dumps({"eos_token_id": 7, "do_sample": True}))
    (adapter / "README.md").write_text("")
    found = zoo.load(adapter, base=base)
    assert found.name == "adapter" and all(torch.equal(tensor, expected[key]) for key, tensor in found.state_dict().items())
    assert describe(read_source(adapter, base)).left_out[0].startswith("generation_config.json: do_sample True")
    with pytest.raises(zoo.ConfigError, match="base: .* is no adapter"):
        zoo.load(base, base=base)


@pytest.mark.parametrize("base", ["/gone", "meta/base-7b", "", None, 3, "x" * 300])
def test_an_adapter_whose_base_is_not_here_is_refused_with_its_name(base, saved, monkeypatch):
    change(saved[1], base_model_name_or_path=base)
    for load in (lambda: zoo.load(saved[1]), lambda: zoo.create_model("llama_nano", weights=saved[1])):
        with pytest.raises(zoo.WeightsError, match=f"holds an adapter .*LORA.* of the base model {repr(base)[:150]}.*base=DIR"):
            load()


@pytest.mark.parametrize(
    "changes", [{"hidden_size": 48}, {"architectures": ["NoSuch", "AutoTokenizer"]}, {"num_attention_heads": 0}, {"vocab_size": "x"}]
)
def test_an_odd_config_of_the_base_is_told(changes, saved):
    path = saved[0] / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    if "architectures" in changes:  # the names of classes are hints
        assert zoo.load(saved[1]).name == "adapter"
        return
    with pytest.raises((zoo.ConfigError, zoo.WeightsError)):
        zoo.load(saved[1])


def test_a_base_of_the_hub_is_taken_from_the_cache(saved, monkeypatch):
    base, adapter = saved
    asked = []
    monkeypatch.setattr("zoo.interop.base.adapters.fetch_model", lambda name, origin: (asked.append(name) or base, None))
    change(adapter, base_model_name_or_path="meta/base-7b", revision="v2")
    assert zoo.load(adapter).name == "adapter" and asked == ["meta/base-7b@v2"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 3}, "PROMPT_TUNING puts learned tokens before each text"),
        ({"peft_type": "NEW"}, "PEFT cannot merge"),
        ({"r": "x"}, "PEFT cannot merge"),
        ({"target_modules": ["q_proj"]}, "tensors of the adapter are missing and 4 unknown"),
        ({"target_modules": ["q_proj", "v_proj", "o_proj"]}, "4 tensors of the adapter are missing and 0 unknown"),
        ({"megatron_config": {"a": 1}}, "megatron_config: it names a module"),
        ({"r": 4}, "PEFT cannot merge"),
    ],
)
def test_adapters_that_cannot_be_merged_are_refused_with_the_reason(settings, message, saved):
    change(saved[1], **settings)
    with pytest.raises((zoo.ConfigError, zoo.WeightsError), match=message):
        zoo.load(saved[1])


def test_an_adapter_of_another_model_and_other_files_beside_it_are_refused(saved):
    _, adapter = saved
    (adapter / "non_lora_trainables.bin").write_bytes(b"")
    with pytest.raises(zoo.WeightsError, match="holds non_lora_trainables.bin beside the weights"):
        zoo.load(adapter)
    (adapter / "non_lora_trainables.bin").unlink()
    save_file({"base_model.model.deep.lora_A.weight": torch.ones(2, 2)}, adapter / "adapter_model.safetensors")
    with pytest.raises(zoo.WeightsError, match="the adapter changes deep, which a llama of its base does not have"):
        zoo.load(adapter)
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(zoo.WeightsError, match="but no adapter_model.safetensors or adapter_model.bin"):
        zoo.load(adapter)
