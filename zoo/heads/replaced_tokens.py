"""Replaced-token detection: a small generator fills masked tokens, and the encoder finds those that it got wrong (ELECTRA, DeBERTa v3).

Papers: Clark et al. 2020 (ELECTRA, arXiv 2003.10555), section 2; He et al. 2021 (DeBERTa v3, arXiv 2111.09543), section 3.2. References:
transformers 5.17, ``ElectraForPreTraining`` and ``ElectraForMaskedLM``; google-research/electra, ``run_pretraining.py``.

Where we differ: both losses are computed in one step, also for DeBERTa v3, which alternates two optimizer steps. The data pipeline chooses
the masked positions (``zoo.data.masking``; the papers use ``mask_share: 1.0, random_share: 0.0``).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from zoo.errors import ConfigError, name_choices
from zoo.layers.mlp import find_activation
from zoo.losses.distributed import divided_like, full_tensor, share_of_mean
from zoo.registry import find_part, register
from zoo.registry.construct import build_part
from zoo.types import (
    IGNORED,
    MASKED,
    PREFIXES,
    Accepts,
    Batch,
    Encoded,
    EncoderSpec,
    Head,
    HeadOutput,
    SystemLike,
    Wiring,
    need_encoded,
    on_host,
    send,
)

REPLACED = "replaced"  # in ``Batch.targets``: True at tokens that differ from the original ones [B, L] bool
GENERATOR_LOSS, GENERATOR_ACCURACY = "generator_loss", "generator_accuracy"  # in ``Batch.targets``: scalars of the generator
SHARINGS = ("tied", "disentangled", "none")
TABLES = ("embedding.weight", "positions", "types")  # parameters of the encoder that a tied generator uses in place of its own
WORDS = TABLES[0]


@register("head")
class ReplacedTokens(Head):
    """Binary classification of every token as original or replaced, and masked language modelling of the generator that replaces them.

    ``prepare`` runs the generator on the masked text and puts its samples into the batch; the encoder then reads the corrupted text. A
    sample that equals the original token counts as original. No gradient flows through the sampling.

    Args:
        inputs: output spec of the text encoder, under the key "text".
        generator: config of a smaller text encoder, ``{name: electra, dim: 64, ...}``; its ``vocab_size`` is the encoder's. None: there is
            no generator, and the batch must say which tokens are replaced.
        sharing: "tied": the generator uses the encoder's tables of words, positions and types (ELECTRA). "disentangled": the generator has
            a word table, and the encoder's is that table plus a difference; the generator's loss moves both, that of the encoder only the
            difference (DeBERTa v3). "none": separate tables.
        weight: factor on the loss of the detection; 50 in both papers.
        activation: of the dense layers.
        eps: added to the variance in the norm of the generator's decoder.

    Raises:
        ConfigError: the generator does not fit the encoder, or an option is unknown.
        DataError: (forward) the batch lacks masked tokens, or, without a generator, the labels.
    """

    accepts = Accepts(modalities=("text",), reads="tokens")
    verbs = ("find_replaced",)
    silent_keywords = ("activation", "eps")

    def __init__(
        self,
        *,
        inputs: Mapping[str, EncoderSpec],
        generator: Mapping[str, Any] | None = None,
        sharing: str = "tied",
        weight: float = 50.0,
        activation: str = "gelu",
        eps: float = 1e-12,
    ) -> None:
        super().__init__()
        if sharing not in SHARINGS:
            raise ConfigError(f"sharing: there is no {sharing!r}; {name_choices(sharing, SHARINGS)}")
        spec = inputs["text"]
        self.sharing, self.weight = sharing, weight
        self.needs_masking = generator is not None
        self.activation = find_activation(activation)
        self.dense = nn.Linear(spec.dim, spec.dim)
        self.score = nn.Linear(spec.dim, 1)
        self.generator: Any = None
        # A tuple hides the encoder from nn.Module. As a submodule, its weights would be saved and optimised twice.
        self._encoder: tuple[Any, ...] = ()
        self._before: Tensor | None = None
        self._shared: dict[str, torch.Size] = {}  # tables of the encoder that the generator shares, with the shapes that fit
        if generator is not None:
            self._build_generator(generator, spec, eps)
        for module in (self.dense, self.score):
            _initialise(module)

    def _build_generator(self, config: Mapping[str, Any], spec: EncoderSpec, eps: float) -> None:
        if spec.vocab_size is None:
            raise ConfigError("generator: the text encoder has no word table; choose encoder electra, deberta or bert")
        part: Any = find_part("encoder", str(config.get("name")), "generator.name")
        if part.modality != "text":
            raise ConfigError(f"generator: {config.get('name')!r} is no text encoder; choose electra, deberta or bert")
        self.generator = build_part("encoder", {**config, "vocab_size": spec.vocab_size}, "generator")
        theirs = self.generator.word_dim
        if theirs is None:
            raise ConfigError(f"generator: {config.get('name')!r} has no word table that a head may read; choose electra, deberta or bert")
        if self.sharing == "tied":
            self._shared = _take_tables_out(self.generator)
        elif self.sharing == "disentangled":
            self._shared = {WORDS: self.generator.get_parameter(WORDS).shape}
        self.generator_dense = nn.Linear(self.generator.dim, theirs)
        self.generator_norm = nn.LayerNorm(theirs, eps=eps)
        self.generator_bias = nn.Parameter(torch.zeros(spec.vocab_size))
        _initialise(self.generator_dense)

    @torch.no_grad()
    def connect(self, wiring: Wiring) -> None:
        """Connect the generator with the tables of the text encoder.

        Raises:
            ConfigError: a table of the encoder does not fit the generator.
        """
        first, self._encoder = not self._encoder, (wiring.encoders["text"],)
        if self.generator is None or self.sharing == "none":
            return
        for name, shape in self._shared.items():
            ours = dict(self._encoder[0].named_parameters()).get(name)
            if ours is None or ours.shape != shape:
                has = "none" if ours is None else list(ours.shape)
                raise ConfigError(
                    f"generator: its table {name} has shape {list(shape)}, but that of the encoder {has}; give both the same width of "
                    "words (embedding_dim of electra), context_length and num_types, or set sharing=none"
                )
        if self.sharing == "disentangled" and first:  # the difference between the tables starts at zero
            self._encoder[0].get_parameter(WORDS).copy_(self.generator.get_parameter(WORDS))

    def prepare(self, batch: Batch) -> Batch:
        """Replace the masked tokens of a batch by samples of the generator.

        Raises:
            ConfigError: the texts are to be read in one direction.
            DataError: the batch has no masked tokens.
        """
        if PREFIXES in batch.targets:
            raise ConfigError("data.masking.directions: head 'replaced_tokens' reads in both directions; set directions=null")
        if self.generator is None or REPLACED in batch.targets:
            return batch
        token_ids, mask = batch.inputs["text"], batch.masks.get("text")
        labels = batch.need(MASKED, "head 'replaced_tokens'", "set data.masking={mask_share: 1.0, random_share: 0.0}")
        if self.sharing == "disentangled" and self.training:
            self._before = self.generator.get_parameter(WORDS).detach().clone()
        if labels.is_meta:  # meta tensors have no values to select by
            places = torch.arange(labels.numel(), device="meta")
        else:
            places = send((on_host(labels) != IGNORED).flatten().nonzero()[:, 0], labels.device)
        wanted = labels.flatten()[places]
        logits = self.generator_logits(token_ids, mask, places)
        loss = F.cross_entropy(logits, wanted, reduction="sum") / max(len(wanted), 1)  # not the mean: NaN without masked tokens
        loss = share_of_mean(loss, len(wanted))
        sampled = self._sample(logits.detach())
        corrupted = token_ids.flatten().scatter(0, places, sampled).view_as(token_ids)
        replaced = torch.zeros_like(token_ids, dtype=torch.bool).flatten().scatter(0, places, sampled != wanted).view_as(token_ids)
        hits = (sampled == wanted).float().mean() if len(wanted) else loss.new_zeros(())
        found = {REPLACED: replaced, GENERATOR_LOSS: loss, GENERATOR_ACCURACY: hits}
        return replace(batch, inputs={**batch.inputs, "text": corrupted}, targets={**batch.targets, **found})

    def generator_logits(
        self, token_ids: Int[Tensor, "batch length"], mask: Bool[Tensor, "batch length"] | None, places: Int[Tensor, " chosen"]
    ) -> Float[Tensor, "chosen vocab_size"]:
        """Return the generator's logits at positions of the flat batch, in fp32 or wider."""
        tied = self.sharing == "tied"
        if tied:
            tables = {name: self._encoder[0].get_parameter(name) for name in self._shared}
            encoded: Encoded = torch.func.functional_call(self.generator, tables, (token_ids, mask))
        else:
            encoded = self.generator(token_ids, mask)
        vectors = encoded.tokens.flatten(0, 1)[places]
        x = self.generator_norm(self.activation(self.generator_dense(vectors)))
        logits = (self._encoder[0] if tied else self.generator).word_logits(x) + self.generator_bias
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def _sample(self, logits: Float[Tensor, "chosen vocab_size"]) -> Int[Tensor, " chosen"]:
        """Draw a token from each distribution by the Gumbel maximum; in evaluation mode the same draw each time."""
        generator = None
        if not self.training and not logits.is_meta:
            generator = torch.Generator(logits.device).manual_seed(0)
        noise = torch.rand(logits.shape, dtype=logits.dtype, device=logits.device, generator=generator)
        # The bounds keep both logarithms finite.
        return (logits - torch.log(-torch.log(noise.clamp(1e-9, 1 - 1e-7)))).argmax(-1)

    def forward(self, encoded: dict[str, Encoded], batch: Batch) -> HeadOutput:
        """Return the loss of this process's items; ``outputs`` holds the ``logits`` [batch, length] of each token being replaced.

        Raises:
            DataError: the batch has no text, or does not say which tokens are replaced.
        """
        text = need_encoded(encoded, "text", "replaced_tokens")
        remedy = "System makes them with head.prepare(batch), if the head has a generator and data.masking is set"
        replaced = batch.need(REPLACED, "head 'replaced_tokens'", remedy)
        logits = self.logits(text.tokens)
        real = text.mask.to(logits.dtype)
        losses = F.binary_cross_entropy_with_logits(logits, replaced.to(logits.dtype), reduction="none")
        loss = share_of_mean((losses * real).sum() / real.sum().clamp(min=1), real.sum())
        metrics = {"rtd_loss": loss.detach(), **_shares(logits.detach() > 0, replaced, text.mask)}
        total = self.weight * loss
        if self.generator is not None:
            of_generator = batch.need(GENERATOR_LOSS, "head 'replaced_tokens'", remedy)
            total = total + of_generator
            metrics["mlm_loss"] = of_generator.detach()
            metrics["mlm_accuracy"] = batch.need(GENERATOR_ACCURACY, "head 'replaced_tokens'", remedy)
        return HeadOutput(total, metrics, {"logits": logits})

    def logits(self, tokens: Float[Tensor, "batch length dim"]) -> Float[Tensor, "batch length"]:
        """Return the logit of each token being replaced, in fp32 or wider."""
        logits = self.score(self.activation(self.dense(tokens))).squeeze(-1)  # [B, L]
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    @torch.no_grad()
    def after_step(self) -> None:
        """Move the encoder's word table along with the generator's, whose sum with a difference it is ("disentangled")."""
        if self._before is not None:
            table = self._encoder[0].get_parameter(WORDS)
            table.add_(divided_like(full_tensor(self.generator.get_parameter(WORDS)) - self._before, table))
            self._before = None

    @torch.inference_mode()
    def find_replaced(self, system: SystemLike, texts: str | Sequence[str]) -> list[list[tuple[str, float]]]:
        """Return for each text its tokens and the probability of each being replaced.

        Args:
            system: the system of this head; its processor must hold a tokenizer.
            texts: one text, or several.

        Raises:
            ConfigError: the system has no processor.
        """
        if system.processor is None:
            raise ConfigError("find_replaced: the system has no processor; load it from a saved directory")
        part, found = system.processor["text"], []
        for text in [texts] if isinstance(texts, str) else texts:
            token_ids, _ = part([text])
            shares = self.logits(system.encode("text", [text]).tokens)[0].sigmoid().tolist()
            found.append([(part.tokenizer.id_to_token(i) or f"<{i}>", p) for i, p in zip(token_ids[0].tolist(), shares, strict=True)])
        return found


def _initialise(layer: nn.Linear) -> None:
    nn.init.normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)


def _take_tables_out(generator: nn.Module) -> dict[str, torch.Size]:
    """Put empty buffers in place of a generator's tables, and return their shapes; the encoder's tables replace them in each call."""
    shapes = {name: parameter.shape for name, parameter in generator.named_parameters() if name in TABLES}
    for name in shapes:
        owner, _, last = name.rpartition(".")
        module = generator.get_submodule(owner)
        delattr(module, last)
        module.register_buffer(last, torch.empty(0), persistent=False)
    return shapes


def _shares(
    said: Bool[Tensor, "batch length"], replaced: Bool[Tensor, "batch length"], real: Bool[Tensor, "batch length"]
) -> dict[str, Tensor]:
    """Return the share of real tokens that are classified correctly, and of replaced tokens that are found."""
    correct, wrong = (said == replaced) & real, replaced & real
    found = {"rtd_accuracy": correct.sum() / real.sum().clamp(min=1)}
    return found | {"rtd_recall": (said & wrong).sum() / wrong.sum().clamp(min=1)}
