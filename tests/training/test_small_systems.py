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
    **dict.fromkeys(
        ("gpt1_nano", "gpt2_nano", "mistral_nano", "qwen3_nano", "gemma3_nano", "mixtral_nano", "rwkv4_nano", "rwkv7_nano"), {}
    ),
    **dict.fromkeys(("smollm2_135m", "qwen2_0_5b", "phi3_mini_4k"), LLAMA),
    "gpt3_125m": SIZES,
}
IMAGES = {  # encoders of a classifier
    "pvig_nano": {},
    "timm_nano": {},
    "vit_small_patch14_dinov2": {"image_size": 28, "dim": 64, "depth": 2, "num_heads": 2},
    "fusion_nano": {},
}
TRAINED = {"tokenizer": "trained", "pad_token_id": 0, "eot_token_id": 2}  # in place of the tokenizer that comes with published weights
SYSTEMS = {  # published systems, with the overrides that make them small
    "kosmos_2": [
        *("system.processor.conversation.tokenizer=trained", "system.head.connectors.image.num_latents=4"),
        *(f"system.head.language.{key}={value}" for key, value in SIZES.items()),
        *(f"system.encoders.image.{key}={value}" for key, value in IMAGES["vit_small_patch14_dinov2"].items()),
        "system.encoders.image.patch_size=7",
    ],
    "marian": [
        *(f"system.processor.{part}.{key}={value}" for part in ("text", "target_text") for key, value in TRAINED.items()),
        *("system.processor.target_text.start_token_ids=[0]", "system.processor.target_text.generation.suppress_tokens=[0]"),
        *(f"system.encoders.text.{key}={value}" for key, value in {**SIZES, "hidden_dim": 128}.items()),
        *(f"system.head.{key}={value}" for key, value in {"depth": 2, "num_heads": 4, "head_dim": 16, "hidden_dim": 128}.items()),
    ],
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
    for name, words in SYSTEMS.items():
        yield case(name, [name, words], [name])


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


def together_and_alone(system, compute):
    """Return what a system computes for a batch, and for its items one by one."""
    numbers = range(3)
    together = compute(batch_of(system, numbers))  # also fits the tokenizers, which the items alone share
    return together, torch.cat([compute(batch_of(system, [number])) for number in numbers])


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.card(n, "batch-invariant")) for n in ("caption_nano", "speech_seq2seq_nano", *SYSTEMS)]
)
@torch.no_grad()
def test_an_item_in_a_batch_has_the_logits_of_the_item_alone(name, card_figure):
    torch.manual_seed(0)
    system = zoo.create_system(name, SYSTEMS.get(name, [])).eval()

    def logits(batch):
        encoded = system.encode_batch(batch)
        return system.head.predictions(encoded, batch).logits if system.head.language else system.head(encoded, batch).outputs["logits"]

    together, alone = together_and_alone(system, logits)
    largest, scale = (together - alone).abs().max().item(), together.abs().max().item()
    card_figure(f"max difference {largest / scale:.1e} of the largest logit")
    assert together.std(0).max() > 0.01 * scale, "the logits depend on the item"
    assert largest < 1e-5 * scale
