"""Nothing from outside steers a terminal, wherever it is shown: an argument, a file, a plugin, a processor.

Each place shows the same text, full of sequences. What reaches standard output and standard error then is
text, line ends and tabs: no control character, nothing that turns text around or ends a line in secret.
Characters of no width are text; some scripts are not written without them. ``theory cat`` and ``get`` hand
out bytes as they are. The control shows texts as they are, and is found at each place.

The long form has each sequence by itself:
``tox -e proofs -- tests/proofs/test_terminal.py -s --hypothesis-profile long -o faulthandler_timeout=0``.
"""

from __future__ import annotations

import json
import os
import pty
import sqlite3
import subprocess
import sys
import unicodedata
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from core.bed import write_entry
from proofs.forks import Ended, Forks, Try
from proofs.load import environ_of

if TYPE_CHECKING:
    from pathlib import Path

IS_LONG = settings().max_examples > 1000  # --hypothesis-profile long
AT_ONCE = 3
ID, OTHER = "3b241101-e2bb-4255-8caf-4136c566a962", "4b241101-e2bb-4255-8caf-4136c566a962"
# ECMA-48, xterm's ctlseqs, UAX #9. None has a slash, a colon or an equals sign: each may be in any name.
SEQUENCES = {
    "a colour": "\x1b[31m",
    "a title": "\x1b]0;owned\x07",
    "the clipboard": "\x1b]52;c;ZXZp\x07",
    "a link": "\x1b]8;;x\x1b\\",
    "a device": "\x1bP+q\x1b\\",
    "an application": "\x1b_x\x1b\\",
    "a private message": "\x1b^x\x1b\\",
    "a string": "\x1bXx\x1b\\",
    "a reset": "\x1bc",
    "CSI in one character": "\x9b2J",
    "OSC in one character": "\x9d0;x\x9c",
    "back": "\b\b",
    "the begin of the line": "\r",
    "delete": "\x7f",
    "next line": "\x85",
    "pages": "\x0b\x0c",
    "other characters": "\x0e\x0f",
    "an override": "\u202e",
    "an isolate": "\u2066",
    "marks of direction": "\u200e\u061c",
    "separators": "\u2028\u2029",
    "a byte order mark": "\ufeff",
    "bytes that are no text": "\udc9b2J\udcff",
    "what does not end": "\x1b]0;",
}
TEXTS = {
    "sequences": "".join(f"{at}{each}" for at, each in enumerate([*SEQUENCES.values()][:10])) + "z",
    "characters": "".join(f"{at}{each}" for at, each in enumerate([*SEQUENCES.values()][10:])),
}
if IS_LONG:
    TEXTS |= {name: f"a{each}z" for name, each in SEQUENCES.items()}
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")
# The control shows nothing where Python's own spelling of text protects too, …
TWICE = {
    *("a ref", "a name in a ref", "a command", "a plan", "a wrong value", "a seed", "an amount", "a store"),
    *("ls --limit", "explain a ref", "verify --store", "plan create --limit", "registry show", "schema"),
    "an entry: command",
}
# … where the text is not repeated, and where the control takes what should be refused.
NOT_AT_ALL = {
    *("no inputs", "options", "the scheme of a store", "plan create", "plan limit", "plan report"),
    *("plan verify --against JSON", "an entry: image"),
}
PLUGIN = """
import json, sys
from dataclasses import dataclass, field
from pathlib import Path
from theory import AdapterInfo, Finding, Image, Outcome, errors, hookimpl
TEXT = json.loads(Path(__file__).with_name("text.json").read_text())

@dataclass(frozen=True)
class Options:
    way: str = field(default=TEXT, metadata={"help": TEXT})

@hookimpl
def describe_adapter():
    return AdapterInfo(TEXT, frozenset({"process", "isolation"}), options=Options)

@hookimpl
def identify():
    return Image("shouts:1", None, "linux/amd64", "3.11")

@hookimpl
def diagnose():
    return (Finding(TEXT, ok=False, message=TEXT, hint=TEXT),)

@hookimpl
def execute(options, channel):
    channel.started()
    if options.way == "raises":
        raise ValueError(TEXT)
    if options.way == "refuses":
        raise errors.Retry(TEXT, hint=TEXT, meta={TEXT: TEXT})
    return Outcome("exit", 0 if options.way == "fine" else 1, 0.0, 0.0, message=TEXT)

class Listener:
    @hookimpl
    def finalize(self):
        if "listens" in sys.argv:
            raise ValueError(TEXT)

listener = Listener()
"""
POINTS = """[theory.adapters]
shouting = shouting
broken = shouts_broken
{text} = shouting
[theory.commands]
{text} = shouting
[theory.plugins]
listens = shouting:listener
"""
PROGRAM = r"""
import json, os, sys
os.chdir(os.environ["THEORY_ROOT"] + "/job")
given = json.load(open("inputs.json"))
raw = bytes.fromhex(given["hex"])
text = raw.decode("utf-8", "replace")
way = given["way"]
def event(**members):
    print(json.dumps(members), flush=True)
if way == "log":
    for stream in (1, 2):
        os.write(stream, raw + b"\0\n" + raw + b"\r\n" + raw)
elif way == "events":
    event(event="token", text=text); event(event="token", text=text + "\0")
    event(event="warning", message=text); event(event="log", text=text); event(event=text)
    event(event="progress", fraction=0.5, message=text); event(event="progress", fraction=text)
elif way == "ends":
    os.write(2, raw + b"\n"); sys.exit(3)
elif way == "name":
    open(b"out/" + raw, "w").close()
elif way == "link":
    os.symlink(b"x", b"out/a" + raw)
elif way == "folder":
    os.mkdir(b"out/" + raw); open(b"out/" + raw + b"/a", "w").close()
elif way == "meta":
    meta = {text: text, text + "x" * 2000: 1, "y": text * 100, text + "z": 2**60}
    json.dump(meta, open("out/meta.json", "w"))
elif way == "value":
    json.dump({"a": text}, open("out/checked.json", "w"))
elif way == "key":
    json.dump({text: 1}, open("out/checked.json", "w"))
elif way == "no JSON":
    open("out/checked.json", "w").write('{%s: NaN}' % json.dumps(text))
elif way == "twice":
    open("out/checked.json", "w").write('{%s: 1, %s: 2}' % (json.dumps(text), json.dumps(text)))
elif way == "fine":
    open("out/a.txt", "w").write("x")
"""
SCHEMA = {
    "properties": {"checked.json": {"properties": {"a": {"type": "integer"}}, "additionalProperties": False}}
}


class Stage:
    """A home, and everything around it, that are called and say the same text.

    Args:
        folder: Of its own.
        text: What is shown.
        mutant: A function of ``mutants`` that each run calls first.
    """

    def __init__(self, folder: Path, text: str, mutant: str = "") -> None:
        self.text, self._mutant = text, mutant
        known = folder / "known"
        self.folder = folder / f"here {text}"
        self.entries = self.folder / "entries"
        self.entries.mkdir(parents=True)
        info = known / "shouting-1.dist-info"
        info.mkdir(parents=True)
        (known / "shouting.py").write_text(PLUGIN)
        (known / "shouts_broken.py").write_text(
            PLUGIN.partition("@dataclass")[0] + "raise RuntimeError(TEXT)\n"
        )
        (known / "text.json").write_text(json.dumps(text))
        written = text.encode("utf-8", "replace").decode().replace("\r", "")
        (info / "entry_points.txt").write_text(POINTS.format(text="".join(written.splitlines())))
        self._write_entries()
        variables = environ_of(self.folder)
        path = os.pathsep.join(filter(None, (variables.get("PYTHONPATH", ""), str(known))))
        usual = {"PYTHONPATH": path, "LC_ALL": "C.UTF-8", "THEORY_REGISTRY": str(self.entries)}
        self.environ = {**variables, **usual}
        self.places = {**self._arguments(), **self._runs(), **self._looks()}

    def _write_entries(self) -> None:
        text = self.text.encode("utf-8", "replace").decode()
        program = write_entry(self.entries, "shouts/program@1", description=text, outputs=SCHEMA)
        (program / "main.py").write_text(PROGRAM)
        strict = {"properties": {"a": {"const": text}}, "required": [text], "additionalProperties": False}
        write_entry(self.entries, "shouts/strict@1", inputs=strict)
        write_entry(self.entries, "shouts/adapter@1")
        write_entry(self.entries, "shouts/secret@1", secrets=["A_KEY"])
        write_entry(self.entries, "shouts/command@1", command=[text])
        write_entry(self.entries, "shouts/file@1", image={"dockerfile": text})
        write_entry(self.entries, "shouts/image@1", image={"oci": text})
        write_entry(self.entries, "shouts/keys@1", **{text: text})
        write_entry(self.entries, "shouts/secrets@1", secrets=[text])
        write_entry(self.entries, "shouts/pattern@1", inputs={"properties": {text: {"pattern": "(" + text}}})
        write_entry(self.entries, "shouts/reference@1", inputs={"$ref": text})
        (write_entry(self.entries, "shouts/yaml@1") / "processor.yaml").write_text(f"ref: *a{text}\n")
        (self.entries / "shouts" / f"name {text}" / "1").mkdir(parents=True)
        (self.entries / "shouts" / f"name {text}" / "1" / "processor.yaml").write_text("ref: x\n")
        (self.folder / "is a file").write_text("{")

    def _arguments(self) -> dict[str, tuple[str, ...]]:
        """A wrong argument is repeated."""
        text, file = self.text, str(self.folder / "is a file")
        spelled = json.dumps(text.encode("utf-8", "replace").decode())
        run = ("run", "shouts/adapter@1", "--adapter", "shouting")
        return {
            "a ref": ("run", text),
            "a name in a ref": ("run", f"a/{text}@1"),
            "two refs": ("run", "a/b@1", "--ref", text),
            "an argument too many": ("run", "a/b@1", text),
            "an option that is none": ("run", f"--{text}"),
            "a command": (text,),
            "an adapter": (*run, "--adapter", text),
            "a plan": (*run, "--plan", text),
            "a prefix without an end": (*run, "--write-prefix", f"/artifacts/{text}"),
            "a prefix": (*run, "--write-prefix", f"/artifacts/{text}/"),
            "no inputs": (*run, "--inputs-json", text),
            "a file of inputs": (*run, "--inputs-json", f"@{text}"),
            "a key of the inputs": (
                "run",
                "shouts/strict@1",
                *run[2:],
                "--inputs-json",
                f'{{{spelled}: 1, {spelled[:-1]}b":1}}',
            ),
            "a value of the inputs": (
                "run",
                "shouts/strict@1",
                *run[2:],
                "--inputs-json",
                f'{{"a": {spelled}, "b": 1}}',
            ),
            "a key twice": (*run, "--inputs-json", f"{{{spelled}: 1, {spelled}: 1}}"),
            "an integer below a key": (*run, "--inputs-json", f"{{{spelled}: 9007199254740993}}"),
            "an artifact": (*run, "--inputs-json", f'{{"a": {{"$artifact": "/artifacts/{spelled[1:]}}}}}'),
            "an unknown attachment": (*run, "--inputs-json", f'{{"a": {{"$attach": {spelled}}}}}'),
            "an attachment of no form": (*run, "--attach", text),
            "an attachment that is not there": (
                *run,
                "--attach",
                f"x={text}",
                "--inputs-json",
                '{"a":{"$attach":"x"}}',
            ),
            "an attachment of a name": (
                *run,
                "--attach",
                f"x=/dev/null/{text}",
                "--inputs-json",
                '{"a":{"$attach":"x"}}',
            ),
            "an attachment that is unused": (*run, "--attach", f"{text}={file}"),
            "attachments of one name": (*run, "--attach", f"{text}=a", "--attach", f"{text}=b"),
            "an option of no form": (*run, "-o", text),
            "an unknown option": (*run, "-o", f"{text}=1"),
            "an option twice": (*run, "-o", f"{text}=1", "-o", f"{text}=1"),
            "a wrong value": (*run, "--adapter-opts-json", f'{{"way": {{"x": {spelled}}}}}'),
            "options": (*run, "--adapter-opts-json", text),
            "a key of options": (*run, "--adapter-opts-json", f"{{{spelled}: 1, {spelled}: 1}}"),
            "a seed": (*run, "--seed", text),
            "an amount": (*run, "--reserve-usd", text),
            "an execution": (*run, "--execution-id", text),
            "a store": (*run, "--store", f"{text}://x"),
            "the scheme of a store": (*run, "--store", f"ftp://{text}"),
            "the folder of a store": (*run, "--store", f"{file}/{text}"),
            "a registry": (*run, "--registry", f"{self.folder}/none"),
            "a folder to save to": (*run, "-o", "way=fine", "--save-dir", f"{file}/{text}"),
            "a file to save to": (*run, "-o", "way=fine", "--save-first", f"{file}/{text}"),
            "show": ("show", text),
            "cat": ("cat", text),
            "get": ("get", text),
            "get two": ("get", f"a/{text}", f"b/{text}"),
            "get to": ("get", "x", "--to", text),
            "ls": ("ls", text),
            "ls --limit": ("ls", "--limit", text),
            "explain": ("explain", text),
            "explain a ref": ("explain", f"a/{text}@1"),
            "explain and another": ("explain", ID, text),
            "replay": ("replay", text),
            "verify --store": ("verify", "--store", f"{text}://x"),
            "gc --older-than": ("gc", "--older-than", text),
            "keep": ("keep", text),
            "keep --drop": ("keep", "--drop", text),
            "plan create": ("plan", "create", text),
            "plan create --limit": ("plan", "create", "k", "--limit", text),
            "plan limit": ("plan", "limit", text, "1"),
            "plan show": ("plan", "show", text),
            "plan verify": ("plan", "verify", text),
            "plan verify --against": ("plan", "verify", "--against", text),
            "plan verify --against JSON": (
                "plan",
                "verify",
                "--against",
                f'{{"format": {spelled}, {spelled}: 1}}',
            ),
            "plan report": ("plan", "report", text),
            "plan checkpoint": ("plan", "checkpoint", text),
            "registry show": ("registry", "show", text),
            "registry check none": ("registry", "check", text),
            "adapters show": ("adapters", "show", text),
            "schema": ("schema", text),
        }

    def _runs(self) -> dict[str, tuple[str, ...]]:
        """What processors, adapters and entries say."""
        raw = self.text.encode("utf-8", "surrogateescape").hex()
        places: dict[str, tuple[str, ...]] = {}
        for way in (
            *("log", "events", "ends", "name", "link", "folder", "meta", "value", "key", "no JSON", "twice"),
        ):
            inputs = json.dumps({"way": way, "hex": raw})
            run = ("run", "shouts/program@1", "--adapter", "process", "--inputs-json", inputs, "--no-memo")
            places[f"a processor: {way}"] = (*run, "--stream")
            places[f"a processor: {way}, --json"] = (*run, "--stream", "--json")
        for way in ("raises", "refuses", "words"):
            run = ("run", "shouts/adapter@1", "--adapter", "shouting", "-o", f"way={way}", "--no-memo")
            places[f"an adapter: {way}"] = run
            places[f"an adapter: {way}, --debug"] = (*run, "--debug")
        run = ("run", "shouts/adapter@1", "--adapter", "shouting", "-o", "way=fine", "--no-memo")
        places["a replay"] = ("replay", OTHER, "-o", "way=raises")
        places["a listener"] = (*run, "--plan", "listens")
        for name in ("command", "file", "image", "keys", "secrets", "pattern", "reference", "yaml"):
            places[f"an entry: {name}"] = ("run", f"shouts/{name}@1", "--adapter", "process", "--no-memo")
        return places

    def _looks(self) -> dict[str, tuple[str, ...]]:
        """What is shown of what there is; of a ledger that somebody has changed, too."""
        return {
            "registry ls": ("registry", "ls"),
            "registry show an entry": ("registry", "show", "shouts/program@1"),
            "registry check": ("registry", "check", str(self.entries)),
            "adapters ls": ("adapters", "ls"),
            "adapters show an adapter": ("adapters", "show", "shouting"),
            "plugins": ("plugins",),
            "doctor": ("doctor",),
            "config": ("config",),
            "help": ("--help",),
            "a changed ledger: plan ls": ("plan", "ls"),
            "a changed ledger: plan show": ("plan", "show", f"plan {self.text}"),
            "a changed ledger: plan report": ("plan", "report"),
            "a changed ledger: plan verify": ("plan", "verify"),
            "a changed ledger: plan verify --json": ("plan", "verify", "--json"),
            "a changed ledger: plan checkpoint": ("plan", "checkpoint"),
            "a changed ledger: ls /": ("ls", "/artifacts/"),
            "a changed ledger: verify": ("verify",),
        }

    def show(self) -> dict[str, Ended]:
        """What is said at each place."""
        inputs = json.dumps({"way": "fine", "hex": ""})
        program = (
            "run",
            "shouts/program@1",
            "--adapter",
            "process",
            "--inputs-json",
            inputs,
            "--execution-id",
            ID,
        )
        adapter = (
            "run",
            "shouts/adapter@1",
            "--adapter",
            "shouting",
            "-o",
            "way=fine",
            "--execution-id",
            OTHER,
        )
        looks = self._looks()
        with Forks(self.environ, self.folder, AT_ONCE) as forks:
            made = forks.run([Try(program), Try(adapter)])
            assert [ended.status for ended in made] == [0, 0], made
            before = [name for name in self.places if name not in looks]
            said = forks.run(Try(self.places[name], mutant=self._mutant) for name in before)
            self._change_the_ledger()
            said += forks.run(Try(arguments, mutant=self._mutant) for arguments in looks.values())
        return dict(zip([*before, *looks], said, strict=True))

    def _change_the_ledger(self) -> None:
        text = self.text.encode("utf-8", "replace").decode()
        with closing(sqlite3.connect(self.folder / "home" / "ledger.db")) as ledger, ledger:
            ledger.execute("DROP TRIGGER events_stay")
            ledger.execute("INSERT INTO plans (key, head) VALUES (?, ?)", (f"plan {text}", text))
            ledger.execute(
                "UPDATE names SET path = path || ?, mime = ? WHERE path LIKE '/artifacts/outputs/%'",
                (text, text),
            )
            ledger.execute(
                "UPDATE names SET cid = ? WHERE path LIKE '/artifacts/outputs/%'", ("b3:" + "0" * 64,)
            )
            ref = "shouts/program@1"
            spelled = json.dumps(ref + text)[1:-1]
            ledger.execute("UPDATE events SET payload = replace(payload, ?, ?)", (ref, spelled))
            ledger.execute("UPDATE events SET plan = ? WHERE plan = 'default' AND seq > 2", (f"plan {text}",))


def steers(said: str) -> list[str]:
    """The characters of it that a terminal would not just show."""
    found = {
        char
        for char in said
        if (unicodedata.category(char) in {"Cc", "Cs", "Zl", "Zp"} and char not in "\n\t") or char in _BIDI
    }
    return sorted(map(ascii, found))


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_nothing_from_outside_steers_a_terminal(text: str, tmp_path: Path) -> None:
    said = Stage(tmp_path, text).show()
    assert {name: found for name, ended in said.items() if (found := steers(ended.out + ended.err))} == {}
    assert [name for name, ended in said.items() if not ended.out + ended.err] == []
    for name, ended in said.items():
        if "--json" in name:
            assert [*map(json.loads, ended.out.splitlines())], name


def test_the_live_line_of_a_terminal_steers_it_to_the_begin_of_the_line_and_no_further(
    tmp_path: Path,
) -> None:
    stage = Stage(tmp_path, TEXTS["sequences"])
    command = [sys.executable, "-m", "theory", *stage.places["a processor: events"]]
    mine, theirs = pty.openpty()
    with subprocess.Popen(
        command, env=stage.environ, cwd=stage.folder, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs
    ) as run:
        os.close(theirs)
        said = b""
        while portion := _heard(mine):
            said += portion
    os.close(mine)
    assert run.returncode == 0, said
    text = said.decode().replace("\r\n", "\n")
    assert "\r\x1b[K 50% " in text
    assert steers(text.replace("\r\x1b[K", "")) == []


def _heard(terminal: int) -> bytes:
    """What is said next; nothing at the end, which a terminal tells by an error."""
    try:
        return os.read(terminal, 65536)
    except OSError:
        return b""


def test_what_is_shown_as_it_is_is_found_at_each_place(tmp_path: Path) -> None:
    """The control: the text gets to each of these places."""
    said = Stage(tmp_path, TEXTS["sequences"], mutant="shows_as_it_is").show()
    quiet = {name: ended for name, ended in said.items() if not steers(ended.out + ended.err)}
    assert quiet.keys() == TWICE | NOT_AT_ALL
