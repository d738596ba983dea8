"""What a training cost, in hours of the clock and of GPUs, also where it was interrupted."""

from __future__ import annotations

from time import perf_counter
from typing import Any


class Stopwatch:
    """Counts the time that a run took, over all calls: `spent` is kept in the checkpoint.

    What was done after the last checkpoint before a kill is done again, and counts once.

    Attributes:
        spent: seconds, and seconds of all GPUs together.
    """

    def __init__(self) -> None:
        self.spent: dict[str, Any] = {"seconds": 0.0, "gpu_seconds": 0.0}
        self._since = perf_counter()

    def lap(self) -> None:
        """Add the time since the last lap, or since the start."""
        import torch

        from bpnas.search.training.distributed import world_size

        now = perf_counter()
        self.spent["seconds"] += now - self._since
        if torch.cuda.is_available():
            self.spent["gpu_seconds"] += (now - self._since) * world_size()
        self._since = now

    def cost(self) -> dict[str, Any]:
        """For result.json: hours up to now, those of GPUs, and what the last call ran on."""
        import torch

        from bpnas.search.training.distributed import world_size

        self.lap()
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
        return {
            "hours": self.spent["seconds"] / 3600,
            "gpu_hours": self.spent["gpu_seconds"] / 3600,
            "device": device,
            "processes": world_size(),
        }


def cost_text(cost: dict[str, Any]) -> str:
    """The same in words."""
    gpus = f"{cost['gpu_hours']:.3g} GPU hours" if cost["gpu_hours"] else "no GPU"
    together = f", {cost['processes']} processes" if cost["processes"] > 1 else ""
    return f"Cost: {cost['hours']:.3g} hours ({gpus}{together})"
