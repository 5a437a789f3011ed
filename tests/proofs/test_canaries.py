"""No way leads a secret out of a run but the outputs, whatever its spelling: into no record and no log.

Each way has an entry and values of its own, so that whatever is found says how it got there. When all have
run, everything is searched that exists then: the home with its databases byte by byte, temporary folders,
all that was said, and all that is shown of the runs afterwards. The control does the same without masks.

The long form leaks each spelling alone by each way:
``tox -e proofs -- tests/proofs/test_canaries.py -s --hypothesis-profile long -o faulthandler_timeout=0``.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from hypothesis import settings

from core.bed import write_entry
from proofs import leaking_adapter, spellings
from proofs.forks import Ended, Forks, Try
from proofs.load import environ_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from theory_adapter_local.engine.client import Engine

IS_LONG = settings().max_examples > 1000  # --hypothesis-profile long
AT_ONCE = 3
PREFIX = 8  # bytes: every piece that is sought is longer


class Way(NamedTuple):
    """How a run of ``theory`` ends that leaks by this way."""

    code: str = "success"
    again: tuple[str, ...] = ()  # options of a second run; without any, it is served from the memo
    kept: tuple[str, ...] = ()  # outputs in which the values are on purpose


STREAMS = ("--stream", "--no-memo")
WAYS = {
    "stdout": Way(again=STREAMS),
    "stderr": Way(again=STREAMS),
    "pieces": Way(again=("--stream", "--json", "--no-memo")),
    "one_line": Way(again=STREAMS),
    "long_lines": Way(again=STREAMS),
    "events": Way(again=("--stream", "--json", "--no-memo")),
    "lines_of_json": Way(again=STREAMS),
    "last_words": Way("ERR_PROCESSOR"),
    "a_traceback": Way("ERR_PROCESSOR", STREAMS),
    "a_providers_answer": Way("ERR_PROCESSOR"),
    "meta_values": Way(kept=("meta.json",)),
    "meta_keys": Way(kept=("meta.json",)),
    "meta_left_out": Way(kept=("meta.json",), again=("--no-memo",)),
    "a_name": Way("ERR_OUTPUT_PATH"),
    "a_folder": Way("ERR_OUTPUT_PATH"),
    "a_bad_name": Way("ERR_OUTPUT_PATH"),
    "a_link": Way("ERR_OUTPUT_PATH"),
    "a_wrong_value": Way("ERR_OUTPUTS"),
    "a_wrong_key": Way("ERR_OUTPUTS"),
    "no_json": Way("ERR_OUTPUTS"),
    "a_double_key": Way("ERR_OUTPUTS"),
    "a_wrong_cost": Way("ERR_OUTPUTS"),
    "an_output": Way(kept=("large.txt",)),
    "temporary_files": Way(),
    "an_argument": Way(kept=("mine.bin",)),
    "want_of_memory": Way("ERR_OUT_OF_MEMORY"),
    "long_want_of_memory": Way("ERR_PROCESSOR"),
    "no_end": Way("ERR_TIMEOUT"),
}
OF_ADAPTERS = ("ERR_PROCESSOR", "ERR_PLUGIN", "ERR_RETRY")  # the codes of what adapters leak
# What keeps nothing and shows nothing, mask or no mask: these are left alone, or their text is not repeated.
MUTE = {"a_wrong_cost", "an_output", "temporary_files", "an_argument"}
# What does not go the same way in a container: another adapter words it, or there is no such folder.
OF_A_MACHINE = {"want_of_memory", "long_want_of_memory", "temporary_files"}
SCHEMA = {
    "properties": {"checked.json": {"properties": {"a": {"type": "integer"}}, "additionalProperties": False}}
}
AFTER = (
    *(("ls",), ("ls", "/artifacts/"), ("plan", "ls"), ("plan", "report"), ("plan", "report", "--json")),
    *(
        ("plan", "verify"),
        ("plan", "checkpoint"),
        ("doctor",),
        ("verify",),
        ("verify", "--json"),
        ("config",),
    ),
    *(("plugins",), ("registry", "ls"), ("gc", "--dry-run")),
)


def text_of_the_program() -> str:
    """What the command of the entries runs: two modules as one text."""
    texts = [Path(__file__).with_name(name).read_text() for name in ("spellings.py", "leaking.py")]
    future = "from __future__ import annotations\n"
    joined = future + "".join(texts).replace(future, "")
    return joined.replace("from proofs.spellings import spellings\n", "")


class Bench:
    """A home, entries that leak, and what is found of their secrets; use it as a context manager.

    Args:
        folder: Of its own, with nothing of the secrets in it.
        mutant: A function of ``mutants`` that each run calls first.
        adapter: Where the processor runs.
        more: More variables of the command.
    """

    def __init__(
        self, folder: Path, mutant: str = "", adapter: str = "process", more: Mapping[str, str] | None = None
    ) -> None:
        self.folder, self.adapter, self._mutant = folder, adapter, mutant
        self.values = {way: values() for way in (*WAYS, *leaking_adapter.WAYS)}
        self.said: list[tuple[str, str]] = []
        for name in ("tmp", "run"):
            (folder / name).mkdir(mode=0o700)
        known = folder / "known" / "leaking-1.dist-info"
        known.mkdir(parents=True)
        (known / "METADATA").write_text("Metadata-Version: 2.1\nName: leaking\nVersion: 1\n")
        (known / "entry_points.txt").write_text("[theory.adapters]\nleaking = proofs.leaking_adapter\n")
        command = ["python", "-c", text_of_the_program()]
        for way in self.values:
            write_entry(
                folder / "entries",
                f"leaks/{way}@1",
                command=command,
                secrets=names(way),
                outputs=SCHEMA,
                **({"image": {"oci": adapter}} if ":" in adapter else {}),
            )
        variables = environ_of(folder)
        path = os.pathsep.join(filter(None, (variables.get("PYTHONPATH", ""), str(folder / "known"))))
        usual = {"PYTHONPATH": path, "TMPDIR": str(folder / "tmp"), "XDG_RUNTIME_DIR": str(folder / "run")}
        self.environ = {**variables, **usual, **(more or {})}
        for way, each in self.values.items():
            self.environ |= dict(zip(names(way), each, strict=True))

    def __enter__(self) -> Bench:  # noqa: PYI034 - typing.Self is newer than our oldest Python
        self._forks = Forks(self.environ, self.folder, AT_ONCE).__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._forks.__exit__()

    def run(self, wanted: Iterable[tuple[str, tuple[str, ...]]], **inputs: str) -> list[Ended]:
        """Run ways, each with more options; what is said is remembered."""
        asked = [(way, self._try(way, options, inputs)) for way, options in wanted]
        ended = self._forks.run(tried for _, tried in asked)
        for (way, _), each in zip(asked, ended, strict=True):
            self.said += [(f"stdout of {way}", each.out), (f"stderr of {way}", each.err)]
        return ended

    def look(self, *commands: tuple[str, ...]) -> None:
        """What is shown afterwards is remembered too."""
        for command, ended in zip(commands, self._forks.run(map(Try, commands)), strict=True):
            self.said += [(" ".join(command), ended.out), (" ".join(command), ended.err)]

    def leaks(self, but: Iterable[str] = ()) -> list[str]:
        """Where values are found, and by which way they came there; not in the files of these cids."""
        left_out = {cid.partition(":")[2] for cid in but}
        found = [leak for place, text in self.said for leak in self.found(place, text.encode())]
        for file in sorted(self.folder.rglob("*")):
            place = file.relative_to(self.folder).as_posix()
            found += self.found("the name of a file", os.fsencode(place))
            if file.is_file() and not file.is_symlink() and file.name not in left_out:
                found += self.found(place, file.read_bytes())
        return found

    def found(self, place: str, data: bytes) -> list[str]:
        """The ways whose values are in it, with the spelling."""
        leaks = set()
        for at in range(len(data) - PREFIX + 1):
            for piece, what in self._sought.get(data[at : at + PREFIX], ()):
                if data.startswith(piece, at):
                    leaks.add(f"{what} in {place}")
        return sorted(leaks)

    @cached_property
    def _sought(self) -> dict[bytes, list[tuple[bytes, str]]]:
        sought: dict[bytes, list[tuple[bytes, str]]] = {}
        for way, each in self.values.items():
            for value in each:
                for piece, name in spellings.pieces(value).items():
                    sought.setdefault(piece[:PREFIX], []).append((piece, f"{way}: {name}"))
        return sought

    def _try(self, way: str, options: tuple[str, ...], inputs: dict[str, str]) -> Try:
        given = ["run", f"leaks/{way}@1", "--registry", str(self.folder / "entries")]
        given += ["--write-prefix", f"/artifacts/{way}/", "--plan", "leaks"]
        if way in leaking_adapter.WAYS:
            given += ["--adapter", "leaking", "-o", f"way={way}"]
        else:
            asked = {"way": way, "secrets": names(way), **inputs}
            given += ["--adapter", "local" if ":" in self.adapter else self.adapter]
            given += ["--inputs-json", json.dumps(asked)]
        if way == "no_end":
            given += ["--timeout", "1"]
        return Try((*given, *options), mutant=self._mutant)


def names(way: str) -> list[str]:
    """The secrets of a way."""
    return [f"{way.upper()}_{number}" for number in range(2)]


def values() -> tuple[str, str]:
    """Values that nobody else has: one as keys are, one that every spelling spells differently."""
    word, odd = secrets.token_hex, ("/", "+ ", '"', "\\", "ü", "😀", "%41", "~'", "&=", ">")
    return f"sk-{word(8)}_{word(8).upper()}", "".join(word(3) + char for char in odd) + word(3)


def envelope_of(ended: Ended) -> dict[str, Any]:
    """The line of JSON at the end of what it said."""
    found: dict[str, Any] = json.loads(ended.out.splitlines()[-1])
    return found


def code_of(ended: Ended) -> str:
    """``success``, or the code of the error."""
    envelope = envelope_of(ended)
    return str(envelope["error"]["code"]) if envelope["status"] == "error" else "success"


def kept_by(way: str, ended: Ended) -> set[str]:
    """The cids of outputs that have the values on purpose."""
    outputs = envelope_of(ended).get("outputs", ())
    return {output["cid"] for output in outputs if output["path"].rpartition("/")[2] in WAYS[way].kept}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with Bench(tmp_path_factory.mktemp("bench")) as made:
        yield made


def test_no_way_leads_a_secret_into_a_record_a_log_or_a_file_that_stays(bench: Bench) -> None:
    began = time.monotonic()
    ways = [*WAYS, *leaking_adapter.WAYS]
    first = dict(zip(ways, bench.run((way, ("--json", "--debug")) for way in ways), strict=True))
    for way, ended in first.items():
        assert code_of(ended) in ((WAYS[way].code,) if way in WAYS else OF_ADAPTERS), (way, ended)
    bench.run((way, wanted.again) for way, wanted in WAYS.items() if wanted.code == "success" or IS_LONG)
    kept, more = {way: kept_by(way, first[way]) for way in WAYS}, set[str]()
    if IS_LONG:
        for number, only in enumerate(spellings.spellings("")):
            again = bench.run(
                ((way, ("--json", "--debug", "--stream")) for way in WAYS if way != "no_end"), only=only
            )
            for way, ended in zip([way for way in WAYS if way != "no_end"], again, strict=True):
                more |= kept_by(way, ended)
            print(f"\n{number + 1} spellings of {len(spellings.spellings(''))}", flush=True)  # noqa: T201 - with -s
    ids = [envelope_of(ended)["execution_id"] for ended in first.values()]
    bench.look(
        *AFTER, *(("show", id_) for id_ in ids), *(("explain", id_) for id_ in ids[:: 1 if IS_LONG else 8])
    )
    bench.look(("replay", ids[0]), ("replay", ids[0], "--json"))
    assert bench.leaks(but=more.union(*kept.values())) == []
    for way, cids in kept.items():
        flag = "Warning: the output '"
        assert (flag in first[way].err) == bool(cids), way
        assert bool(cids) == bool(WAYS[way].kept), way
        for cid in cids:
            name = cid.partition(":")[2]
            (blob,) = bench.folder.glob(f"home/store/blobs/b3/*/{name}")
            assert bench.found(way, blob.read_bytes()), "what a processor delivers is not changed"
    print(f"\n{len(bench.said) // 2} commands, {time.monotonic() - began:.0f} s")  # noqa: T201 - with -s


def test_without_masks_each_way_is_found(tmp_path: Path) -> None:
    """The control: whatever a way leads to would have been seen there."""
    with Bench(tmp_path, mutant="masks_nothing") as bench:
        ways = [way for way in (*WAYS, *leaking_adapter.WAYS) if way not in MUTE]
        bench.run((way, ("--json", "--debug")) for way in ways)
        found = bench.leaks()
    unseen = {way for way in ways if not any(leak.startswith(f"{way}: ") for leak in found)}
    assert unseen == set()
    places = {leak.rpartition(" in ")[2] for leak in found}
    assert {"home/ledger.db-wal", "home/ledger.db"} & places, "the envelopes of failures are there"


def test_a_mask_that_forgets_the_edges_of_portions_is_found(tmp_path: Path) -> None:
    """The control of ``pieces``: each portion is masked well by itself."""
    with Bench(tmp_path, mutant="masks_portions") as bench:
        bench.run([("pieces", ("--json",)), ("stderr", ("--json",))])
        assert {leak.partition(":")[0] for leak in bench.leaks()} == {"pieces"}


def test_a_secret_of_the_users_file_is_found_no_more_than_one_of_the_environment(tmp_path: Path) -> None:
    (tmp_path / "bench").mkdir()
    file = tmp_path / "secrets"
    with Bench(tmp_path / "bench", more={"THEORY_SECRETS_FILE": str(file)}) as bench:
        pass
    for name in names("last_words"):
        del bench.environ[name]
    file.write_text(
        "".join(f"{n}={v}\n" for n, v in zip(names("last_words"), bench.values["last_words"], strict=True))
    )
    with bench:
        (ended,) = bench.run([("last_words", ("--json",))])
        assert code_of(ended) == "ERR_PROCESSOR"
        assert "***" in ended.out
        bench.look(("config",), ("doctor",))
        assert bench.leaks() == []
        file.write_text(f"no line of this kind {bench.values['last_words'][0]}\n")
        (ended,) = bench.run([("last_words", ("--json",))])
        assert code_of(ended) == "ERR_USAGE"
        assert bench.leaks() == []


def test_an_adapter_that_pretends_is_told_no_secret(bench: Bench) -> None:
    asked = [
        "run",
        "leaks/stdout@1",
        "--adapter",
        "mock",
        "--registry",
        str(bench.folder / "entries"),
        "--json",
    ]
    bench.look(tuple(asked), (*asked, "--debug", "--stream"))
    assert '"status":"' in bench.said[-2][1]
    assert [leak for place, text in bench.said[-4:] for leak in bench.found(place, text.encode())] == []


def test_a_value_of_three_characters_is_shown_and_one_of_four_is_not(tmp_path: Path) -> None:
    write_entry(
        tmp_path / "entries",
        "leaks/short@1",
        command=["sh", "-c", 'echo "<$THREE><$FOUR>"'],
        secrets=["THREE", "FOUR"],
    )
    given = ("run", "leaks/short@1", "--adapter", "process", "--registry", str(tmp_path / "entries"))
    with Forks({**environ_of(tmp_path), "THREE": "k7Z", "FOUR": "k7Zq"}, tmp_path, 1) as forks:
        (ended,) = forks.run([Try(given)])
    assert ended.err == "<k7Z><***>\n"


def test_no_way_leads_a_secret_out_of_a_container(engine: Engine, base_image: str, tmp_path: Path) -> None:
    more = {"DOCKER_HOST": engine.host}
    ways = [*WAYS.keys() - OF_A_MACHINE] if IS_LONG else ["events", "last_words", "meta_values"]
    with Bench(tmp_path, adapter=base_image, more=more) as bench:
        ended = bench.run((way, ("--json",)) for way in ways)
        kept = set[str]()
        for way, each in zip(ways, ended, strict=True):
            assert code_of(each) == WAYS[way].code, (way, each)
            kept |= kept_by(way, each)
        assert bench.leaks(but=kept) == []
