"""Zero-shot accuracy, held against what the system's own verbs give."""

import pytest
from sklearn.metrics import accuracy_score, confusion_matrix

import zoo
from zoo.evaluation.zero_shot import ZeroShot


def test_accuracy_is_that_of_classify(clip, source):
    result = ZeroShot(batch_size=100)(clip, source, "test")
    samples = [source.split("test").sample(i) for i in range(359)]
    labels = [sample.label for sample in samples]
    guesses = clip.classify([sample.inputs["image"] for sample in samples], source.class_names, templates=source.templates).argmax(1)
    assert result.metrics["top1"] == pytest.approx(accuracy_score(labels, guesses)) and result.metrics["top1"] > 0.95
    assert (result.confusion.numpy() == confusion_matrix(labels, guesses)).all()


def test_a_limit_is_kept_and_told(clip, source):
    done = []
    result = ZeroShot(limit=30, batch_size=20)(clip, source, "test", advance=done.append)
    assert result.num_items == 30 and done == [20, 10]


def test_models_and_sources_that_cannot_are_refused(clip, classifier, source, unlabelled):
    with pytest.raises(
        zoo.ConfigError, match="'zero_shot' needs a head with the verbs embed, class_vectors; Classifier has classify, logits"
    ):
        ZeroShot()(classifier, source, "test")
    with pytest.raises(zoo.ConfigError, match="ViT has no head"):
        ZeroShot()(zoo.create_model("vit_nano"), source, "test")
    unlabelled.class_names = []
    with pytest.raises(zoo.DataError, match="no classes to tell apart"):
        ZeroShot().check(clip, unlabelled)
    with pytest.raises(zoo.ConfigError, match="^limit: 0; allowed"):
        ZeroShot(limit=0)


def test_items_without_label_are_named(clip, unlabelled):
    with pytest.raises(zoo.DataError, match="has a label"):
        ZeroShot()(clip, unlabelled, "test")
