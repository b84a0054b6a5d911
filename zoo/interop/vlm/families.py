"""All families of vision-language models beside LLaVA."""

from zoo.interop.vlm.family import Family
from zoo.interop.vlm.idefics3 import Idefics3
from zoo.interop.vlm.internvl import InternVL
from zoo.interop.vlm.llava_next import LlavaNext
from zoo.interop.vlm.llava_onevision import LlavaOnevision
from zoo.interop.vlm.paligemma import PaliGemma
from zoo.interop.vlm.qwen_generations import Qwen2VL, Qwen3VL, Qwen25VL

FAMILIES: tuple[Family, ...] = (
    *(Idefics3(), LlavaNext(), LlavaOnevision(), InternVL(), PaliGemma()),
    *(Qwen3VL(), Qwen25VL(), Qwen2VL()),
)
