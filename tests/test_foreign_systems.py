"""``zoo.load`` of whole CLIPs: tiny random models in the formats of transformers, open_clip and OpenAI, from their files only."""

import json
import logging
import pickle
import zipfile

import pytest
import torch
import transformers
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, processors
from transformers import (
    ChineseCLIPConfig,
    ChineseCLIPModel,
    CLIPConfig,
    CLIPModel,
    MetaClip2Config,
    MetaClip2Model,
    SiglipConfig,
    SiglipModel,
)

import zoo
from zoo.storage.tensors import read_tensors
from zoo.types import Batch

VISION = {"image_size": 42, "patch_size": 14, "hidden_size": 60, "num_attention_heads": 5, "num_hidden_layers": 3, "intermediate_size": 100}
TEXT = {"vocab_size": 99, "max_position_embeddings": 11, "hidden_size": 36, "num_attention_heads": 3, "num_hidden_layers": 2}
TEXT |= {"intermediate_size": 70, "bos_token_id": 97}
KINDS = {  # name: class, changes to the text config, to both, to the whole
    "clip": (CLIPModel, {"eos_token_id": 98}, {}, {"projection_dim": 20}),
    "clip, eos 2": (CLIPModel, {"eos_token_id": 2}, {"hidden_act": "gelu"}, {"projection_dim": 33}),
    "clip, eos that no text has": (CLIPModel, {"eos_token_id": 49407}, {}, {"projection_dim": 20}),
    "metaclip 2, whose eos is 2": (MetaClip2Model, {"eos_token_id": 2}, {}, {"projection_dim": 20}),
    "chinese clip": (ChineseCLIPModel, {"layer_norm_eps": 1e-4}, {"hidden_act": "gelu"}, {"projection_dim": 20}),
    "siglip": (SiglipModel, {"projection_size": 60}, {}, {}),
    "siglip, relu": (SiglipModel, {"projection_size": 60}, {"hidden_act": "relu", "layer_norm_eps": 1e-3}, {}),
}
CONFIGS = {CLIPModel: CLIPConfig, MetaClip2Model: MetaClip2Config, ChineseCLIPModel: ChineseCLIPConfig, SiglipModel: SiglipConfig}
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(autouse=True)
def _no_bars():
    transformers.utils.logging.disable_progress_bar()


def make_transformers(kind):
    made, text, both, whole = KINDS[kind]
    return made(CONFIGS[made](text_config={**TEXT, **text, **both}, vision_config={**VISION, **both}, **whole))


def token_ids(n=6, length=11, vocabulary=99):
    """Make texts of random ids with one, several or no end symbols, of which 2 is one too."""
    ids = torch.randint(3, vocabulary - 1, (n, length))
    ids[3:4, 6], ids[4:5, 3], ids[4:5, 8] = 2, 2, 2
    ids[0, 4], ids[1, 2], ids[1, 7], ids[2, 5:] = vocabulary - 1, vocabulary - 1, vocabulary - 1, vocabulary - 1
    return ids


def features(system, data):
    with torch.no_grad():
        found = system(data).outputs
    logits = system.head.logit_scale.exp() * found["image"] @ found["text"].T
    return found["image"], found["text"], logits if system.head.logit_bias is None else logits + system.head.logit_bias


def assert_equal_to_transformers(system, reference, n=6):
    data = Batch({"image": torch.randn(n, 3, 42, 42), "text": token_ids(n)})
    with torch.no_grad():
        expected = reference(input_ids=data.inputs["text"], pixel_values=data.inputs["image"])
    image, text, logits = features(system, data)
    torch.testing.assert_close(image, expected.image_embeds, atol=1e-5, rtol=0)
    torch.testing.assert_close(text, expected.text_embeds, atol=1e-5, rtol=0)
    torch.testing.assert_close(logits, expected.logits_per_image, atol=1e-5 * max(1.0, logits.abs().max().item()), rtol=0)


@EVERY_KIND
def test_a_directory_of_transformers_gives_what_transformers_gives(kind, tmp_path, scramble):
    reference = scramble(make_transformers(kind))
    reference.save_pretrained(tmp_path / "theirs")
    system = zoo.load(tmp_path / "theirs")
    assert_equal_to_transformers(system, reference)
    zoo.save(system, tmp_path / "ours")
    again, data = zoo.load(tmp_path / "ours"), Batch({"image": torch.randn(6, 3, 42, 42), "text": token_ids()})
    assert all(torch.equal(*pair) for pair in zip(features(system, data), features(again, data), strict=True))


@EVERY_KIND
def test_what_a_config_leaves_out_has_transformers_default(kind, tmp_path):
    """Defaults of 5.17 are large, so that they are compared as described, not built."""
    from zoo.interop.clip import transformers_clip

    config = CONFIGS[KINDS[kind][0]]()
    name = config.model_type
    whole = json.loads(config.to_json_string(use_diff=False))
    assert transformers_clip.system({"model_type": name}) == transformers_clip.system(whole)
    old = {"model_type": name, "text_config": None, "text_config_dict": {"hidden_size": 128, "num_attention_heads": 2}}
    assert transformers_clip.system(old)["encoders"]["text"]["dim"] == 128


@pytest.mark.parametrize("kind", ["metaclip 2, whose eos is 2", "chinese clip"])
def test_kinds_of_clip_go_back_to_their_own_class(kind, tmp_path, scramble):
    reference = scramble(make_transformers(kind))
    reference.save_pretrained(tmp_path / "theirs")
    system = zoo.load(tmp_path / "theirs")
    zoo.export(system, tmp_path / "ours")
    again = transformers.AutoModel.from_pretrained(tmp_path / "ours").eval()
    assert type(again) is type(reference)
    assert_equal_to_transformers(system, again)


def gemma(directory, **config):
    """A tokenizer of Gemma's kind, as SigLIP 2's directories hold it."""
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *"▁abcdAB.!"])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    tokenizer.save(str(directory / "tokenizer.json"))
    words = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}
    told = {**words, "add_bos_token": False, "add_eos_token": True, "padding_side": "right", "model_max_length": 11, **config}
    (directory / "tokenizer_config.json").write_text(json.dumps(told))


@pytest.mark.parametrize("config", [{"tokenizer_class": "Siglip2Tokenizer"}, {"tokenizer_class": "GemmaTokenizer"}])
def test_texts_of_siglip_2_are_those_of_its_tokenizer(config, tmp_path):
    make_transformers("siglip").save_pretrained(tmp_path)
    gemma(tmp_path, **config)
    texts = ["A dab. BAD!", "a", "abc " * 9]
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    expected = theirs(texts, padding="max_length", max_length=11, truncation=True, return_tensors="pt")["input_ids"]
    system = zoo.load(tmp_path)
    found, mask = system.processor["text"](texts)
    assert torch.equal(found, expected) and mask is None


def test_a_gemma_tokenizer_that_says_lower_case_gets_it(tmp_path):
    """transformers leaves ``do_lower_case`` of Gemma's class to the user, who has to lower the texts that SigLIP 2 was trained on."""
    make_transformers("siglip").save_pretrained(tmp_path)
    gemma(tmp_path, tokenizer_class="GemmaTokenizer", do_lower_case=True)
    words = zoo.load(tmp_path).processor["text"]
    assert torch.equal(words(["A BAD cab"])[0], words(["a bad cab"])[0])


@pytest.mark.parametrize("shards", [None, "20KB"])
def test_old_pickles_and_shards_are_read(shards, tmp_path, scramble):
    reference = scramble(make_transformers("clip"))
    if shards is None:
        reference.save_pretrained(tmp_path)
        tensors = read_tensors(tmp_path / "model.safetensors")
        (tmp_path / "model.safetensors").unlink()
        torch.save({**tensors, "text_model.embeddings.position_ids": torch.arange(11)[None]}, tmp_path / "pytorch_model.bin")
    else:
        reference.save_pretrained(tmp_path, max_shard_size=shards)
        assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert_equal_to_transformers(zoo.load(tmp_path), reference)


def test_without_a_tokenizer_ready_ids_are_taken_and_strings_refused(tmp_path, scramble):
    make_transformers("siglip").save_pretrained(tmp_path)
    system = zoo.load(tmp_path)
    assert system.embed("text", token_ids()).shape == (6, 60)
    with pytest.raises(zoo.DataError, match="the weights came without one; put tokenizer.json beside them"):
        system.embed("text", ["a cat"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text_config": {**TEXT, "hidden_act": "mish"}}, "hidden_act: our vit has no 'mish'"),
        ({"text_config": {**TEXT, "eos_token_id": [1, 2]}}, r"eos_token_id: got \[1, 2\]"),
        ({"projection_dim": 0}, "projection_dim: got 0"),
    ],
)
def test_a_config_that_our_parts_cannot_follow_is_refused(change, message, tmp_path):
    make_transformers("clip").save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(zoo.ConfigError, match=message):
        zoo.load(tmp_path)


# open_clip and OpenAI.

FORMS = {  # name: of the vision tower, of the text tower, of the whole
    "quick": ({}, {}, {"quick_gelu": True}),
    "gelu, heads of 16 and 12": ({"width": 48, "head_width": 16}, {"width": 36, "heads": 3}, {}),
    "odd width between": ({"mlp_ratio": 1.7}, {"mlp_ratio": 2.3}, {}),
    "layer scale, no norm before": ({"ls_init_value": 0.3, "no_ln_pre": True}, {}, {}),
    "mean of patches, first end symbol": ({"pool_type": "avg"}, {"pool_type": "eos", "eos_id": 298}, {}),
    "sigmoid, both ways, bias, tanh": (
        {"act_kwargs": {"approximate": "tanh"}, "norm_kwargs": {"eps": 1e-6}},
        {"no_causal_mask": True, "pool_type": "last", "proj_bias": True, "act_kwargs": {"approximate": "tanh"}},
        {"init_logit_bias": -10.0},
    ),
}
EVERY_FORM = pytest.mark.parametrize("form", FORMS)


def config_of(form):
    vision, text, whole = FORMS[form]
    vision = {"layers": 3, "width": 64, "patch_size": 14, "image_size": 42, **vision}
    return {
        "embed_dim": 20,
        "vision_cfg": vision,
        "text_cfg": {"context_length": 13, "vocab_size": 300, "width": 64, "heads": 1, "layers": 2, **text},
        **whole,
    }


def make_open_clip(form, scramble):
    config = config_of(form)
    return scramble(CLIP(**{**config, "vision_cfg": CLIPVisionCfg(**config["vision_cfg"]), "text_cfg": CLIPTextCfg(**config["text_cfg"])}))


def assert_equal_to_open_clip(system, reference):
    data = Batch({"image": torch.randn(6, 3, 42, 42), "text": token_ids(6, 13, 300)})
    with torch.no_grad():
        expected = reference.encode_image(data.inputs["image"], normalize=True), reference.encode_text(data.inputs["text"], normalize=True)
        wanted, _ = reference.get_logits(data.inputs["image"], data.inputs["text"])
    image, text, logits = features(system, data)
    torch.testing.assert_close(image, expected[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(text, expected[1], atol=1e-5, rtol=0)
    torch.testing.assert_close(logits, wanted, atol=1e-5 * max(1.0, wanted.abs().max().item()), rtol=0)


@EVERY_FORM
def test_a_directory_of_open_clip_gives_what_open_clip_gives(form, tmp_path, scramble):
    reference = make_open_clip(form, scramble)
    save_file(reference.state_dict(), tmp_path / "open_clip_model.safetensors")
    images = {"mean": [0.1, 0.2, 0.3], "std": 0.4, "interpolation": "bilinear", "resize_mode": "squash", "size": [42, 42]}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config_of(form), "preprocess_cfg": images}))
    for source in (tmp_path, tmp_path / "open_clip_model.safetensors"):
        system = zoo.load(source)
        assert_equal_to_open_clip(system, reference)
        settings = system.processor["image"].settings
        assert (settings["mean"], settings["std"], settings["resize"]) == ([0.1, 0.2, 0.3], [0.4, 0.4, 0.4], "squash")
        assert (settings["interpolation"], settings["image_size"]) == ("bilinear", 42)


def test_bare_weights_of_open_clip_are_built_from_their_shapes_and_the_log_says_what_was_assumed(tmp_path, scramble, caplog):
    config = config_of("quick") | {"quick_gelu": False}
    reference = scramble(
        CLIP(**{**config, "vision_cfg": CLIPVisionCfg(**config["vision_cfg"]), "text_cfg": CLIPTextCfg(**config["text_cfg"])})
    )
    path = tmp_path / "epoch_32.pt"
    torch.save({"epoch": 32, "state_dict": {f"module.{name}": tensor for name, tensor in reference.state_dict().items()}}, path)
    with caplog.at_level(logging.WARNING, "zoo"):
        assert_equal_to_open_clip(zoo.load(path), reference)
    assert "does not tell the activation" in caplog.text and "encoders.image.activation=gelu is used" in caplog.text


def test_a_few_words_beside_bare_weights_say_what_shapes_do_not(tmp_path, scramble, caplog):
    reference = make_open_clip("gelu, heads of 16 and 12", scramble)
    save_file(reference.state_dict(), tmp_path / "weights.safetensors")
    with pytest.raises(zoo.ConfigError, match="vision_cfg.head_width: the weights do not tell it.*open_clip_config.json"):
        zoo.load(tmp_path / "weights.safetensors")
    words = {"quick_gelu": False, "vision_cfg": {"head_width": 16}, "text_cfg": {"heads": 3}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": words}))
    with caplog.at_level(logging.WARNING, "zoo"):
        assert_equal_to_open_clip(zoo.load(tmp_path / "weights.safetensors"), reference)
    assert not caplog.text


SCALARS = {"input_resolution": 42, "context_length": 13, "vocab_size": 300}


def test_an_archive_of_openai_has_quick_gelu(tmp_path, scramble, caplog):
    reference = make_open_clip("quick", scramble)
    torch.save({**reference.state_dict(), **{name: torch.tensor(value) for name, value in SCALARS.items()}}, tmp_path / "plain.pt")
    with caplog.at_level(logging.WARNING, "zoo"):
        assert_equal_to_open_clip(zoo.load(tmp_path / "plain.pt"), reference)
    assert not caplog.text


class Towers(torch.nn.Module):
    """The towers of a CLIP and OpenAI's three numbers, which TorchScript keeps as attributes."""

    def __init__(self, model):
        super().__init__()
        self.visual, self.transformer, self.token_embedding, self.ln_final = (
            model.visual,
            model.transformer,
            model.token_embedding,
            model.ln_final,
        )
        self.positional_embedding, self.text_projection, self.logit_scale = (
            model.positional_embedding,
            model.text_projection,
            model.logit_scale,
        )
        for name, value in SCALARS.items():
            self.register_buffer(name, torch.tensor(value))

    def forward(self, pixels, token_ids):
        x = self.ln_final(self.transformer(self.token_embedding(token_ids) + self.positional_embedding))
        numbers = self.input_resolution + self.context_length + self.vocab_size
        return self.visual(pixels), x[:, -1] @ self.text_projection * self.logit_scale + numbers


@pytest.fixture
def archive(tmp_path, scramble):
    """A TorchScript archive, as OpenAI publishes its weights, and the model that is in it."""
    reference = make_open_clip("quick", scramble)
    script = torch.jit.trace(Towers(reference), (torch.randn(1, 3, 42, 42), token_ids(3, 13, 300)[:1]), check_trace=False)
    torch.jit.save(script, tmp_path / "ViT-X.pt")
    return tmp_path / "ViT-X.pt", reference


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_a_torchscript_archive_is_read_without_running_it(archive):
    assert_equal_to_open_clip(zoo.load(archive[0]), archive[1])


def test_weights_of_another_arithmetic_are_refused_before_anything_is_loaded(tmp_path, scramble):
    reference = scramble(make_transformers("clip, eos 2"))
    reference.save_pretrained(tmp_path)
    config = zoo.load(tmp_path).config
    config = {**config, "encoders": {**config["encoders"], "image": {**config["encoders"]["image"], "activation": "quick_gelu"}}}
    with pytest.raises(zoo.ConfigError, match="encoders.image.activation: 'quick_gelu', but .* was trained with 'gelu'"):
        zoo.create_system(config, weights=tmp_path)
    config["encoders"]["image"] |= {"activation": "gelu", "num_heads": 6}
    with pytest.raises(zoo.ConfigError, match="encoders.image.num_heads: 6, but .* was trained with 5"):
        zoo.create_system(config, weights=tmp_path, weights_parts=["encoders.image"])


class Runs:
    """Object whose pickle calls a function when it is read, which must be refused."""

    def __reduce__(self):
        return print, ("this must never be printed",)


def test_a_torchscript_archive_that_would_run_code_is_refused(tmp_path, capsys):
    with zipfile.ZipFile(tmp_path / "bad.pt", "w") as file:
        file.writestr("bad/data.pkl", pickle.dumps(Runs(), protocol=2))
        file.writestr("bad/constants.pkl", b"")
    with pytest.raises(zoo.WeightsError, match="names .*print, which is not read because it could run code"):
        zoo.load(tmp_path / "bad.pt")
    assert "never" not in capsys.readouterr().out


def test_a_named_system_takes_the_weights_and_what_goes_with_them(tmp_path, scramble):
    from transformers import CLIPImageProcessor

    reference = scramble(make_transformers("clip"))
    reference.save_pretrained(tmp_path)
    size = {"shortest_edge": 48}
    CLIPImageProcessor(size=size, crop_size={"height": 42, "width": 42}, image_mean=[0.1, 0.2, 0.3]).save_pretrained(tmp_path)
    config = zoo.load(tmp_path).config
    config["encoders"]["image"]["preprocessing"] = {}
    system = zoo.create_system({**config, "processor": {"text": {"tokenizer": "given", "eot_token_id": 98}}}, weights=tmp_path)
    assert_equal_to_transformers(system, reference)
    settings = system.processor["image"].settings
    assert (settings["mean"], settings["crop_fraction"]) == ([0.1, 0.2, 0.3], 0.875)


def test_weights_that_do_not_say_what_they_are_of_are_refused_with_the_way_out(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "some.safetensors")
    with pytest.raises(zoo.WeightsError, match=r"do not say which model they are of.*create_model\(NAME, weights="):
        zoo.load(tmp_path / "some.safetensors")
    make_transformers("clip").save_pretrained(tmp_path)
    with pytest.raises(zoo.WeightsError, match="give the directory"):
        zoo.load(tmp_path / "model.safetensors")
