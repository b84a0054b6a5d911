"""Zero-shot accuracy, compared with the outputs of the system's verbs."""

import json

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
        zoo.ConfigError, match="'zero_shot' needs a head with the verbs embed, prompt_vectors; Classifier has classify, logits"
    ):
        ZeroShot()(classifier, source, "test")
    with pytest.raises(zoo.ConfigError, match="ViT has no head"):
        ZeroShot()(zoo.create_model("vit_nano"), source, "test")
    unlabelled.class_names = []
    with pytest.raises(zoo.DataError, match="the source has no classes"):
        ZeroShot().check(clip, unlabelled)
    with pytest.raises(zoo.ConfigError, match="^limit: 0; allowed"):
        ZeroShot(limit=0)


def test_items_without_label_are_named(clip, unlabelled):
    with pytest.raises(zoo.DataError, match="has a label"):
        ZeroShot()(clip, unlabelled, "test")


def test_templates_come_by_name_file_or_list_and_classes_may_have_several_prompts(clip, source, tmp_path):
    (tmp_path / "labels.json").write_text(json.dumps({name: [f"a handwritten {name}", "the number {}"] for name in source.class_names}))
    by_file = ZeroShot(limit=50, labels=str(tmp_path / "labels.json"))(clip, source, "test")
    by_list = ZeroShot(limit=50, templates=["a handwritten {}", "the number {}"])(clip, source, "test")
    assert by_file.metrics == by_list.metrics and by_file.details == by_list.details == {"prompts": 20}
    assert ZeroShot(limit=5, templates="imagenet_7")(clip, source, "test").details == {"prompts": 70}


def test_a_label_file_must_name_every_class(clip, source, tmp_path):
    (tmp_path / "labels.txt").write_text("\n".join(source.class_names[:-1]))
    with pytest.raises(zoo.DataError, match="evaluation.labels: class 'nine' is not among the 9 labels"):
        ZeroShot(labels=str(tmp_path / "labels.txt")).check(clip, source)
