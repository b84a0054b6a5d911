"""Token ids to text as they come: only whole characters, and nothing that a stop string will take back.

A token of a byte-level vocabulary may hold a part of a character, and a stop string may begin in one token and end in another. With the
stop string "STOP" the tokens ``Sure .S T OP !`` are shown as ``Sure``, ``.``, and then nothing: the ``S`` waits until it is known
whether it begins a stop string, and text ends before it.
"""

from collections.abc import Callable, Sequence

from zoo.errors import ConfigError

Decode = Callable[[list[int]], str]
UNFINISHED = "\ufffd"  # what a decoder gives for bytes that are no whole character


class TextStream:
    """One answer's text, piece by piece.

    Args:
        decode: token ids to text.
        stop: strings that end the text, which is cut before the first of them.

    Attributes:
        text: all that was given out so far.
        has_stopped: whether a stop string was found.
    """

    def __init__(self, decode: Decode, stop: Sequence[str] = ()) -> None:
        self.decode, self.stop = decode, check_stop(stop)
        self.text, self.has_stopped = "", False
        self._ids: list[int] = []
        self._shown = 0  # ids whose text is whole
        self._context = 0  # from here on ids are decoded together: a space or a joined mark may depend on what stands before
        self._waiting = ""

    def push(self, token: int) -> str:
        """Take a token and give the text that is certain now, often the empty string."""
        if self.has_stopped:
            return ""
        self._ids.append(token)
        before, now = self.decode(self._ids[self._context : self._shown]), self.decode(self._ids[self._context :])
        if now.endswith(UNFINISHED) or len(now) <= len(before):
            return ""
        self._context, self._shown = self._shown, len(self._ids)
        return self._give(now[len(before) :])

    def close(self) -> str:
        """Give what was held back; the text ends here."""
        if self.has_stopped:
            return ""
        before, now = self.decode(self._ids[self._context : self._shown]), self.decode(self._ids[self._context :])
        piece = self._give(now[len(before) :])  # with an unfinished character as the decoder shows it
        rest, self._waiting = ("" if self.has_stopped else self._waiting), ""
        self.text += rest
        return piece + rest

    def _give(self, new: str) -> str:
        """Hand on what cannot be the beginning of a stop string."""
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
    """Whether a text that grows by a token holds one of the strings: ``generate``'s ``stop``.

    Looks at the last tokens alone, as many as the longest string could reach back; a token has one byte at least.
    """

    def __init__(self, decode: Decode, stop: Sequence[str]) -> None:
        self.decode, self.stop = decode, check_stop(stop)
        self.reach = 8 + max((len(text.encode()) for text in self.stop), default=0)  # some more, for tokens without text

    def __call__(self, ids: list[int]) -> bool:
        return bool(self.stop) and find_stop(self.decode(ids[-self.reach :]), self.stop) is not None


def cut_at_stop(text: str, stop: Sequence[str]) -> str:
    """The text before the first stop string."""
    return text[: find_stop(text, stop)]


def find_stop(text: str, stop: Sequence[str]) -> int | None:
    """Where the first stop string begins."""
    return min((place for place in map(text.find, stop) if place >= 0), default=None)


def longest_beginning(text: str, stop: Sequence[str]) -> int:
    """How many of the last characters may begin a stop string: 2 of "no, ST" with the stop string "STOP"."""
    lengths = (n for word in stop for n in range(min(len(word) - 1, len(text)), 0, -1) if text.endswith(word[:n]))
    return max(lengths, default=0)


def check_stop(stop: Sequence[str]) -> tuple[str, ...]:
    """The stop strings.

    Raises:
        ConfigError: one string instead of several, an empty one, or something else.
    """
    if isinstance(stop, str) or any(not isinstance(text, str) or not text for text in stop):
        raise ConfigError(f"stop: {stop!r}; allowed is a sequence of strings that are not empty, for example ['\\n\\n']")
    return tuple(stop)
