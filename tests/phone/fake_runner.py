"""Stands in for bpnas-runner where a test wants it to misbehave: it does with a model what the model's file says.

    ok            answers with 3 samples, which are 1000 + the length of the file
    ok:TEXT       the same; TEXT tells files apart
    slow:SECONDS  answers after a while; what follows a second colon tells files apart
    throttled     answers from a core that stays slow
    refuse        the runtime does not want it
    timeout       its own time limit
    hang          never answers
    crash:NUMBER  ends with that exit code
    signal:NUMBER ends by that signal
    raw:TEXT      prints TEXT as it is (escapes as in Python), then answers as for ok
    only:TEXT     prints TEXT, and does not answer
    long:BYTES    prints a line of that many bytes, then answers
    daemon:NUMBER the daemon that started it ends, or stops, by that signal; it never answers
    ambush:NUMBER the same, but so soon that of the model before it and of its own beginning nothing gets through
    flip          answers, one digit damaged on the way
    other         answers for another model
    flood         prints for ever, without a line end
    lines         prints lines for ever
    begins        begins for ever
    write:PATH:TEXT  writes TEXT to that file while it is timed
    profile:JSON  answers, and with --profile adds a line of these members

It is copied to a device, so it imports nothing of bpnas.
"""

import argparse
import json
import os
import re
import signal
import sys
import time
import zlib
from collections.abc import Mapping
from pathlib import Path


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--list")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--probe", action="store_true")
    parser.add_argument("--affinity", default="3")
    parser.add_argument("--sentinel-limit", type=float, default=0.0)
    parser.add_argument("--watch-text", action="append", default=[])
    parser.add_argument("--profile", action="store_true")
    return parser.parse_known_args()[0]


def line(**values: object) -> str:
    body = json.dumps(values, separators=(",", ":"))[:-1]
    return f'{body},"crc32":"{zlib.crc32(body.encode()):08x}"}}\n'


def say(text: str) -> None:
    data = text.encode("latin-1")
    while data:
        data = data[os.write(1, data) :]


def words() -> dict[str, str]:
    """What the watched files of words say; one file for each name is enough here."""
    files = {name: Path(path) for name, _, path in (text.partition("=") for text in arguments().watch_text)}
    found = {name: path.read_text().strip() for name, path in files.items() if path.exists()}
    return {name: word for name, word in found.items() if re.fullmatch("[A-Za-z0-9_-]{1,32}", word)}


def answer(index: int, name: str, size: int, before: Mapping[str, str] = {}, **after: float) -> str:
    return line(
        model=index,
        id=name,
        samples_ns=[1000 + size] * 3,
        repeats=2,
        warmup_runs=1,
        warmup_ns=10,
        load_ns=5,
        before={"sentinel_ns": 100.0, "sentinel_limit": arguments().sentinel_limit, **(before or words())},
        after={"sentinel_ns": 101.0, **words(), **after},
    )


def daemon() -> int:
    """The process that all this comes from."""
    pid = os.getpid()
    while b"adbd" not in Path(f"/proc/{pid}/cmdline").read_bytes():
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return pid


def do(index: int, name: str, path: Path, following: str) -> None:
    content = path.read_text()
    verb, _, rest = content.partition(":")
    if verb != "ambush":
        say(line(begin=index, id=name))
    if "ambush" in (verb, following.partition(":")[0]):
        os.kill(daemon(), int(rest if verb == "ambush" else following.partition(":")[2]))
        time.sleep(3600)
    if verb == "refuse":
        say(line(model=index, id=name, refused="no such operator"))
    elif verb == "write":
        before, (target, _, text) = words(), rest.partition(":")
        Path(target).write_text(text)
        say(answer(index, name, len(content), before))
    elif verb == "profile":
        say(answer(index, name, len(content)))
        if arguments().profile:
            say(line(profile=index, id=name, **json.loads(rest)))
    elif verb == "throttled":
        say(answer(index, name, len(content), throttled=1))
    elif verb == "timeout":
        say(line(model=index, id=name, timeout=1.0))
        sys.exit(124)
    elif verb == "hang":
        time.sleep(3600)
    elif verb == "crash":
        print("what the runtime said last", file=sys.stderr, flush=True)
        os._exit(int(rest))
    elif verb == "signal":
        os.kill(os.getpid(), int(rest))
        time.sleep(60)
    elif verb in ("raw", "only"):
        say(rest.encode("latin-1").decode("unicode_escape"))
        if verb == "raw":
            say(answer(index, name, len(content)))
    elif verb == "slow":
        time.sleep(float(rest.partition(":")[0]))
        say(answer(index, name, len(content)))
    elif verb == "long":
        say("x" * int(rest) + "\n")
        say(answer(index, name, len(content)))
    elif verb == "daemon":
        os.kill(daemon(), int(rest))
        time.sleep(3600)
    elif verb == "flip":
        say(answer(index, name, len(content)).replace("10", "70", 1))
    elif verb == "other":
        say(answer(index + 1, str(index + 1), len(content)))
    elif verb == "flood":
        while True:
            say("x" * 65536)
    elif verb == "lines":
        while True:
            say("x" * 100 + "\n")
    elif verb == "begins":
        while True:
            say(line(begin=index, id=name))
    else:
        say(answer(index, name, len(content)))


def main() -> None:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    given = arguments()
    say(
        line(
            hello=1,
            runner="fake",
            runtime="tflite",
            version="9.9",
            clock="none",
            pid=os.getpid(),
            affinity=given.affinity,
            watch_text=True,
        )
    )
    if given.probe:
        return
    models = [text.split("\t") for text in Path(given.list).read_text().splitlines()]
    for index, (name, _, _, path) in enumerate(models):
        if index >= given.first:
            do(index, name, Path(path), Path(models[index + 1][3]).read_text() if index + 1 < len(models) else "")
    say(line(end=len(models)))


main()
