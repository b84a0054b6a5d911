"""The assets that can be fetched: one row each, pinned by version and SHA-256.

Most packages of weights are single uploads by one person. A row pins each package and the files of it that are used; nothing else
of a package is unpacked, and none of its code ever runs, but for the libraries of ``zoo.downloads.rows_voices``.
"""

from zoo.downloads.asset import Asset
from zoo.downloads.rows_data import DATA
from zoo.downloads.rows_drawings import DRAWINGS
from zoo.downloads.rows_speech import SPEECH
from zoo.downloads.rows_voices import VOICES
from zoo.downloads.rows_weights import WEIGHTS
from zoo.errors import ConfigError, name_choices

ASSETS: dict[str, Asset] = {asset.name: asset for asset in (*WEIGHTS, *DATA, *DRAWINGS, *SPEECH, *VOICES)}


def find_asset(name: str) -> Asset:
    """The row of a name.

    Raises:
        ConfigError: there is none; near matches are named.
    """
    if name not in ASSETS:
        raise ConfigError(f"fetch: there is no {name!r}; {name_choices(name, ASSETS)} (see: zoo fetch)")
    return ASSETS[name]
