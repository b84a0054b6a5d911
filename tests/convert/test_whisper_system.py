"""Whole Whispers of transformers and openai-whisper: there and back bit for bit, as users load and export them."""

import json

import pytest
import torch
from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration, WhisperProcessor
from whisper import load_model
from whisper.model import ModelDimensions, Whisper

import zoo
from zoo.errors import ConfigError, WeightsError
from zoo.interop.whisper import system as whisper_system
from zoo.processors.tokenizers.whisper_tokens import SpecialIds

CONFIG = {"d_model": 48, "encoder_layers": 2, "encoder_attention_heads": 3, "encoder_ffn_dim": 80, "max_source_positions": 30}
DECODER = {"decoder_layers": 1, "decoder_attention_heads": 3, "decoder_ffn_dim": 8, "vocab_size": 13, "max_target_positions": 9}
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 3}
SIZES = ModelDimensions(20, 30, 48, 3, 2, 61, 9, 48, 3, 2)
PUBLISHED = {"tiny": 51865, "tiny.en": 51864, "large-v3-turbo": 51866}


@pytest.fixture
def published(scramble):
    """A whole Whisper of transformers with random weights, whose two halves differ in depth and width."""
    return scramble(WhisperForConditionalGeneration(WhisperConfig(**CONFIG, **DECODER, **IDS, num_mel_bins=20)), std=0.05)


@pytest.fixture
def openai(scramble, tmp_path):
    """A file of openai-whisper, and the model."""
    model = Whisper(SIZES)
    torch.nn.init.normal_(model.decoder.positional_embedding)
    scramble(model, std=0.05)
    torch.save({"dims": vars(SIZES), "model_state_dict": model.state_dict()}, tmp_path / "own.pt")
    return tmp_path / "own.pt", model


@torch.no_grad()
def test_a_file_of_openai_whisper_is_a_system_with_its_logits(openai, close):
    path, reference = openai
    system = zoo.load(path)
    mels, token_ids = torch.randn(2, 20, 60), torch.randint(0, 61, (2, 7))
    memory = system.head.decoder.remember(system.encoders["audio"](mels).tokens)
    close(system.head.decoder(token_ids, memory), reference(mels, token_ids))


def test_the_way_to_transformers_and_back_is_bit_equal(published, tmp_path, same_state):
    published.save_pretrained(tmp_path / "theirs")
    system = zoo.load(tmp_path / "theirs")
    zoo.export(system, tmp_path / "ours")
    again, info = WhisperForConditionalGeneration.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info.values())
    same_state(again.state_dict(), published.state_dict())
    same_state(zoo.load(tmp_path / "ours").state_dict(), system.state_dict())


@pytest.mark.parametrize("vocab_size", [51866, 51869])
@torch.no_grad()
def test_turbo_and_distilled_forms_load_with_the_tokens_of_v3_and_with_added_ones(vocab_size, scramble, tmp_path, close, same_state):
    """Deep encoder, shallow decoder, 128 mel bands, 100 languages; a fine-tune may add tokens after the 1,501 timestamps."""
    sizes = {**CONFIG, "encoder_layers": 4, **DECODER, **IDS, "eos_token_id": 50257, "vocab_size": vocab_size, "num_mel_bins": 128}
    reference = scramble(WhisperForConditionalGeneration(WhisperConfig(**sizes)), std=0.05)
    reference.generation_config = GenerationConfig(eos_token_id=50257, no_timestamps_token_id=50364, is_multilingual=True)
    reference.save_pretrained(tmp_path / "theirs")
    system, mels, token_ids = zoo.load(tmp_path / "theirs"), torch.randn(2, 128, 60), torch.randint(0, vocab_size, (2, 5))
    memory = system.head.decoder.remember(system.encoders["audio"](mels).tokens)
    close(system.head.decoder(token_ids, memory), reference(input_features=mels, decoder_input_ids=token_ids).logits)
    words = system.processor["transcript"]
    assert (words.ids.languages["yue"], words.ids.timestamp_begin, words.vocab_size) == (50358, 50365, 51866)
    zoo.export(system, tmp_path / "ours")
    same_state(WhisperForConditionalGeneration.from_pretrained(tmp_path / "ours").state_dict(), reference.state_dict())


def test_the_way_to_openai_whisper_and_back_is_bit_equal(openai, tmp_path, same_state):
    path, reference = openai
    system = zoo.load(path)
    zoo.export(system, tmp_path / "ours", format="openai-whisper")
    same_state(load_model(str(tmp_path / "ours" / "model.pt"), device="cpu").state_dict(), reference.state_dict())
    same_state(zoo.load(tmp_path / "ours" / "model.pt").state_dict(), system.state_dict())


def test_one_half_of_a_whole_whisper_goes_into_one_part(openai):
    path, reference = openai
    row = {"dim": 48, "num_heads": 3, "depth": 2}
    head = zoo.create_model("whisper_nano_decoder", weights=path, **row, vocab_size=61, context_length=9)
    assert torch.equal(head.decoder.norm.weight, reference.decoder.ln.weight)
    encoder = zoo.create_model("whisper_nano_encoder", weights=path, **row, num_mels=20, context_length=30)
    assert torch.equal(encoder.norm.weight, reference.encoder.ln_post.weight)


def test_another_number_of_heads_in_the_decoder_is_refused(openai):
    audio = {"dim": 48, "num_heads": 3, "depth": 2, "num_mels": 20, "context_length": 30}
    head = {"dim": 48, "num_heads": 4, "depth": 2, "vocab_size": 61, "context_length": 9}
    transcript = {"num_languages": 0, "num_timestamps": 0, "tokenizer": "given"}
    words = {"encoders": {"audio": audio}, "head": head, "processor": {"transcript": transcript}}
    with pytest.raises(ConfigError, match="system.head.num_heads: 4, but .* was trained with 3"):
        zoo.create_model("whisper_nano", weights=openai[0], **words)


def test_a_last_layer_that_is_not_the_table_of_words_is_refused(published):
    state = {name: tensor.clone() for name, tensor in published.state_dict().items()}
    whisper_system.to_zoo(state)
    state["proj_out.weight"][0, 0] += 1
    with pytest.raises(WeightsError, match="proj_out.weight is another table"):
        whisper_system.to_zoo(state)


@pytest.mark.parametrize("change", [{"scale_embedding": True}, {"tie_word_embeddings": False}, {"activation_function": "relu"}])
def test_configs_that_ours_does_not_have_are_refused(published, change):
    with pytest.raises(ConfigError, match=f"{next(iter(change))}: got"):
        whisper_system.system_config({}, {**published.config.to_dict(), **change})


def test_what_the_targets_do_not_have_is_refused(tmp_path):
    system = zoo.create_model("whisper_nano", head={"mlp_ratio": 3.0})
    with pytest.raises(ConfigError, match="head.mlp_ratio: 3.0; openai-whisper has 4 alone"):
        zoo.export(system, tmp_path, format="openai-whisper")
    with pytest.raises(ConfigError, match="head.dim: 64, but encoders.audio.dim is 32"):
        zoo.export(zoo.create_model("whisper_nano", encoders={"audio": {"dim": 32}}), tmp_path)
    with pytest.raises(
        ConfigError, match="ViT cannot be written as 'openai-whisper', which takes systems of the encoder and the head 'whisper'"
    ):
        zoo.export(zoo.create_model("vit_nano"), tmp_path, format="openai-whisper")


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_files_bring_their_special_tokens_and_alignment_heads(name, tmp_path, monkeypatch):
    """Sizes are those of the published model, but for the width of its halves."""
    monkeypatch.setattr("zoo.interop.whisper.format.find_tiktoken", lambda multilingual: None)
    row = zoo.registry.find_row(f"whisper_{name.replace('.', '_').replace('-', '_')}_decoder").arguments
    sizes = ModelDimensions(20, 30, 8, 1, 1, PUBLISHED[name], 16, 8, 1, 1)
    torch.save({"dims": vars(sizes), "model_state_dict": Whisper(sizes).state_dict()}, tmp_path / f"{name}.pt")
    monkeypatch.setitem(row, "alignment_heads", [[0, 0]])
    for key, value in (("dim", 8), ("depth", 1), ("num_heads", 1)):
        monkeypatch.setitem(row, key, value)
    system = zoo.load(tmp_path / f"{name}.pt")
    part = system.processor["transcript"]
    assert part.is_multilingual == (name != "tiny.en") and len(part.ids.languages) == (100 if "v3" in name else 99)
    assert part.timestamp_begin == PUBLISHED[name] - 1501 and system.head.alignment_heads == ((0, 0),)


def nano():
    system = zoo.create_model("whisper_nano", head={"alignment_heads": [[1, 1]]})
    system.processor["transcript"].fit(["abc de", "ba, c"])
    return system


def test_transformers_files_say_what_its_ids_mean(tmp_path):
    system = nano()
    part = system.processor["transcript"]
    zoo.export(system, tmp_path)
    told = GenerationConfig.from_pretrained(tmp_path)
    assert (told.decoder_start_token_id, told.no_timestamps_token_id, told.eos_token_id) == (part.sot, part.no_timestamps, part.eot)
    assert told.alignment_heads == [[1, 1]] and told.suppress_tokens == list(part.suppressed) and not told.is_multilingual
    again = zoo.load(tmp_path)
    kept = ("vocab_size", "context_length", "multilingual", "num_languages", "num_timestamps")
    assert all(again.processor["transcript"].settings[key] == part.settings[key] for key in kept)
    assert again.processor["transcript"].encode("abc de") == part.encode("abc de") and again.head.alignment_heads == ((1, 1),)


def test_the_tokenizer_of_transformers_puts_the_same_ids_around_a_text(tmp_path):
    system = nano()
    words = zoo.create_model("whisper_nano", processor={"transcript": {"tokenizer": "trained"}})
    words.processor["transcript"].fit(["one two", "two three"])
    for each, text in ((system, "abc de"), (words, "two one")):
        zoo.export(each, tmp_path / text)
        tokenizer = WhisperProcessor.from_pretrained(tmp_path / text).tokenizer
        part = each.processor["transcript"]
        assert tokenizer(f" {text}").input_ids == part.item(text)[0].tolist()
        assert tokenizer.convert_ids_to_tokens([part.sot, part.timestamp_begin + 4]) == ["<|startoftranscript|>", "<|0.08|>"]


def test_special_tokens_are_where_a_generation_config_says(published, tmp_path):
    published.save_pretrained(tmp_path)
    told = {"eos_token_id": 2, "no_timestamps_token_id": 10, "is_multilingual": True}
    (tmp_path / "generation_config.json").write_text(json.dumps(told))
    part = zoo.load(tmp_path).processor["transcript"]
    assert part.ids == SpecialIds(2, 1, 2) and part.languages == {"en": 4} and part.timestamp_begin == 11


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")  # the reference's
@torch.inference_mode()
def test_real_tiny_en_gives_the_logits_and_greedy_tokens_of_openai_whisper(real, tmp_path, close):
    from whisper import log_mel_spectrogram, pad_or_trim, transcribe

    from zoo.processors.media.audio_file import read_audio

    system, folder = zoo.load(real("whisper_tiny_en")), real("asterisk_sounds") / "clips"
    zoo.export(system, tmp_path, format="openai-whisper")
    reference = load_model(str(tmp_path / "model.pt"), device="cpu")
    for name in ("agent-pass", "vm-intro"):
        samples, _ = read_audio(folder / f"{name}.wav")
        mels, token_ids = log_mel_spectrogram(pad_or_trim(torch.from_numpy(samples)))[None], torch.tensor([[50257, 50362, 464, 2068]])
        memory = system.head.decoder.remember(system.encode("audio", [folder / f"{name}.wav"]).tokens)
        expected = reference(mels, token_ids)
        # fp32 over eight layers, from mels that differ by 1e-7, with sums in another order.
        assert (system.head.decoder(token_ids, memory) - expected).abs().max() <= 1e-4 * expected.abs().max()
        heard = transcribe(reference, samples, fp16=False, temperature=0.0, condition_on_previous_text=False)
        found = system.transcribe(folder / f"{name}.wav", temperatures=(0.0,))
        assert found.text.strip() == heard["text"].strip() and len(found.text) > 20
        assert [list(each.token_ids) for each in found.segments] == [each["tokens"] for each in heard["segments"]]
