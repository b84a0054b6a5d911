"""Random models of Qwen2-VL, Qwen2.5-VL and Qwen3-VL of transformers, with their processors, saved once and read into zoo."""

import numpy as np
import torch
import transformers as reference
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import zoo

PAD = "<|image_pad|>"
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", PAD, "<|video_pad|>"]
IDS = {"vision_start_token_id": 3, "vision_end_token_id": 4, "image_token_id": 5, "video_token_id": 6}
CHAT = (
    "{% set image_count = namespace(value=0) %}{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are helpful.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif content['type'] == 'video' %}VIDEO{% elif 'text' in content %}"
    "{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)  # of the published models; VIDEO is replaced
WORDS = {
    **{"vocab_size": 320, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 2},
    **{"num_key_value_heads": 1, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "bos_token_id": 0, "eos_token_id": 2},
}
TOWER = {"depth": 3, "num_heads": 2, "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2}
MROPE = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 2, 2]}
KINDS = {  # kind: class, model type, vision_config, text_config
    "2": ("Qwen2VL", "qwen2_vl", {**TOWER, "embed_dim": 16, "hidden_size": 24, "mlp_ratio": 2}, {"rope_parameters": MROPE}),
    "2.5": (
        "Qwen2_5_VL",
        "qwen2_5_vl",
        {**TOWER, "hidden_size": 16, "intermediate_size": 20, "out_hidden_size": 24, "window_size": 16, "fullatt_block_indexes": [1]}
        | {"tokens_per_second": 2},
        {"rope_parameters": MROPE},
    ),
    "3": (
        "Qwen3VL",
        "qwen3_vl",
        {
            **{**TOWER, "hidden_size": 16, "intermediate_size": 20, "out_hidden_size": 24},
            **{"num_position_embeddings": 25, "deepstack_visual_indexes": [0, 2]},
        },
        {"head_dim": 12, "rope_parameters": {**MROPE, "rope_theta": 5e6, "mrope_interleaved": True}},
    ),
}


def a_tokenizer():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["system user assistant what is there in the picture You are helpful."] * 2, trainer)
    names = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    return reference.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names, additional_special_tokens=SPECIAL[3:])


def made(kind):
    """Return a random model, and its processor; pictures have 64 to 2048 pixels, videos half as many, those of Qwen3-VL in all frames."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    name, _, vision, text = KINDS[kind]
    config = getattr(reference, f"{name}Config")(
        text_config={**WORDS, **text}, vision_config=vision, **IDS, tie_word_embeddings=kind == "2.5"
    )
    size = {"shortest_edge": 64, "longest_edge": 2048}
    grey = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3} if kind == "3" else {}
    images = Qwen2VLImageProcessorPil(size=size, patch_size=4, merge_size=2, temporal_patch_size=2, **grey)
    videos = getattr(reference, "Qwen3VLVideoProcessor" if kind == "3" else "Qwen2VLVideoProcessor")(
        **{"patch_size": 4, "size": {"shortest_edge": 64, "longest_edge": 4096 if kind == "3" else 1024}, "cap_pixels_per_frame": False},
        do_sample_frames=False,
    )
    # transformers 5.17 writes start and end of a video of Qwen3-VL by itself
    chat = CHAT.replace("VIDEO", "<|video_pad|>" if kind == "3" else "<|vision_start|><|video_pad|><|vision_end|>")
    processor = getattr(reference, f"{name}Processor")(images, a_tokenizer(), videos, chat_template=chat)
    return getattr(reference, f"{name}ForConditionalGeneration")(config), processor


def saving(folder):
    """Return a function that saves a random model once; it gives model, processor, directory, and our system of it.

    Args:
        folder: function of a name that makes a directory.
    """
    kept = {}

    def save(kind):
        if kind not in kept:
            torch.manual_seed(0)
            (model, processor), directory = made(kind), folder(f"qwen{kind}")
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(torch.randn_like(parameter) * 0.15)
            model.eval().save_pretrained(directory)
            processor.save_pretrained(directory)
            kept[kind] = model, processor, directory, zoo.load(directory)
        return kept[kind]

    return save


def picture(height, width, shift=0.0):
    """Return a picture of waves."""
    rows, columns = np.mgrid[:height, :width]
    colours = [127.5 + 100 * np.sin(0.2 * rows + 0.3 * columns + channel + height + shift) for channel in range(3)]
    return Image.fromarray(np.stack(colours, axis=2).round().astype(np.uint8))
