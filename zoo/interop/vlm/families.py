"""All families of vision-language models that take pictures of any size."""

from zoo.interop.vlm.family import Family
from zoo.interop.vlm.idefics3 import Idefics3
from zoo.interop.vlm.llava_next import LlavaNext
from zoo.interop.vlm.qwen_generations import Qwen2VL, Qwen3VL, Qwen25VL

FAMILIES: tuple[Family, ...] = (Idefics3(), LlavaNext(), Qwen3VL(), Qwen25VL(), Qwen2VL())
