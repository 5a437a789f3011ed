"""A processor that leaks its secrets in every spelling, by the way that its inputs name.

It is the command of an entry: ``python -c`` and the text of ``spellings.py`` with this one behind it.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import termios
import time
from array import array
from pathlib import Path

from proofs.spellings import spellings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = os.environ.get("THEORY_ROOT", "")
OUT = Path(ROOT, "job", "out")
LARGE = 70_000  # bytes: such an output is a file of its own in the store
LINE = 64 * 1024  # bytes that the log takes for one line
NAME = 150  # characters before a value in a name: theory shows 200 of it


def value_of(name: str) -> str:
    """A secret, in its variable or in its file."""
    if name in os.environ:
        return os.environ[name]
    return Path(os.environ[f"{name}_FILE"]).read_bytes().decode("utf-8", "surrogateescape")


class Leak:
    """What is to be leaked, and the ways."""

    def __init__(self, secrets: list[str], only: str = "") -> None:
        self.values = [value_of(name) for name in secrets]
        self.each = [
            spelled
            for value in self.values
            for name, spelled in spellings(value).items()
            if only in {"", name}
        ]
        self.texts = [spelled.decode("utf-8", "replace") for spelled in self.each]

    def stdout(self) -> None:
        """A line each."""
        say(1, b"".join(b"<%s>\n" % spelled for spelled in self.each))

    def stderr(self) -> None:
        """A line each."""
        say(2, b"".join(b"<%s>\n" % spelled for spelled in self.each))

    def pieces(self) -> None:
        """In halves, of which the first is read before the second is written; and a few bytes at a time."""
        for spelled in self.each[:2]:
            half = len(spelled) // 2
            say(1, spelled[:half])
            until_read(1)
            say(1, spelled[half:] + b"\n")
        for size in (1, 7):
            for spelled in self.each:
                for stream in (1, 2):
                    say(stream, spelled + b"\n", size)

    def one_line(self) -> None:
        """All in one line, which has no end."""
        say(2, b", ".join(self.each))

    def long_lines(self) -> None:
        """Over the edge of what is one line of the log."""
        for spelled in self.each[:: max(1, len(self.each) // 8)]:
            say(1, b"m" * (LINE - len(spelled) // 2) + spelled + b"m" * 100 + b"\n")

    def events(self) -> None:
        """As texts, as keys and as the kind of an event."""
        for text in self.texts:
            for event in (
                {"event": "token", "text": text},
                {"event": "progress", "fraction": 0.5, "message": text},
                {"event": "warning", "message": text},
                {"event": "log", "text": "", text: [{text: text}]},
                {"event": text},
            ):
                say(1, json.dumps(event).encode() + b"\n")

    def lines_of_json(self) -> None:
        """As they are within what may or may not be JSON then."""
        for spelled in self.each:
            say(1, b'{"event":"token","text":"%s"}\n' % spelled)

    def last_words(self) -> None:
        """What it says at its end."""
        self.one_line()
        say(2, b"\n" + b"x" * NAME + self.values[0].encode("utf-8", "surrogateescape") + b"\n")
        sys.exit(3)

    def a_traceback(self) -> None:
        """An exception that nobody catches, from another one."""
        try:
            dict[str, str]()[" ".join(self.texts)]
        except KeyError as error:
            raise RuntimeError(" ".join(self.texts)) from error

    def a_providers_answer(self) -> None:
        """What clients print of an answer that repeats the key."""
        for value in self.values:
            body = json.dumps({"error": {"message": f"Incorrect API key provided: {value}", "param": None}})
            say(2, f"HTTP 401 for https://ann:{value}@api.example/v1?key={value}: {body}\n".encode())
            say(2, (repr({"headers": {"authorization": f"Bearer {value}"}, "body": body}) + "\n").encode())
            say(1, json.dumps({"event": "log", "text": body}).encode() + b"\n")
        sys.exit(12)

    def meta_values(self) -> None:
        """In texts of meta.json, and in what is not a scalar."""
        texts = {str(number): text for number, text in enumerate(packed(self.texts))}
        write("meta.json", {**texts, "list": self.texts, "more": {"x": self.texts}})

    def meta_keys(self) -> None:
        """In keys of meta.json."""
        write("meta.json", dict.fromkeys(packed(self.texts), 1))

    def meta_left_out(self) -> None:
        """In keys of meta.json that theory warns of: they are too long, or of too many."""
        value = self.values[0]
        write("meta.json", {"x" * NAME + value + "y" * 1000: 1, value: "z" * 2000, f"{value}1": 2**60})

    def a_name(self) -> None:
        """As the name of an output."""
        for text in self.texts[:1]:
            OUT.joinpath(text.replace("/", "_")).write_text("x")

    def a_folder(self) -> None:
        """As the name of a folder, spelled."""
        OUT.joinpath(self.texts[-1]).mkdir()
        OUT.joinpath(self.texts[-1], "a").write_text("x")

    def a_bad_name(self) -> None:
        """In a name that no output may have, and that is cut where it is shown."""
        OUT.joinpath("n" * (NAME + 20) + self.values[0] + "\n").write_text("x")

    def a_link(self) -> None:
        """The same, of what is no file."""
        OUT.joinpath("n" * (NAME + 20) + self.values[0]).symlink_to("/nowhere")

    def a_wrong_value(self) -> None:
        """As a value that breaks the entry's schema, cut in the middle where it is shown."""
        write("checked.json", {"a": "".join(f"{value} " for value in self.values) + "x" * 60})

    def a_wrong_key(self) -> None:
        """As a key that the entry's schema does not know."""
        write("checked.json", {self.values[-1]: 1})

    def no_json(self) -> None:
        """As a key on the way to a fault in a JSON file."""
        text = json.dumps({self.values[-1]: {self.values[0]: 0}})
        OUT.joinpath("checked.json").write_text(text.replace(": 0}", ": NaN}"))

    def a_double_key(self) -> None:
        """As a key that stands twice, cut where it is shown."""
        key = json.dumps("k" * 75 + self.values[0])
        OUT.joinpath("checked.json").write_text(f"{{{key}: 1, {key}: 2}}")

    def a_wrong_cost(self) -> None:
        """Where a number is expected."""
        write("meta.json", {"cost_micro_usd": self.values[0]})

    def an_output(self) -> None:
        """On purpose: in a file that it delivers."""
        OUT.joinpath("large.txt").write_bytes(b"\n".join(self.each).ljust(LARGE))

    def temporary_files(self) -> None:
        """In all folders that it has for a while."""
        for folder in {os.environ["TMPDIR"], os.environ["HOME"], f"{ROOT}/job"}:
            Path(folder, "left.txt").write_bytes(b"\n".join(self.each))

    def an_argument(self) -> None:
        """In the command line of a child; what others have in theirs is an output."""
        import subprocess

        others = command_lines()
        program = [sys.executable, "-c", "print(flush=True); input()", *self.values]
        with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
            assert child.stdout
            child.stdout.readline()  # before that the kernel may not have its arguments in place
            mine = {pid: line for pid, line in command_lines().items() if pid == child.pid}
            child.kill()
        OUT.joinpath("others.bin").write_bytes(b"\n".join(others.values()).ljust(LARGE))
        OUT.joinpath("mine.bin").write_bytes(b"\n".join(mine.values()).ljust(LARGE))

    def want_of_memory(self) -> None:
        """In the words in which it says that it got no more memory, and that are cut where they are shown."""
        say(2, b"x" * 110 + self.values[0].encode() + b": Cannot allocate memory\n")
        sys.exit(1)

    def long_want_of_memory(self) -> None:
        """The same in a line of which an adapter that keeps 1 KiB has half of the value."""
        half = len(self.values[0]) // 2
        say(2, b"x" * 100 + self.values[0].encode() + b": Cannot allocate memory\n".rjust(1024 - half, b"y"))
        sys.exit(1)

    def no_end(self) -> None:
        """Before its time is over."""
        self.one_line()
        time.sleep(600)


def say(stream: int, data: bytes, size: int = 1 << 16) -> None:
    """Write all of it, so many bytes at a time."""
    for at in range(0, len(data), size):
        part = data[at : at + size]
        while part:
            part = part[os.write(stream, part) :]


def until_read(stream: int) -> None:
    """Wait until nothing is left in the pipe."""
    left = array("i", [1])
    while left[0]:
        time.sleep(0.001)
        fcntl.ioctl(stream, termios.FIONREAD, left)


def write(name: str, document: object) -> None:
    """A JSON output, with white space at its end."""
    OUT.joinpath(name).write_text(json.dumps(document).ljust(LARGE))


def packed(texts: list[str]) -> Iterator[str]:
    """All of them in few texts of at most 1 KiB."""
    line = ""
    for text in texts:
        if len((line + text).encode()) > 1000:
            yield line
            line = ""
        line += f"{text} "
    yield line


def command_lines() -> dict[int, bytes]:
    """Of all processes that can be seen from here, by their number."""
    found = {}
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found[int(file.parent.name)] = file.read_bytes()
        except OSError:  # it has ended
            continue
    return found


WAYS: dict[str, Callable[[Leak], None]] = {
    name: way for name, way in vars(Leak).items() if not name.startswith("_")
}

if __name__ == "__main__":
    wanted = json.loads(Path(ROOT, "job", "inputs.json").read_bytes())
    WAYS[wanted["way"]](Leak(wanted["secrets"], wanted.get("only", "")))
