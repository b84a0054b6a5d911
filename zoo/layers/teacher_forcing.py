"""What a decoder of frames is fed in training, and who speaks: groups of frames, a schedule of true and own frames, a table of voices.

Papers: Wang et al. 2017 (Tacotron, arXiv 1703.10135), section 3.3, for groups; Bengio et al. 2015 (scheduled sampling, arXiv 1506.03099).
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from zoo.errors import ConfigError, DataError


class TeacherForcing(nn.Module):
    """The share of true frames that are fed back, by the number of optimizer steps done, which is part of the state.

    Args:
        shares: at the first and at the last of ``steps``.
        steps: between which the share changes linearly.

    Raises:
        ConfigError: not two shares and two rising numbers of steps.
    """

    def __init__(self, shares: Sequence[float], steps: Sequence[int]) -> None:
        super().__init__()
        if len(shares) != 2 or not all(0 <= share <= 1 for share in shares):
            raise ConfigError(f"teacher_forcing: {list(shares)}; allowed are two shares from 0 to 1, at the beginning and at the end")
        if len(steps) != 2 or not 0 <= steps[0] < steps[1]:
            raise ConfigError(f"forcing_steps: {list(steps)}; allowed are two numbers of steps, the second larger")
        self.shares, self.steps = tuple(shares), tuple(steps)
        self.steps_done: Tensor | None
        self.register_buffer("steps_done", torch.zeros((), dtype=torch.int64) if min(shares) < 1 else None)

    def after_step(self) -> None:
        """Count an optimizer step."""
        if self.steps_done is not None:
            self.steps_done += 1

    @property
    def share(self) -> float:
        """Of true frames now: all of them outside training."""
        if not self.training or self.steps_done is None or self.steps_done.is_meta:
            return 1.0
        begin, end = self.steps
        done = min(max((int(self.steps_done) - begin) / (end - begin), 0.0), 1.0)
        return self.shares[0] + (self.shares[1] - self.shares[0]) * done


Step = Callable[[Tensor, int], tuple[Tensor, Tensor | None, Tensor]]


def sampled_frames(
    step: Step, fed: Float[Tensor, "steps batch num_mels"], share: float
) -> tuple[list[Tensor], list[Tensor | None], list[Tensor]]:
    """Groups, stop logits and attention where some of the frames that are fed back are the model's own; nothing is learnt through these.

    Args:
        step: gives group, stop logit and attention for the frame before and the number of the step.
        share: of true frames.
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
    """Pad to whole groups; of a group with a real frame all count, and what follows the end of a row is as its last frame is."""
    if reduction == 1:
        return frames, mask
    whole = -(-frames.shape[2] // reduction) * reduction
    places = torch.minimum(torch.arange(whole, device=frames.device), mask.sum(1, keepdim=True) - 1)  # [B, whole]
    return (
        frames.gather(2, places[:, None].expand(-1, frames.shape[1], -1)),
        mask[:, ::reduction].repeat_interleave(reduction, 1)[:, :whole],
    )


def fed_frames(frames: Float[Tensor, "batch num_mels frames"], reduction: int) -> Float[Tensor, "steps batch num_mels"]:
    """The last frame of the group before each, zeros before the first; frames are whole groups."""
    last = frames.permute(2, 0, 1)[reduction - 1 :: reduction]  # [steps, B, num_mels]
    return torch.cat([torch.zeros_like(last[:1]), last[:-1]])


def join_groups(groups: Sequence[Float[Tensor, "batch group"]], num_mels: int) -> Float[Tensor, "batch num_mels frames"]:
    """Groups of frames, each group [batch, reduction * num_mels], one behind the other."""
    stacked = torch.stack(list(groups), 1)  # [B, steps, reduction * num_mels]
    return stacked.reshape(len(stacked), -1, num_mels).transpose(1, 2)


class Speakers(nn.Module):
    """A vector for each voice, added to every token of a text; with none the tokens stay as they are."""

    def __init__(self, count: int, dim: int) -> None:
        super().__init__()
        if count < 0:
            raise ConfigError(f"num_speakers: {count}; allowed are 0 for one voice, or their number")
        self.count = count
        self.table = nn.Embedding(count, dim) if count else None

    def forward(self, tokens: Float[Tensor, "batch length dim"], who: Int[Tensor, " batch"] | None) -> Float[Tensor, "batch length dim"]:
        """Tokens as they are said by ``who``.

        Raises:
            DataError: nobody is named, or somebody who is not in the table.
        """
        if self.table is None:
            return tokens
        if who is None:
            raise DataError(f"labels: nobody says who speaks; this model has {self.count} voices: give a number for each text")
        if not who.is_meta and len(who) and not 0 <= int(who.min()) <= int(who.max()) < self.count:
            raise DataError(f"labels: voices {who.tolist()}; allowed are 0 to {self.count - 1}")
        return tokens + self.table(who)[:, None]
