"""librosa without the functions that it compiles while it is imported, which takes 45 s in a new environment.

The tests call none of these functions.
"""

from types import ModuleType
from unittest.mock import patch


def load_librosa() -> ModuleType:
    """Import librosa's transforms, filters and alignment; what it compiles when it is first called is compiled as ever."""
    import numba

    with patch.multiple(numba, guvectorize=_as_it_is, vectorize=_as_it_is, stencil=_as_it_is):
        import librosa
        import librosa.core.spectrum
        import librosa.filters
        import librosa.sequence
    return librosa


def _as_it_is(*arguments: object, **keywords: object) -> object:
    """Decorate nothing, with or without arguments."""
    return arguments[0] if callable(arguments[0]) else lambda function: function
