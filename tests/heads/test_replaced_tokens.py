"""Replaced-token detection: losses by hand, sharing of tables, and a text whose replaced tokens are learnt by heart."""

import pytest
import torch
import torch.nn.functional as F

import zoo
from zoo.assembly.summary import summarize
from zoo.storage.tensors import read_tensors
from zoo.types import IGNORED, MASKED, Batch

WORDS = "embedding.weight"


def make(kind="electra", **head):
    torch.manual_seed(0)
    small = {"depth": 1, "dim": 16, "num_heads": 2, "pool": "none"}
    sizes = {"vocab_size": 240, "context_length": 12}
    extra = {"embedding_dim": 24} if kind == "electra" else {"buckets": 4, "max_distance": 12, "dim": 24}
    config = {"name": "replaced_tokens", "generator": {"name": kind, "context_length": 12, **small, **extra}, **head}
    encoder = {"name": kind, **sizes, "dim": 24, "depth": 2, "num_heads": 3}
    encoder |= {} if kind == "electra" else {"buckets": 4, "max_distance": 12}
    config = {"encoders": {"text": encoder}, "head": config, "processor": {"text": {"tokenizer": "word_pieces"}}}
    return zoo.create_system(config).train()


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    ids, mask = torch.randint(5, 240, (4, 12), generator=generator), torch.arange(12) < torch.tensor([[12], [7], [9], [12]])
    chosen = mask & (torch.rand(ids.shape, generator=generator) < 0.3)
    return Batch({"text": ids.masked_fill(chosen, 4)}, {"text": mask}, {MASKED: torch.where(chosen, ids, IGNORED)})


def original(batch):
    return torch.where(batch.targets[MASKED] == IGNORED, batch.inputs["text"], batch.targets[MASKED])


def test_only_wrong_guesses_count_as_replaced(batch):
    prepared = make().head.prepare(batch)
    text, replaced = prepared.inputs["text"], prepared.targets["replaced"]
    assert torch.equal(replaced, text != original(batch)) and replaced.any()
    assert torch.equal(text[batch.targets[MASKED] == IGNORED], batch.inputs["text"][batch.targets[MASKED] == IGNORED])
    assert not replaced[batch.targets[MASKED] == IGNORED].any()


def test_the_loss_is_that_of_the_generator_plus_fifty_times_the_detection(batch):
    system = make().eval()
    output, prepared = system(batch), system.head.prepare(batch)
    encoder, head, mask = system.encoders["text"], system.head, batch.masks["text"]
    logits = head.score(F.gelu(head.dense(encoder(prepared.inputs["text"], mask).tokens)))[..., 0]
    detection = F.binary_cross_entropy_with_logits(logits[mask], prepared.targets["replaced"][mask].float())
    places = (batch.targets[MASKED] != IGNORED).flatten().nonzero()[:, 0]
    words = F.cross_entropy(head.generator_logits(batch.inputs["text"], mask, places), batch.targets[MASKED].flatten()[places])
    torch.testing.assert_close(output.loss, words + 50 * detection)
    torch.testing.assert_close(output.metrics["rtd_loss"], detection)


def test_a_tied_generator_runs_on_the_tables_of_the_encoder(batch, tmp_path):
    system = make()
    head, encoder = system.head, system.encoders["text"]
    assert not any(name.endswith((WORDS, "positions", "types")) for name in head.state_dict())
    head.prepare(batch).targets["generator_loss"].backward()
    assert all(encoder.get_parameter(name).grad.any() for name in (WORDS, "positions", "types"))
    assert encoder.blocks[0].attention.qkv.weight.grad is None
    zoo.save(system.eval(), tmp_path)
    assert sum(tensor.shape == (240, 24) for tensor in read_tensors(tmp_path / "model.safetensors").values()) == 1
    again = zoo.load(tmp_path)
    torch.testing.assert_close(again(batch).loss, system(batch).loss, rtol=0, atol=0)


def test_no_gradient_flows_through_the_sampling(batch):
    system = make(sharing="none")
    system(batch).metrics["rtd_loss"]
    output = system(batch)
    generator = [p for name, p in system.head.named_parameters() if name.startswith("generator")]
    detection = output.loss - system.head.prepare(batch).targets["generator_loss"]  # the same value, another graph
    assert all(g is None for g in torch.autograd.grad(output.outputs["logits"].sum(), generator, allow_unused=True))
    assert detection.requires_grad


def test_a_disentangled_table_follows_the_generator_and_keeps_its_difference(batch):
    """The encoder's table is the generator's plus a difference, and only the detection moves the difference."""
    system = make("deberta", sharing="disentangled")
    theirs, ours = system.head.generator.get_parameter(WORDS), system.encoders["text"].get_parameter(WORDS)
    assert torch.equal(theirs, ours)
    optimizer, difference = torch.optim.SGD(system.parameters(), lr=0.1), torch.zeros_like(ours)
    for _ in range(3):
        optimizer.zero_grad()
        system(batch).loss.backward()
        difference -= 0.1 * ours.grad
        optimizer.step()
        system.head.after_step()
        torch.testing.assert_close(ours - theirs, difference, atol=1e-6, rtol=0)
    assert difference.any() and not torch.equal(theirs, ours)


def test_the_generators_loss_moves_the_table_of_the_generator_alone(batch):
    system = make("deberta", sharing="disentangled")
    system.head.prepare(batch).targets["generator_loss"].backward()
    assert system.encoders["text"].get_parameter(WORDS).grad is None and system.head.generator.get_parameter(WORDS).grad.any()


def test_evaluation_draws_the_same_samples_each_time_and_training_others(batch):
    system = make().eval()
    assert torch.equal(system(batch).loss, system(batch).loss)
    head = system.train().head
    assert not torch.equal(head.prepare(batch).inputs["text"], head.prepare(batch).inputs["text"])


@pytest.mark.parametrize("kind", ["electra", "deberta"])
def test_replaced_tokens_of_one_batch_are_learnt(kind, batch):
    system = make(kind, sharing="tied" if kind == "electra" else "disentangled")
    optimizer = torch.optim.Adam(system.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        output = system(batch)
        output.loss.backward()
        optimizer.step()
        system.head.after_step()
    assert output.metrics["mlm_loss"] < 2.0 and output.metrics["rtd_accuracy"] > 0.9


def test_a_generator_of_another_context_length_is_refused():
    with pytest.raises(zoo.ConfigError, match=r"its table positions has shape \[20, 24\], but that of the encoder \[12, 24\]"):
        make(generator={"name": "electra", "context_length": 20, "dim": 16, "depth": 1, "num_heads": 2, "embedding_dim": 24})


@pytest.mark.parametrize(
    ("head", "words"),
    [
        ({"sharing": "half"}, "sharing: there is no 'half'"),
        (
            {"generator": {"name": "electra", "dim": 16, "num_heads": 2, "context_length": 12}},
            r"its table positions has shape \[12, 16\], but that of the encoder \[12, 24\]",
        ),
        ({"generator": {"name": "vit"}}, "generator: 'vit' is no text encoder"),
    ],
)
def test_generators_that_do_not_fit_are_refused(head, words):
    with pytest.raises(zoo.ConfigError, match=words):
        make(**head)


def test_a_batch_without_masked_tokens_names_the_setting():
    with pytest.raises(zoo.DataError, match=r"data.masking=\{mask_share: 1.0"):
        make()(Batch({"text": torch.ones(1, 4, dtype=torch.int64)}))


def test_probabilities_of_replacement_stand_beside_the_tokens():
    system = make().eval()
    system.processor.fit(["a small text of words", "and one more"] * 3)
    ((first, *_),) = system.find_replaced("a small text")
    assert isinstance(first[0], str) and 0 < first[1] < 1


def test_the_discriminator_of_the_small_model_has_the_references_size():
    assert summarize("electra_small").parameters + 256 * 256 + 256 + 256 + 1 == 13_549_057
