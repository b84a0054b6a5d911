"""Every small language model keeps every rule of ``zoo.testing.check_language``."""

import pytest

import zoo
from zoo.testing import ContractError, check_language


@pytest.mark.parametrize("name", zoo.list_models("*nano*", kind="language"))
def test_each_language_model_keeps_the_contract(name):
    check_language(zoo.create_model(name))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: setattr(model, "head_dim", None), "must say head_dim, but it has none"),
        (lambda model: setattr(model, "vocab_size", 100), r"logits has a score per token id, but \[3, 10, \d+\] .expected: \[3, 10, 100\]"),
        (lambda model: setattr(model, "forward", looks_ahead(model)), "no token sees what comes after it, but they differ by"),
        (lambda model: setattr(model, "forward", forgets_the_cache(model)), "a cache changes nothing, but they differ by"),
        (lambda model: setattr(model, "forward", ignores_the_mask(model)), "padding on the left changes nothing, but they differ by"),
    ],
)
def test_each_mistake_of_a_language_model_is_named(change, message):
    model = zoo.create_model("llama_nano")
    change(model)
    with pytest.raises(ContractError, match=message):
        check_language(model)


def looks_ahead(model):
    forward = model.forward
    return lambda x, mask=None, **words: forward(x, mask, **words) + forward(x, mask).mean((1, 2), keepdim=True)


def forgets_the_cache(model):
    forward = model.forward
    return lambda x, mask=None, *, cache=None, **words: forward(x, mask, **words)


def ignores_the_mask(model):
    forward = model.forward
    return lambda x, mask=None, **words: forward(x, **words)
