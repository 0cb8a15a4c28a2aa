"""What this process took of the machine."""

import sys

import torch


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
