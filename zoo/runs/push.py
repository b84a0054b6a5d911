"""Publish a model on a hub, with a model card."""

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from torch import nn

from zoo.assembly.finite import refuse_not_finite
from zoo.assembly.save_load import load, save
from zoo.errors import ConfigError, ZooError
from zoo.interop.base.checkpoint_directory import find_checkpoint
from zoo.interop.base.source import ZOO, Source, is_foreign
from zoo.registry.schemas import read_run_file
from zoo.runs.model_card import checked_licence, model_card
from zoo.storage.files import CONFIG_FILE
from zoo.storage.hub import INSTALL, OWNED, is_hub_id
from zoo.storage.hub_faults import faults, reason_of

log = logging.getLogger("zoo")

CARD = "README.md"
OLD = ["*.safetensors", "*.safetensors.index.json"]  # of an earlier push; those that are not written again are removed
WRITE = "log in with `hf auth login`, or set HF_TOKEN to a token with write access"


def push(
    model: nn.Module | str | Path,
    name: str,
    *,
    license: str | None = None,
    private: bool = False,
    data: Sequence[str] = (),
    revision: str | None = None,
    message: str | None = None,
    allow_nan: bool = False,
) -> str:
    """Upload a model to ``owner/name`` of a hub, with a model card, so that ``zoo.load("hf://owner/name")`` gives it back.

    The files are those of ``zoo.save``. A directory that ``zoo.save`` or ``zoo.export`` wrote is uploaded as it is; of a run directory,
    its best model. A ``README.md`` that the repository has already is kept. The token is read from ``HF_TOKEN`` or from
    ``hf auth login``, and ``HF_ENDPOINT`` is obeyed.

    Args:
        model: a model, or a directory.
        name: ``owner/name``; a new repository is created.
        license: required: the licence of the weights, for example "apache-2.0" or "cc-by-nc-4.0".
        private: create a private repository.
        data: the training data, one line each, for the card; of a run directory the name of its source is added.
        revision: branch to upload to; None is the default branch.
        message: of the commit.
        allow_nan: publish weights that hold NaN or infinity, too.

    Returns:
        The address of the commit.

    Raises:
        ConfigError: no licence, no login, a wrong name, or a repository that the token may not write.
        WeightsError: the directory holds no model, or the weights hold NaN or infinity.
    """
    licence = checked_licence(license)
    api = _logged_in(name)
    with tempfile.TemporaryDirectory() as place:
        folder, loaded, library = _files_of(model, Path(place) / "model")
        if not allow_nan:
            refuse_not_finite(loaded, "push", "allow_nan=True")
        card = model_card(loaded, name, licence, [*data, *_data_of(model)], library)
        try:
            keeps = _create(api, name, private, revision)
            if not keeps:
                api.upload_file(
                    path_or_fileobj=card.encode(), path_in_repo=CARD, repo_id=name, revision=revision, commit_message=f"Add {CARD}"
                )
            done = api.upload_folder(
                repo_id=name,
                folder_path=folder,
                commit_message=message or "Add the model",
                revision=revision,
                delete_patterns=OLD,
                ignore_patterns=[CARD],
            )
        except ZooError:
            raise
        except faults() as error:
            raise ConfigError(f"push: {name} cannot be written: {_reason(error, name, revision)}") from error
    return str(done.commit_url)


def _logged_in(name: str) -> Any:
    """Return the library's door to the hub.

    Raises:
        ConfigError: no such library, a name that no repository can have, or no token.
    """
    try:
        from huggingface_hub import HfApi, constants, get_token
    except ImportError as error:
        raise ConfigError(f"push: needs huggingface_hub; install it with: {INSTALL}") from error
    if not is_hub_id(name) or "@" in name:
        raise ConfigError(f"push: {name!r} is no name of a repository; write OWNER/NAME ({OWNED})")
    if constants.HF_HUB_OFFLINE:
        raise ConfigError("push: HF_HUB_OFFLINE forbids to use the network; unset it")
    if not get_token():
        raise ConfigError(f"push: not logged in to {constants.ENDPOINT}; {WRITE}")
    return HfApi()


def _files_of(model: nn.Module | str | Path, place: Path) -> tuple[Path, nn.Module, str]:
    """Return the folder to upload, the model in it, and the library that reads it."""
    if isinstance(model, nn.Module):
        return save(model, place), model, ZOO
    folder = Path(model) if is_foreign(Path(model)) else find_checkpoint(Path(model))
    library = Source(str(folder), directory=folder).library if is_foreign(folder) else ZOO
    return folder, cast(nn.Module, load(folder)), library.lower()


def _data_of(model: nn.Module | str | Path) -> list[str]:
    """Return the name of the source that a run was trained with, if the model is the directory of a run."""
    if isinstance(model, nn.Module) or find_run(Path(model)) is None:
        return []
    source = read_run_file(Path(model) / CONFIG_FILE).get("data", {}).get("source", {}).get("name")
    return [f"zoo's data source `{source}`"] if source else []


def find_run(directory: Path) -> Path | None:
    """Return the directory if it is that of a run, which holds its model in ``best`` or ``last``."""
    holds = any((directory / each / CONFIG_FILE).is_file() for each in ("best", "last"))
    return directory if holds and (directory / CONFIG_FILE).is_file() else None


def _create(api: Any, name: str, private: bool, revision: str | None) -> bool:
    """Create the repository if there is none; return True if it has a card already.

    Raises:
        ConfigError: it is public, but should be private.
    """
    api.create_repo(name, private=private, exist_ok=True)
    if revision is not None:
        api.create_branch(name, branch=revision, exist_ok=True)
    info = api.model_info(name, revision=revision)
    if private and not info.private:
        raise ConfigError(
            f"private: {name} exists already and everyone can read it; make it private on the hub first, or choose another name"
        )
    has = any(each.rfilename == CARD for each in info.siblings or ())
    if has:
        log.warning("%s: has a %s already, which is kept; edit it on the hub if the model changed", name, CARD)
    return has


def _reason(error: BaseException, name: str, revision: str | None) -> str:
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

    status = error.response.status_code if isinstance(error, HfHubHTTPError) else 0
    if status in (401, 403) or isinstance(error, RepositoryNotFoundError):
        return f"the token in use may not write there (status {status}); {WRITE}"
    return reason_of(error, name, revision or "")
