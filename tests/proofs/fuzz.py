# ruff: noqa: T201 - a command prints
"""Fuzz every parser of what comes from outside, for as long as one likes.

    python tests/proofs/fuzz.py --minutes 60 [PARSER …]

Each parser has its share of the time: for two thirds of it inputs are made by atheris, which is guided by
coverage (where it is not installed: by chance alone), for the last third by stretching: a piece of an input,
again and again, until it is as long as the product reads it. A find is what raises something that is no
refusal, takes more than a second of processor time, or 300 MiB of memory. What looks like one is tried again
in a process of its own without instruments, and only what is confirmed counts; it is kept in the folder, and
the exit status is 1.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import random
import re
import resource
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from proofs.fuzz_judge import (
    GIVE_UP_S,
    MOST_BYTES,
    MOST_S,
    Piece,
    Slow,
    judged,
    measured,
    read,
    ready,
    spelled,
    spread,
    too_slow,
    verdict,
)
from proofs.fuzz_table import parser_of, table

if TYPE_CHECKING:
    from proofs.fuzz_table import Parser

_LONGEST = 4096  # bytes of an input that is not stretched
_STRETCH = 8
_INSTRUMENTED = [
    *("theory", "theory_adapter_local", "theory_adapter_process", "theory_adapter_mock"),
    *("proofs.fuzz_controls", "yaml", "tarfile", "tomllib", "json.decoder"),
]

# -------------------------------------------------------------------- three ways of making inputs


class _Suspects:
    """What may be a find: one of each kind is kept, as a file each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "suspects"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._kinds: set[str] = set()

    def note(self, pieces: list[Piece], kind: str) -> None:
        place = re.findall(r'File "[^"]*(theory[^"]*)", line (\d+)', kind)  # not in the standard library
        error = kind.rstrip().rpartition("\n")[2].partition(":")[0]
        key = f"{place[-1]}{error}" if place else kind.rpartition(" ")[2]
        if key in self._kinds or len(self._kinds) > 200:
            return
        self._kinds.add(key)
        text = json.dumps(spelled(pieces))
        (self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json").write_text(text)


def _guided(name: str, folder: Path, seconds: float, seed: int, inputs: int) -> None:
    """Child: as atheris will have it; ends the process."""
    import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]  # where it is there

    atheris.enabled_hooks.add("str")
    with atheris.instrument_imports(include=_INSTRUMENTED):
        parser, parse = ready(name, folder / "work")
    suspects, peak = _Suspects(folder), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def try_it(data: bytes) -> None:
        nonlocal peak
        began = time.process_time()
        try:
            parse(data)
        except parser.refusals:
            pass
        except Exception:  # noqa: BLE001 - as above
            suspects.note([(data, 1, -1)], traceback.format_exc())
        if time.process_time() - began > MOST_S:
            suspects.note([(data, 1, -1)], "time")
        if (now := resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) > peak + (MOST_BYTES >> 11):
            peak = now
            suspects.note([(data, 1, -1)], f"memory {now >> 17}")

    corpus, artifacts = folder / "corpus", folder / "artifacts"
    artifacts.mkdir(exist_ok=True)
    atheris.Setup(
        [
            *(sys.argv[0], str(corpus), f"-max_total_time={int(seconds)}", f"-max_len={_LONGEST}"),
            *("-timeout=60", "-rss_limit_mb=3000", "-print_final_stats=1", f"-seed={seed or 1}"),
            *([f"-runs={inputs}"] if inputs else []),
            *(f"-dict={folder / 'words'}", f"-artifact_prefix={artifacts}/", "-verbosity=1"),
        ],
        try_it,
        internal_libfuzzer=True,
    )
    atheris.Fuzz()


def mutated(choice: random.Random, pool: list[bytes], words: list[bytes]) -> bytes:
    """An input that chance made of some that there are."""
    data = bytearray(choice.choice(pool))
    for _ in range(choice.randrange(1, 6)):
        at, to = sorted((choice.randrange(len(data) + 1), choice.randrange(len(data) + 1)))
        how = choice.randrange(6)
        if how == 0:
            data[at : at + 1] = bytes([choice.randrange(256)])
        elif how == 1:
            data[at:at] = choice.choice(words)
        elif how == 2:
            del data[at : min(to, at + 40)]
        elif how == 3:
            data[at:at] = data[at : min(to, at + 40)] * choice.randrange(1, 5)
        elif how == 4:
            other = choice.choice(pool)
            data[at:to] = other[choice.randrange(len(other) + 1) :][:100]
        elif data:
            data[min(at, len(data) - 1)] ^= 1 << choice.randrange(8)
    return bytes(data[:_LONGEST])


def _by_chance(name: str, folder: Path, seconds: float, seed: int, inputs: int) -> None:
    """Child: without atheris."""
    parser, parse = ready(name, folder / "work")
    suspects, choice, words = _Suspects(folder), random.Random(seed), words_of(parser)  # noqa: S311 - no secret
    signal.signal(signal.SIGPROF, too_slow)
    end, count, pool = time.monotonic() + seconds, 0, list(parser.seeds)
    while time.monotonic() < end and not (inputs and count == inputs):
        data = mutated(choice, pool, words)
        count += 1
        (folder / "current").write_text(json.dumps(spelled([(data, 1, -1)]))) if count % 64 == 0 else None
        signal.setitimer(signal.ITIMER_PROF, GIVE_UP_S)
        began, fault = time.process_time(), ""
        try:
            parse(data)
        except parser.refusals:
            pass
        except (Exception, Slow):  # noqa: BLE001 - as above
            fault = traceback.format_exc()
        signal.setitimer(signal.ITIMER_PROF, 0)
        if fault or time.process_time() - began > MOST_S:
            suspects.note([(data, 1, -1)], fault or "time")
    print(f"stat::number_of_executed_units: {count}", file=sys.stderr)


def _stretched(name: str, folder: Path, seconds: float, seed: int, inputs: int) -> None:
    """Child: a piece of an input again and again, ever longer."""
    parser, parse = ready(name, folder / "work")
    suspects, choice, words = _Suspects(folder), random.Random(seed), words_of(parser)  # noqa: S311 - no secret
    files = sorted((folder / "corpus").glob("*"))
    pool = [*parser.seeds, *(file.read_bytes() for file in choice.sample(files, min(len(files), 2000)))]
    signal.signal(signal.SIGPROF, too_slow)
    end, count, torn = time.monotonic() + seconds, 0, 0
    while time.monotonic() < end and not (inputs and torn >= inputs / 100):
        torn += 1
        before, unit, after, closing, at = _torn(choice, pool, words)
        size = 4096
        while True:
            size = min(size, parser.most_bytes)
            times = max(1, (size - len(before) - len(after)) // (len(unit) + len(closing) + 6 * (at >= 0)))
            pieces = [(before, 1, -1), (unit, times, at), (closing, times, -1), (after, 1, -1)]
            (folder / "current").write_text(json.dumps(spelled(pieces)))
            data = spread(pieces)
            signal.setitimer(signal.ITIMER_PROF, GIVE_UP_S)
            found = measured(parse, parser.refusals, data)
            signal.setitimer(signal.ITIMER_PROF, 0)
            count += 1
            if why := verdict(found):
                suspects.note(pieces, why if found["fault"] not in {"", "slow"} else why.partition(" ")[2])
                break
            if size == parser.most_bytes or time.monotonic() > end:
                break
            size *= _STRETCH
    print(f"stat::number_of_executed_units: {count}", file=sys.stderr)


def _torn(
    choice: random.Random, pool: list[bytes], words: list[bytes]
) -> tuple[bytes, bytes, bytes, bytes, int]:
    """What stands before, what is repeated, what stands after, what closes each, where a number goes."""
    source = choice.choice(pool)
    start = choice.randrange(len(source) + 1)
    length = choice.choice([1, 1, 2, 3, 5, 8, 13, 21, 34])
    unit = source[start : start + length] if choice.random() < 0.7 else choice.choice(words)
    before, after = (source[:start], source[start + len(unit) :]) if choice.random() < 0.8 else (b"", b"")
    closing = choice.choice([b"]", b"}", b")", b'"', choice.choice(words)]) if choice.random() < 0.2 else b""
    unit = unit or b" "
    return before, unit, after, closing, choice.randrange(len(unit) + 1) if choice.random() < 0.3 else -1


def words_of(parser: Parser) -> list[bytes]:
    """What the seeds are made of, and what is hard for many parsers."""
    own = {word for seed in parser.seeds for word in re.findall(rb"\w{2,24}|[^\w\s]{1,3}", seed)}
    hard = b"\0 \n \r\n \x1b[31m \xff \xef\xbb\xbf \xed\xa0\x80 [ { \" ' ${ << \\u0000 1e999 .. // %41"
    return sorted(own)[:400] + hard.split(b" ") + [b" ", b"9" * 5000]


# -------------------------------------------------------------------- the driver


def _child(kind: str, folder: Path, *more: object) -> list[str]:
    return [sys.executable, __file__, "--child", kind, "--folder", str(folder), *map(str, more)]


def fuzz(name: str, folder: Path, seconds: float, seed: int, inputs: int = 0) -> list[str]:
    """Fuzz one parser in this folder, for so long or with so many inputs; a line for each find."""
    parser = parser_of(name)
    (folder / "corpus").mkdir(parents=True, exist_ok=True)
    for seed_input in parser.seeds:
        (folder / "corpus" / hashlib.sha256(seed_input).hexdigest()[:16]).write_bytes(seed_input)
    words = ("".join(f"\\x{byte:02x}" for byte in word) for word in words_of(parser) if 0 < len(word) < 64)
    (folder / "words").write_text("".join(f'"{word}"\n' for word in words))
    first = "guided" if importlib.util.find_spec("atheris") else "chance"
    tried, coverage = 0, ""
    for kind, share in ((first, seconds * 2 / 3), ("stretched", seconds / 3)):
        end = time.monotonic() + share
        while (left := end - time.monotonic()) >= 1:
            log = folder / f"{kind}.log"
            command = _child(kind, folder, "--seconds", left, "--seed", seed, "--inputs", inputs, name)
            with log.open("ab") as stream:
                started = stream.tell()
                try:
                    subprocess.run(command, stdout=stream, stderr=stream, timeout=left + 90, check=False)
                except subprocess.TimeoutExpired:
                    _Suspects(folder).note(read(json.loads((folder / "current").read_text())), "hang")
            said = log.read_bytes()[started:].decode(errors="replace")
            numbers = re.findall(r"stat::number_of_executed_units: (\d+)|^#(\d+)\s", said, re.MULTILINE)
            tried += int("".join(numbers[-1])) if numbers else 0
            coverage = (re.findall(r"cov: \d+ ft: \d+ corp: \d+", said) or [coverage])[-1]
            seed += 1
            if inputs:
                break
    for file in sorted((folder / "artifacts").glob("*")):
        _Suspects(folder).note([(file.read_bytes(), 1, -1)], file.name)
    finds = _confirmed(name, folder)
    print(f"{name}: {tried:,} inputs, {coverage or 'no coverage known'}, {len(finds)} finds", flush=True)
    return finds


def _confirmed(name: str, folder: Path) -> list[str]:
    files = sorted((folder / "suspects").glob("*.json"))
    inputs = [read(json.loads(file.read_text())) for file in files]
    finds = []
    for file, found in zip(
        files, judged([(name, pieces) for pieces in inputs], folder / "judge"), strict=True
    ):
        if why := verdict(found):
            kept = folder.parent / "finds" / f"{name}-{file.name}"
            kept.parent.mkdir(exist_ok=True)
            kept.write_bytes(file.read_bytes())
            kept.with_suffix(".txt").write_text(why + "\n")
            finds.append(f"{kept}: {why.strip().rpartition(chr(10))[2]}")
    return finds


def main() -> int:
    """Be the driver, or one of its children."""
    raw = argparse.RawDescriptionHelpFormatter
    options = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    options.add_argument("parsers", nargs="*", metavar="PARSER", help="only those that are named")
    options.add_argument("--minutes", type=float, default=1, help="for all of them together (1)")
    options.add_argument("--inputs", type=int, default=0, help="instead: so many each, 1 % stretched")
    options.add_argument("--folder", type=Path, default=Path(".fuzz"), help="of corpus and finds (.fuzz)")
    options.add_argument("--seed", type=int, default=1, help="of chance (1)")
    options.add_argument("--list", action="store_true", help="print the names of all parsers")
    options.add_argument("--again", action="append", default=[], type=Path, help="try a find again")
    options.add_argument("--child", choices=["guided", "chance", "stretched"], help=argparse.SUPPRESS)
    options.add_argument("--seconds", type=float, default=0, help=argparse.SUPPRESS)
    given = options.parse_args()
    folder = given.folder.resolve()
    if given.child:
        make = {"guided": _guided, "chance": _by_chance, "stretched": _stretched}[given.child]
        make(given.parsers[0], folder, given.seconds, given.seed, given.inputs)
        return 0
    names = given.parsers or list(table())
    if given.list:
        print("\n".join(names))
        return 0
    if given.again:
        inputs = [(names[0], read(json.loads(file.read_text()))) for file in given.again]
        whys = [verdict(found) for found in judged(inputs, folder / "judge")]
        print("\n".join(why or "no find" for why in whys))
        return int(any(whys))
    share = 24 * 3600.0 if given.inputs else given.minutes * 60 / len(names)
    finds = [find for name in names for find in fuzz(name, folder / name, share, given.seed, given.inputs)]
    print("\n".join(finds) or "no finds")
    return int(bool(finds))


if __name__ == "__main__":
    sys.exit(main())
