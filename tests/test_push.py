"""Models that are published: files, card, rights, and the way back."""

import pytest
import torch
import yaml
from hub_server import connect, running_hub

import zoo
from zoo.runs.model_card import model_card

# huggingface_hub 1.33 sends files as httpx calls old style.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with running_hub() as server:
        connect(server, monkeypatch, tmp_path / "cache")
        monkeypatch.setenv("HF_TOKEN", server.token)
        yield server


@pytest.fixture(scope="module")
def clip():
    return zoo.load("clip_vit_nano")


def files_of(hub, name="owner/name", revision="main"):
    repository = hub.repositories[name]
    return repository.commits[repository.refs[revision]]


def test_what_is_pushed_is_loaded_again(hub, clip):
    address = zoo.push(clip, "owner/name", license="apache-2.0")
    assert address.startswith(f"{hub.url}/owner/name/commit/")
    back = zoo.load("hf://owner/name")
    assert all(torch.equal(tensor, back.state_dict()[name]) for name, tensor in clip.state_dict().items())
    texts = ["seven", "a photo of a two"]
    torch.testing.assert_close(back.embed("text", texts), clip.embed("text", texts), atol=0, rtol=0)


def test_the_card_has_licence_task_facts_data_and_the_verification_card(hub, clip):
    zoo.push(clip, "owner/name", license="cc-by-4.0", data=["1,258 digits"])
    _, front, text = files_of(hub)["README.md"].decode().split("---\n", 2)
    head = yaml.safe_load(front)
    assert head["license"] == "cc-by-4.0" and head["pipeline_tag"] == "zero-shot-image-classification"
    assert {"clip", "vit", "text", "image", "multimodal-zoo"} <= set(head["tags"])
    assert "`vit` (image), `text` (text)" in text and 'zoo.load("hf://owner/name")' in text and "* 1,258 digits" in text
    assert f"| parameters | {sum(p.numel() for p in clip.parameters()):,} |" in text
    assert "| batch-invariant | verified |" in text and "they say nothing about how well these weights" in text


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("vit_nano", "image-feature-extraction"),
        ("llama_nano", "text-generation"),
        ("classifier_vit_nano", "image-classification"),
        ("whisper_nano", "automatic-speech-recognition"),
        ("llava_nano", "image-text-to-text"),
        ("bert_nano", "feature-extraction"),
    ],
)
def test_a_card_names_the_task_of_every_kind(name, task):
    text = model_card(zoo.create_model(name), "owner/name", "mit", [])
    assert yaml.safe_load(text.split("---\n")[1])["pipeline_tag"] == task
    assert "Not recorded." in text


@pytest.mark.parametrize(("licence", "message"), [(None, "license: none is given"), ("apache2", "did you mean 'apache-2.0'")])
def test_a_licence_is_asked_for(licence, message, hub, clip):
    with pytest.raises(zoo.ConfigError, match=message):
        zoo.push(clip, "owner/name", license=licence)
    assert hub.asked == []


def test_without_login_it_says_how_to_log_in(hub, clip, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(
        zoo.ConfigError, match=r"push: not logged in to http://\S+; log in with `hf auth login`, or set HF_TOKEN to a token with"
    ):
        zoo.push(clip, "owner/name", license="mit")


def test_a_token_without_the_right_to_write_is_told_and_not_shown(hub, clip, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_readonly")
    with pytest.raises(
        zoo.ConfigError, match=r"owner/name cannot be written: the token in use may not write there \(status 401\)"
    ) as caught:
        zoo.push(clip, "owner/name", license="mit")
    assert "hf_readonly" not in str(caught.value)


def test_a_private_repository_is_made_and_a_public_one_never_taken_for_private(hub, clip):
    zoo.push(clip, "owner/secret", license="mit", private=True)
    assert hub.repositories["owner/secret"].private
    zoo.push(clip, "owner/open", license="mit")
    with pytest.raises(zoo.ConfigError, match="private: owner/open exists already and everyone can read it"):
        zoo.push(clip, "owner/open", license="mit", private=True)


def test_a_card_that_someone_wrote_is_kept_and_old_weights_go(hub, clip, caplog):
    hub.add("owner/name", {"README.md": b"by hand", "old-00001-of-00002.safetensors": b"old", "notes.txt": b"kept"})
    zoo.push(clip, "owner/name", license="mit")
    assert files_of(hub)["README.md"] == b"by hand" and "README.md already, which is kept" in caplog.text
    assert set(files_of(hub)) == {"README.md", "notes.txt", "config.yaml", "model.safetensors", "processor.json", "tokenizer.json"}


def test_an_exported_directory_is_pushed_as_it_is(hub, tmp_path):
    folder = zoo.export(zoo.create_model("llama_nano"), tmp_path / "out", "transformers")
    zoo.push(folder, "owner/name", license="mit")
    pushed = {name: content for name, content in files_of(hub).items() if name not in ("README.md", ".gitattributes")}
    assert pushed == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert yaml.safe_load(files_of(hub)["README.md"].decode().split("---\n")[1])["library_name"] == "transformers"


def test_nan_is_not_published(hub):
    model = zoo.create_model("vit_nano")
    next(model.parameters()).data[:] = float("nan")
    with pytest.raises(zoo.WeightsError, match="NaN"):
        zoo.push(model, "owner/name", license="mit")
