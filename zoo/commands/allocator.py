"""Settings of glibc's allocator for commands that run a model: freed memory stays with the process.

By default glibc gives large blocks back to the kernel when they are freed, and every new activation then costs page faults. The memory of a
process does not shrink any more; its peak is about the same. ``ZOO_KEEP_PAGES=0`` leaves the allocator as it is. Only Linux with glibc has
these settings.
"""

import ctypes
import os
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # numbers of ``mallopt``, from glibc's malloc.h
SWITCH = "ZOO_KEEP_PAGES"
LARGEST_BLOCK = 2**30  # bytes; larger blocks (files of weights) are still mapped and given back
LARGEST_REST = 2**31 - 1  # bytes of free memory at the end of the heap that are kept; the largest number that ``mallopt`` takes


def keep_pages() -> bool:
    """Let the process keep freed memory; return True if the allocator has accepted it."""
    if os.environ.get(SWITCH) == "0" or not sys.platform.startswith("linux"):
        return False
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another C library, such as musl
        return False
    return all(set_option(*option) == 1 for option in ((M_MMAP_THRESHOLD, LARGEST_BLOCK), (M_TRIM_THRESHOLD, LARGEST_REST)))
