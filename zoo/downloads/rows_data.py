"""Rows of the table of assets for data sets of images, text, maps and documents."""

from zoo.downloads.asset import Asset, Package, PackagedFile

_IDX = "usr/share/datasets/fashion-mnist"
_WORDNET_PARTS = ("noun", "verb", "adj", "adv")

DATA = (
    Asset(
        name="fashion_mnist",
        kind="data",
        text="Fashion-MNIST: 60,000 + 10,000 grey pictures of clothes, 28 x 28, ten classes",
        usage="zoo train data=fashion_mnist data.source.path=PATH",
        packages=(
            Package(
                registry="debian",
                name="dataset-fashion-mnist",
                version="0.0~git20200523.55506a9-1",
                sha256="39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
                size_bytes=30_900_652,
                licence="MIT",
                credit="Zalando SE (Xiao, Rasul, Vollgraf 2017)",
                files=(
                    PackagedFile(
                        f"{_IDX}/train-images-idx3-ubyte.gz",
                        "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
                        "train-images-idx3-ubyte.gz",
                    ),
                    PackagedFile(
                        f"{_IDX}/train-labels-idx1-ubyte.gz",
                        "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
                        "train-labels-idx1-ubyte.gz",
                    ),
                    PackagedFile(
                        f"{_IDX}/t10k-images-idx3-ubyte.gz",
                        "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
                        "t10k-images-idx3-ubyte.gz",
                    ),
                    PackagedFile(
                        f"{_IDX}/t10k-labels-idx1-ubyte.gz",
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
        ),
    ),
    Asset(
        name="wordnet",
        kind="data",
        text="WordNet 3.0: 314,000 lines of English, words with their definitions and examples",
        usage="PATH/lines.txt, one text a line",
        packages=(
            Package(
                registry="debian",
                name="wordnet-base",
                version="1:3.0-37",
                sha256="61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752",
                size_bytes=6_467_132,
                licence="WordNet (as MIT)",
                credit="WordNet 3.0, Princeton University",
                files=(
                    *(
                        PackagedFile(
                            f"usr/share/wordnet/data.{part}", None, f"data.{part}", keep=part == "noun"
                        )  # broader and narrower words
                        for part in _WORDNET_PARTS
                    ),
                    PackagedFile("usr/share/doc/wordnet-base/copyright", None, "LICENSE"),
                ),
            ),
        ),
        converter="wordnet",
        made=("lines.txt",),
    ),
    Asset(
        name="kgeography",
        kind="data",
        text="Maps and flags: 154 maps with 3,050 regions, 2,886 capitals and 649 flags",
        usage="zoo train data=geography_questions data.source.path=PATH",
        packages=(
            Package(
                registry="debian",
                name="kgeography-data",
                version="4:22.12.3-1",
                sha256="1cdaf45dea7cbf1682a05109b4e9299934f0a60ca8866fa957cf4d9dcfe3982a",
                size_bytes=10_865_148,
                licence="GPL-2+",
                credit="KGeography, Albert Astals Cid, Yann Verley and others (KDE)",
                files=(
                    PackagedFile("usr/share/kgeography/", None, "kgeography", keep=False),
                    PackagedFile("usr/share/doc/kgeography-data/copyright", None, "LICENSE"),
                ),
            ),
        ),
        converter="kgeography",
        made=("maps", "flags", "table.jsonl"),
    ),
    Asset(
        name="gimp_help",
        kind="data",
        text="The manual of GIMP 2.10 in English: 685 pages with 1,969 pictures",
        usage="zoo train system=kosmos_nano data=pages data.source.path=PATH/pages",
        packages=(
            Package(
                registry="debian",
                name="gimp-help-en",
                version="2.10.34-2",
                sha256="a2deec76763aaf2fcdd197bac0736cdcb0770ba993d48d233329e1c92b0bfe36",
                size_bytes=49_612_664,
                licence="GFDL-NIV-1.2+",
                credit="The GIMP Documentation Team",
                files=(PackagedFile("usr/share/gimp/2.0/help/en/", None, "help", keep=False),),
            ),
            Package(
                registry="debian",
                name="gimp-help-common",
                version="2.10.34-2",
                sha256="5186e5ba19dfca73c141965abb6fbd8cc8abae4a623af5dfea03195e07c4bda8",
                size_bytes=190_996,
                licence="GFDL-NIV-1.2+",
                credit="The GIMP Documentation Team",
                files=(PackagedFile("usr/share/doc/gimp-help-common/copyright", None, "LICENSE"),),
            ),
        ),
        converter="gimp_help",
        made=("pages",),
    ),
    Asset(
        name="libreoffice_help_de",
        kind="data",
        text="LibreOffice's help in English and German: 35,000 aligned texts, for translation",
        usage="zoo train experiment=translate_en_de data.source.path=PATH",
        packages=(
            Package(
                registry="debian",
                name="libreoffice-help-en-us",
                version="4:7.4.7-1+deb12u14",
                sha256="8faa840285734d6cfe1ed25537b48f07e74bd6412e3917bf8e5f8a653f7b3712",
                size_bytes=1_753_504,
                licence="MPL-2.0",
                credit="The Document Foundation and the authors of LibreOffice's help",
                files=(
                    PackagedFile("usr/share/libreoffice/help/en-US/text/", None, "help/en-US", keep=False),
                    PackagedFile("usr/share/doc/libreoffice-help-en-us/copyright", None, "LICENSE"),
                ),
            ),
            Package(
                registry="debian",
                name="libreoffice-help-de",
                version="4:7.4.7-1+deb12u14",
                sha256="00490b63c509ac96f7f212d6a6e40452d3e0d1f97ccf4b824dd5ec4c01e8277f",
                size_bytes=3_293_908,
                licence="MPL-2.0",
                credit="The Document Foundation and the translators of LibreOffice's help",
                files=(PackagedFile("usr/share/libreoffice/help/de/text/", None, "help/de", keep=False),),
            ),
        ),
        converter="libreoffice_help",
        made=("pairs.jsonl",),
    ),
)
