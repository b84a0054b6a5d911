"""Small language system, a copy with other weights, and batches of chosen and rejected answers about images."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import zoo
from zoo.layers.splice import splice
from zoo.processors.chat.messages import Conversation, Message
from zoo.types import Sample

TEXTS = [("what is it?", "a red ball", "no idea"), ("how many?", "two", "about seven of them"), ("is it dark?", "yes", "no")]


def samples():
    """Answers 0 and 1 of the first prompt, and so on; each prompt shows a picture of its own."""
    found = []
    for number, (question, *answers) in enumerate(TEXTS):
        image = np.full((16, 16, 3), 40 * number, dtype=np.uint8)
        for place, answer in enumerate(answers):
            said = (Message("user", f"<image>\n{question}"), Message("assistant", answer))
            conversation = Conversation(said, (image,), id=f"{number}:{place}")
            found.append(Sample(conversation.id, {"conversation": conversation}, group=number, label=1 - place))
    return found


def system(seed):
    torch.manual_seed(seed)
    made = zoo.create_system("llava_nano")
    made.processor.fit([text for row in TEXTS for text in row])
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return made.eval()


def batch_of(model, chosen):
    return model.processor.collate(chosen, [model.processor.items(sample) for sample in chosen])


@pytest.fixture(scope="session")
def talking():
    """The models ``policy`` and ``reference``, and ``batch(rows)`` of the six answers."""
    policy, everything = system(0), samples()
    return SimpleNamespace(
        policy=policy,
        reference=system(1),
        samples=everything,
        batch=lambda rows=range(6): batch_of(policy, [everything[row] for row in rows]),
    )


@pytest.fixture
def log_probability(talking):
    """Of one answer given its prompt, from the logits of the whole conversation."""

    @torch.no_grad()
    def found(model, row, per_token=False):
        batch = batch_of(talking.policy, [talking.samples[row]])
        ids, supervised = batch.inputs["text"][0], batch.targets["supervised"][0]
        shown = {m: model.head.connectors[m](e.tokens, e.mask) for m, e in model.encode_batch(batch).items()}
        vectors = splice(ids[None], model.head.language.embed(ids[None]), shown)
        logits = model.head.language.logits(model.head.language(vectors))[0].log_softmax(-1)
        places = supervised.nonzero()[:, 0]
        each = logits[places - 1, ids[places]]
        return float(each.mean() if per_token else each.sum())

    return found


@pytest.fixture
def trained(talking):
    """An objective's output for a batch, with the reference's targets in it."""

    def run(objective, rows=range(6)):
        batch, reference, policy = talking.batch(rows), talking.reference, talking.policy
        with torch.no_grad():
            batch.targets |= objective.frozen_targets(reference.head, reference.encode_batch(batch), batch)
        return objective(policy.head, policy.encode_batch(batch), batch)

    return run
