"""Tab completion of overrides: groups, options and keys of the config that the words before compose to."""

from collections.abc import Sequence
from contextlib import suppress

from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.errors import HydraException
from hydra.plugins.completion_plugin import DefaultCompletionPlugin
from omegaconf.errors import OmegaConfBaseException

from zoo.assembly.compose import ODD_VALUES, PLACES_OF_TABLES, hydra_session
from zoo.assembly.hydra_flags import read_flags
from zoo.errors import ConfigError
from zoo.registry import MODALITIES


def complete_override(config_name: str, words: Sequence[str], word: str) -> list[str]:
    """Return the overrides that begin with ``word``, after the complete ``words`` of a command line; empty if a word is wrong."""
    with suppress(ConfigError, HydraException, OmegaConfBaseException, *ODD_VALUES):
        flags = read_flags(words)
        with hydra_session(flags.config_dir):
            loader = GlobalHydra.instance().config_loader()
            key, equals, _ = word.partition("=")
            group, at, _ = key.partition("@")
            if at and equals:  # Hydra completes the options of GROUP=, not of GROUP@PLACE=
                found = [f"{key}={option}" for option in loader.get_group_options(group, ObjectType.CONFIG)]
            else:
                line = " ".join([*flags.overrides, word]) + ("" if word else " ")
                found = DefaultCompletionPlugin(loader)._query(flags.config_name or config_name, line)
                found += [f"{place}=" for place in _places()] if config_name == "train" and not equals else []
        # A group of parts needs the place of the part: encoder@system.encoders.image=NAME.
        return sorted({each for each in found if each.startswith(word) and each.rstrip("=") not in PLACES_OF_TABLES})
    return []


def _places() -> list[str]:
    return [*(f"encoder@system.encoders.{modality}" for modality in MODALITIES), *list(PLACES_OF_TABLES.values())[1:]]
