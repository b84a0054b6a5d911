"""What must hold of the Vision Transformer beside equality with its references (tests/convert)."""

import pytest
import torch

import zoo


def test_each_image_gives_what_it_gives_alone():
    model, pixels = zoo.create_model("vit_nano"), torch.rand(3, 3, 32, 32)
    batch = model(pixels)
    for i in range(3):
        torch.testing.assert_close(model(pixels[i : i + 1]).pooled[0], batch.pooled[i], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("height", "width", "patches"), [(32, 32, 16), (64, 32, 32), (24, 40, 15)])
def test_any_size_that_the_patch_divides_works(height, width, patches):
    assert zoo.create_model("vit_nano")(torch.rand(1, 3, height, width)).tokens.shape == (1, 1 + patches, 64)


def test_a_size_that_the_patch_does_not_divide_is_refused():
    with pytest.raises(zoo.DataError, match="multiples of the patch size 8"):
        zoo.create_model("vit_nano")(torch.rand(1, 3, 33, 32))


@pytest.mark.parametrize("pool", ["cls", "mean", "attention"])
def test_every_pooling_gives_one_vector_and_gradients(pool):
    encoded = zoo.create_model("vit_nano", pool=pool, num_registers=2, layer_scale=1e-5)(torch.rand(2, 3, 32, 32))
    assert encoded.pooled.shape == (2, 64) and encoded.tokens.shape == (2, 19, 64)


def test_mean_pooling_leaves_class_token_and_registers_out():
    model = zoo.create_model("vit_nano", pool="mean", num_registers=2)
    encoded = model(torch.rand(2, 3, 32, 32))
    torch.testing.assert_close(encoded.pooled, encoded.tokens[:, 3:].mean(1))


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"pool": "clss"}, "did you mean 'cls'"),
        ({"class_token": False, "pool": "cls"}, "needs class_token=true"),
        ({"activation": "gelu_tan"}, "did you mean 'gelu_tanh'"),
        ({"image_size": 30}, "does not divide image_size 30"),
    ],
)
def test_wrong_words_and_sizes_are_refused(keywords, message):
    with pytest.raises(zoo.ConfigError, match=message):
        zoo.create_model("vit_nano", **keywords)


def test_drop_path_changes_training_only():
    model, pixels = zoo.create_model("vit_nano", drop_path=0.9), torch.rand(8, 3, 32, 32)
    still = model(pixels).pooled
    assert torch.equal(still, model(pixels).pooled)
    assert not torch.allclose(still, model.train()(pixels).pooled)
