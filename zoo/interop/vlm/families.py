"""All families of vision-language models that cut pictures into tiles."""

from zoo.interop.vlm.family import Family
from zoo.interop.vlm.idefics3 import Idefics3
from zoo.interop.vlm.llava_next import LlavaNext

FAMILIES: tuple[Family, ...] = (Idefics3(), LlavaNext())
