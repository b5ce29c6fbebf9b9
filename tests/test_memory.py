"""Freed memory that stays with the process."""

import ctypes
import os
import platform
import subprocess
import sys

import pytest

from robustkit.memory import keep_freed

# Thirty buffers of 16 MiB, six at a time: how many pages they take before and after a command.
SCRIPT = """
import ctypes
import resource
import torch
from robustkit.cli import main

def layers():
    for _ in range(5):
        buffers = [torch.ones(2**22) for _ in range(6)]
        buffers.clear()

def pages():
    layers()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    layers()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

# What glibc starts with; how far it goes from there depends on what has been freed.
ctypes.CDLL(None).mallopt(-3, 2**17)
as_it_is = pages()
try:
    main(["--version"])
except SystemExit:
    pass
print(as_it_is, pages())
"""
ALL = 30 * 2**24 // os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_the_command_line_asks_for_memory_once() -> None:
    unset = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, check=True, text=True, env=unset
    )
    as_it_is, kept = (int(word) for word in done.stdout.split()[-2:])
    assert as_it_is > ALL / 2
    assert kept < ALL / 10


@pytest.mark.parametrize(
    "name", ["MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"]
)
def test_what_the_environment_says_stays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", pytest.fail)
    monkeypatch.setenv(name, "131072")
    assert not keep_freed()
