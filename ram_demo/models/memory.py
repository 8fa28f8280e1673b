"""How much memory caches may take on this machine or device. Knows numbers of bytes, not what they hold."""

from pathlib import Path

import psutil
import torch

SHARE = 0.25  # of what is free once the model is loaded
CONTAINER = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current"))


def for_caches(device: torch.device, gigabytes: float | None) -> int:
    """Bytes for all caches together: what was asked for, or a share of what is free."""
    if gigabytes is not None:
        return int(gigabytes * 2**30)
    return int(SHARE * free(device))


def free(device: torch.device) -> int:
    """Bytes. In a container its own limit counts where it has one, which the machine's figures do not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    available = psutil.virtual_memory().available
    try:
        limit, current = (int(file.read_text()) for file in CONTAINER)
    except (OSError, ValueError):  # no such file, or "max"
        return available
    return min(available, limit - current)
