# ruff: noqa: E501 - what is fuzzed is easiest to read on a line
"""What a user, a registry or a project hands to core."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from proofs.fuzz_table import Parser
from theory.config import load, secrets_of
from theory.entries.dockerfile import bases_of
from theory.entries.imageid import ImageName
from theory.entries.registry import FolderRegistry
from theory.entries.schemachecks import faults_of_schema, misplaced_defaults
from theory.entries.schemas import BadSchema, Schema
from theory.entries.strictyaml import BadYaml, parse_yaml
from theory.entries.tree import tree_of
from theory.errors import TheoryError
from theory.formats import paths
from theory.formats.canon import BadJson, canonical, parse_json
from theory.formats.mime import mime_of
from theory.formats.money import micro_usd, usd
from theory.options import options_of
from theory.request import Request
from theory.rooms.inputs import check_inputs
from theory.types import ImageSource, Processor, Ref, Runtime, SecretNeeds

if TYPE_CHECKING:
    from proofs.fuzz_table import Parse
    from theory.types import JsonObject

MIB = 1 << 20
ID = "01890a5d-ac96-774b-bcce-b302099a8057"
DIALECT = b"https://json-schema.org/draft/2020-12/schema"
PUBLISHED = Path(__file__).parents[2] / "registry" / "processors"


def text_of(data: bytes) -> str:
    """As an argument of a command arrives."""
    return os.fsdecode(data)


def published(name: str) -> tuple[bytes, ...]:
    """The files of this name in the entries that we publish."""
    return tuple(file.read_bytes() for file in sorted(PUBLISHED.glob(f"*/*/*/{name}")))


def processor(inputs: JsonObject, **more: object) -> Processor:
    """An entry with this schema for its inputs."""
    values: dict[str, Any] = {
        "ref": Ref("a", "b", 1),
        "description": "",
        "image": ImageSource("D"),
        "command": None,
        "runtime": Runtime(),
        "adapter": {},
        "secrets": SecretNeeds(),
        "determinism": "pure",
        "reserve_micro_usd": 0,
        "inputs": inputs,
        "outputs": {},
        "folder": Path(),
        "cid": "",
        "tree": "",
    }
    return Processor(**{**values, **more})


ENTRY_INPUTS: JsonObject = {
    "type": "object",
    "properties": {
        "text": {"type": "string", "pattern": "^(a+)+$"},
        "file": {"$ref": "#/$defs/file"},
        "rest": {"type": "array", "items": {"$ref": "#"}, "uniqueItems": True},
        "deep": {"$ref": "#/$defs/deep", "default": {}},
        "kind": {"oneOf": [{"const": 1}, {"type": "string"}, {"required": ["a"]}]},
    },
    "$defs": {
        "file": {"properties": {"mime": {"type": "string"}}},
        "deep": {"properties": {"n": {"default": 1}}, "additionalProperties": {"$ref": "#/$defs/deep"}},
    },
}


def _inputs(_: Path) -> Parse:
    entry, plain = processor(ENTRY_INPUTS), processor({"type": "object"})

    def parse(data: bytes) -> object:
        if data[-1:] == b" ":  # as from a command line
            return check_inputs(plain, text_of(data), {})
        return check_inputs(entry, data, {"x": "photo.jpg"} if b"$attach" in data else {})

    return parse


def _json(_: Path) -> Parse:
    def parse(data: bytes) -> object:
        loose = parse_json(data, exact=False)
        assert parse_json(canonical(value := parse_json(data))) == value
        return loose

    return parse


def _entry(folder: Path) -> Parse:
    root = folder / "registry"
    place = root / "llm" / "litellm" / "1"
    place.mkdir(parents=True, exist_ok=True)
    (place / "Dockerfile").write_text("FROM scratch\n")
    registry, file = FolderRegistry(root, folder / "cache"), place / "processor.yaml"

    def parse(data: bytes) -> object:
        file.write_bytes(data)
        faults = [str(fault) for fault in registry.check()]
        found = registry.resolve_ref(Ref("llm", "litellm", 1))
        assert found is not None
        return found, faults

    return parse


def _schema(_: Path) -> Parse:
    def parse(data: bytes) -> object:
        given = parse_json(data)
        if not isinstance(given, dict):
            return None
        document, value = given.get("schema"), given.get("value")
        if not isinstance(document, dict):
            return None
        try:
            schema = Schema(document)
        except BadSchema:
            assert faults_of_schema(document)
            raise
        assert faults_of_schema(document) == []
        misplaced = list(misplaced_defaults(document))
        return misplaced, [str(fault) for fault in schema.faults(schema.with_defaults(value))]

    return parse


@dataclass(frozen=True)
class Options:
    """One of each kind."""

    name: str = ""
    count: int = 0
    share: float = 0.0
    loud: bool = False
    mode: Literal["fast", "slow"] = "fast"
    level: int | None = None


def _options(_: Path) -> Parse:
    from theory.cli.run import options_given
    from theory_adapter_local.options import Options as LocalOptions

    def parse(data: bytes) -> object:
        document, *more = text_of(data).split("\n")
        options = options_given({"adapter_opts_json": document, "options": more, "build": False})
        kind = LocalOptions if options.keys() & {"mounts", "platform", "user", "output_size"} else Options
        return options_of("x", kind, options)

    return parse


def _request(_: Path) -> Parse:
    from theory.cli.run import attachments_given

    plain = processor({"type": "object"})

    def parse(data: bytes) -> object:
        ref, plan, prefix, id_, *attached = text_of(data).split("\n")[:16] + [""] * 4
        attachments = attachments_given(tuple(filter(None, attached)), "{}")
        document = {"all": [{"$attach": name} for name in attachments]}
        Ref.parse(ref)
        paths.check_write_prefix(prefix, ID)
        check_inputs(plain, json.dumps(document), attachments)
        return Request(ref, "{}", "x", plan, prefix, attachments, execution_id=id_ or None)

    return parse


def _names(_: Path) -> Parse:
    def parse(data: bytes) -> object:
        name = text_of(data)
        path = paths.ROOT + name
        fault = paths.fault_of_path(path)
        shown = paths.quoted(name), paths.without_credentials(name), mime_of(name)
        assert not paths.HARMFUL.search(shown[0])
        if not fault:
            assert paths.collision_key(paths.collision_key(path)) == paths.collision_key(path)
        return shown

    return parse


def _amount(_: Path) -> Parse:
    def parse(data: bytes) -> object:
        micro = micro_usd(text_of(data))
        assert micro_usd(usd(micro)) == micro
        return micro

    return parse


def _config(folder: Path) -> Parse:
    project = folder / "project"
    project.mkdir(exist_ok=True)

    def parse(data: bytes) -> object:
        own = data.startswith(b"#p")
        for name, content in (
            ("theory.toml", b"" if own else data),
            ("pyproject.toml", data if own else b""),
        ):
            (project / name).write_bytes(content)
        return load({"HOME": str(folder)}, project)

    return parse


def _secrets(folder: Path) -> Parse:
    def parse(data: bytes) -> object:
        (folder / "secrets").write_bytes(data)
        return secrets_of(folder / "secrets")

    return parse


def _ignore(folder: Path) -> Parse:
    root = folder / "entry"
    for name in (
        "a/b/c.txt",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa/ab/ab/ab/ab/ab/ab/ab/ab/x.py",
        "main.py",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)

    def parse(data: bytes) -> object:
        (root / ".dockerignore").write_bytes(data)
        return tree_of(root, "Dockerfile")

    return parse


def _dockerfile(_: Path) -> Parse:
    def parse(data: bytes) -> object:
        return bases_of(data.decode("utf-8"))

    return parse


def _image(_: Path) -> Parse:
    from theory_adapter_local.images.platforms import fits, normal_platform

    def parse(data: bytes) -> object:
        text = text_of(data)
        fits(normal_platform(text), "linux/amd64")
        name = ImageName.parse(text)
        assert ImageName.parse(name.full).full == name.full
        return name

    return parse


_ENTRY = b"""ref: llm/litellm@1
description: "x"
image: {dockerfile: Dockerfile}
command: [python, main.py]
runtime: {cpu: 0.5, memory: 512.0, timeout: 300, gpu: null, network: true}
adapter: {mock: {outputs: {text/a.txt: a}}}
secrets: {required: [A_KEY], optional: [B], deliver: env}
determinism: seeded
cost: {reserve_micro_usd: 20000}
inputs:
  type: object
  properties: {a: {type: string, pattern: "^(a+)+$", default: a}, b: {$ref: "#/$defs/c"}}
  $defs: {c: {default: 1}}
outputs: {type: object, required: [text/a.txt]}
"""
_SCHEMAS = (
    b'{"schema":{"$ref":"#"},"value":{"a":1}}',
    b'{"schema":{"items":[1],"$ref":"#/items/0"},"value":[]}',
    b'{"schema":{"allOf":[{"$ref":"#/allOf/9"}]},"value":[]}',
    b'{"schema":{"properties":{"a":{"default":1,"$ref":"#/$defs/x~1y%20z"}},"$defs":{"x/y z":{"type":"integer"}}},"value":{}}',
    b'{"schema":{"$schema":"'
    + DIALECT
    + b'","$id":"urn:x","$anchor":"a","$dynamicAnchor":"b","$dynamicRef":"#b"},"value":1}',
    b'{"schema":{"$vocabulary":{"' + DIALECT + b'":true},"$ref":"http://127.0.0.1:9/x"},"value":1}',
    b'{"schema":{"$ref":"file:///etc/passwd"},"value":1}',
    b'{"schema":{"anyOf":[{"type":"string"},{"const":1}],"oneOf":[{"required":["a"]},{"minProperties":2}]},"value":{}}',
    b'{"schema":{"pattern":"(a+)+$","patternProperties":{"^x-":{"maxLength":2}}},"value":"aaaaaaaaaaaaaaaaaaaaaaaaab"}',
    b'{"schema":{"if":{"minimum":1},"then":{"multipleOf":0.1},"else":false,"not":{"enum":[1,"a"]}},"value":1.5}',
    b'{"schema":{"prefixItems":[true],"contains":{"type":"null"},"minContains":0,"uniqueItems":true},"value":[1,[2]]}',
    b'{"schema":{"unevaluatedProperties":false,"dependentSchemas":{"a":{"properties":{"b":true}}}},"value":{"a":1,"c":2}}',
)
_JSON = (
    b'{"text":"aaaa","file":{"$attach":"x"},"rest":[1,2.5,-0.0,1e300,true,null],"deep":{"a":{}}}',
    b'{"file":{"$artifact":"/artifacts/outputs/a.txt","cid":"b3:' + b"0" * 64 + b'","mime":"text/plain"}}',
    b'{"a":1,"a":2}',
    b'{"a":[9007199254740993,1e400,NaN,-Infinity,"\\ud83d","\\u0000"]}',
    b'{"kind":{"a":"\xf0\x9f\x98\x80","\xef\xbf\xbd":"\xc3\xa9","k":[[[[]]]]}}',
    b"\xef\xbb\xbf{}",
    b"[" * 70 + b"]" * 70,
    b'{"a":{"$artifact":"/artifacts/outputs/a.txt"}} ',
)
_DOCKERFILES = (
    b"# syntax=docker/dockerfile:1\n# escape=`\nARG A=3.11@sha256:"
    + b"0" * 64
    + b'\nFROM --platform=linux/amd64 python:${A:-x} AS "one"\nCOPY --from=0 /a \\\n  /b\nRUN --mount=type=bind,from=one,source=/ true\n',
    b"FROM scratch\nRUN <<EOF\nFROM x\nEOF\nADD http://127.0.0.1:9/x /x\nADD <<-'A' <<B /y\nA\nB\n",
    b"FROM a:$X${Y:+${Z}}${Q-'r'} as b\nfrom b\nCOPY --from=12345678901234567890 a b\n",
)

# What has a limit of its own in the product has that here; of the rest nobody has more in a command line.
PARSERS: dict[str, Parser] = {
    "inputs": Parser(_inputs, (TheoryError,), _JSON, 16 * MIB),
    "json": Parser(_json, (BadJson,), _JSON, 16 * MIB),
    "yaml": Parser(lambda _: parse_yaml, (BadYaml,), (_ENTRY, *published("processor.yaml"), b"a: &a [x]\nb: *a\n? {a: b}\n: !!str c\n<<: d\n", b'"\\ud800": 0x1F\n...\n---\n'), MIB),
    "entry": Parser(_entry, (TheoryError,), (_ENTRY, *published("processor.yaml")), MIB),
    "schema": Parser(_schema, (BadJson, BadSchema), _SCHEMAS, MIB),
    "options": Parser(_options, (TheoryError,), (b'{"name":"a","count":1,"share":0.5}\nloud=true\nlevel=null', b'{"mounts":"/a:/b:ro","output_size":5}\nplatform=linux/arm64', b"{}\nmode=slow\ncount=" + b"9" * 30), 1 << 17),
    "request": Parser(_request, (TheoryError,), (b"llm/litellm@1\nteam a\n/artifacts/x/{execution_id}/\n" + ID.encode() + b"\na=photo.jpg\nb=-\nc=http://u:p@h/x.png?q#f", b"LLM/x\n \xe9\n/artifacts/inputs/\nx\na=b"), 1 << 17),
    "names": Parser(_names, (), (b"outputs/a.txt", b"inputs/../e\xcc\x81%41\\", b"s3://k:s@h/f?q#g", "\u202e\u2028Ⅸﬀß".encode(), b"\x1b[31m\xff.JSON"), 1 << 17),
    "amount": Parser(_amount, (ValueError,), (b"0.02", b"9007199254.740991", b"1e3", "٣".encode()), 1 << 17),
    "config": Parser(_config, (TheoryError,), (b'adapter = "mock"\nregistry = ["r"]\n[adapters.mock]\na = 1979-05-27T07:32:00Z\nb = [0x1F, 1e3, nan]\n', b'#p\n[tool.theory]\nplan = "a"\n[tool.other]\nx = {a.b = """c"""}\n', b"a = [[[[]]]]\n", b"store = 's3:'\n"), MIB),
    "secrets": Parser(_secrets, (TheoryError,), (b"\xef\xbb\xbf# no\nA=b=c\n\n B = d \r\n", b"A\n", b"\xff=\n"), MIB),
    "ignore": Parser(_ignore, (TheoryError,), (b"*.pyc\n!a/b\n**/x\n[^a-c]?\\*\n# no\n/a/\n", b"**/**/**/x.py\n*a*a*b\n", b"[a-\n", b"\xef\xbb\xbf..\n[]]\n[[a]\n"), MIB),
    "dockerfile": Parser(_dockerfile, (UnicodeDecodeError,), (*_DOCKERFILES, *published("Dockerfile")), MIB),
    "image": Parser(_image, (ValueError,), (b"ghcr.io:443/a__b/c-d.e:tag@sha256:" + b"0" * 64, b"localhost/x", b"[::1]:5000/a", b"linux/aarch64", b"a--b.c/d"), MIB),
}  # fmt: skip
