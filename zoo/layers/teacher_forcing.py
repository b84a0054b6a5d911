"""Inputs of frame decoders: groups of frames, scheduled sampling of true and predicted frames, and speaker embeddings.

Papers: Wang et al. 2017 (Tacotron, arXiv 1703.10135), section 3.3, for groups; Bengio et al. 2015 (scheduled sampling, arXiv 1506.03099).
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from zoo.errors import ConfigError, DataError
from zoo.types import follow, on_host, update


class TeacherForcing(nn.Module):
    """Schedule for the share of true frames that are fed back, by the number of finished optimizer steps.

    The number of steps is a buffer, so that a resumed run continues the schedule.

    Args:
        shares: the share at the first and at the last of ``steps``, each 0 to 1.
        steps: two numbers of optimizer steps between which the share changes linearly.

    Raises:
        ConfigError: ``shares`` is not two shares, or ``steps`` is not two increasing numbers.
    """

    def __init__(self, shares: Sequence[float], steps: Sequence[int]) -> None:
        super().__init__()
        if len(shares) != 2 or not all(0 <= share <= 1 for share in shares):
            raise ConfigError(f"teacher_forcing: {list(shares)}; allowed are two shares from 0 to 1, of the first and the last step")
        if len(steps) != 2 or not 0 <= steps[0] < steps[1]:
            raise ConfigError(f"forcing_steps: {list(steps)}; allowed are two numbers of steps, the second larger")
        self.shares, self.steps = tuple(shares), tuple(steps)
        # Without sampling there is no buffer, so that checkpoints of such models do not need one.
        self.steps_done: Tensor | None
        self.register_buffer("steps_done", torch.zeros((), dtype=torch.int64) if min(shares) < 1 else None)

    def after_step(self) -> None:
        """Count an optimizer step."""
        if self.steps_done is not None:
            update(self.steps_done, lambda steps: steps + 1)

    @property
    def share(self) -> float:
        """Current share of true frames; 1.0 outside training."""
        if not self.training or self.steps_done is None or self.steps_done.is_meta:
            return 1.0
        begin, end = self.steps
        done = min(max((int(on_host(self.steps_done)) - begin) / (end - begin), 0.0), 1.0)
        return self.shares[0] + (self.shares[1] - self.shares[0]) * done


Step = Callable[[Tensor, int], tuple[Tensor, Tensor | None, Tensor]]


def sampled_frames(
    step: Step, fed: Float[Tensor, "steps batch num_mels"], share: float
) -> tuple[list[Tensor], list[Tensor | None], list[Tensor]]:
    """Return groups of frames, stop logits and attention weights with scheduled sampling.

    Each input frame is the true one with probability ``share``, otherwise the model's prediction, through which no gradient flows.

    Args:
        step: maps the frame before and the index of the step to group, stop logit and attention weights.
        fed: true input frames of each step.
        share: probability of a true frame.
    """
    truth = torch.rand(fed.shape[:2], device=fed.device) < share  # [steps, B]
    own, found = fed[0], []
    for number, (frame, is_true) in enumerate(zip(fed, truth, strict=True)):
        found.append(step(torch.where(is_true[:, None], frame, own), number))
        own = found[-1][0][:, -fed.shape[2] :].detach()
    groups, stops, alignments = zip(*found, strict=True)
    return list(groups), list(stops), list(alignments)


def whole_groups(
    frames: Float[Tensor, "batch bins frames"], mask: Bool[Tensor, "batch frames"], reduction: int
) -> tuple[Float[Tensor, "batch bins whole"], Bool[Tensor, "batch whole"]]:
    """Return frames and mask, padded to a multiple of ``reduction`` frames.

    A group with one real frame counts as real as a whole. Frames after the end of a row repeat its last real frame.

    Args:
        frames: mels or magnitudes.
        mask: True at real frames.
        reduction: frames per group.
    """
    if reduction == 1:
        return frames, mask
    # 3 real frames of 5 with reduction 2: frames 0 1 2 2 2 2, mask T T T T F F.
    whole = -(-frames.shape[2] // reduction) * reduction
    places = torch.minimum(torch.arange(whole, device=frames.device), mask.sum(1, keepdim=True) - 1)  # [B, whole]
    return (
        frames.gather(2, places[:, None].expand(-1, frames.shape[1], -1)),
        follow(lambda mask: mask[:, ::reduction].repeat_interleave(reduction, 1)[:, :whole], mask),
    )


def fed_frames(frames: Float[Tensor, "batch num_mels frames"], reduction: int) -> Float[Tensor, "steps batch num_mels"]:
    """Return the decoder's input of each step: the last frame of the group before, zeros for the first; frames must be whole groups."""
    last = frames.permute(2, 0, 1)[reduction - 1 :: reduction]  # [steps, B, num_mels]
    return torch.cat([torch.zeros_like(last[:1]), last[:-1]])


def join_groups(groups: Sequence[Float[Tensor, "batch group"]], num_mels: int) -> Float[Tensor, "batch num_mels frames"]:
    """Return groups of frames [batch, reduction * num_mels] as one sequence of frames."""
    stacked = torch.stack(list(groups), 1)  # [B, steps, reduction * num_mels]
    return stacked.reshape(len(stacked), -1, num_mels).transpose(1, 2)


class Speakers(nn.Module):
    """Speaker embedding, added to every token of a text; with ``count`` 0, tokens are returned unchanged."""

    def __init__(self, count: int, dim: int) -> None:
        super().__init__()
        if count < 0:
            raise ConfigError(f"num_speakers: {count}; allowed are 0 (a single voice) or the number of voices")
        self.count = count
        self.table = nn.Embedding(count, dim) if count else None

    def forward(self, tokens: Float[Tensor, "batch length dim"], who: Int[Tensor, " batch"] | None) -> Float[Tensor, "batch length dim"]:
        """Return the tokens with the embedding of each text's speaker added.

        Args:
            tokens: the encoder's tokens.
            who: index of each text's speaker.

        Raises:
            DataError: no speakers are given, or an index is out of range.
        """
        if self.table is None:
            return tokens
        if who is None:
            raise DataError(
                f"labels: no speaker is given, but this model has {self.count} voices; give the index of a speaker for each text"
            )
        known = on_host(who)
        if not known.is_meta and len(known) and not 0 <= int(known.min()) <= int(known.max()) < self.count:
            raise DataError(f"labels: got speakers {known.tolist()}; allowed are 0 to {self.count - 1}")
        return tokens + self.table(who)[:, None]
