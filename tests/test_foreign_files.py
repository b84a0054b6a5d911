"""Every file of a foreign directory is used, known to be harmless, or named to the user."""

import json
import logging
import shutil

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

import zoo
from zoo.interop.base.files import use_of
from zoo.interop.base.guide import with_tables
from zoo.interop.base.recognise import describe, find_format, formats, unknown_files
from zoo.interop.base.source import read_source
from zoo.storage.places import packaged_directory
from zoo.storage.verified import write_list
from zoo.types import Batch

WIDE = {"hidden_size": 24, "num_attention_heads": 3, "num_hidden_layers": 2, "intermediate_size": 40}
SEEN = {**WIDE, "image_size": 28, "patch_size": 14}
READ = {**WIDE, "vocab_size": 50, "max_position_embeddings": 20}
LLAMA = {**READ, "num_key_value_heads": 3}
KOSMOS_TEXT = {"vocab_size": 50, "max_position_embeddings": 20, "embed_dim": 24, "layers": 2, "ffn_dim": 40, "attention_heads": 3}
WHISPER = {"vocab_size": 60, "num_mel_bins": 80, "d_model": 24, "encoder_layers": 1, "decoder_layers": 2, "max_source_positions": 10}
WHISPER |= {"encoder_attention_heads": 3, "decoder_attention_heads": 3, "encoder_ffn_dim": 40, "decoder_ffn_dim": 40}
WHISPER |= {"pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 2}
T5 = {"vocab_size": 50, "d_model": 24, "d_kv": 8, "d_ff": 40, "num_layers": 1, "num_heads": 3}
SWITCH = {**T5, "num_layers": 2, "num_decoder_layers": 2, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1, "num_experts": 2}
TROCR = {"model_type": "trocr", "vocab_size": 50, "d_model": 24, "decoder_layers": 1, "decoder_attention_heads": 3, "decoder_ffn_dim": 40}
TROCR |= {"max_position_embeddings": 20, "is_decoder": True, "add_cross_attention": True}
WAVES = {
    "conv_dim": [8, 8],
    "conv_stride": [5, 2],
    "conv_kernel": [10, 3],
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}
IMAGES = {"size": {"height": 28, "width": 28}}
CROPPED = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}
MODELS = {  # family: class, keywords of its config, our format
    "vit": ("ViTModel", SEEN, "vit"),
    "dinov2": ("Dinov2Model", {**SEEN, "mlp_ratio": 2}, "vit"),
    "bert": ("BertForMaskedLM", READ, "text_encoders"),
    "roberta": ("RobertaModel", READ, "text_encoders"),
    "albert": ("AlbertModel", {**READ, "embedding_size": 8}, "text_encoders"),
    "t5": ("T5ForConditionalGeneration", T5, "seq2seq"),
    "switch": ("SwitchTransformersForConditionalGeneration", SWITCH, "seq2seq"),
    "llama": ("LlamaForCausalLM", LLAMA, "causal_lm"),
    "mistral": ("MistralForCausalLM", LLAMA, "causal_lm"),
    "gpt2": ("GPT2LMHeadModel", {"vocab_size": 50, "n_positions": 20, "n_embd": 24, "n_layer": 1, "n_head": 3}, "causal_lm"),
    "clip": ("CLIPModel", {"text_config": READ, "vision_config": SEEN, "projection_dim": 16}, "clip"),
    "siglip": ("SiglipModel", {"text_config": {**READ, "projection_size": 24}, "vision_config": SEEN}, "clip"),
    "llava": ("LlavaForConditionalGeneration", {"text_config": LLAMA, "vision_config": SEEN, "image_token_index": 49}, "llava"),
    "kosmos-2": ("Kosmos2ForConditionalGeneration", {"text_config": KOSMOS_TEXT, "vision_config": SEEN, "latent_query_num": 4}, "kosmos2"),
    "whisper": ("WhisperForConditionalGeneration", WHISPER, "whisper"),
    "electra": ("ElectraModel", {**READ, "embedding_size": 24}, "text_encoders"),
    "deberta-v2": ("DebertaV2Model", READ, "text_encoders"),
    "modernbert": ("ModernBertModel", {**READ, **dict.fromkeys(("pad_token_id", "cls_token_id", "sep_token_id"), 0)}, "text_encoders"),
    "xlnet": ("XLNetModel", {"vocab_size": 50, "d_model": 24, "n_layer": 1, "n_head": 3, "d_inner": 40}, "text_encoders"),
    "mixtral": ("MixtralForCausalLM", {**LLAMA, "num_local_experts": 2}, "causal_lm"),
    "phi3": ("Phi3ForCausalLM", {**LLAMA, "pad_token_id": 0}, "causal_lm"),
    "gemma": ("GemmaForCausalLM", {**LLAMA, "head_dim": 8}, "causal_lm"),
    "qwen2": ("Qwen2ForCausalLM", LLAMA, "causal_lm"),
    "qwen3": ("Qwen3ForCausalLM", {**LLAMA, "head_dim": 8}, "causal_lm"),
    "siglip2": ("Siglip2Model", {"text_config": {**READ, "projection_size": 24}, "vision_config": {**WIDE, "num_patches": 16}}, "clip"),
    "trocr": ("VisionEncoderDecoderModel", {"encoder": {**SEEN, "model_type": "vit"}, "decoder": TROCR}, "seq2seq"),
    "wav2vec2": ("Wav2Vec2Model", {**WAVES, **WIDE, "vocab_size": 6}, "backbones"),
    "dinov3_vit": ("DINOv3ViTModel", SEEN, "backbones"),
}
LISTED = {  # files of repositories of these families that no library writes
    "causal_lm": ("gemma-2b.gguf", "configuration_phi3.py", "modeling_phi3.py", "params.json", "tekken.json", "checklist.chk"),
    "seq2seq": ("generation_config_for_summarization.json", "flax_model.msgpack", "dict.txt", "source.spm", "tf_model.h5"),
    "text_encoders": ("spm.model", "pytorch_model.generator.bin", "onnx/model.onnx", "colbert_linear.pt", "openvino/openvino_model.xml"),
    "whisper": ("model.safetensors.index.fp32.json", "pytorch_model.bin.index.fp32.json", "normalizer.json", "run_distillation.py"),
    "vlm": ("conversation.py", "examples/image1.jpg", "chat_template.json", "video_preprocessor_config.json"),
    "backbones": ("alphabet.json", "language_model/unigrams.txt"),
}


@pytest.fixture(autouse=True)
def _no_bars():
    transformers.utils.logging.disable_progress_bar()


def a_tokenizer(**keywords):
    words = {word: i for i, word in enumerate(("<pad>", "<unk>", "<s>", "</s>", "a", "cat"))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names, **keywords)


def save_model(family, directory):
    """Save a tiny random model of transformers with everything that its library writes beside it."""
    name, keywords, _ = MODELS[family]
    made = getattr(transformers, name)
    made(made.config_class(**keywords)).save_pretrained(directory)
    if family in ("vit", "dinov2", "dinov3_vit"):
        transformers.ViTImageProcessor(**IMAGES).save_pretrained(directory)
        return
    if family in ("clip", "siglip", "llava", "kosmos-2"):
        transformers.CLIPImageProcessor(**CROPPED).save_pretrained(directory)
    if family == "siglip2":
        transformers.Siglip2ImageProcessor().save_pretrained(directory)
    if family == "trocr":
        transformers.ViTImageProcessor(**IMAGES).save_pretrained(directory)
    if family == "wav2vec2":
        transformers.Wav2Vec2FeatureExtractor().save_pretrained(directory)
    if family == "whisper":
        transformers.WhisperFeatureExtractor().save_pretrained(directory)
    chats = {"chat_template": "{{ messages }}"} if family in ("llama", "llava") else {}
    a_tokenizer(**chats).save_pretrained(directory)


@pytest.mark.parametrize("family", MODELS)
def test_a_directory_that_transformers_saved_holds_no_unexplained_file(family, tmp_path):
    save_model(family, tmp_path)
    write_list(tmp_path)
    for name in ("SOURCE.json", "METADATA"):  # beside the hashes, ``zoo fetch`` writes these
        (tmp_path / name).touch()
    source = read_source(tmp_path)
    assert find_format(source).name == MODELS[family][2]
    assert unknown_files(source) == []


@pytest.mark.parametrize(("format_name", "name"), [(each, name) for each, names in LISTED.items() for name in names])
def test_files_that_people_put_beside_models_are_explained(format_name, name):
    assert use_of(name, formats()[format_name].files) is not None


def test_a_directory_of_open_clip_holds_no_unexplained_file(tmp_path):
    open_clip = pytest.importorskip("open_clip")
    from open_clip.push_to_hf_hub import save_for_hf

    towers = {"vision_cfg": {"layers": 1, "width": 64, "patch_size": 14, "image_size": 28}}
    towers["text_cfg"] = {"context_length": 9, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1}
    model = open_clip.CLIP(embed_dim=16, **{key: dict(value) for key, value in towers.items()})
    model.visual.image_mean, model.visual.image_std = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    save_for_hf(model, a_tokenizer(), {"embed_dim": 16, **towers}, str(tmp_path))
    source = read_source(tmp_path)
    assert find_format(source).name == "clip" and unknown_files(source) == []
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(zoo.WeightsError, match="holds adapter_config.json beside the weights"):
        zoo.load(tmp_path)


def test_a_directory_of_timm_holds_no_unexplained_file_and_loads_under_its_name(tmp_path):
    timm = pytest.importorskip("timm")
    timm.models.save_for_hf(timm.create_model("test_vit", num_classes=3), tmp_path, model_config={"label_names": ["a", "b", "c"]})
    assert unknown_files(read_source(tmp_path)) == []
    with pytest.raises(zoo.ConfigError, match=f"a model of timm; use zoo.create_model\\('timm/test_vit', weights='{tmp_path}'\\)"):
        zoo.load(tmp_path)
    assert zoo.create_model("timm/test_vit", weights=tmp_path, weights_parts=["encoder"]).dim == 64


def test_the_page_on_files_holds_the_tables_of_today():
    page = packaged_directory("assets") / "guide" / "files.md"
    assert with_tables(page.read_text(encoding="utf-8")) == page.read_text(encoding="utf-8"), "run: python scripts/update_readme.py"


SENTENCE = {
    "modules.json": [
        {"type": f"sentence_transformers.models.{name}", "path": path} for name, path in (("Transformer", ""), ("Pooling", "1_Pooling"))
    ],
    "sentence_bert_config.json": {"max_seq_length": 12, "do_lower_case": False},
    "config_sentence_transformers.json": {"prompts": {"query": "query: ", "document": ""}, "similarity_fn_name": "dot"},
}


def save_sentences(directory, pooling):
    save_model("bert", directory)
    transformers.BertModel(transformers.BertConfig(**READ)).save_pretrained(directory)
    (directory / "1_Pooling").mkdir()
    for name, content in {**SENTENCE, "1_Pooling/config.json": pooling}.items():
        (directory / name).write_text(json.dumps(content))


@pytest.mark.parametrize("mode", ["mean", "cls", "max"])
@torch.no_grad()
def test_both_dialects_of_sentence_transformers_pool_alike(mode, tmp_path):
    word = {"mean": "mean_tokens", "cls": "cls_token", "max": "max_tokens"}[mode]
    encoders = []
    for dialect, pooling in (("new", {"embedding_dimension": 24, "pooling_mode": mode}), ("old", {f"pooling_mode_{word}": True})):
        torch.manual_seed(0)
        save_sentences(tmp_path / dialect, pooling)
        source = read_source(tmp_path / dialect)
        assert unknown_files(source) == [] and len(describe(source).left_out) == 2
        encoders.append(zoo.load(tmp_path / dialect))
    ids, mask = torch.randint(4, 50, (3, 12)), torch.arange(12) < torch.tensor([[12], [5], [1]])
    tokens = transformers.BertModel.from_pretrained(tmp_path / "new").eval()(ids, mask).last_hidden_state
    real = mask[..., None]
    expected = {"mean": (tokens * real).sum(1) / real.sum(1), "cls": tokens[:, 0], "max": tokens.masked_fill(~real, -1e9).amax(1)}[mode]
    for encoder in encoders:
        for reads in ("tokens", "pooled"):
            torch.testing.assert_close(encoder(ids, mask, reads=reads).pooled, expected, rtol=0, atol=1e-5)


def test_prompts_and_other_similarities_are_named_in_the_log(tmp_path, caplog):
    save_sentences(tmp_path, {"pooling_mode": "mean"})
    with caplog.at_level(logging.WARNING, "zoo"):
        zoo.load(tmp_path)
    assert "prompts query; put them before the texts yourself" in caplog.text and "similarity 'dot'; ours is the cosine" in caplog.text


@pytest.mark.parametrize("limit", [{"max_seq_length": 9}, {}])
def test_texts_are_cut_where_sentence_transformers_cuts_them(limit, tmp_path):
    save_sentences(tmp_path, {"pooling_mode": "mean"})
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps(limit))
    a_tokenizer(model_max_length=7).save_pretrained(tmp_path)
    assert zoo.load(tmp_path).processor["text"].max_length == limit.get("max_seq_length", 7)


def test_a_dense_layer_of_sentence_transformers_is_refused_by_name(tmp_path):
    save_sentences(tmp_path, {"pooling_mode": "mean"})
    dense = [*SENTENCE["modules.json"], {"type": "sentence_transformers.models.Dense", "path": "2_Dense"}]
    (tmp_path / "modules.json").write_text(json.dumps(dense))
    with pytest.raises(zoo.ConfigError, match="models.Dense has no part of ours"):
        zoo.load(tmp_path)


def test_an_unknown_file_is_named_in_one_line_and_nothing_else_is(tmp_path, caplog):
    save_model("vit", tmp_path)
    for name in ("README.md", "tf_model.h5", "my_settings.toml"):
        (tmp_path / name).write_text("")
    with caplog.at_level(logging.WARNING, "zoo"):
        zoo.load(tmp_path)
    assert [record.getMessage() for record in caplog.records] == [f"{tmp_path}: not used: my_settings.toml: unknown files"]


def change_config(directory, **changes):
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_code_is_refused(tmp_path):
    save_model("vit", tmp_path)
    change_config(tmp_path, auto_map={"AutoModel": "own.Model"})
    with pytest.raises(zoo.ConfigError, match="auto_map: "):
        zoo.load(tmp_path)


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "awq", "compressed-tensors", "fp8"])
@pytest.mark.parametrize("family", ["llama", "clip", "whisper", "bert", "vit", "llava", "kosmos-2"])
def test_quantised_weights_are_refused_by_name_wherever_they_are_named(family, method, saved_families, tmp_path):
    directory = saved_families(family, tmp_path)
    part = {"text_config": {**MODELS[family][1]["text_config"], "model_type": "llama"}} if family == "llava" else {}
    told = {"quantization_config": {"quant_method": method, "bits": 4}}
    change_config(directory, **({"text_config": {**part["text_config"], **told}} if part else told))
    row = {"llama": "llama_nano", "clip": "clip_vit_nano", "whisper": "whisper_nano", "bert": "bert_nano", "vit": "vit_nano"}.get(family)
    loads = [lambda: zoo.load(directory), *([lambda: zoo.create_model(row, weights=directory)] if row else [])]
    for load in loads:
        with pytest.raises(zoo.ConfigError, match=f"quantization_config: weights quantised by {method} are not read"):
            load()


@pytest.fixture(scope="module")
def saved_families(tmp_path_factory):
    """Copies of directories of tiny random models, each made once."""
    made = {}

    def directory(family, folder):
        if family not in made:
            made[family] = tmp_path_factory.mktemp(family)
            save_model(family, made[family])
        return shutil.copytree(made[family], folder, dirs_exist_ok=True)

    return directory


def test_sampling_settings_and_further_templates_are_named(tmp_path):
    save_model("llama", tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": 3, "do_sample": True, "temperature": 0.6}))
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tools.jinja").write_text("{{ tools }}")
    told = describe(read_source(tmp_path)).left_out
    assert told[0].startswith("generation_config.json: do_sample True, temperature 0.6") and "tools.jinja" in told[1]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"suppress_tokens": [3], "begin_suppress_tokens": [4]}, "suppress_tokens [3], begin_suppress_tokens [4]"),
        ({"forced_eos_token_id": 3, "bad_words_ids": [[4]]}, "forced_eos_token_id 3, bad_words_ids [[4]]"),
        ({"repetition_penalty": 1.2, "no_repeat_ngram_size": 3}, "repetition_penalty 1.2, no_repeat_ngram_size 3"),
        ({"num_beams": 4, "min_new_tokens": 5, "max_new_tokens": 9}, "num_beams 4, min_new_tokens 5, max_new_tokens 9"),
        ({"sequence_bias": {"3": 1.0}, "a_new_key": 1}, "sequence_bias {'3': 1.0}, a_new_key 1"),
        ({"num_beams": 1, "temperature": 1.0, "suppress_tokens": None, "use_cache": True, "eos_token_id": [2, 3]}, ""),
    ],
)
@pytest.mark.parametrize("family", ["llama", "llava", "kosmos-2"])
def test_every_setting_that_changes_what_transformers_generates_is_named(family, settings, told, saved_families, tmp_path):
    directory = saved_families(family, tmp_path)
    (directory / "generation_config.json").write_text(json.dumps(settings))
    found = describe(read_source(directory)).left_out
    assert found == ((f"generation_config.json: {told}; pass them to generate yourself",) if told else ())


@pytest.mark.parametrize(("key", "value"), [("hop_length", 128), ("n_fft", 512), ("sampling_rate", 8000)])
def test_spectrograms_that_ours_are_not_are_refused(key, value, tmp_path):
    save_model("whisper", tmp_path)
    (tmp_path / "processor_config.json").unlink(missing_ok=True)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"feature_extractor_type": "WhisperFeatureExtractor", key: value}))
    with pytest.raises(zoo.ConfigError, match=f"{key}: got {value}"):
        zoo.load(tmp_path)


def test_a_distilled_whisper_leaves_out_the_heads_of_its_teacher_and_names_a_language_that_it_lacks(tmp_path):
    save_model("whisper", tmp_path)
    path = tmp_path / "generation_config.json"
    path.write_text(json.dumps({"alignment_heads": [[1, 2], [3, 1]], "language": "<|de|>"}))
    source = read_source(tmp_path)
    assert describe(source).config["system"]["head"]["alignment_heads"] == [[1, 2]]
    assert "[[3, 1]], which the decoder does not have" in describe(source).left_out[0]
    assert "language 'de', task None: this model has no tokens for them" in describe(source).left_out[1]


@torch.no_grad()
def test_a_classifier_with_several_labels_for_each_image_has_their_sigmoids_and_their_loss(tmp_path):
    torch.manual_seed(0)
    config = transformers.ViTConfig(**SEEN, problem_type="multi_label_classification", num_labels=3)
    theirs = transformers.ViTForImageClassification(config).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    transformers.ViTImageProcessor(**IMAGES).save_pretrained(tmp_path / "theirs")
    labels = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    pixels = torch.rand(2, 3, 28, 28)
    expected = theirs(pixels, labels=labels)
    ours = zoo.load(tmp_path / "theirs")
    torch.testing.assert_close(ours.classify(pixels), expected.logits.sigmoid(), rtol=0, atol=1e-5)
    torch.testing.assert_close(ours(Batch({"image": pixels}, targets={"labels": labels})).loss, expected.loss, rtol=0, atol=1e-5)
    zoo.save(ours, tmp_path / "ours")
    assert torch.equal(zoo.load(tmp_path / "ours").classify(pixels), ours.classify(pixels))
    zoo.export(ours, tmp_path / "out")
    again = transformers.ViTForImageClassification.from_pretrained(tmp_path / "out")
    assert again.config.problem_type == "multi_label_classification"


def test_a_regression_is_no_classifier(tmp_path):
    config = transformers.ViTConfig(**SEEN, problem_type="regression", num_labels=3)
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path)
    with pytest.raises(zoo.ConfigError, match="problem_type: 'regression' gives numbers that are no probabilities"):
        zoo.load(tmp_path)


def test_two_formats_that_are_equally_sure_are_both_named(tmp_path, monkeypatch):
    save_model("vit", tmp_path)
    monkeypatch.setattr(type(formats()["clip"]), "recognises", lambda self, source: 1.0)
    with pytest.raises(zoo.WeightsError, match="could be of the formats clip and vit"):
        zoo.load(tmp_path)


def test_names_and_shapes_come_from_headers_without_reading_tensors(tmp_path, monkeypatch):
    save_model("llama", tmp_path)
    monkeypatch.setattr("zoo.interop.base.source.read_files", lambda paths: pytest.fail("tensors were read"))
    assert describe(read_source(tmp_path)).config["system"]["head"]["language"]["dim"] == 24
