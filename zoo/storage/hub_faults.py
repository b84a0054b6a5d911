"""Faults of the Hugging Face hub in words: what is wrong, and what to set."""

from zoo.errors import first_line, name_choices

LOG_IN = "log in with `hf auth login`, or set HF_TOKEN to a token with read access"


def faults() -> tuple[type[BaseException], ...]:
    """Return the exceptions that ``huggingface_hub`` and libraries on top of it raise for a network, a name or an access."""
    import httpx

    return (OSError, RuntimeError, ValueError, httpx.HTTPError, httpx.InvalidURL)


def is_unreachable(error: BaseException) -> bool:
    """Return True if the hub did not answer, forbids access, or is offline by ``HF_HUB_OFFLINE``, so that a copy in the cache may do."""
    import httpx
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RevisionNotFoundError

    if isinstance(error, HfHubHTTPError):
        return not isinstance(error, RevisionNotFoundError)
    return isinstance(error, OfflineModeIsEnabled | httpx.TransportError)


def reason_of(error: BaseException, name: str, revision: str = "") -> str:
    """Return what is wrong with a request about a model, and what to do; it never holds the token.

    Args:
        error: one of ``faults()``.
        name: ``owner/name``.
        revision: as the user gave it.
    """
    import httpx
    from huggingface_hub import constants, get_token
    from huggingface_hub import errors as known

    token = get_token()
    if isinstance(error, known.GatedRepoError):
        reason = f"access to this model is restricted: ask for it at {constants.ENDPOINT}/{name}, then " + (
            "load again; the token in use has no access yet" if token else LOG_IN
        )
    elif isinstance(error, known.RevisionNotFoundError):
        reason = f"it has no revision {revision!r}; {_revisions(name, revision)}"
    elif isinstance(error, known.RemoteEntryNotFoundError):
        reason = "it has no such file; check the name"
    elif isinstance(error, known.RepositoryNotFoundError):
        private = "the token in use may not read it" if token else LOG_IN
        reason = f"{constants.ENDPOINT} has no such model, or it is private; check the name (for a private model: {private})"
    elif isinstance(error, known.HfHubHTTPError) and error.response is not None:
        reason = _status(error.response.status_code, constants.ENDPOINT, bool(token))
    elif constants.HF_HUB_OFFLINE:
        reason = (
            f"it is not in the cache {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE forbids to download it; unset it, or give a directory"
        )
    elif isinstance(error, httpx.RemoteProtocolError | httpx.ReadError):
        reason = "the connection broke off again and again; load again: files that are complete are kept"
    elif isinstance(error, httpx.TransportError | known.LocalEntryNotFoundError):
        reason = f"{constants.ENDPOINT} cannot be reached and it is not in the cache {constants.HF_HUB_CACHE}; check the network"
    else:
        reason = f"{first_line(error)}; check the name and the network"
    return reason.replace(token, "(the token)") if token else reason


def _status(status: int, endpoint: str, token: bool) -> str:
    if status in (401, 403):
        wrong = f"{endpoint} refuses the token in use (status {status})" if token else f"{endpoint} refuses access (status {status})"
        return f"{wrong}; {LOG_IN}"
    if status == 429:
        return f"{endpoint} answers that there were too many requests; wait, or log in with `hf auth login` for a higher limit"
    return f"{endpoint} answers with status {status}; try again later"


def _revisions(name: str, wrong: str) -> str:
    """Return a hint with the branches and tags of a model."""
    from huggingface_hub import HfApi

    try:
        refs = HfApi().list_repo_refs(name)
    except faults():
        return "give a branch, a tag or a commit"
    return name_choices(wrong, [each.name for each in (*refs.branches, *refs.tags)])
