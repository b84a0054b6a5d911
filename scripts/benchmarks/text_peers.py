"""Texts beside outside libraries: CLIP's text tower, MiniLM, and SmolLM2's decoding beside llama.cpp."""

import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import torch
from benchmarks.clip import WORDS
from benchmarks.comparison import Candidate, Make, Row
from benchmarks.decoding import PRECISIONS, perplexity, prepared, read_windows, step_of
from benchmarks.image_peers import COSINE, encoder_candidates, projected
from benchmarks.job import need
from benchmarks.quality import glosses
from torch import Tensor, nn

import zoo
from zoo.assembly.create import create_model
from zoo.data.system_processor import CONVERSATION
from zoo.downloads.fetching import fetched
from zoo.interop.clip import open_clip as open_clip_weights
from zoo.storage.tensors import load_strictly

CONTEXT, NEW, QUALITY_TOKENS = 320, 16, 512
GGUF = {"F16": "gguf_f16", "Q8_0": "gguf_q8_0"}  # type of the matrices -> our export


class OpenClipText(nn.Module):
    """Text tower of open_clip as a module of its own."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        """Return the vectors [texts, dim]."""
        return self.model.encode_text(ids)


def clip_text(size: int) -> list[Make]:
    """Return the makers of the text tower of CLIP ViT-B/32 on ``size`` prompts.

    Other libraries pad them to 77 tokens, zoo to the longest, as its text processor does.
    """
    open_clip = need("open_clip", "open_clip_torch")
    reference = open_clip.create_model("ViT-B-32-quickgelu").eval()
    system = create_model("clip_vit_b32")
    load_strictly(system, open_clip_weights.to_zoo(reference.state_dict()), origin="open_clip")
    prompts = [f"a photo of a {WORDS[number % len(WORDS)]} near the {WORDS[-1 - number // len(WORDS)]}" for number in range(size)]
    ids = open_clip.get_tokenizer("ViT-B-32-quickgelu")(prompts)
    short = ids[:, : int(ids.argmax(1).max()) + 1]  # the end symbol has the largest id
    vectors = partial(projected, "text")
    return encoder_candidates(OpenClipText(reference), system.eval(), (ids,), "open_clip", ("fp32",), vectors, (short,))


class Sentences(nn.Module):
    """Model of sentence-transformers as a function of ids and mask."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the vectors [texts, dim]."""
        return self.model({"input_ids": ids, "attention_mask": mask})["sentence_embedding"]


def minilm(size: int) -> list[Make]:
    """Return the makers of MiniLM's published weights on ``size`` definitions of WordNet as token ids, padded to the longest."""
    module = need("sentence_transformers", "sentence-transformers")
    folder = str(fetched("minilm"))
    reference = Sentences(module.SentenceTransformer(folder, device="cpu")).eval()
    encoder: Any = zoo.load(folder)
    ids, mask = encoder.processor["text"](glosses(size))
    return encoder_candidates(reference, encoder, (ids, mask.long()), "sentence-transformers", ("fp32",), our_inputs=(ids, mask))


def language(job: str) -> Callable[[int], list[Make]]:
    """Return the row's makers for SmolLM2-135M's published weights (Q4_1): "decode" or "prefill".

    decode: the next 16 tokens of one text after a context of ``size`` tokens. prefill: those ``size`` tokens and the first next one.
    llama.cpp reads the published file, and files with the same values in other types that zoo writes.
    """

    def make(size: int) -> list[Make]:
        folder = fetched("smollm2")
        system: Any = zoo.load(folder)
        windows = read_windows(fetched("wordnet") / "lines.txt", system.processor[CONVERSATION].tokenizer, QUALITY_TOKENS)
        prompt = windows.flatten()[:size]
        published = next(Path(folder).glob("*.gguf"))

        def theirs(kind: str) -> Candidate:
            need("xllamacpp", "xllamacpp")
            with tempfile.TemporaryDirectory() as name:
                path = published if kind == "Q4_1" else zoo.export(system, Path(name) / "gguf", GGUF[kind]) / "model.gguf"
                complete = llama_cpp(path, prompt.tolist(), NEW if job == "decode" else 1, keep=job == "decode")
                complete()  # computes the context, and reads all weights before the file is deleted
            return Candidate("llama.cpp", kind, complete)

        def ours(precision: str) -> Candidate:
            model: Any = prepared(system.head.language, precision, ())
            return Candidate("zoo", precision, JOBS[job](model, prompt[None]), partial(perplexity, model, windows))

        return [*(partial(theirs, kind) for kind in ("F16", "Q8_0", "Q4_1")), *(partial(ours, precision) for precision in PRECISIONS)]

    return make


@torch.inference_mode()
def decoding(model: Any, prompt: Tensor) -> Callable[[], Tensor]:
    """Compute the context, and return a function that gives the likeliest next tokens [NEW]."""
    cache = model.new_cache(1, prompt.shape[1] + NEW)
    model(prompt, cache=cache)

    @torch.inference_mode()
    def run() -> Tensor:
        cache.crop(prompt.shape[1] - 1)
        tokens = [prompt[:, -1:]]
        for _ in range(NEW):
            tokens.append(step_of(model, tokens[-1], cache))
        return torch.cat(tokens[1:], dim=1)[0]

    return run


def prefilling(model: Any, prompt: Tensor) -> Callable[[], Tensor]:
    """Return a function that computes the context and gives the likeliest next token [1, 1]."""

    @torch.inference_mode()
    def run() -> Tensor:
        return step_of(model, prompt, model.new_cache(1, prompt.shape[1]))

    return run


def llama_cpp(path: Path, prompt: list[int], count: int, *, keep: bool) -> Callable[[], list[int]]:
    """Return a function that asks llama.cpp's server, which runs in this process, for the greedy next tokens.

    Args:
        path: of a GGUF file.
        prompt: token ids.
        count: number of tokens.
        keep: keep the context between calls, so that only the new tokens are computed.
    """
    library = need("xllamacpp", "xllamacpp")
    settings = library.CommonParams()
    settings.model.path, settings.n_ctx, settings.n_parallel, settings.warmup = str(path), 2 * (len(prompt) + count), 1, False
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = torch.get_num_threads()
    settings.verbosity = -1
    server = library.Server(settings)
    body = {"prompt": prompt, "n_predict": count, "temperature": 0.0, "top_k": 1, "return_tokens": True, "ignore_eos": True}
    data = json.dumps(body | {"cache_prompt": keep}).encode()

    def run() -> list[int]:
        request = Request(server.listening_address + "/completion", data, {"Content-Type": "application/json"})
        with urlopen(request) as answer:
            return json.load(answer)["tokens"]

    return run


JOBS: dict[str, Callable[[Any, Tensor], Callable[[], Tensor]]] = {"decode": decoding, "prefill": prefilling}
ROWS = {
    "clip_text": Row("CLIP B/32, {size} prompts", clip_text, 80, COSINE, card="clip"),
    "minilm": Row("MiniLM, {size} sentences", minilm, 32, COSINE, card="bert"),
    "decode": Row(f"SmolLM2-135M, {NEW} tokens after {{size}}", language("decode"), CONTEXT, "perplexity", "{:.2f}", card="smollm2"),
    "prefill": Row("SmolLM2-135M, prefill of {size} tokens", language("prefill"), CONTEXT, "perplexity", "{:.2f}", card="smollm2"),
}
