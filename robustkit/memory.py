"""Memory that is freed stays with the process, so that the next layer finds its pages made."""

import ctypes
import os
import sys

# What mallopt(3) calls them, and where they are set from outside.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_SET_BY_USER = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
# The most that each can be: of larger blocks memory is returned as before.
_LARGEST_KEPT, _MOST_KEPT = 2**25, 2**31 - 1


def keep_freed() -> bool:
    """Have the C library keep freed memory for the next allocation; whether it does now.

    As it is, glibc returns the buffers of one layer to the system and asks for those of the next,
    and the system makes every page anew. Networks on a CPU have spent up to half of their time on
    that. Peak memory hardly changes; what was needed once stays with the process.

    The setting is the process's own, and therefore not for an import to make: the command line
    makes it, a script that runs networks on a CPU may. It does nothing under another C library, and
    where the environment tunes malloc already, or the C library in any way.
    """
    if sys.platform != "linux" or any(name in os.environ for name in _SET_BY_USER):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT) and mallopt(_TRIM_THRESHOLD, _MOST_KEPT))
