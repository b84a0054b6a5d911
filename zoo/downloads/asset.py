"""Data classes of the table of assets: an asset, its packages, and their files."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PackagedFile:
    """A file of a package; a path that ends in ``/`` stands for all files below a folder.

    Args:
        path: path inside the package.
        sha256: pinned hash; None relies on the hash of the package.
        name: name of the file, or of the folder that receives the files, in the cache and for the converter.
        keep: True to keep the file in the cache; False for input of the converter only, which folders always are.
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
        sha256: hash of the package file.
        size_bytes: size of the package file, which is the size of the download.
        licence: licence of the content, followed by that of the package if it differs.
        credit: authors of the content, in the form that its licence asks for.
        files: the files to unpack.
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
    """A row of the table of assets.

    Args:
        kind: "weights" or "data".
        text: description for the user.
        usage: command or expression that uses the asset, with PATH for its folder.
        converter: module of ``zoo.downloads`` whose ``convert(source, target)`` writes the files and folders named in ``made``.
        made: files and folders that the converter writes.
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
        """The files of all packages."""
        return tuple(file for package in self.packages for file in package.files)

    @property
    def contents(self) -> tuple[str, ...]:
        """Names of the files and folders in the cache, without the notes about their source."""
        return (*(file.name for file in self.files if file.keep), *self.made)

    @property
    def licence(self) -> str:
        """The licences of all packages, each named once."""
        return "; ".join(dict.fromkeys(package.licence for package in self.packages))

    @property
    def size_bytes(self) -> int:
        """Size of the download in bytes."""
        return sum(package.size_bytes for package in self.packages)
