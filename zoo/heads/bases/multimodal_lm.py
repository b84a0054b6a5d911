"""Base class of multimodal language-model heads (LLaVA, Kosmos): connectors, spliced features, language model, loss and generation.

Papers: Liu et al. 2023, "Visual Instruction Tuning" (LLaVA, arXiv 2304.08485), sections 4.1 and 4.2; Huang et al. 2023 (Kosmos-1, arXiv
2302.14045), section 2.2. Padding on the right is not computed, so that short texts need not be packed into one row.
"""

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from zoo.errors import ConfigError, DataError, name_choices
from zoo.heads.bases.media_features import Connected, connected, features_of, refuse_tiler
from zoo.language.decoding.generate import generate
from zoo.language.decoding.sampling import Sampling, fresh_seed
from zoo.language.decoding.streaming import StopStrings, TextStream, check_stop, cut_at_stop
from zoo.layers.connector import build_connector
from zoo.layers.packing import Packing, can_pack
from zoo.layers.splice import splice
from zoo.losses.distributed import share_of_mean
from zoo.types import (
    SUPERVISED,
    Accepts,
    Batch,
    Connector,
    Encoded,
    EncoderSpec,
    HeadOutput,
    LanguageHead,
    LanguageModel,
    Predictions,
    SampledAnswer,
    SystemLike,
    Tiler,
    Wiring,
    all_real,
    on_host,
    send,
)


class MultimodalLM(LanguageHead):
    """Base class of multimodal language-model heads (LLaVA, Kosmos).

    Connectors map encoder features to the width of the language model. The mapped features replace the embeddings of their placeholder
    tokens. The loss is the cross entropy of the supervised tokens.

    Args:
        inputs: output sizes of the encoders, by modality.
        language: causal language model.
        connectors: connector of each modality: a file of ``zoo/layers/connectors/`` or a plug-in,, or a mapping with options such as
            ``{kind: resampler, num_latents: 64}``. Connectors of modalities without an encoder are ignored.
        feature_layer: encoder layer that the connectors read; see ``zoo.types.encode``.

    Raises:
        ConfigError: a connector or modality is unknown, a connector does not fit its encoder, or a connector returns as many tokens
            per item as the language model's context length.
    """

    accepts = Accepts(modalities=("image", "audio"), minimum=0, maximum=2, reads="patches")
    verbs = ("generate", "score", "prompt_vectors")
    evaluation = "perplexity"
    language: LanguageModel
    connectors: nn.ModuleDict  # type: ignore[assignment]

    def __init__(
        self,
        *,
        inputs: Mapping[str, EncoderSpec],
        language: LanguageModel,
        connectors: Mapping[str, str | Mapping[str, Any]],
        feature_layer: int | Sequence[int] | None,
    ) -> None:
        super().__init__()
        unknown = sorted(set(connectors) - set(self.accepts.modalities))
        if unknown:
            raise ConfigError(f"connectors.{unknown[0]}: there is no such modality; {name_choices(unknown[0], self.accepts.modalities)}")
        self.feature_layer = feature_layer
        self.connectors = nn.ModuleDict({m: _connector(connectors[m], spec, language) for m, spec in inputs.items()})
        self.language = language
        self.tiler: Tiler | None = None  # taken from the processor when the system is assembled

    def forward(self, encoded: dict[str, Encoded], batch: Batch) -> HeadOutput:
        """Return the mean cross entropy of the supervised tokens, their top-1 accuracy ``token_accuracy`` and their number on this process.

        In training by several processes, the average of their losses is the mean over the tokens of all (``share_of_mean``).

        Raises:
            DataError: the numbers of placeholders and features differ, or the batch has no conversations.
        """
        found = self.predictions(encoded, batch)
        further, metrics = self.language.auxiliary_losses()  # of a mixture of experts
        # Without supervised tokens the loss is 0 and still depends on every parameter: a distributed step needs gradients on every rank.
        if not len(found.labels):
            return HeadOutput(sum(further.values(), share_of_mean(found.logits.sum(), 0)))
        loss = sum(further.values(), share_of_mean(F.cross_entropy(found.logits, found.labels), len(found.labels)))
        accuracy = (found.logits.detach().argmax(-1) == found.labels).float().mean()
        tokens = accuracy.new_full((), float(len(found.labels)))  # the log of a run thereby tells the amount of its training data
        return HeadOutput(loss, {"token_accuracy": accuracy, "predicted_tokens": tokens, **metrics})

    def predictions(self, encoded: dict[str, Encoded], batch: Batch) -> Predictions:
        """Return the predictions of the supervised tokens, with logits in fp32 or wider; on the meta device, those of all tokens.

        Raises:
            DataError: as ``forward``.
        """
        return self._predictions(batch, self._connected(encoded, batch))

    def _predictions(self, batch: Batch, features: Connected) -> Predictions:
        token_ids, mask, supervised = conversation_tensors(batch)
        seen = ((supervised.cumsum(1) == 0) & mask).sum(1) if self.prefix else None  # tokens before the first supervised one
        states, places = self._states(self.spliced(token_ids, mask, features, batch.ids), mask, seen)
        if token_ids.is_meta:  # meta tensors hold no values to select by
            chosen = places = torch.arange(token_ids.numel(), device="meta")
            labels = token_ids.flatten()
        else:
            chosen, places, labels = (send(each, states.device) for each in _predicted(token_ids, mask, supervised, places))
        # The vocabulary projection is the largest matrix product, so that it runs on the supervised tokens only.
        hidden = states[chosen]
        logits = self.language.logits(hidden)  # [supervised, vocab_size]
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return Predictions(hidden, logits, labels, places // token_ids.shape[1])

    def spliced(
        self, token_ids: Int[Tensor, "batch length"], mask: Bool[Tensor, "batch length"], features: Connected, ids: Sequence[str]
    ) -> Float[Tensor, "batch length dim"]:
        """Return the embeddings of the token ids, with features in place of their placeholders.

        Args:
            ids: names of the texts, used in error messages.

        Raises:
            DataError: the numbers of placeholders and features differ.
        """
        return splice(token_ids, self.language.embed(token_ids), features, ids)

    def _states(
        self,
        vectors: Float[Tensor, "batch length input_dim"],
        mask: Bool[Tensor, "batch length"],
        prefix: Int[Tensor, " batch"] | None = None,
    ) -> tuple[Float[Tensor, "total dim"], Int[Tensor, " total"]]:
        """Return the hidden states of the batch as a list, and the index of each in the flattened batch, known on the CPU.

        Padding on the right is not computed and has no entry in the list.

        Args:
            prefix: number of first real tokens of each row that see each other.
        """
        words: dict[str, Any] = {} if prefix is None else {"prefix_lengths": prefix}
        # A packed list needs all padding on the right; other batches run padded.
        known = on_host(mask) if can_pack(mask) else None
        if known is None or bool((known[:, 1:] & ~known[:, :-1]).any()) or bool(known.all()):
            return self.language(vectors, mask, **words).flatten(0, 1), torch.arange(mask.numel())
        packing = Packing(mask, causal=True, **words)
        return self.language(packing.pack(vectors), layout=packing), packing.index

    def connect(self, wiring: Wiring) -> None:
        """Keep the tiler that cuts the images, whose plans say how their features are laid out.

        Raises:
            ConfigError: the tiler ends each row with a learned vector, which the connector does not have; or the connector joins squares
                of patches that do not fill the tiler's grids.
        """
        part = None if wiring.processor is None else wiring.processor.get("image")
        self.tiler = None if part is None else part.tiler
        if self.tiler is not None:
            class_token = self.class_token and wiring.encoders["image"].has_class_token
            refuse_tiler(self.tiler, cast(Connector, self.connectors["image"]), class_token=class_token)

    def _connected(self, encoded: Mapping[str, Encoded], batch: Batch) -> Connected:
        """Apply the connectors to the encoded items; returns features and masks by modality, those of tiles laid out by picture."""
        return {m: connected(self, m, encoded[m], batch) for m in self.connectors if m in encoded}

    @torch.inference_mode()
    def generate(
        self,
        system: SystemLike,
        prompts: Sequence[Any],
        *,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        num_beams: int = 1,
        length_penalty: float = 1.0,
        repetition_penalty: float = 1.0,
        stop: Sequence[str] = (),
        seed: int | None = None,
        batch_size: int = 8,
        on_text: Callable[[int, str], None] | None = None,
    ) -> list[str]:
        """Generate the assistant's answer to each prompt; the answers do not depend on ``batch_size``.

        The arguments that are not listed here are those of ``zoo.language.decoding.sampling.Sampling``.

        Args:
            prompts: each is a string, a list of strings, images and audio in order, a list of messages, or a conversation.
            stop: stop strings; an answer is cut before the first of them.
            on_text: callback ``(prompt_number, text)`` that receives each new piece of text.

        Raises:
            ConfigError: a value is not allowed by ``zoo.language.decoding.sampling.Sampling``.
            DataError: a prompt cannot be used, or is too long.
        """
        part = conversation_part(system)
        conversations = conversations_of(part, prompts)
        sampling = Sampling(
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            num_beams=num_beams,
            length_penalty=length_penalty,
            repetition_penalty=repetition_penalty,
            seed=fresh_seed() if seed is None and temperature > 0 else seed,
            eos_token_ids=tuple(part.eos_token_ids),
        )
        ends = (*check_stop(stop), *part.stop_strings)
        texts: list[str] = []
        for start in range(0, len(conversations), batch_size):
            rows = range(start, min(start + batch_size, len(conversations)))
            vectors, ids = self.prompt_vectors(system, conversations[start : start + batch_size])
            streams = [TextStream(part.decode, ends) for _ in rows]

            def push(place: int, token: int, streams: list[TextStream] = streams, rows: range = rows) -> None:
                piece = streams[place].push(token)
                if piece and on_text is not None:
                    on_text(rows[place], piece)

            halts = StopStrings(part.decode, ends) if ends else None
            told, prefix = push if on_text else None, self.prefix_lengths(vectors)
            answers = generate(self.language, vectors, ids, sampling, stop=halts, on_token=told, rows=rows, prefix_lengths=prefix)
            for row, stream, answer in zip(rows, streams, answers, strict=True):
                if on_text is not None and (rest := stream.close()):
                    on_text(row, rest)
                texts.append(cut_at_stop(part.decode(answer.ids), ends))
        return texts

    @torch.no_grad()
    def sample(
        self,
        encoded: dict[str, Encoded],
        prompts: Batch,
        tokenizer: Any,
        *,
        copies: int,
        rows: Sequence[int],
        max_new_tokens: int,
        seed: int,
    ) -> list[SampledAnswer]:
        """Sample answers to the prompts of a batch; see ``LanguageHead.sample``.

        Raises:
            DataError: a prompt leaves no room for an answer.
        """
        token_ids, mask = prompts.inputs["text"], prompts.masks["text"]
        vectors = self.spliced(token_ids, mask, self._connected(encoded, prompts), prompts.ids)
        kept = [(row[real], known[real]) for row, known, real in zip(vectors, token_ids, mask, strict=True) for _ in range(copies)]
        sampling = Sampling(max_new_tokens=max_new_tokens, temperature=1.0, seed=seed, eos_token_ids=tuple(tokenizer.eos_token_ids))
        ends = tuple(tokenizer.stop_strings)
        stop = StopStrings(tokenizer.decode, ends) if ends else None
        given, known = [row for row, _ in kept], [ids for _, ids in kept]
        found = generate(self.language, given, known, sampling, stop=stop, rows=rows, prefix_lengths=self.prefix_lengths(given))
        return [
            SampledAnswer(
                answer.ids if answer.end_id is None else [*answer.ids, answer.end_id],
                cut_at_stop(tokenizer.decode(answer.ids), ends),
                answer.stop_reason in ("eos", "stop"),
            )
            for answer in found
        ]

    @torch.inference_mode()
    def score(
        self, system: SystemLike, prompts: Sequence[Any], answers: Sequence[str], *, batch_size: int = 8, with_end: bool = True
    ) -> Float[Tensor, " n"]:
        """Return the log-probability of each answer given its prompt, summed over the answer's tokens and its end token.

        Args:
            with_end: False leaves the end token out: the log-probability that the answer begins with this text.

        Raises:
            DataError: the numbers of answers and prompts differ, an answer is empty, or a conversation is too long.
        """
        part = conversation_part(system)
        if isinstance(answers, str) or len(answers) != len(prompts):
            raise DataError(f"answers: got {len(answers)} for {len(prompts)} prompts; give a list with one string for each prompt")
        pairs, most = conversations_of(part, prompts, answers), part.max_length or part.context_length
        scores, kept = [], {}
        for start in range(0, len(pairs), batch_size):
            batch = system.processor(conversation=pairs[start : start + batch_size])  # type: ignore[misc]
            full = [name for name, real in zip(batch.ids, batch.masks["text"], strict=True) if int(real.sum()) >= most]
            if full:
                raise DataError(f"conversation {full[0]} fills the {most} tokens allowed by max_length or context_length; shorten it")
            # Earlier answers in the conversation belong to the prompt.
            batch.targets[SUPERVISED] = _last_run(batch.targets[SUPERVISED])
            if not with_end:
                batch.targets[SUPERVISED] &= ~torch.isin(batch.inputs["text"], torch.tensor(part.eos_token_ids))
            found = self._predictions(batch.to(system.device), features_of(self, system, batch, kept))
            taken = found.logits.log_softmax(-1).gather(1, found.labels[:, None])[:, 0]
            scores.append(taken.new_zeros(len(batch)).index_add_(0, found.rows, taken))
        return torch.cat(scores)

    @torch.inference_mode()
    def prompt_vectors(
        self, system: SystemLike, prompts: Sequence[Any], *, kept: MutableMapping[str, Tensor] | None = None
    ) -> tuple[list[Float[Tensor, "_ dim"]], list[Int[Tensor, " _"]]]:
        """Return the language model's input for each prompt: embedding vectors, and token ids with negative ids at placeholders.

        Args:
            kept: cache of image and audio features by a digest of their content, updated in place. Pass the same dict again, for
                example in each turn of a chat, to reuse cached features.

        Raises:
            DataError: a prompt cannot be used.
        """
        conversations = conversations_of(conversation_part(system), prompts)
        batch = system.processor(conversation=conversations, for_generation=True)  # type: ignore[misc]
        features = features_of(self, system, batch, {} if kept is None else kept)
        token_ids, mask = batch.inputs["text"].to(system.device), batch.masks["text"].to(system.device)
        vectors = self.spliced(token_ids, mask, features, batch.ids)
        return [row[real] for row, real in zip(vectors, mask, strict=True)], [row[real] for row, real in zip(token_ids, mask, strict=True)]


def _connector(config: str | Mapping[str, Any], spec: EncoderSpec, language: LanguageModel) -> Connector:
    key = f"connectors.{spec.modality}"
    try:
        connector = build_connector(config, in_dim=spec.dim, out_dim=language.dim, num_tokens=spec.num_tokens)
    except ConfigError as error:
        raise ConfigError(f"{key}: {error}") from error
    if connector.deepstack and connector.deepstack != language.deepstack:
        raise ConfigError(
            f"{key}.deepstack: {connector.deepstack}, but the language model has {language.deepstack}; both must be equal: set "
            f"language.deepstack: {connector.deepstack}, or choose a connector without deepstack"
        )
    made = 0 if spec.num_tokens is None else connector.num_tokens(spec.num_tokens)
    if made >= language.context_length:
        raise ConfigError(
            f"{key}: {config!r} makes {made} tokens of each {spec.modality}, which leaves no room for text: the language model's "
            f"context_length is {language.context_length}; choose a connector with fewer tokens (pixel_shuffle, resampler, attention_pool)"
        )
    return connector


def conversation_tensors(batch: Batch) -> tuple[Int[Tensor, "batch length"], Bool[Tensor, "batch length"], Bool[Tensor, "batch length"]]:
    """Return the token ids, their mask (True at real tokens), and the mask of supervised tokens.

    Raises:
        DataError: the batch has no token ids, or no supervision mask of their shape.
    """
    token_ids = batch.inputs.get("text")
    if token_ids is None or token_ids.ndim != 2 or token_ids.is_floating_point():
        raise DataError(
            "the batch has no token ids [batch, length] in inputs['text'], which this head needs; the processor 'conversation' makes them"
        )
    supervised = batch.targets.get(SUPERVISED)
    if supervised is None or supervised.shape != token_ids.shape:
        raise DataError(
            f"targets[{SUPERVISED!r}] is missing or has another shape than the token ids; the processor 'conversation' makes a boolean "
            f"mask {list(token_ids.shape)} that is True at the tokens to train on"
        )
    mask = batch.masks.get("text")
    return token_ids, all_real(token_ids.shape, token_ids.device) if mask is None else mask, supervised


def _predicted(
    token_ids: Int[Tensor, "batch length"], mask: Bool[Tensor, "batch length"], supervised: Bool[Tensor, "batch length"], places: Tensor
) -> tuple[Int[Tensor, " num_tokens"], Int[Tensor, " num_tokens"], Int[Tensor, " num_tokens"]]:
    """Return, on the CPU, the states that predict a supervised token: their indices in the list and in the flat batch, and the labels.

    Args:
        places: index in the flat batch of each state of the list.
    """
    token_ids, mask, supervised, places = (on_host(each) for each in (token_ids, mask, supervised, places))
    following = token_ids.roll(-1, 1)  # label of each position; roll wraps around, so that the last position has none
    predicted = supervised.roll(-1, 1) & mask & (following >= 0)
    predicted[:, -1] = False
    chosen = predicted.flatten()[places].nonzero()[:, 0]
    chosen = chosen[places[chosen].argsort()]  # a packed list is not in the order of the batch
    return chosen, places[chosen], following.flatten()[places[chosen]]


def conversation_part(system: SystemLike) -> Any:
    """Return the processor's part of conversations.

    Raises:
        ConfigError: the system has no processor.
    """
    if system.processor is None:
        raise ConfigError("this system has no processor, which prompts need; load the system from a saved directory")
    return system.processor["conversation"]


def conversations_of(part: Any, prompts: Sequence[Any], answers: Sequence[str] | None = None) -> list[Any]:
    """Convert prompts, and answers if given, to conversations, so that errors show up before anything is computed."""
    if isinstance(prompts, str) or not isinstance(prompts, Sequence) or not prompts:
        raise DataError(
            f"prompts: got {prompts!r:.60}; give a list of at least one prompt, each a string or a list of strings, images and audio"
        )
    texts = [None] * len(prompts) if answers is None else answers
    return [
        part.conversation(prompt, str(number), answer=answer) for number, (prompt, answer) in enumerate(zip(prompts, texts, strict=True))
    ]


def _last_run(supervised: Bool[Tensor, "batch length"]) -> Bool[Tensor, "batch length"]:
    """Keep only the last run of True in each row: ``0 1 1 0 0 1 1 0`` becomes ``0 0 0 0 0 1 1 0``."""
    behind = (~supervised).flip(1).cumsum(1).flip(1)  # number of False from here on: 4 3 3 3 2 1 1 1
    least = behind.masked_fill(~supervised, supervised.shape[1]).amin(1, keepdim=True)
    return supervised & (behind == least)
