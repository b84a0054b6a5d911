"""Features of frozen encoders."""

import pytest
import torch

import zoo
from zoo.evaluation.measures.features import FeatureReader
from zoo.types import Encoded


def reader(**settings):
    return FeatureReader(**{"modality": "image", "features": "pooled", "batch_size": 64, **settings})


def read(model, split, limit=None, **settings):
    return reader(**settings)(model, split, limit=limit, advance=lambda items: None)


def encoded_by_hand(model, split, modality, indices):
    with torch.no_grad():
        return model.encode(modality, [split.sample(i).inputs[modality] for i in indices])


def test_features_are_the_encoders_in_the_splits_order(clip, source):
    split, done = source.split("test"), []
    features, labels = reader()(clip, split, limit=None, advance=done.append)
    assert labels.tolist() == [split.sample(i).label for i in range(len(split))] and sum(done) == len(split) == 359
    torch.testing.assert_close(features[100:110], encoded_by_hand(clip, split, "image", range(100, 110)).pooled)


def test_means_leave_the_class_token_out(clip, source):
    tokens = encoded_by_hand(clip, source.split("test"), "image", range(8)).tokens
    mean = tokens[:, 1:].mean(1)
    torch.testing.assert_close(read(clip, source.split("test"), features="mean", batch_size=8)[0][:8], mean)
    both = read(clip, source.split("test"), features="cls_mean", batch_size=8)[0][:8]
    torch.testing.assert_close(both, torch.cat([tokens[:, 0], mean], dim=1))


def test_padding_takes_no_part_in_the_mean_of_a_text(clip, source):
    split = source.split("test")
    one, all_ = (read(clip, split, modality="text", features="mean", limit=20, batch_size=size)[0] for size in (1, 20))
    torch.testing.assert_close(one, all_)


def test_a_limit_is_kept_and_spread_over_the_split(clip, source):
    split = source.split("train")
    features, labels = read(clip, split, limit=100)
    assert len(features) == 100 and labels.tolist() == [split.sample(i * 1258 // 100).label for i in range(100)]
    assert len(read(clip, source.split("test"), limit=10000)[0]) == 359


def test_an_encoder_alone_is_read_by_its_processor(clip, source):
    encoder = zoo.create_model("vit_nano")
    encoder.load_state_dict(clip.encoders["image"].state_dict())
    encoder.processor = None
    with pytest.raises(zoo.ConfigError, match="ViT has no processor"):
        reader().check(encoder, source)
    encoder.processor = clip.processor
    reader().check(encoder, source)
    split = source.split("test")
    assert torch.equal(read(encoder, split, limit=30)[0], read(clip, split, limit=30)[0])


def test_what_a_model_or_source_cannot_give_is_refused(clip, source):
    with pytest.raises(zoo.ConfigError, match="no 'audio' encoder; known: image, text"):
        reader(modality="audio").check(clip, source)
    with pytest.raises(zoo.ConfigError, match="features: there is no 'cls'"):
        reader(features="cls")
    encoder = zoo.create_model("vit_nano", class_token=False, pool="none")
    encoder.processor = clip.processor
    with pytest.raises(zoo.ConfigError, match="'pooled' needs an encoder that pools.*choose 'mean'"):
        reader().check(encoder, source)
    with pytest.raises(zoo.ConfigError, match="'cls_mean' needs a class token"):
        reader(features="cls_mean").check(encoder, source)
    assert read(encoder, source.split("test"), limit=5, features="mean")[0].shape == (5, 64)


def test_a_modality_that_the_source_lacks_is_refused(clip, unlabelled):
    unlabelled.modalities = ("text",)
    with pytest.raises(zoo.ConfigError, match="the source has no 'image'; known: text"):
        reader().check(clip, unlabelled)


def test_an_item_without_label_or_that_cannot_be_read_ends_it_loudly(clip, unlabelled, unreadable):
    with pytest.raises(zoo.DataError, match="not every item of the batch digits:.* has a label"):
        read(clip, unlabelled.split("test"))
    with pytest.raises(zoo.DataError, match="item b.png: cannot be read"):
        read(clip, unreadable.split("test"))


def test_features_that_are_not_finite_name_the_item(clip, source, monkeypatch):
    encoder = clip.encoders["image"]

    def forward(pixels, mask=None, *, reads="tokens"):
        pooled = torch.zeros(len(pixels), 2)
        pooled[3, 1] = torch.nan
        return Encoded(pooled[:, None], pooled, torch.ones(len(pixels), 1, dtype=torch.bool))

    monkeypatch.setattr(encoder, "forward", forward)
    split = source.split("test")
    with pytest.raises(zoo.DataError, match=f"item {split.sample(3).id}: its features are not finite"):
        read(clip, split)
