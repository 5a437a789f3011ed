from __future__ import annotations

import dataclasses
import json
import os
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest

from theory.entries.registry import FolderRegistry, entry_schema
from theory.entries.schemas import schema_of
from theory.errors import RegistryFault
from theory.types import ImageSource, Ref, Runtime, SecretNeeds

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# The entry of requirements/run-processor.md, word for word.
REQUIRED = """\
ref: llm/litellm@1
description: LLM processor using LiteLLM
image:
  dockerfile: apps/core/processors/llm_litellm/Dockerfile
runtime:
  cpu: 1
  memory: 512
  timeout: 300
adapter:
  modal:
    stub_name: llm_litellm_v1
secrets:
  - OPENAI_API_KEY
"""
SMALL = "ref: a/b@1\ndescription: Small\nimage: {oci: python}\n"
REF = Ref("a", "b", 1)


def put(root: Path, text: str, path: str = "a/b/1") -> Path:
    folder = root / path
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "processor.yaml").write_text(text)
    return folder


def faults_of(root: Path) -> list[tuple[int, str, str]]:
    return [(fault.line, fault.pointer, fault.message) for fault in FolderRegistry(root).check()]


# ---------------------------------------------------------------- what an entry becomes


def test_the_entry_of_the_requirements_passes_as_it_stands(tmp_path: Path) -> None:
    folder = put(tmp_path, REQUIRED, "llm/litellm/1")
    dockerfile = folder / "apps/core/processors/llm_litellm/Dockerfile"
    dockerfile.parent.mkdir(parents=True)
    dockerfile.write_text("FROM scratch\n")
    assert faults_of(tmp_path) == []
    processor = FolderRegistry(tmp_path).resolve_ref(Ref("llm", "litellm", 1))
    assert processor is not None
    assert processor.runtime == Runtime(cpu=1, memory=512, timeout=300, gpu=None, network=False)
    assert processor.secrets == SecretNeeds(required=("OPENAI_API_KEY",))
    assert processor.adapter == {"modal": {"stub_name": "llm_litellm_v1"}}
    assert processor.determinism == "nondeterministic"
    assert (processor.command, processor.inputs, processor.outputs) == (None, {"type": "object"}, {})


def test_every_key_of_an_entry_reaches_the_processor(tmp_path: Path) -> None:
    put(
        tmp_path,
        SMALL + "command: [python, main.py]\n"
        "runtime: {cpu: 0.5, memory: 64.0, timeout: 1.5, gpu: H100, network: true}\n"
        "secrets: {required: [A_B], optional: [C], deliver: env}\n"
        "determinism: pure\n"
        "cost: {reserve_micro_usd: 2e4}\n"
        "inputs: {type: object, properties: {n: {type: integer}}}\n"
        "outputs: {required: [out.txt]}\n",
    )
    processor = FolderRegistry(tmp_path).resolve_ref(REF)
    assert processor is not None
    assert processor.image == ImageSource(oci="python")
    assert processor.command == ("python", "main.py")
    assert processor.runtime == Runtime(cpu=0.5, memory=64, timeout=1.5, gpu="H100", network=True)
    assert processor.secrets == SecretNeeds(("A_B",), ("C",), "env")
    assert processor.determinism == "pure"
    assert repr((processor.reserve_micro_usd, processor.runtime.memory)) == "(20000, 64)"
    assert processor.inputs == {"type": "object", "properties": {"n": {"type": "integer"}}}
    assert processor.outputs == {"required": ["out.txt"]}
    assert processor.folder == tmp_path / "a/b/1"
    assert (
        processor.tree == "b3:aca93ea4edc81b47120d3e26ed63c39a02f24c75ade3fbc7deba9335cf0baeec"
    )  # of no file


def test_a_ref_that_is_not_here_has_no_answer(tmp_path: Path) -> None:
    put(tmp_path, SMALL)
    assert FolderRegistry(tmp_path).resolve_ref(Ref("a", "b", 2)) is None
    assert FolderRegistry(tmp_path / "nowhere").resolve_ref(REF) is None


def test_refs_are_listed_in_order_and_other_folders_passed_over(tmp_path: Path) -> None:
    for path in ("b/x/1", "a/b/10", "a/b/2", "A/b/1", "a/b/01", "a/b/latest", "a/b"):
        put(tmp_path, SMALL, path)
    assert [str(ref) for ref in FolderRegistry(tmp_path).refs()] == ["a/b@2", "a/b@10", "b/x@1"]


def test_a_folder_processors_is_where_the_entries_are(tmp_path: Path) -> None:
    put(tmp_path / "processors", SMALL)
    assert list(FolderRegistry(tmp_path).refs()) == [REF]
    assert list(FolderRegistry(tmp_path / "processors").refs()) == [REF]


# ---------------------------------------------------------------- faults

FAULTS = {
    "a missing key": ("ref: a/b@1\nimage: {oci: x}\n", 1, "", '"description" is a required property'),
    "an unknown key": (SMALL + "comand: [x]\n", 4, "/comand", "'comand' was unexpected"),
    "an unknown key below": (
        SMALL + "runtime:\n  cpu: 1\n  memroy: 5\n",
        6,
        "/runtime/memroy",
        "'memroy' was unexpected",
    ),
    "a wrong type": (SMALL + "runtime:\n  cpu: many\n", 5, "/runtime/cpu", 'is not of type "number"'),
    "a word that YAML 1.1 took for a boolean": (
        SMALL + "runtime:\n  network: yes\n",
        5,
        "/runtime/network",
        'is not of type "boolean"',
    ),
    "two images": (
        "ref: a/b@1\ndescription: x\nimage:\n  oci: x\n  dockerfile: D\n",
        3,
        "/image",
        "more than 1",
    ),
    "no image": ("ref: a/b@1\ndescription: x\nimage: {}\n", 3, "/image", "has less than 1 property"),
    "a secret that would be the loader's": (
        SMALL + "secrets:\n  - A\n  - LD_PRELOAD\n",
        6,
        "/secrets/1",
        "not allowed for",
    ),
    "a secret that would be the contract's": (
        SMALL + "secrets: [PATH]\n",
        4,
        "/secrets/0",
        "not allowed for",
    ),
    "a secret's name": (SMALL + "secrets:\n  - A\n  - lower\n", 6, "/secrets/1", "does not match"),
    "a money that is no integer": (
        SMALL + "cost:\n  reserve_micro_usd: 0.5\n",
        5,
        "/cost/reserve_micro_usd",
        "is not of type",
    ),
    "an integer too large": (SMALL + "inputs:\n  maximum: 9007199254740993\n", 5, "", r"beyond 2^53-1"),
    "a number too large": (
        SMALL + "inputs:\n  maximum: 1e999\n",
        5,
        "/inputs/maximum",
        "NaN or an infinite number, which JSON does not have",
    ),
    "no schema": (
        SMALL + "inputs:\n  properties:\n    a: {type: strin}\n",
        6,
        "/inputs/properties/a/type",
        '"strin" is not one of "array", "boolean"',
    ),
    "a pattern that backtracks": (
        SMALL + "outputs:\n  propertyNames: {pattern: '(?=a)'}\n",
        5,
        "/outputs/propertyNames/pattern",
        "looks around or back",
    ),
    "a misplaced default": (
        SMALL + "inputs:\n  items:\n    default: 1\n",
        6,
        "/inputs/items/default",
        "along properties only",
    ),
    "a default that does not fit": (
        SMALL + "inputs:\n  properties:\n    a:\n      type: string\n      default: 1\n",
        8,
        "/inputs/properties/a/default",
        "breaks its own schema",
    ),
    "a reference outside": (
        SMALL + "inputs:\n  $ref: http://127.0.0.1:9/x\n",
        5,
        "/inputs/$ref",
        "$ref http://127.0.0.1:9/x leaves the document",
    ),
    "another ref": (SMALL.replace("b@1", "b@2"), 1, "/ref", "the entry says a/b@2, its folder a/b@1"),
    "a missing Dockerfile": (
        "ref: a/b@1\ndescription: x\nimage:\n  dockerfile: D\n",
        4,
        "/image/dockerfile",
        "there is no file D",
    ),
    "a Dockerfile outside": (
        "ref: a/b@1\ndescription: x\nimage: {dockerfile: ../D}\n",
        3,
        "/image/dockerfile",
        "there is no file ../D",
    ),
    "an absolute Dockerfile": (
        "ref: a/b@1\ndescription: x\nimage: {dockerfile: /etc/passwd}\n",
        3,
        "/image/dockerfile",
        "there is no file /etc/passwd",
    ),
    "a Dockerfile that is a folder": (
        "ref: a/b@1\ndescription: x\nimage: {dockerfile: .}\n",
        3,
        "/image/dockerfile",
        "there is no file .",
    ),
    "a Dockerfile with a NUL": (
        'ref: a/b@1\ndescription: x\nimage: {dockerfile: "a\\0"}\n',
        3,
        "",
        "a NUL character",
    ),
    "a duplicate key": (SMALL + "ref: a/b@1\n", 4, "", "the key 'ref' stands twice"),
    "no mapping": ("- a\n", 1, "", 'is not of type "object"'),
    "no document": ("", 1, "", "an empty document"),
}


@pytest.mark.parametrize(("text", "line", "pointer", "message"), FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_is_told_with_file_line_and_pointer(
    tmp_path: Path, text: str, line: int, pointer: str, message: str
) -> None:
    folder = put(tmp_path, text)
    (tmp_path / "a/b/D").write_text("FROM scratch")
    found = faults_of(tmp_path)
    assert [(at, where) for at, where, _ in found] == [(line, pointer)]
    assert message in found[0][2]
    with pytest.raises(RegistryFault, match=rf"processor\.yaml:{line}: ") as caught:
        FolderRegistry(tmp_path).resolve_ref(REF)
    assert str(folder / "processor.yaml") in caught.value.message


def test_every_fault_of_every_entry_is_told(tmp_path: Path) -> None:
    put(tmp_path, "ref: a/b@1\ndescription: 5\nimage: {oci: x}\ncolour: red\nruntime: {cpu: 0}\n")
    put(tmp_path, SMALL, "a/b")
    put(tmp_path, SMALL.replace("a/b@1", "c/d@1"), "c/d/1")
    assert [(line, pointer) for line, pointer, _ in faults_of(tmp_path)] == [
        (1, ""),
        (2, "/description"),
        (4, "/colour"),
        (5, "/runtime/cpu"),
    ]
    with pytest.raises(RegistryFault, match=r"\(and 2 more\)$"):
        FolderRegistry(tmp_path).resolve_ref(REF)


@pytest.mark.parametrize("ignored", ["", "link\n"])
def test_a_dockerfile_behind_a_link_is_refused(tmp_path: Path, ignored: str) -> None:
    folder = put(tmp_path, "ref: a/b@1\ndescription: x\nimage: {dockerfile: link/D}\n")
    (tmp_path / "D").write_text("FROM scratch")
    (folder / "link").symlink_to(tmp_path)
    (folder / ".dockerignore").write_text(ignored)
    with pytest.raises(RegistryFault, match="there is no file link/D"):
        FolderRegistry(tmp_path).resolve_ref(REF)


def test_a_link_in_the_folder_is_refused(tmp_path: Path) -> None:
    folder = put(tmp_path, SMALL)
    (folder / "data").symlink_to("/etc")
    assert faults_of(tmp_path)[0][2].endswith("data is a link or a special file")
    with pytest.raises(RegistryFault, match="is a link or a special file"):
        FolderRegistry(tmp_path).resolve_ref(REF)


def test_a_root_with_dots_in_it_is_a_root(tmp_path: Path) -> None:
    folder = put(tmp_path, "ref: a/b@1\ndescription: x\nimage: {dockerfile: ./D}\n")
    (folder / "D").write_text("FROM scratch")
    assert FolderRegistry(tmp_path / "a" / "..").resolve_ref(REF) is not None


# ---------------------------------------------------------------- the cache


def test_a_hit_gives_the_same_processor_and_reads_no_yaml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "r", SMALL)
    first = FolderRegistry(tmp_path / "r", tmp_path / "cache").resolve_ref(REF)
    monkeypatch.setattr("theory.entries.registry.parse_yaml", None)
    assert FolderRegistry(tmp_path / "r", tmp_path / "cache").resolve_ref(REF) == first


DAMAGE: dict[str, Any] = {
    "cut": lambda data: data[: len(data) // 2],
    "emptied": lambda _: b"",
    "a flipped bit": lambda data: data.replace(b"Small", b"Smalm"),
    "other JSON": lambda _: b"[]",
    "an object": lambda _: b"{}",
    "no text": lambda _: b"\xff\x00",
    "without its mark": lambda data: data.partition(b"\n")[2],
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_cache_is_as_good_as_none(tmp_path: Path, damage: Any) -> None:
    put(tmp_path / "r", SMALL)
    first = FolderRegistry(tmp_path / "r", tmp_path / "cache").resolve_ref(REF)
    (file,) = (tmp_path / "cache").iterdir()
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert FolderRegistry(tmp_path / "r", tmp_path / "cache").resolve_ref(REF) == first
    assert file.read_bytes() == whole


def test_what_an_older_version_checked_is_checked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "r", SMALL)
    with monkeypatch.context() as older:
        older.setattr("theory.entries.registry.__version__", "0.0.1")
        FolderRegistry(tmp_path / "r", tmp_path / "cache").resolve_ref(REF)
    monkeypatch.setattr("theory.entries.registry.parse_yaml", lambda _: (json.loads('{"ref": 1}'), {}))
    with pytest.raises(RegistryFault, match=r"required property|is not of type"):
        FolderRegistry(tmp_path / "r", tmp_path / "cache").resolve_ref(REF)


def test_a_cached_entry_serves_no_other_ref_and_no_folder_without_its_dockerfile(tmp_path: Path) -> None:
    text = "ref: a/b@1\ndescription: x\nimage: {dockerfile: D}\n"
    folder = put(tmp_path / "r", text)
    (folder / "D").write_text("FROM scratch")
    registry = FolderRegistry(tmp_path / "r", tmp_path / "cache")
    assert registry.resolve_ref(REF) is not None
    put(tmp_path / "r", text, "c/d/1")
    with pytest.raises(RegistryFault, match="the entry says a/b@1, its folder c/d@1"):
        registry.resolve_ref(Ref("c", "d", 1))
    (folder / "D").unlink()
    for again in (registry, FolderRegistry(tmp_path / "r", tmp_path / "cache")):
        with pytest.raises(RegistryFault, match="there is no file D"):
            again.resolve_ref(REF)


def test_a_cache_that_cannot_be_written_harms_nothing(tmp_path: Path) -> None:
    put(tmp_path / "r", SMALL)
    (tmp_path / "cache").write_text("a file")
    assert FolderRegistry(tmp_path / "r", tmp_path / "cache").resolve_ref(REF) is not None


def test_a_changed_folder_has_another_tree_and_the_same_entry(tmp_path: Path) -> None:
    folder = put(tmp_path, SMALL)
    registry = FolderRegistry(tmp_path)
    before = registry.resolve_ref(REF)
    (folder / "main.py").write_text("")
    after = registry.resolve_ref(REF)
    assert before is not None
    assert after is not None
    assert before.tree != after.tree
    assert dataclasses.replace(after, tree=before.tree) == before


def test_the_schema_of_an_entry_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(entry_schema())
    assert schema_of(entry_schema()) is schema_of(entry_schema())  # compiled once, however many entries


# ---------------------------------------------------------------- what stands where an entry should

INSTEAD: dict[str, Callable[[Path], object]] = {
    "a directory": lambda file: file.mkdir(),
    "a link to a file": lambda file: file.symlink_to("/etc/hosts"),
    "a link to an entry": lambda file: file.symlink_to(put(file.parents[3] / "other", SMALL) / file.name),
    "a link to itself": lambda file: file.symlink_to(file.name),
    "a pipe that nobody writes to": os.mkfifo,
}


@pytest.mark.parametrize("put_instead", INSTEAD.values(), ids=INSTEAD)
def test_what_is_no_regular_file_is_not_read(tmp_path: Path, put_instead: Callable[[Path], object]) -> None:
    file = put(tmp_path, SMALL) / "processor.yaml"
    file.unlink()
    put_instead(file)
    assert faults_of(tmp_path)[0] == (1, "", "is no regular file")
    with pytest.raises(RegistryFault, match=rf"^{file} is no regular file$") as caught:
        FolderRegistry(tmp_path).resolve_ref(REF)
    assert caught.value.hint


def test_a_large_file_is_read_no_further_than_an_entry_may_be(tmp_path: Path) -> None:
    file = put(tmp_path, SMALL) / "processor.yaml"
    with file.open("ab") as stream:
        stream.truncate(2**40)  # sparse: it would not fit into memory
    assert faults_of(tmp_path) == [(1, "", "1,048,577 bytes or more, which is over the limit of 1,048,576")]


def test_a_folder_of_a_version_without_an_entry_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "a/b/1").mkdir(parents=True)
    (tmp_path / "a/b/notes").mkdir()
    assert faults_of(tmp_path) == [(1, "", "there is no such file, but the folder of a version")]


def test_all_faults_of_one_entry_are_told_whatever_finds_them(tmp_path: Path) -> None:
    folder = put(
        tmp_path,
        "ref: a/b@2\ndescription: 5\nimage:\n  dockerfile: D\nruntime: {cpu: many}\n"
        "inputs:\n  type: strin\n  properties:\n    a: {pattern: '(?=a)'}\n    b: {$ref: '#/$defs/x'}\n"
        "outputs:\n  items: {default: 1}\n",
    )
    (folder / "leak").symlink_to("/etc/hosts")
    assert [(line, pointer) for line, pointer, _ in faults_of(tmp_path)] == [
        (1, "/ref"),
        (2, "/description"),
        (4, "/image/dockerfile"),
        (5, "/runtime/cpu"),
        (7, "/inputs/type"),
        (9, "/inputs/properties/a/pattern"),
        (10, "/inputs/properties/b/$ref"),
        (12, "/outputs/items/default"),
        (1, ""),
    ]
    with pytest.raises(RegistryFault, match=r"processor.yaml:1: the entry says a/b@2.* \(and 7 more\)$"):
        FolderRegistry(tmp_path).resolve_ref(REF)


def test_all_that_strict_yaml_refuses_is_told_at_once(tmp_path: Path) -> None:
    put(tmp_path, SMALL + "ref: a/b@1\nx: &a [1]\ny: *a\nz: !t 1\n5: .nan\n")
    assert [line for line, _, _ in faults_of(tmp_path)] == [4, 5, 6, 7, 8, 8]
