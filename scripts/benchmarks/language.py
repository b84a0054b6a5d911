"""Multimodal language-model benchmarks against transformers: generation with LLaVA, training of Kosmos on documents of unequal length."""

from itertools import cycle, islice
from types import SimpleNamespace
from typing import Any

import torch
from benchmarks.job import Entry, Job, need

from zoo.assembly.build import build_system
from zoo.assembly.create import create_model
from zoo.interop.causal_lm import transformers_causal_lm
from zoo.interop.kosmos2 import names as transformers_kosmos2
from zoo.language.decoding.generate import generate
from zoo.language.decoding.sampling import Sampling
from zoo.storage.tensors import load_strictly
from zoo.types import IGNORED, PLACEHOLDER_IDS, SUPERVISED, Batch

MODEL = "smollm2_135m"
IMAGE_TOKENS, QUESTION_TOKENS, NEW_TOKENS = 256, 64, 64
CONTEXT, STEPS = 320, 16  # tokens in the cache, and tokens that are timed
PLACEHOLDER = PLACEHOLDER_IDS["image"]
LENGTHS = (512, 180, 300, 420, 96, 260, 350, 236)  # tokens per document; padding to the longest multiplies the tokens by 1.74
LATENTS, EVERY = 16, 96  # tokens per image, and tokens between two images
START, PAD, END, OPEN, CLOSE, FIRST_WORD = 0, 1, 2, 3, 4, 5  # ids


def generation(size: int) -> Job:
    """Generate 64 tokens for each of ``size`` prompts of 256 image vectors and 64 tokens, with SmolLM2-135M and random weights.

    The reference is ``LlamaForCausalLM.generate`` with ``use_cache``, from ``inputs_embeds``. The difference is the fraction of unequal
    tokens.
    """
    ours, theirs = _pair()
    question = torch.randint(ours.vocab_size, (size, QUESTION_TOKENS))
    with torch.no_grad():
        vectors = torch.cat([torch.randn(size, IMAGE_TOKENS, ours.dim) * 0.02, ours.embed(question)], dim=1)
    ids = torch.cat([torch.full((size, IMAGE_TOKENS), PLACEHOLDER), question], dim=1)
    mask, sampling = torch.ones_like(ids), Sampling(max_new_tokens=NEW_TOKENS)
    words = {"do_sample": False, "use_cache": True, "max_new_tokens": NEW_TOKENS, "eos_token_id": None, "pad_token_id": 0}

    @torch.inference_mode()
    def peer() -> torch.Tensor:
        return theirs.generate(inputs_embeds=vectors, attention_mask=mask, **words)

    def answers() -> torch.Tensor:
        return torch.tensor([answer.ids for answer in generate(ours, list(vectors), list(ids), sampling)])

    return Job(peer, answers, lambda: (peer() != answers()).float().mean().item())


def decoding(size: int) -> Job:
    """Compute the logits of 16 given tokens, one after the other, of ``size`` rows with 320 tokens in the cache.

    The reference is ``LlamaForCausalLM`` with its cache. The difference is that of the logits.
    """
    ours, theirs = _pair()
    prompt, tokens = torch.randint(ours.vocab_size, (size, CONTEXT)), torch.randint(ours.vocab_size, (STEPS, size, 1))
    cache, past = ours.new_cache(size, CONTEXT + STEPS), need("transformers", "transformers").DynamicCache()
    with torch.inference_mode():
        ours(prompt, cache=cache)
        theirs(input_ids=prompt, past_key_values=past)

    @torch.inference_mode()
    def peer() -> torch.Tensor:
        past.crop(CONTEXT)
        return torch.stack([theirs(input_ids=token, past_key_values=past).logits[:, -1] for token in tokens])

    @torch.inference_mode()
    def steps() -> torch.Tensor:
        cache.crop(CONTEXT)
        return torch.stack([ours.logits(ours(token, cache=cache)[:, -1]) for token in tokens])

    return Job(peer, steps, lambda: (peer() - steps()).abs().max().item())


def prefill(size: int) -> Job:
    """Compute a prompt of ``size`` tokens and the logits of the next token; the difference is that of the logits."""
    ours, theirs = _pair()
    prompt = torch.randint(ours.vocab_size, (1, size))

    @torch.inference_mode()
    def peer() -> torch.Tensor:
        return theirs(input_ids=prompt, use_cache=True, logits_to_keep=1).logits[:, -1]

    @torch.inference_mode()
    def first() -> torch.Tensor:
        return ours.logits(ours(prompt, cache=ours.new_cache(1, size))[:, -1])

    return Job(peer, first, lambda: (peer() - first()).abs().max().item())


def _pair() -> tuple[Any, Any]:
    """Return SmolLM2-135M with random weights, and transformers' model with the same weights."""
    transformers = need("transformers", "transformers")
    ours = create_model(MODEL)
    theirs = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=ours.vocab_size,
            hidden_size=ours.dim,
            num_hidden_layers=30,
            num_attention_heads=9,
            num_key_value_heads=3,
            intermediate_size=1536,
            max_position_embeddings=ours.context_length,
            rms_norm_eps=1e-5,
            rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
            tie_word_embeddings=True,
        )
    ).eval()
    load_strictly(ours, transformers_causal_lm.to_zoo(theirs.state_dict(), tied=True), origin="transformers")
    return ours.eval(), theirs


def kosmos(size: int) -> Job:
    """Run forward and backward of a small Kosmos-2 with random weights on ``size`` interleaved documents of unequal length.

    The reference is ``Kosmos2ForConditionalGeneration``, whose batch is padded to the longest document. The loss is over all text tokens.
    The output projection takes a similar fraction of the compute as in Kosmos-1 (table 17). The difference is the larger one of the
    difference of losses and that of the gradients of the token embedding.
    """
    transformers = need("transformers", "transformers")
    text = {"vocab_size": 4096, "max_position_embeddings": 512, "embed_dim": 384, "layers": 6, "ffn_dim": 1536, "attention_heads": 6}
    vision = {"image_size": 56, "patch_size": 14, "hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 4}
    theirs = transformers.Kosmos2ForConditionalGeneration(
        transformers.Kosmos2Config(
            text_config={**text, "dropout": 0.0, "attention_dropout": 0.0},
            vision_config={**vision, "num_attention_heads": 3},
            latent_query_num=LATENTS,
        )
    ).train()
    theirs.image_to_text_projection.x_attn.is_causal = False  # 5.17: else only eager attention sees the whole image
    ours = build_system({"name": "small", **transformers_kosmos2.system(theirs.config.to_dict())}).train()
    load_strictly(ours, transformers_kosmos2.to_zoo(theirs.state_dict()), origin="transformers")
    ours.head.conversation = SimpleNamespace(spans={"image": (OPEN, CLOSE)}, template_name="kosmos")  # read by the check of image positions
    documents = [_document(length, text["vocab_size"]) for length in islice(cycle(LENGTHS), size)]
    ids = torch.nn.utils.rnn.pad_sequence(documents, batch_first=True, padding_value=PAD)
    mask, slots = ids != PAD, ids == PLACEHOLDER
    pixels = torch.randn(int((ids == OPEN).sum()), 3, vision["image_size"], vision["image_size"])
    supervised = mask & ~slots & (ids != START)
    batch = Batch({"text": ids, "image": pixels}, {"text": mask}, {SUPERVISED: supervised})
    given = {"input_ids": ids.masked_fill(slots, FIRST_WORD), "attention_mask": mask.long(), "image_embeds_position_mask": slots.long()}

    def peer() -> tuple[torch.Tensor, torch.Tensor]:
        theirs.zero_grad()
        loss = theirs(pixel_values=pixels, **given, labels=ids.masked_fill(~supervised, IGNORED)).loss
        loss.backward()
        return loss.detach(), theirs.text_model.model.embed_tokens.weight.grad

    def step() -> tuple[torch.Tensor, torch.Tensor]:
        ours.zero_grad()
        loss = ours(batch).loss
        loss.backward()
        return loss.detach(), ours.head.language.embedding.weight.grad

    return Job(peer, step, lambda: max((a - b).abs().max().item() for a, b in zip(peer(), step(), strict=True)))


def _document(length: int, vocab_size: int) -> torch.Tensor:
    """Return ``length`` ids of a document: ``<s>``, text with an image after every 96 tokens, ``</s>``."""
    ids = torch.randint(FIRST_WORD, vocab_size, (length,))
    ids[0], ids[-1] = START, END
    for place in range(1, length - LATENTS - 2, EVERY + LATENTS + 2):
        ids[place : place + LATENTS + 2] = torch.tensor([OPEN, *[PLACEHOLDER] * LATENTS, CLOSE])
    return ids


ENTRIES = {
    "generation": Entry(generation, 1, "transformers generate, SmolLM2-135M", 0.0, "smollm2_135m"),
    "generation_batch8": Entry(generation, 8, "transformers generate, SmolLM2-135M", 0.0),
    "decode": Entry(decoding, 1, "transformers, SmolLM2-135M", 1e-3),
    "decode_batch8": Entry(decoding, 8, "transformers, SmolLM2-135M", 1e-3),
    "prefill": Entry(prefill, 320, "transformers, SmolLM2-135M", 1e-3),
    "kosmos": Entry(kosmos, 8, "transformers Kosmos2ForConditionalGeneration, padded", 1e-5, "kosmos_2"),
}
