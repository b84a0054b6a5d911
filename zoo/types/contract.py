"""Rules of encoders that need no weights; ``zoo check`` and ``zoo.testing`` share them.

Each rule that is broken raises one ``ContractError`` with part, rule, finding, expectation and remedy.
"""

import inspect
from typing import Any

import torch
from torch import Tensor

from zoo.errors import ContractError
from zoo.types.batch import Encoded
from zoo.types.encoder import Encoder

MODALITIES = ("image", "audio", "text")


def check_encoder_words(encoder: Any, part: str) -> None:
    """Raise ContractError unless an object is an encoder that says its modality and its width.

    Args:
        encoder: the object to check.
        part: its name, for messages.
    """
    if not isinstance(encoder, Encoder):
        found = (
            f"it is a {type(encoder).__mro__[1].__name__}" if isinstance(encoder, torch.nn.Module) else f"it is a {type(encoder).__name__}"
        )
        raise ContractError(part, "an encoder is a subclass of zoo.types.Encoder", found, "Encoder", "write class X(Encoder)")
    if encoder.modality not in MODALITIES:
        found = f"it is {encoder.modality!r}" if encoder.modality else "it has none"
        remedy = 'write modality = "image" (or "audio", "text") in the class'
        raise ContractError(part, "an encoder must say its modality", found, "image, audio or text", remedy)
    if isinstance(encoder.dim, bool) or not isinstance(encoder.dim, int) or encoder.dim < 1:
        found = f"it is {encoder.dim!r}" if encoder.dim else "it has none"
        remedy = "set self.dim in the constructor to the width of the tokens"
        raise ContractError(part, "an encoder must say dim, the width of its tokens", found, "an int of 1 or more", remedy)
    if encoder.takes_patches and not encoder.patch_size:
        remedy = "set self.patch_size in the constructor to the side of a patch in pixels"
        raise ContractError(part, "an encoder that takes lists of patches says their size", "it has none", "an int of 1 or more", remedy)
    known = inspect.signature(encoder.forward).parameters
    if not {"mask", "reads"} <= set(known):
        remedy = 'write forward(self, x, mask=None, *, reads="tokens")'
        raise ContractError(part, "forward takes x, mask and reads", f"it takes {', '.join(known) or 'nothing'}", "x, mask, reads", remedy)


def check_encoded(encoded: Any, encoder: Encoder, x: Tensor, part: str, *, reads: str = "tokens", items: int | None = None) -> None:
    """Raise ContractError unless an encoder's output keeps its promises: type, shapes, mask and pooled vector.

    Args:
        encoded: output of the encoder.
        encoder: made it.
        x: the input that it was made of.
        part: name of the encoder, for messages.
        reads: see ``zoo.types.encode``; "patches" may have another width than ``dim`` and no pooled vector.
        items: number of pictures, if ``x`` is a list of patches.
    """
    number = len(x) if items is None else items
    method = "patches" if reads == "patches" else "forward"
    if not isinstance(encoded, Encoded):
        shape = f" {list(encoded.shape)}" if isinstance(encoded, Tensor) else ""
        remedy = "return Encoded(tokens, pooled, mask) of zoo.types"
        raise ContractError(part, f"{method} returns Encoded", f"it returns a {type(encoded).__name__}{shape}", "Encoded", remedy)
    _check_tokens(encoded.tokens, encoder.dim if reads != "patches" else None, number, part)
    _check_mask(encoded.mask, encoded.tokens, part)
    if reads != "patches":
        _check_pooled(encoded.pooled, encoder, number, part)


def _check_tokens(tokens: Any, dim: int | None, number: int, part: str) -> None:
    wanted = f"[{number}, N, {dim or 'dim'}]"
    if not isinstance(tokens, Tensor) or not tokens.is_floating_point():
        raise ContractError(part, "tokens are a float tensor", f"they are {_described(tokens)}", wanted, f"return tokens {wanted}")
    if tokens.ndim != 3 or len(tokens) != number:
        raise ContractError(
            part, "tokens are [batch, num_tokens, dim]", f"they are {list(tokens.shape)}", wanted, f"return tokens {wanted}"
        )
    if dim is not None and tokens.shape[2] != dim:
        remedy = f"set self.dim = {tokens.shape[2]}, or return tokens {wanted}"
        raise ContractError(part, f"dim is {dim}", f"tokens are {list(tokens.shape)}", wanted, remedy)


def _check_mask(mask: Any, tokens: Tensor, part: str) -> None:
    wanted = f"a bool tensor {list(tokens.shape[:2])}"
    if isinstance(mask, Tensor) and mask.dtype == torch.bool and mask.shape == tokens.shape[:2]:
        return
    remedy = f"return {wanted} that is True at real tokens"
    raise ContractError(part, "mask has one bool per token", f"mask is {_described(mask)}", wanted, remedy)


def _check_pooled(pooled: Any, encoder: Encoder, number: int, part: str) -> None:
    shape = [number, encoder.dim]
    if not encoder.gives_pooled:
        if pooled is not None:
            remedy = "set gives_pooled = True, or return None as pooled"
            raise ContractError(part, "gives_pooled is False", f"pooled is {_described(pooled)}", "None", remedy)
        return
    if not isinstance(pooled, Tensor):
        remedy = f"set gives_pooled = False, or return {shape}"
        raise ContractError(part, "gives_pooled is True", f"pooled is {_described(pooled)}", f"{shape}", remedy)
    if list(pooled.shape) != shape:
        raise ContractError(part, "pooled is [batch, dim]", f"pooled is {list(pooled.shape)}", f"{shape}", f"return pooled {shape}")


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return "None" if value is None else f"a {type(value).__name__}"
