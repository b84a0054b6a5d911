"""Greedy decoding, sampling and beam search for speech recognition.

Reference: openai-whisper ``decoding.py``, ``GreedyDecoder``, ``BeamSearchDecoder`` and ``MaximumLikelihoodRanker``; the texts are equal.
Where we differ: the prompt is run once per window, not once per beam; finished windows are removed from the batch; the random numbers
of sampling depend only on the seed and the window's place, not on the rest of the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from zoo.language.decoding.sampling import draw, uniforms
from zoo.language.transcription.rules import Rules
from zoo.layers.cache import Cache
from zoo.layers.memory import Memory
from zoo.layers.whisper_decoder import WhisperDecoder


@dataclass(frozen=True)
class Text:
    """One candidate text of a window.

    Attributes:
        token_ids: token ids without the end token.
        log_probability: sum over the tokens, including the end token if the text has one.
    """

    token_ids: list[int]
    log_probability: float


@dataclass
class Begun:
    """Decoding state of a batch of windows whose prompts, of equal length, have been run.

    Attributes:
        memory: cross-attention keys and values of the windows.
        cache: self-attention keys and values of the tokens so far.
        hidden: hidden state of the last token of each row.
        no_speech: probability of the no-speech token of each window, at the start-of-transcript token.
    """

    decoder: WhisperDecoder
    memory: Memory
    cache: Cache
    hidden: Float[Tensor, "windows dim"]
    no_speech: list[float]

    def repeat(self, count: int) -> None:
        """Repeat each window's row ``count`` times, for beams or samples; the rows of a window share its memory."""
        if count > 1:
            each = torch.arange(len(self.hidden), device=self.hidden.device).repeat_interleave(count)
            self.cache.select(each)
            self.hidden = self.hidden[each]
            self.decoder.prepare(len(each))

    def keep(self, windows: Sequence[int], rows_each: int) -> None:
        """Keep only these windows, with ``rows_each`` rows per window."""
        kept = torch.tensor(windows, device=self.hidden.device)
        self.memory = self.memory.select(kept)
        rows = (kept[:, None] * rows_each + torch.arange(rows_each, device=kept.device)).flatten()
        self.cache.select(rows)

    def show(self, tokens: Sequence[int]) -> None:
        """Feed the next token of each row to the decoder and update ``hidden``."""
        shown = torch.tensor(tokens, device=self.hidden.device)[:, None]
        self.hidden = self.decoder.states(shown, self.memory, cache=self.cache)[:, -1]


def begin(decoder: WhisperDecoder, memory: Memory, prompts: Sequence[Sequence[int]], *, sot_place: int, no_speech: int, most: int) -> Begun:
    """Run the prompts through the decoder.

    Args:
        prompts: token ids of each window's prompt, all of equal length.
        sot_place: index of the start-of-transcript token in each prompt.
        no_speech: id of the no-speech token.
        most: maximum number of tokens of a text.
    """
    ids = torch.tensor([list(prompt) for prompt in prompts], device=memory.keys.device)
    cache = decoder.new_cache(len(prompts), min(decoder.context_length, ids.shape[1] + most))
    states = decoder.states(ids, memory, cache=cache)
    silence = decoder.logits(states[:, sot_place]).softmax(-1)[:, no_speech].tolist()
    return Begun(decoder, memory, cache, states[:, -1], silence)


def room(decoder: WhisperDecoder, prompt_length: int) -> int:
    """Return the maximum number of tokens of a text: half the context, or less if the prompt leaves less."""
    # + 1: the last token of a text is not fed to the decoder and needs no place in the context.
    return min(decoder.context_length // 2, decoder.context_length - prompt_length + 1)


def choose(begun: Begun, rules: Rules, *, most: int, temperature: float, count: int, seed: int, places: Sequence[int]) -> list[list[Text]]:
    """Decode greedily at temperature 0, or sample; returns the texts of each window.

    Args:
        most: maximum number of tokens of a text.
        count: number of texts per window.
        places: a number for each window; with the seed, it determines the window's random numbers.
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
            # Finished rows are filled with the end token, because the rules need texts of equal length.
            texts[row].append(rules.end if ended[row] else token)
            ended[row] = texts[row][-1] == rules.end
        groups = range(len(windows))
        open_groups = [g for g in groups if not all(ended[g * count : (g + 1) * count])]
        last = not open_groups or step + 1 == most
        if last or 2 * len(open_groups) <= len(windows):  # copying the cache costs a few steps
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
    """Decode by beam search until ``num_beams * patience`` texts have ended or texts have ``most`` tokens; returns each window's texts."""
    enough = max(1, round(num_beams * patience))
    windows = [_Beams(window, num_beams, enough, rules.end) for window in range(len(begun.hidden))]
    going, rows_each = windows, 1  # the first step runs one row per window, because its beams are still equal
    for step in range(most):
        texts = [text for window in going for text in window.texts]
        logits = rules.apply(begun.decoder.logits(begun.hidden), texts)
        sums = torch.tensor([score for window in going for score in window.scores], device=logits.device)
        best = logits.log_softmax(-1).topk(num_beams + 1)  # + 1: one of them may be the end token
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
    """Reorder the cache rows to the beams that were extended, and keep the memory of the unfinished windows only."""
    rows, device = [row for window in origins for row in window], begun.hidden.device
    if rows != list(range(windows * rows_each)):
        begun.cache.select(torch.tensor(rows, device=device))
    if len(kept) < windows:
        begun.memory = begun.memory.select(torch.tensor(kept, device=device))


class _Beams:
    """Beams of one window: unfinished texts with their scores, and finished texts."""

    def __init__(self, number: int, num_beams: int, enough: int, end: int) -> None:
        self.number, self.num_beams, self.enough, self.end = number, num_beams, enough, end
        self.texts: list[list[int]] = [[]]
        self.scores = [0.0]
        self.ended: list[Text] = []

    @property
    def is_done(self) -> bool:
        """True if enough texts have ended."""
        return len(self.ended) >= self.enough

    def step(self, scores: Sequence[Sequence[float]], tokens: Sequence[Sequence[int]]) -> list[int]:
        """Extend the beams by one token; returns the index of the text that each new unfinished text extends.

        Args:
            scores: summed log-probabilities of each text's ``num_beams + 1`` best continuations: one of them may be the end token.
            tokens: token ids of these continuations.
        """
        candidates = [(score, row, token) for row in range(len(scores)) for score, token in zip(scores[row], tokens[row], strict=True)]
        candidates.sort(key=lambda candidate: -candidate[0])  # stable: ties keep the reference's order
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
        """Return the finished texts; if they are fewer than the beams, add the most probable unfinished ones."""
        order = sorted(range(len(self.texts)), key=lambda row: -self.scores[row])
        missing = max(0, self.num_beams - len(self.ended))  # the reference ranks at least num_beams texts
        return self.ended + [Text(self.texts[row], self.scores[row]) for row in order[:missing]]


def likeliest(texts: Sequence[Text], length_penalty: float | None) -> Text:
    """Return the text with the highest length-normalised log-probability.

    Args:
        length_penalty: exponent alpha of Wu et al. 2016 (arXiv 1609.08144, equation 14); None divides by the number of tokens.
    """

    def score(text: Text) -> float:
        length = len(text.token_ids)
        return text.log_probability / (max(1, length) if length_penalty is None else ((5 + length) / 6) ** length_penalty)

    return max(texts, key=score)


def _until(ids: Sequence[int], end: int) -> list[int]:
    return list(ids[: ids.index(end)]) if end in ids else list(ids)
