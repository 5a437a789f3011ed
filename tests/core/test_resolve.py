from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from theory import config
from theory.entries.registry import FolderRegistry
from theory.errors import PluginFailed, RegistryFault, UnknownRef
from theory.plugins import Plugins
from theory.rooms.resolve import Source, resolve_ref, sources_of
from theory.types import Ref

if TYPE_CHECKING:
    from pathlib import Path

    from theory.rooms.resolve import Origin
    from theory.types import Processor

REF = Ref("a", "b", 1)


def registry(root: Path, *refs: str, description: str = "One") -> Path:
    for ref in refs:
        folder = root / ref.replace("@", "/")
        folder.mkdir(parents=True)
        (folder / "processor.yaml").write_text(f"ref: {ref}\ndescription: {description}\nimage: {{oci: x}}\n")
    return root


def source(origin: Origin, root: Path) -> Source:
    folder = FolderRegistry(root)
    return Source(origin, f"the {origin} one", folder.resolve_ref, folder.refs, root)


def broken() -> Source:
    def resolve(_: Ref) -> Processor | None:
        raise PluginFailed("it is broken")

    return Source("installed", "the broken one", resolve, tuple)


def test_a_named_registry_wins_over_all_others(tmp_path: Path) -> None:
    named = source("named", registry(tmp_path / "n", "a/b@1", description="Mine"))
    found = source("found", registry(tmp_path / "f", "a/b@1", description="Theirs"))
    installed = source("installed", registry(tmp_path / "i", "a/b@1"))
    resolved = resolve_ref(REF, [named, found, installed])
    assert (resolved.origin, resolved.processor.description) == ("named", "Mine")


def test_the_first_of_two_named_registries_wins(tmp_path: Path) -> None:
    one = source("named", registry(tmp_path / "1", "a/b@1", description="First"))
    two = source("named", registry(tmp_path / "2", "a/b@1", description="Second"))
    assert resolve_ref(REF, [one, two]).processor.description == "First"


@pytest.mark.parametrize("origin", ["found", "installed"])
def test_what_one_registry_has_comes_from_there(tmp_path: Path, origin: Origin) -> None:
    resolved = resolve_ref(REF, [source(origin, registry(tmp_path, "a/b@1"))])
    assert (resolved.origin, resolved.processor.ref) == (origin, REF)


def test_a_found_entry_that_equals_the_installed_one_counts_as_installed(tmp_path: Path) -> None:
    found = source("found", registry(tmp_path / "f", "a/b@1"))
    installed = source("installed", registry(tmp_path / "i", "a/b@1"))
    resolved = resolve_ref(REF, [found, installed])
    assert resolved.origin == "installed"
    assert resolved.processor.folder == tmp_path / "i/a/b/1"


@pytest.mark.parametrize("difference", ["entry", "file"])
def test_a_found_entry_that_shadows_an_installed_one_is_refused(tmp_path: Path, difference: str) -> None:
    description = "Other" if difference == "entry" else "One"
    found = source("found", registry(tmp_path / "f", "a/b@1", description=description))
    installed = source("installed", registry(tmp_path / "i", "a/b@1"))
    if difference == "file":
        (tmp_path / "f/a/b/1/main.py").write_text("evil")
    with pytest.raises(
        RegistryFault, match="a/b@1 is in the found one and, with other content, in the installed"
    ) as caught:
        resolve_ref(REF, [found, installed])
    assert caught.value.hint.endswith(f"--registry {tmp_path / 'f'}")


@pytest.mark.parametrize(
    ("ref", "hint"),
    [
        ("a/b@3", "did you mean a/b@1 or a/b@2?"),
        ("text/wordcont@1", "did you mean text/wordcount@1?"),
        ("zzz/qqq@1", "theory registry ls shows what there is"),
    ],
)
def test_an_unknown_ref_gets_the_refs_that_look_like_it(tmp_path: Path, ref: str, hint: str) -> None:
    known = source("installed", registry(tmp_path, "a/b@1", "a/b@2", "text/wordcount@1"))
    with pytest.raises(UnknownRef, match=f"^no registry has {ref}$") as caught:
        resolve_ref(Ref.parse(ref), [known])
    assert caught.value.hint == hint


def test_without_a_registry_the_hint_says_how_to_get_one() -> None:
    with pytest.raises(UnknownRef, match="no registry has a/b@1") as caught:
        resolve_ref(REF, [])
    assert caught.value.hint.startswith("no registry is here: pip install theory-registry")


def test_a_faulty_entry_is_not_passed_over(tmp_path: Path) -> None:
    registry(tmp_path / "f", "a/b@1")
    (tmp_path / "f/a/b/1/processor.yaml").write_text("ref: a/b@1\n")
    with pytest.raises(RegistryFault, match="required property"):
        resolve_ref(
            REF, [source("found", tmp_path / "f"), source("installed", registry(tmp_path / "i", "a/b@1"))]
        )


def test_a_registry_that_is_broken_harms_no_ref_of_another(tmp_path: Path) -> None:
    good = source("installed", registry(tmp_path, "a/b@1"))
    assert resolve_ref(REF, [broken(), good]).processor.ref == REF
    with pytest.raises(PluginFailed, match="it is broken"):
        resolve_ref(Ref("a", "b", 9), [broken(), good])


# ---------------------------------------------------------------- which registries are asked


class Installed:
    """A registry that a distribution brings as a package: only where its file is counts."""

    def __init__(self, root: Path) -> None:
        self.__file__ = str(root / "__init__.py")


def test_named_folders_come_first_then_the_projects_then_what_is_installed(tmp_path: Path) -> None:
    project = tmp_path / "project"
    registry(project / "registry", "a/b@1")
    named = registry(tmp_path / "named", "a/b@1")
    settings = config.load({"HOME": str(tmp_path), "THEORY_REGISTRY": str(named)}, project)
    plugins = Plugins(named={"theory.registries:acme": Installed(registry(tmp_path / "acme", "c/d@1"))})
    sources = list(sources_of(settings, plugins))
    assert [(one.origin, one.root) for one in sources] == [
        ("named", named),
        ("found", project / "registry"),
        ("installed", tmp_path / "acme"),
    ]
    assert sources[2].label == "the installed registry acme"
    assert resolve_ref(Ref("c", "d", 1), sources).origin == "installed"


def test_a_named_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    settings = config.load({"HOME": str(tmp_path), "THEORY_REGISTRY": str(tmp_path / "gone")}, tmp_path)
    with pytest.raises(RegistryFault, match="gone is not a folder"):
        list(sources_of(settings, Plugins()))


def test_an_installed_registry_without_a_hook_or_entries_is_named_when_it_is_needed(tmp_path: Path) -> None:
    class Misspelt:
        def resolve_ref(self, ref: Ref) -> None:
            """Not marked as a hook."""

    settings = config.load({"HOME": str(tmp_path)}, tmp_path)
    sources = list(sources_of(settings, Plugins(named={"theory.registries:acme": Misspelt()})))
    with pytest.raises(PluginFailed, match=r"^the installed registry acme implements no hook"):
        resolve_ref(REF, sources)
