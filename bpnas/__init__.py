"""bpnas: hardware-aware architecture search on latencies measured on your own phone."""

from pathlib import Path

from bpnas.base.errors import BpnasError, SpaceError, UsageError

__all__ = ["BpnasError", "SpaceError", "UsageError", "__version__"]

__version__ = "0.1.0"

# In a checkout the rooms are this folder's neighbours; once installed they are in it.
if (Path(__file__).parents[1] / "pyproject.toml").is_file():
    __path__.append(str(Path(__file__).parents[1]))
