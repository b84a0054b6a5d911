"""Every small system learns a batch, and a saved state continues bit for bit: the lines "trains" and "resumes exactly" of the cards."""

import pytest
import torch
from system_batches import batch_of

import zoo
import zoo.testing
from zoo.evaluation.results.card_families import family_of
from zoo.registry import rows
from zoo.training.accelerator import make_accelerator
from zoo.training.parallel import ParallelModel
from zoo.training.settings import TrainingSettings
from zoo.training.state import load_state, save_state
from zoo.types import Part

STEPS, HALF = 16, 10
RATE = 3e-3
SIZES = {"vocab_size": 512, "context_length": 256, "dim": 64, "depth": 2, "num_heads": 4}
LLAMA = {**SIZES, "num_kv_heads": 2, "hidden_dim": 128}
LANGUAGES = {  # language models behind LLaVA, with the sizes that make a published row small
    **dict.fromkeys(("gpt2_nano", "mistral_nano", "qwen3_nano", "gemma3_nano", "mixtral_nano", "rwkv7_nano"), {}),
    **dict.fromkeys(("smollm2_135m", "qwen2_0_5b", "phi3_mini_4k"), LLAMA),
    "gpt3_125m": SIZES,
}
IMAGES = {  # encoders of a classifier
    "pvig_nano": {},
    "timm_nano": {},
    "vit_small_patch14_dinov2": {"image_size": 28, "dim": 64, "depth": 2, "num_heads": 2},
}


def cases():
    """Every small system, and every further part in one; each decides the cards of its system and parts, or of the further part."""
    for name, row in rows("system").items():
        if "nano" in name:
            language = row.arguments.get("language")
            parts = [name, *row.arguments["encoders"].values(), *([] if language is None else [language])]
            yield case(name, [name], dict.fromkeys(map(family_of, parts)))
    for group, system, place, parts in (
        ("language", "llava_nano", "system.head.language", LANGUAGES),
        ("encoder", "classifier_vit_nano", "system.encoders.image", IMAGES),
    ):
        for part, sizes in parts.items():
            words = [f"{group}@{place}={part}", *(f"{place}.{key}={value}" for key, value in sizes.items())]
            yield case(part, [system, words], [part])


def case(name, arguments, cards):
    marks = [pytest.mark.card(card, capability) for card in cards for capability in ("trains", "resumes exactly")]
    return pytest.param(arguments, id=name, marks=marks)


class Run:
    """A system with its optimizer, and the losses of the steps taken so far."""

    def __init__(self, arguments, folder, seed):
        torch.manual_seed(seed)
        self.system = zoo.create_system(*arguments)
        self.batch = batch_of(self.system)
        settings = TrainingSettings(max_steps=STEPS, batch_size=len(self.batch), learning_rate=RATE, weight_decay=0.0)
        self.accelerator = make_accelerator(settings, folder)
        self.parallel = ParallelModel(self.system, settings, self.accelerator)
        self.losses = []

    def steps(self, number):
        self.parallel.wrapped.train()
        for _ in range(number):
            loss = self.parallel.wrapped(self.batch).loss
            self.accelerator.backward(loss)
            self.accelerator.clip_grad_norm_(self.system.parameters(), 1.0)
            self.parallel.optimizer.step()
            self.parallel.optimizer.zero_grad()
            for part in (module for module in self.system.modules() if isinstance(module, Part)):
                part.after_step()
            self.losses.append(loss.item())
        return self

    def weights(self):
        return {name: tensor.detach().clone() for name, tensor in self.system.state_dict().items()}


@pytest.mark.parametrize("arguments", list(cases()))
def test_a_small_system_learns_a_batch_and_its_state_continues_bit_for_bit(arguments, tmp_path, card_figure, request):
    """Dropout and sampling draw from the random state, which is part of the saved state."""
    run = Run(arguments, tmp_path, seed=0)
    before = run.weights()
    run.steps(HALF)
    save_state(run.accelerator, tmp_path, {"step": HALF, "best": 0.0, "hashes": {}})
    run.steps(STEPS - HALF)
    whole, first, last = run.weights(), run.losses[0], min(run.losses[-3:])
    moved = {part for part, tensor in whole.items() if not torch.equal(tensor, before[part])}
    assert last < 0.9 * first, run.losses
    assert all(any(key.startswith(f"encoders.{modality}.") for key in moved) for modality in run.system.encoders)
    again = Run(arguments, tmp_path, seed=1)
    load_state(again.accelerator, tmp_path, again.parallel.state, is_sharded=False)
    again.steps(STEPS - HALF)
    assert again.losses == run.losses[HALF:]
    assert all(torch.equal(tensor, whole[key]) for key, tensor in again.weights().items())
    name = request.node.callspec.id
    card_figure(f"{name} on one batch, {STEPS} steps: loss {first:.2f} to {last:.2f}", "trains")
    card_figure(f"{name} from a state of step {HALF}: steps {HALF + 1} to {STEPS} bit-equal", "resumes exactly")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.card(n, "batch-invariant")) for n, sizes in LANGUAGES.items() if sizes])
def test_a_published_row_made_small_keeps_the_contract(name):
    zoo.testing.check_language(zoo.create_model(name, **LANGUAGES[name]))


@pytest.mark.card("dinov2", "batch-invariant")
def test_a_small_dinov2_keeps_the_contract():
    zoo.testing.check_encoder(zoo.create_model("vit_small_patch14_dinov2", **IMAGES["vit_small_patch14_dinov2"]))
