"""Check of connectors."""

import copy
from typing import Any

import torch
from torch import Tensor

from zoo.errors import DataError
from zoo.testing.rules.comparison import require, require_close
from zoo.testing.rules.parts import check_gradients, check_keywords, check_state
from zoo.types import Connector


def check_connector(connector: Any, *, in_dim: int, out_dim: int, num_tokens: int = 16, varied: bool = True) -> None:
    """Check every rule of ``zoo.types.Connector``.

    Args:
        connector: was built with ``in_dim`` and ``out_dim``.
        in_dim: width of the encoder's tokens.
        out_dim: width of the language model.
        num_tokens: a number that the connector takes.
        varied: True if items may also have fewer tokens, behind which padding lies (audio).

    Raises:
        ContractError: a rule is broken.
    """
    require(
        isinstance(connector, Connector),
        connector,
        "a connector is a subclass of zoo.types.Connector",
        "it is none",
        "Connector",
        "write class X(Connector)",
    )
    check_keywords(type(connector), supplied=("in_dim", "out_dim"))
    connector.eval()
    tokens = torch.randn(3, num_tokens, in_dim, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([num_tokens, num_tokens - num_tokens // 3, max(1, num_tokens // 2)] if varied else [num_tokens] * 3)
    mask = torch.arange(num_tokens) < lengths[:, None]
    with torch.no_grad():
        found, real = _made(connector, tokens, mask, out_dim)
        _check_numbers(connector, lengths, real)
        _check_rows(connector, tokens, mask, found, real)
        other = check_state(connector, "connector", None)
        require_close(
            other(tokens, mask)[0][real], found[real], connector, "saved and loaded weights give the same output", "register tensors"
        )
        shape = copy.deepcopy(connector).to("meta")(tokens.to("meta"), mask.to("meta"))[0].shape
        require(
            shape == found.shape,
            connector,
            "shapes on the meta device are those of a run",
            f"{list(shape)}",
            f"{list(found.shape)}",
            "fix it",
        )
    check_gradients(connector, connector(tokens, mask)[0].square().sum())


def _made(connector: Connector, tokens: Tensor, mask: Tensor, out_dim: int) -> tuple[Tensor, Tensor]:
    made = connector(tokens, mask)
    fits = isinstance(made, tuple) and len(made) == 2 and all(isinstance(each, Tensor) for each in made)
    require(
        fits, connector, "forward returns tokens and their mask", f"it returns a {type(made).__name__}", "(tokens, mask)", "return both"
    )
    found, real = made
    shape = [len(tokens), found.shape[1] if found.ndim > 1 else 0, out_dim]
    require(
        list(found.shape) == shape,
        connector,
        f"out_dim is {out_dim}",
        f"tokens are {list(found.shape)}",
        f"{shape}",
        "return tokens of that shape",
    )
    described = f"{str(real.dtype).removeprefix('torch.')} {list(real.shape)}"
    fits = real.dtype == torch.bool and list(real.shape) == shape[:2]
    require(fits, connector, "mask has one bool per token", f"mask is {described}", f"bool {shape[:2]}", "return a bool mask of that shape")
    return found, real


def _check_numbers(connector: Connector, lengths: Tensor, real: Tensor) -> None:
    """Hold ``num_tokens`` against the masks: placeholders are counted with it."""
    try:
        counted = [connector.num_tokens(n) for n in lengths.tolist()]
    except DataError as error:
        raise DataError(f"check_connector: choose num_tokens that the connector takes, or varied=False: {error}") from error
    found, remedy = real.sum(1).tolist(), "return in num_tokens what forward makes of so many tokens"
    require(counted == found, connector, "num_tokens(n) is the number of tokens of forward", f"it is {counted}", f"{found}", remedy)


def _check_rows(connector: Connector, tokens: Tensor, mask: Tensor, found: Tensor, real: Tensor) -> None:
    noisy, _ = connector(tokens.masked_fill(~mask[..., None], torch.nan), mask)
    remedy = "set tokens at padding to 0 with masked_fill before anything reads them"
    require_close(noisy[real], found[real], connector, "padding changes nothing, not even NaN there", remedy)
    for row in range(len(tokens)):
        alone, kept = connector(tokens[row : row + 1], mask[row : row + 1])
        require_close(alone[kept], found[row : row + 1][kept], connector, "an item alone gives what it gives in a batch", "mix no rows")
