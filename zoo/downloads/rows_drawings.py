"""Rows of the table of assets for drawings: each asset becomes a folder of PNGs with a table (see ``zoo.downloads.drawings``)."""

from collections.abc import Iterable

from zoo.downloads.asset import Asset, Package, PackagedFile

_ICONIFY = "@iconify-json/"


def _icon_set(name: str, version: str, sha256: str, size_bytes: int, licence: str, credit: str) -> Package:
    """Return the package of an Iconify collection: a JSON file of drawings, and one of their code points."""
    return Package(
        registry="npm",
        name=_ICONIFY + name,
        version=version,
        sha256=sha256,
        size_bytes=size_bytes,
        licence=licence,
        credit=credit,
        files=tuple(PackagedFile(f"package/{file}", None, f"{name}/{file}", keep=False) for file in ("icons.json", "chars.json")),
    )


def _names(collections: Iterable[Package]) -> tuple[str, ...]:
    return tuple(package.name.removeprefix(_ICONIFY) for package in collections)


_EMOJI_STYLES = (
    _icon_set(
        "noto",
        "1.2.9",
        "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
        3_102_958,
        "Apache-2.0",
        "Noto Emoji, Google Inc, github.com/googlefonts/noto-emoji",
    ),
    _icon_set(
        "twemoji",
        "1.2.5",
        "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
        1_555_888,
        "CC-BY-4.0",
        "Twemoji, Twitter Inc and other contributors, github.com/jdecked/twemoji",
    ),
    _icon_set(
        "fluent-emoji-flat",
        "1.2.6",
        "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
        1_172_438,
        "MIT",
        "Fluent Emoji Flat, Microsoft Corporation, github.com/microsoft/fluentui-emoji",
    ),
    _icon_set(
        "noto-v1",
        "1.2.5",
        "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37",
        1_587_591,
        "Apache-2.0",
        "Noto Emoji (v1), Google Inc, github.com/googlefonts/noto-emoji",
    ),
    _icon_set(
        "emojione",
        "1.2.3",
        "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e",
        687_690,
        "CC-BY-4.0",
        "Emoji One (Colored), Emoji One, github.com/EmojiTwo/emojitwo",
    ),
    _icon_set(
        "fxemoji",
        "1.2.2",
        "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef",
        1_034_876,
        "Apache-2.0",
        "Firefox OS Emoji, Mozilla, github.com/mozilla/fxemoji",
    ),
)

_MORE_STYLES = (
    _icon_set(
        "fluent-emoji",
        "1.2.7",
        "8044210dbf11e016d4de85f15d01a243423bd832457e7e2491df1b751c0e272b",
        14_323_330,
        "MIT",
        "Fluent Emoji, Microsoft Corporation, github.com/microsoft/fluentui-emoji",
    ),
    _icon_set(
        "fluent-emoji-high-contrast",
        "1.2.6",
        "0b92d48c90d2200bd499e3cdd09a127ca6a8c8ddefd34c35eb5a1e4994012ae0",
        1_054_969,
        "MIT",
        "Fluent Emoji High Contrast, Microsoft Corporation, github.com/microsoft/fluentui-emoji",
    ),
    _icon_set(
        "emojione-monotone",
        "1.2.1",
        "40b90004bafb406b59266155ef9b7e1dd67bf2947fc8db8d07388776f4d0d04e",
        1_094_642,
        "CC-BY-4.0",
        "Emoji One (Monotone), Emoji One, github.com/EmojiTwo/emojitwo",
    ),
    _icon_set(
        "streamline-emojis",
        "1.2.4",
        "5dac87c876b322500989828c5823143e0100d78881627a2e4081a4b897cbfdbc",
        381_714,
        "CC-BY-4.0",
        "Streamline Emojis, Streamline, streamlinehq.com",
    ),
)

_ICONS = (
    _icon_set(
        "flat-color-icons",
        "1.2.3",
        "d8878a9b0f02d749bc8671eb7d47882eb711185cbcefbb365cbfb488773c4786",
        47_566,
        "MIT",
        "Flat Color Icons, Icons8, github.com/icons8/flat-color-icons",
    ),
    _icon_set(
        "fluent-color",
        "1.2.21",
        "fa2ddaaac7a2a7b902659cea1b5b8c03017ce2ae56295138876b86a36177dfbe",
        263_008,
        "MIT",
        "Fluent UI System Color Icons, Microsoft Corporation, github.com/microsoft/fluentui-system-icons",
    ),
    _icon_set(
        "game-icons",
        "1.2.4",
        "f5758efb34d91c4f50b941f355f16ee73938625e5996fabc25171288404460a4",
        2_739_244,
        "CC-BY-3.0",
        "Game Icons, by the authors that game-icons.net names",
    ),
    _icon_set(
        "icon-park",
        "1.2.4",
        "c1a25212a31602aca93c3fa6f6b3288e89b9d7811afc132dfd78506e9d586b6f",
        338_205,
        "Apache-2.0",
        "IconPark, ByteDance, github.com/bytedance/IconPark",
    ),
    _icon_set(
        "ph",
        "1.2.2",
        "e3a582a047d9829fc7e8842c660d8065e598d1b68bb58cb68e75a1f1e5a614cc",
        945_517,
        "MIT",
        "Phosphor Icons, github.com/phosphor-icons/core",
    ),
    _icon_set(
        "streamline-freehand-color",
        "1.2.2",
        "00d74cbddaf1bcf35c8614ac0544d10af69c7cee8801475473fe424ee0c0c642",
        1_003_916,
        "CC-BY-4.0",
        "Freehand color icons, Streamline, streamlinehq.com",
    ),
    _icon_set(
        "streamline-ultimate-color",
        "1.2.2",
        "46133a11f3734bcef29066391d7edc141ed1d8056242ddfa1b5d36ce286420b6",
        253_509,
        "CC-BY-4.0",
        "Ultimate color icons, Streamline, streamlinehq.com",
    ),
)

_EMOJIBASE = Package(
    registry="npm",
    name="emojibase-data",
    version="17.0.0",
    sha256="d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
    size_bytes=6_711_091,
    licence="MIT",
    credit="Emojibase (labels and tags), Miles Johnson, emojibase.dev, after Unicode CLDR",
    files=(
        PackagedFile("package/en/data.json", None, "emojibase/data.json", keep=False),
        PackagedFile("package/meta/groups.json", None, "emojibase/groups.json", keep=False),
        PackagedFile("package/meta/unicode-names.json", None, "emojibase/unicode-names.json", keep=False),
    ),
)


DRAWINGS = (
    Asset(
        name="emoji",
        kind="data",
        text="Emoji in six styles with labels and tags: 7,700 drawings, 128 x 128; Twemoji and a tenth of the concepts are for testing",
        usage="zoo train data=emoji data.source.path=PATH",
        packages=(
            *_EMOJI_STYLES,
            _EMOJIBASE,
        ),
        converter="emoji",
        made=("table.jsonl", *_names(_EMOJI_STYLES)),
        needs=("resvg_py", "fetch"),
    ),
    Asset(
        name="emoji_styles",
        kind="data",
        text="The concepts of emoji in five more styles, 6,200 drawings for training only: gradients, 3D, outlines, one colour",
        usage="zoo train data=emoji data.source.path=$(zoo fetch emoji) 'data.source.extra=[PATH]'",
        packages=(
            *_MORE_STYLES,
            Package(
                registry="npm",
                name="@lobehub/fluent-emoji-3d",
                version="1.1.0",
                sha256="c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
                size_bytes=15_792_027,
                licence="MIT",
                credit="Fluent Emoji 3D, Microsoft Corporation, github.com/microsoft/fluentui-emoji; packed by LobeHub",
                files=(PackagedFile("package/assets/", None, "fluent-emoji-3d", keep=False),),
            ),
            _EMOJI_STYLES[0],  # Noto: only its icon names are used
            _EMOJIBASE,
        ),
        converter="emoji_styles",
        made=("table.jsonl", *_names(_MORE_STYLES), "fluent-emoji-3d"),
        needs=("resvg_py", "fetch"),
    ),
    Asset(
        name="icons",
        kind="data",
        text="Icons of seven collections, labelled by their names: 11,000 drawings, most in one or two colours",
        usage="zoo train data=emoji data.source.path=$(zoo fetch emoji) 'data.source.extra=[PATH]'",
        packages=_ICONS,
        converter="icons",
        made=("table.jsonl", *_names(_ICONS)),
        needs=("resvg_py", "fetch"),
    ),
    Asset(
        name="openclipart",
        kind="data",
        text="Open Clip Art: 2,400 drawings with titles and keywords by volunteers",
        usage="zoo train data=emoji data.source.path=$(zoo fetch emoji) 'data.source.extra=[PATH]'",
        packages=(
            Package(
                registry="debian",
                name="openclipart-svg",
                version="1:0.18+dfsg-19",
                sha256="989712d90d57dfa3230049f553bb43b76c30ee4d4b8c5f6e106e33f7db5cbdc5",
                size_bytes=24_919_068,
                licence="public domain",
                credit="Open Clip Art Library 0.18, its contributors",
                files=(
                    PackagedFile("usr/share/openclipart/svg/", None, "svg", keep=False),
                    PackagedFile("usr/share/doc/openclipart-svg/copyright", None, "LICENSE"),
                ),
            ),
        ),
        converter="openclipart",
        made=("table.jsonl", "pictures"),
        needs=("resvg_py", "fetch"),
    ),
    Asset(
        name="stamps",
        kind="data",
        text="Tux Paint's stamps: 730 cut-out photos and drawings of things, each with a sentence; copyleft licence",
        usage="zoo train data=emoji data.source.path=$(zoo fetch emoji) 'data.source.extra=[PATH]'",
        packages=(
            Package(
                registry="debian",
                name="tuxpaint-stamps-default",
                version="2022.06.04-1",
                sha256="6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
                size_bytes=160_880_444,
                licence="GPL-2",
                credit="Tux Paint stamps, Bill Kendrick and contributors, tuxpaint.org",
                files=(
                    PackagedFile("usr/share/tuxpaint/stamps/", None, "stamps", keep=False),
                    PackagedFile("usr/share/doc/tuxpaint-stamps-default/copyright", None, "LICENSE"),
                ),
            ),
        ),
        converter="stamps",
        made=("table.jsonl", "pictures"),
        needs=("resvg_py", "fetch"),
    ),
)
