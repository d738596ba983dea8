"""What a test leaves behind that nobody can reach."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collected() -> Iterator[None]:
    """What the block leaves behind is looked for at its end: a socket left open warns then, and so fails the test.

    What was there before is not gone through again: where torch is loaded that takes half a second.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.collect()
        gc.unfreeze()
