"""Tiny random vision-language models of transformers with their processors, by model type."""

from types import MappingProxyType
from typing import Any

import transformers as reference
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

SPECIAL = ["<|im_start|>", "<end_of_utterance>", "<image>", "<fake_token_around_image>", "<pad>", "<row_1_col_1>", "<global-img>"]
VOCABULARY = 320
SMOL_CHAT = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}{% if message['content'][0]['type'] == 'image' %}{{':'}}"
    "{% else %}{{': '}}{% endif %}{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)  # of the published SmolVLM
NEXT_CHAT = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}{% for content in message['content'] | "
    "selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}{% for content in message['content'] | "
    "selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' ' }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)  # of the published LLaVA-1.6 with Vicuna
ONEVISION_CHAT = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + ' '}}{% for content in message['content'] | "
    "selectattr('type', 'equalto', 'image') %}{{ '<image>' }}{% endfor %}{% for content in message['content'] | "
    "selectattr('type', 'equalto', 'video') %}{{ '<global-img>' }}{% endfor %}{% for content in message['content'] | "
    "selectattr('type', 'equalto', 'text') %}{{ '\n' + content['text'] }}{% endfor %}{{'<end_of_utterance>'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)  # of the published LLaVA-OneVision, with this tokenizer's symbols
INTERN_SPECIAL = ["<|im_start|>", "<end_of_utterance>", "<img>", "</img>", "<pad>", "<vid>", "<more>", "<IMG_CONTEXT>"]
INTERN_CHAT = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}{% if message['content'] is string %}"
    "{{ message['content'] }}{% else %}{% for content in message['content'] %}{% if content['type'] == 'image' %}"
    "{{ '<IMG_CONTEXT>\n' }}{% elif content['type'] == 'video' %}{{ '<vid>\n' }}{% elif content['type'] == 'text' %}"
    "{{ content['text'] }}{% endif %}{% endfor %}{% endif %}{{'<end_of_utterance>\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{'<|im_start|>assistant\n' }}{% endif %}"
)  # of the published InternVL3
WIDE = {"hidden_size": 24, "intermediate_size": 40, "num_attention_heads": 3}
WORDS = {**WIDE, "vocab_size": VOCABULARY, "num_hidden_layers": 2, "num_key_value_heads": 1, "max_position_embeddings": 2048}


def a_tokenizer(special=SPECIAL, words=MappingProxyType({"image_token": "<image>"})):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(
        ["User Assistant what is there in the picture"] * 2,
        trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False),
    )
    names = {"bos_token": "<|im_start|>", "eos_token": "<end_of_utterance>", "pad_token": "<pad>"}
    return reference.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names, extra_special_tokens=dict(words))


def text_config(**keywords):
    return reference.LlamaConfig(**WORDS, bos_token_id=0, eos_token_id=1, pad_token_id=4, **keywords)


def a_split(kind):
    """Return a random model with tiles of 32 pixels, and its processor; the tower sees 4 x 4 patches."""
    classes = {"idefics3": reference.Idefics3Config, "smolvlm": reference.SmolVLMConfig}
    vision = {**WIDE, "num_hidden_layers": 2, "image_size": 32, "patch_size": 8}
    tied = kind == "smolvlm"
    config = classes[kind](
        text_config=text_config().to_dict(),
        vision_config=vision,
        scale_factor=2,
        image_token_id=2,
        tie_word_embeddings=tied,
        pad_token_id=4,
    )
    model = {"idefics3": reference.Idefics3ForConditionalGeneration, "smolvlm": reference.SmolVLMForConditionalGeneration}[kind](config)
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    images = Idefics3ImageProcessorPil(size={"longest_edge": 96}, max_image_size={"longest_edge": 32})
    return model, reference.Idefics3Processor(images, a_tokenizer(), image_seq_len=4, chat_template=SMOL_CHAT)


def a_next(kind):
    """Return a random LLaVA-NeXT with tiles of 32 pixels, and its processor."""
    vision = reference.CLIPVisionConfig(**WIDE, num_hidden_layers=3, image_size=32, patch_size=8)
    pinpoints = [[32, 64], [64, 32], [64, 64], [96, 32], [32, 96]]
    config = reference.LlavaNextConfig(
        vision_config=vision, text_config=text_config(), image_token_index=2, image_grid_pinpoints=pinpoints, image_seq_length=16
    )
    from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

    square = {"height": 32, "width": 32}
    images = LlavaNextImageProcessorPil(size={"shortest_edge": 32}, crop_size=square, image_grid_pinpoints=pinpoints)
    processor = reference.LlavaNextProcessor(
        images,
        a_tokenizer(),
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=NEXT_CHAT,
    )
    return reference.LlavaNextForConditionalGeneration(config), processor


def qwen_config(**keywords):
    return reference.Qwen2Config(**WORDS, bos_token_id=0, eos_token_id=1, pad_token_id=4, **keywords)


def a_onevision(kind):
    """Return a random LLaVA-OneVision with tiles of 34 pixels, of which a tower sees 4 x 4 patches, and its processor."""
    vision = reference.SiglipVisionConfig(**WIDE, num_hidden_layers=2, image_size=34, patch_size=8, vision_use_head=False)
    pinpoints = [[34 * rows, 34 * columns] for rows in range(1, 4) for columns in range(1, 4)]
    config = reference.LlavaOnevisionConfig(
        **{"vision_config": vision, "text_config": qwen_config(), "image_token_index": 2, "video_token_index": 6},
        **{"image_grid_pinpoints": pinpoints, "vision_aspect_ratio": "anyres_max_2"},
    )
    from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
    from transformers.models.llava_onevision.video_processing_llava_onevision import LlavaOnevisionVideoProcessor

    size = {"size": {"height": 34, "width": 34}}
    images = LlavaOnevisionImageProcessorPil(**size, image_grid_pinpoints=pinpoints)
    processor = reference.LlavaOnevisionProcessor(
        **{"image_processor": images, "tokenizer": a_tokenizer(), "video_processor": LlavaOnevisionVideoProcessor(**size)},
        **{"num_image_tokens": 16, "vision_feature_select_strategy": "full", "vision_aspect_ratio": "anyres_max_2"},
        **{"chat_template": ONEVISION_CHAT, "video_token": "<global-img>"},
    )
    return reference.LlavaOnevisionForConditionalGeneration(config), processor


def an_internvl(kind):
    """Return a random InternVL with tiles of 32 pixels, and its processor."""
    vision = {**WIDE, "num_hidden_layers": 2, "image_size": [32, 32], "patch_size": [8, 8], "attention_bias": True}
    text = qwen_config(tie_word_embeddings=False)
    config = reference.InternVLConfig(
        vision_config=vision, text_config=text.to_dict(), image_token_id=7, image_seq_length=4, tie_word_embeddings=False
    )
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
    from transformers.models.internvl.video_processing_internvl import InternVLVideoProcessor

    square = {"height": 32, "width": 32}
    images = GotOcr2ImageProcessorPil(size=square, crop_to_patches=True, max_patches=6)
    words = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>", "video_token": "<vid>"}
    tokenizer = a_tokenizer(INTERN_SPECIAL, words)
    videos = InternVLVideoProcessor(size=square)
    processor = reference.InternVLProcessor(images, tokenizer, videos, image_seq_length=4, chat_template=INTERN_CHAT)
    return reference.InternVLForConditionalGeneration(config), processor


def a_paligemma(kind):
    """Return a random PaliGemma, or PaliGemma 2 with a window of 6 tokens in one layer of two, of 32 pixels, and its processor."""
    vision = reference.SiglipVisionConfig(**WIDE, num_hidden_layers=2, image_size=32, patch_size=8, vision_use_head=False)
    words: dict[str, Any] = {**WORDS, "vocab_size": 1472, "head_dim": 8, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 4}
    if kind == "paligemma2":  # without the limits of scores and logits: sdpa leaves out the first, transformers' PaliGemma the second
        caps = {"attn_logit_softcapping": None, "final_logit_softcapping": None}
        text = reference.Gemma2Config(**words, sliding_window=6, query_pre_attn_scalar=8, **caps)
    else:
        text = reference.GemmaConfig(**words)
    config = reference.PaliGemmaConfig(vision_config=vision, text_config=text, image_token_index=2, projection_dim=24, hidden_size=24)
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    images = SiglipImageProcessorPil(size={"height": 32, "width": 32}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    images.image_seq_length = 16
    return reference.PaliGemmaForConditionalGeneration(config), reference.PaliGemmaProcessor(images, a_tokenizer())


MAKERS = {
    **{"idefics3": a_split, "smolvlm": a_split, "llava_next": a_next, "llava_onevision": a_onevision},
    **{"internvl": an_internvl, "paligemma": a_paligemma, "paligemma2": a_paligemma},
}
