"""Texts of windows, token by token: the likeliest token, tokens that are drawn, or beams.

Reference: openai-whisper ``decoding.py``, ``GreedyDecoder``, ``BeamSearchDecoder`` and ``MaximumLikelihoodRanker``, whose texts these
are. Where we differ: what stands before the text is run once, not once for each beam; windows that have ended leave the batch; draws
are a function of the seed and the window's place, so that they do not depend on what else is in the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from zoo.language.decoding.sampling import draw, uniforms
from zoo.language.transcription.rules import Rules
from zoo.layers.cache import Cache
from zoo.layers.whisper_decoder import Memory, WhisperDecoder


@dataclass(frozen=True)
class Text:
    """One text of a window, without its end symbol, and the log-probability of all its tokens, with the end where it was said."""

    token_ids: list[int]
    log_probability: float


@dataclass
class Begun:
    """Windows whose prompts, equally long, are in the cache; each window has one row.

    Attributes:
        hidden: at the last token of each prompt.
        no_speech: probability, at the token that starts the transcript, that nobody speaks.
    """

    decoder: WhisperDecoder
    memory: Memory
    cache: Cache
    hidden: Float[Tensor, "windows dim"]
    no_speech: list[float]

    def repeat(self, count: int) -> None:
        """So many rows for each window, one behind the other; they share its memory."""
        if count > 1:
            each = torch.arange(len(self.hidden), device=self.hidden.device).repeat_interleave(count)
            self.cache.select(each)
            self.hidden = self.hidden[each]
            self.decoder.prepare(len(each))

    def keep(self, windows: Sequence[int], rows_each: int) -> None:
        """Forget the other windows."""
        kept = torch.tensor(windows, device=self.hidden.device)
        self.memory = self.memory.select(kept)
        rows = (kept[:, None] * rows_each + torch.arange(rows_each, device=kept.device)).flatten()
        self.cache.select(rows)

    def show(self, tokens: Sequence[int]) -> None:
        """The next token of each row."""
        shown = torch.tensor(tokens, device=self.hidden.device)[:, None]
        self.hidden = self.decoder.states(shown, self.memory, cache=self.cache)[:, -1]


def begin(decoder: WhisperDecoder, memory: Memory, prompts: Sequence[Sequence[int]], *, sot_place: int, no_speech: int, most: int) -> Begun:
    """Read the prompts.

    Args:
        sot_place: where in each prompt the transcript starts.
        most: tokens of a text.
    """
    ids = torch.tensor([list(prompt) for prompt in prompts], device=memory.keys.device)
    cache = decoder.new_cache(len(prompts), min(decoder.context_length, ids.shape[1] + most))
    states = decoder.states(ids, memory, cache=cache)
    silence = decoder.logits(states[:, sot_place]).softmax(-1)[:, no_speech].tolist()
    return Begun(decoder, memory, cache, states[:, -1], silence)


def room(decoder: WhisperDecoder, prompt_length: int) -> int:
    """The most tokens of a text: half the context, or what the prompt leaves of it."""
    return min(decoder.context_length // 2, decoder.context_length - prompt_length + 1)


def choose(begun: Begun, rules: Rules, *, most: int, temperature: float, count: int, seed: int, places: Sequence[int]) -> list[list[Text]]:
    """The likeliest token each time, or tokens that are drawn.

    Args:
        count: texts of each window.
        places: a number of each window, on which alone its draws depend, beside the seed.
    """
    chance = None
    if temperature > 0:
        rows = [place * count + number for place in places for number in range(count)]
        chance = uniforms(seed, rows, most).to(begun.hidden.device)
    windows, found = list(range(len(begun.hidden))), [[Text([], 0.0)] for _ in begun.hidden]
    texts: list[list[int]] = [[] for _ in range(len(windows) * count)]
    sums, ended = [0.0] * len(texts), [False] * len(texts)
    begun.repeat(count)
    for step in range(most):
        logits = rules.apply(begun.decoder.logits(begun.hidden), texts)
        tokens = logits.argmax(-1) if chance is None else draw(logits / temperature, chance[:, step])
        gains = (logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(-1)).tolist()
        for row, (token, gain) in enumerate(zip(tokens.tolist(), gains, strict=True)):
            sums[row] += 0.0 if ended[row] else gain
            texts[row].append(rules.end if ended[row] else token)
            ended[row] = texts[row][-1] == rules.end
        groups = range(len(windows))
        open_groups = [g for g in groups if not all(ended[g * count : (g + 1) * count])]
        last = not open_groups or step + 1 == most
        if last or 2 * len(open_groups) <= len(windows):  # copying what is left costs as much as a few steps
            for g in groups if last else sorted(set(groups) - set(open_groups)):
                found[windows[g]] = [Text(_until(texts[r], rules.end), sums[r]) for r in range(g * count, (g + 1) * count)]
            if last:
                break
            begun.keep(open_groups, count)
            rows = [g * count + number for g in open_groups for number in range(count)]
            windows = [windows[g] for g in open_groups]
            texts, sums, ended = [texts[r] for r in rows], [sums[r] for r in rows], [ended[r] for r in rows]
            chance = None if chance is None else chance[rows]
        begun.show([text[-1] for text in texts])
    return found


def beams(begun: Begun, rules: Rules, *, most: int, num_beams: int, patience: float = 1.0) -> list[list[Text]]:
    """Follow the likeliest texts, until ``num_beams * patience`` of them have ended, or ``most`` tokens are there."""
    enough = max(1, round(num_beams * patience))
    windows = [_Beams(window, num_beams, enough, rules.end) for window in range(len(begun.hidden))]
    going, rows_each = windows, 1  # every window begins as one row, because its beams would say the same
    for step in range(most):
        texts = [text for window in going for text in window.texts]
        logits = rules.apply(begun.decoder.logits(begun.hidden), texts)
        sums = torch.tensor([score for window in going for score in window.scores], device=logits.device)
        best = logits.log_softmax(-1).topk(num_beams + 1)
        scores, tokens = (best.values + sums[:, None]).tolist(), best.indices.tolist()
        origins = []
        for place, window in enumerate(going):
            mine = slice(place * rows_each, (place + 1) * rows_each)
            origins.append([place * rows_each + row for row in window.step(scores[mine], tokens[mine])])
        open_places = [place for place, window in enumerate(going) if not window.is_done]
        if not open_places or step + 1 == most:
            break
        _reorder(begun, [origins[place] for place in open_places], open_places, len(going), rows_each)
        going, rows_each = [going[place] for place in open_places], num_beams
        begun.show([text[-1] for window in going for text in window.texts])
    return [window.results() for window in windows]


def _reorder(begun: Begun, origins: Sequence[Sequence[int]], kept: Sequence[int], windows: int, rows_each: int) -> None:
    """Let the cache's rows be those that the beams come from, and the memory that of the windows that go on."""
    rows, device = [row for window in origins for row in window], begun.hidden.device
    if rows != list(range(windows * rows_each)):
        begun.cache.select(torch.tensor(rows, device=device))
    if len(kept) < windows:
        begun.memory = begun.memory.select(torch.tensor(kept, device=device))


class _Beams:
    """The texts of one window: those that go on, and those that have ended."""

    def __init__(self, number: int, num_beams: int, enough: int, end: int) -> None:
        self.number, self.num_beams, self.enough, self.end = number, num_beams, enough, end
        self.texts: list[list[int]] = [[]]
        self.scores = [0.0]
        self.ended: list[Text] = []

    @property
    def is_done(self) -> bool:
        return len(self.ended) >= self.enough

    def step(self, scores: Sequence[Sequence[float]], tokens: Sequence[Sequence[int]]) -> list[int]:
        """Take one more token; returns from which text each that goes on comes.

        Args:
            scores: of each text's likeliest continuations, one more than there are beams.
        """
        candidates = [(score, row, token) for row in range(len(scores)) for score, token in zip(scores[row], tokens[row], strict=True)]
        candidates.sort(key=lambda candidate: -candidate[0])  # those of equal score stay in their order
        going: list[tuple[float, int, int]] = []
        for score, row, token in candidates:
            if token != self.end:
                going.append((score, row, token))
            elif len(self.ended) < self.enough:
                self.ended.append(Text(self.texts[row], score))
            if len(going) == self.num_beams:
                break
        self.texts, self.scores = [[*self.texts[row], token] for _, row, token in going], [score for score, _, _ in going]
        return [row for _, row, _ in going]

    def results(self) -> list[Text]:
        """The texts that ended; where these are too few, the likeliest of the others as they are."""
        order = sorted(range(len(self.texts)), key=lambda row: -self.scores[row])
        missing = max(0, self.num_beams - len(self.ended))
        return self.ended + [Text(self.texts[row], self.scores[row]) for row in order[:missing]]


def likeliest(texts: Sequence[Text], length_penalty: float | None) -> Text:
    """The text of the highest log-probability per token, or by Wu et al. 2016 (arXiv 1609.08144), equation 14."""

    def score(text: Text) -> float:
        length = len(text.token_ids)
        return text.log_probability / (max(1, length) if length_penalty is None else ((5 + length) / 6) ** length_penalty)

    return max(texts, key=score)


def _until(ids: Sequence[int], end: int) -> list[int]:
    return list(ids[: ids.index(end)]) if end in ids else list(ids)
