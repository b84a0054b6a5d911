"""What a row of the table of assets says: which files of which packages, and what they become."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PackagedFile:
    """A file of a package, or with a path that ends in ``/`` all files below a folder.

    Args:
        path: inside the package.
        sha256: None leaves it to the hash of the package.
        name: in the cache, and for the converter; of a folder the folder that takes its files.
        keep: False for what is only converted, as folders always are.
    """

    path: str
    sha256: str | None
    name: str
    keep: bool = True


@dataclass(frozen=True)
class Package:
    """One version of a package.

    Args:
        registry: a key of ``zoo.downloads.packages.CLIENTS``.
        sha256: of the package itself.
        size_bytes: of the package, which is what is downloaded.
        licence: of the content, then of the package where it differs.
        credit: whom the content is from, as its licence asks to be told.
    """

    registry: str
    name: str
    version: str
    sha256: str
    size_bytes: int
    licence: str
    credit: str
    files: tuple[PackagedFile, ...]


@dataclass(frozen=True)
class Asset:
    """A row of the table.

    Args:
        kind: "weights" or "data".
        text: what it is, for people.
        usage: how it is used, with PATH for the folder.
        converter: module of ``zoo.downloads`` whose ``convert(source, target)`` makes what ``made`` names, files and folders.
        needs: module that the converter imports, and the extra of zoo that installs it.
    """

    name: str
    kind: str
    text: str
    usage: str
    packages: tuple[Package, ...]
    converter: str | None = None
    made: tuple[str, ...] = ()
    needs: tuple[str, str] | None = None

    @property
    def files(self) -> tuple[PackagedFile, ...]:
        """Those of all packages."""
        return tuple(file for package in self.packages for file in package.files)

    @property
    def contents(self) -> tuple[str, ...]:
        """What is in the cache, without the notes of its source."""
        return (*(file.name for file in self.files if file.keep), *self.made)

    @property
    def licence(self) -> str:
        """Of all packages, each named once."""
        return "; ".join(dict.fromkeys(package.licence for package in self.packages))

    @property
    def size_bytes(self) -> int:
        """What is downloaded."""
        return sum(package.size_bytes for package in self.packages)
