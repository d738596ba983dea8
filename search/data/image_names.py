"""Which files are images, and what programs leave next to them."""

_IMAGE_ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_LEFTOVERS = frozenset(("__MACOSX", "@eaDir"))  # of archives of macOS; thumbnails of network disks


def is_image_name(name: str) -> bool:
    """Whether a file is an image, by its ending, and nothing that another program left (see `is_leftover`)."""
    return name.lower().endswith(_IMAGE_ENDINGS) and not is_leftover(name)


def is_leftover(name: str) -> bool:
    """Whether a file or folder is one that programs leave next to images: hidden ones, as notebooks' checkpoints and
    the companions of files that macOS writes (`._x.jpg`), and a few known ones.
    """
    return name.startswith(".") or name in _LEFTOVERS
