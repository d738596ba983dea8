"""Lets a test end a command in the middle of its work: from PYTHONPATH, it holds the command up until a signal comes.

The environment says when: as the command opens a file, and one of those that the pattern HALT_WHERE means has
HALT_LINES lines, for the first time, it makes the file HALT_MARK and waits.
"""

import glob
import os
import sys
import threading
import time

_busy = threading.Lock()
_done = False


def _halt(event: str, arguments: tuple) -> None:
    if event != "open" or _done or threading.current_thread() is not threading.main_thread() or _is_child():
        return
    if _busy.acquire(blocking=False):  # what is opened here comes here too
        try:
            if any(_has_lines(path) for path in glob.glob(os.environ["HALT_WHERE"])):  # noqa: PTH207
                _wait()
        finally:
            _busy.release()


def _wait() -> None:
    global _done
    _done = True
    open(os.environ["HALT_MARK"], "wb").close()  # noqa: PTH123
    while True:
        time.sleep(1.0)


def _has_lines(path: str) -> bool:
    with open(path, "rb") as file:  # noqa: PTH123
        return file.read().count(b"\n") >= int(os.environ["HALT_LINES"])


def _is_child() -> bool:
    parent_process = getattr(sys.modules.get("multiprocessing.process"), "parent_process", None)  # or is being loaded
    return parent_process is not None and parent_process() is not None


sys.addaudithook(_halt)
