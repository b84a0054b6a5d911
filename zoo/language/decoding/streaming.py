"""Streaming detokenization: text of token ids as they arrive, in whole characters and cut at stop strings.

A token of a byte-level vocabulary may hold only a part of a character. A stop string may begin in one token and end in another. With the
stop string "STOP", the tokens ``Sure .S T OP !`` give the text pieces ``Sure`` and ``.``, then nothing: the ``S`` is held back until it
is known whether it begins a stop string.
"""

from collections.abc import Callable, Sequence

from zoo.errors import ConfigError

Decode = Callable[[list[int]], str]
UNFINISHED = "\ufffd"  # decoders return it for bytes that are not a whole character


class TextStream:
    """Incremental decoder of one answer.

    Args:
        decode: function from token ids to text.
        stop: stop strings; the text is cut before the first of them.

    Attributes:
        text: text returned so far.
        has_stopped: True if a stop string was found.
    """

    def __init__(self, decode: Decode, stop: Sequence[str] = ()) -> None:
        self.decode, self.stop = decode, check_stop(stop)
        self.text, self.has_stopped = "", False
        self._ids: list[int] = []
        self._shown = 0  # number of ids whose text was handed on
        # Ids from here on are decoded together, because the text of a token (a space, a joined mark) may depend on the token before.
        self._context = 0
        self._waiting = ""  # text held back because it may begin a stop string

    def push(self, token: int) -> str:
        """Add a token id and return the new text that is final; this is often the empty string."""
        if self.has_stopped:
            return ""
        self._ids.append(token)
        before, now = self.decode(self._ids[self._context : self._shown]), self.decode(self._ids[self._context :])
        if now.endswith(UNFINISHED) or len(now) <= len(before):
            return ""
        self._context, self._shown = self._shown, len(self._ids)
        return self._give(now[len(before) :])

    def close(self) -> str:
        """End the stream and return the text that was held back."""
        if self.has_stopped:
            return ""
        before, now = self.decode(self._ids[self._context : self._shown]), self.decode(self._ids[self._context :])
        piece = self._give(now[len(before) :])  # an unfinished last character becomes U+FFFD
        rest, self._waiting = ("" if self.has_stopped else self._waiting), ""
        self.text += rest
        return piece + rest

    def _give(self, new: str) -> str:
        """Return the part of the new text that cannot begin a stop string; hold the rest back."""
        waiting = self._waiting + new
        cut = find_stop(waiting, self.stop)
        if cut is not None:
            self.has_stopped, given, self._waiting = True, waiting[:cut], ""
        else:
            held = longest_beginning(waiting, self.stop)
            given, self._waiting = waiting[: len(waiting) - held], waiting[len(waiting) - held :]
        self.text += given
        return given


class StopStrings:
    """``stop`` callback of ``generate``: returns True if the decoded ids contain a stop string.

    Only the last ids are decoded: as many as the longest stop string has bytes, because a token holds at least one byte.
    """

    def __init__(self, decode: Decode, stop: Sequence[str]) -> None:
        self.decode, self.stop = decode, check_stop(stop)
        self.reach = 8 + max((len(text.encode()) for text in self.stop), default=0)  # 8 more, for special tokens without text

    def __call__(self, ids: list[int]) -> bool:
        return bool(self.stop) and find_stop(self.decode(ids[-self.reach :]), self.stop) is not None


def cut_at_stop(text: str, stop: Sequence[str]) -> str:
    """Return the text before the first stop string."""
    return text[: find_stop(text, stop)]


def find_stop(text: str, stop: Sequence[str]) -> int | None:
    """Return the index at which the first stop string begins, or None if the text contains none."""
    return min((place for place in map(text.find, stop) if place >= 0), default=None)


def longest_beginning(text: str, stop: Sequence[str]) -> int:
    """Return the number of last characters that may begin a stop string: 2 for "no, ST" with the stop string "STOP"."""
    lengths = (n for word in stop for n in range(min(len(word) - 1, len(text)), 0, -1) if text.endswith(word[:n]))
    return max(lengths, default=0)


def check_stop(stop: Sequence[str]) -> tuple[str, ...]:
    """Return the stop strings as a tuple.

    Raises:
        ConfigError: ``stop`` is one string instead of a sequence, or an element is empty or not a string.
    """
    if isinstance(stop, str) or any(not isinstance(text, str) or not text for text in stop):
        raise ConfigError(f"stop: {stop!r}; allowed is a sequence of strings that are not empty, for example ['\\n\\n']")
    return tuple(stop)
