"""Rows of the table of assets for speech synthesisers, which speak the texts of generated corpora.

Trap: unlike all other assets these are libraries, and their code runs.
"""

from zoo.downloads.asset import Asset, Package, PackagedFile

_LIBRARIES = "usr/lib/x86_64-linux-gnu"
_PARTS = ("", "_usenglish", "_cmulex", "_cmu_us_slt", "_cmu_us_rms", "_cmu_us_awb", "_cmu_us_kal16", "_cmu_us_kal")

VOICES = (
    Asset(
        name="flite",
        kind="data",
        text="flite 2.2, a small speech synthesiser with five English voices, as libraries (Linux, x86-64), to generate speech corpora",
        usage="zoo train experiment=tacotron_numbers, which finds PATH automatically",
        packages=(
            Package(
                registry="debian",
                name="libflite1",
                version="2.2-5",
                sha256="bfa8c591f1b47730b30b372ec38e02918a1c9795eada67684e1746390ad2f061",
                size_bytes=12_823_776,
                licence="BSD-like (CMU)",
                credit="Carnegie Mellon University, Cepstral (Black and Lenzo 2001)",
                files=(
                    *(PackagedFile(f"{_LIBRARIES}/libflite{part}.so.2.2", None, f"libflite{part}.so.1") for part in _PARTS),
                    PackagedFile("usr/share/doc/libflite1/copyright", None, "LICENSE"),
                ),
            ),
            Package(
                registry="debian",
                name="libasound2",
                version="1.2.8-1+b1",
                sha256="44c77b076a7b11ae99712439022d822245b1994c435da564ebd320bb676faf4c",
                size_bytes=361_788,
                licence="LGPL-2.1",
                credit="the ALSA project (flite's library links to it, but does not use it here)",
                files=(
                    PackagedFile(f"{_LIBRARIES}/libasound.so.2.0.0", None, "libasound.so.2"),
                    PackagedFile("usr/share/doc/libasound2/copyright", None, "LICENSE-libasound2"),
                ),
            ),
        ),
    ),
)
