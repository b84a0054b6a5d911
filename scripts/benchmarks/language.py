"""Generation as LLaVA does it: vectors of an image before a question, and greedy tokens, against transformers."""

import torch
from benchmarks.job import Entry, Job, need

from zoo.build import create_model
from zoo.checkpoint import load_strictly
from zoo.convert import transformers_causal_lm
from zoo.language.generation import generate
from zoo.language.sampling import Sampling

MODEL = "smollm2_135m"
IMAGE_TOKENS, QUESTION_TOKENS, NEW_TOKENS = 256, 64, 64
PLACEHOLDER = -200


def generation(size: int) -> Job:
    """Answers of 64 tokens to ``size`` prompts of 256 image vectors and 64 tokens, by SmolLM2-135M with random weights.

    The peer is ``LlamaForCausalLM.generate`` with ``use_cache``, from ``inputs_embeds``. The difference is the share of tokens that are
    not equal.
    """
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


ENTRIES = {
    "generation": Entry(generation, 1, "transformers generate, SmolLM2-135M", 0.0, "llava_smollm2"),
    "generation_batch8": Entry(generation, 8, "transformers generate, SmolLM2-135M", 0.0),
}
