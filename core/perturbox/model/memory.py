"""How much memory is free, how much of it autograd graphs may take, and how much was taken at most."""

import os
import sys
from pathlib import Path

import torch

# What to assume where the system doesn't tell: enough for a handful of windows, harmless on any machine.
UNKNOWN = 2**30


_limit: int | None = None  # of this process


def limit_memory(bytes: int | None) -> None:
    """Tell that this process will be ended if it takes more; None: that it won't."""
    global _limit
    _limit = bytes


def available_bytes(device: torch.device) -> int:
    """Bytes that can still be allocated on `device`: CUDA memory, or RAM within the limits of container and process."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type != "cpu":
        return UNKNOWN
    free = [n for n in (_meminfo(), _cgroup(), _own()) if n is not None]
    return min(free) if free else UNKNOWN


def graph_budget(device: torch.device, logits_bytes: int) -> int:
    """Bytes of autograd graphs to keep beside a prediction of `logits_bytes`.

    The prediction, its gradient and a loss's temporaries come first; two thirds of the rest are left to all else.
    """
    return max(available_bytes(device) - 4 * logits_bytes, 0) // 3


def peak_bytes(device: torch.device) -> int | None:
    """Largest memory so far: of the GPU on CUDA, of the process elsewhere; None where the system doesn't say."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _meminfo() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def taken() -> int | None:
    """Bytes of memory that this process holds now; None where the system doesn't say."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def _own() -> int | None:
    """Bytes left to this process, None where nobody has said how many it may take."""
    held = None if _limit is None else taken()
    return None if _limit is None or held is None else max(_limit - held, 0)


def _cgroup() -> int | None:
    """Bytes left in this process's control group (version 2), None where there is no limit."""
    try:
        own = Path("/proc/self/cgroup").read_text(encoding="utf-8").strip().rpartition("::")[2].lstrip("/")
        root = Path("/sys/fs/cgroup") / own
        root = root if (root / "memory.max").exists() else Path("/sys/fs/cgroup")
        limit, used = (root / "memory.max").read_text().strip(), int((root / "memory.current").read_text())
    except (OSError, ValueError):
        return None
    return None if limit == "max" else max(int(limit) - used, 0)
