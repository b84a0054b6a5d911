"""Limits of the server: what one request may cost, and how many requests may be open."""

import math
from dataclasses import dataclass, fields

from zoo.errors import ConfigError


@dataclass(frozen=True)
class Limits:
    """Limits of the server.

    Attributes:
        max_batch: items that a model computes at once.
        max_wait_ms: longest time in milliseconds that a request waits for others to fill its batch; 0 does not wait.
        max_requests: requests that may wait or run at once; more get status 429.
        max_body_mb: largest body in megabytes (10**6 bytes).
        max_pixels: largest image, width times height.
        max_audio_seconds: longest recording in seconds.
        max_inputs: texts or images in one request; also labels times templates of a classification.
        max_characters: longest text that is spoken.
        max_sentence_seconds: longest sound of one sentence that is spoken, in seconds.
        max_new_tokens: longest answer of a chat, in tokens.
        timeout: longest time of a request in seconds, from its arrival to the end of its answer.
        grace: seconds that running requests get when the server is stopped.

    Raises:
        ConfigError: a number is not positive (``max_wait_ms`` may be 0).
    """

    max_batch: int = 16
    max_wait_ms: float = 5.0
    max_requests: int = 128
    max_body_mb: float = 25.0
    max_pixels: int = 50_000_000
    max_audio_seconds: float = 3600.0
    max_inputs: int = 2048
    max_characters: int = 4096
    max_sentence_seconds: float = 20.0
    max_new_tokens: int = 1024
    timeout: float = 300.0
    grace: float = 30.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not math.isfinite(value) or value < 0 or (value == 0 and field.name != "max_wait_ms"):
                raise ConfigError(f"--{field.name.replace('_', '-')}: {value}; allowed is a number above 0")

    @property
    def max_body_bytes(self) -> int:
        """Largest body in bytes."""
        return int(self.max_body_mb * 10**6)
