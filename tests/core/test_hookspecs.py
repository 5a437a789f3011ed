from __future__ import annotations

import inspect

import pluggy
import pytest

from theory import hookspecs

# design.md, 4: the hooks, their arguments by name and whether one answer is enough.
HOOKS = {
    "resolve_ref": (["ref"], True),
    "materialize": (["uri", "dest"], True),
    "describe_adapter": ([], True),
    "identify": (["processor", "options"], True),
    "execute": (["job", "workspace", "options", "secrets", "channel"], True),
    "diagnose": ([], False),
    "open_store": (["url"], True),
    "finalize": (["envelope"], False),
}


def specs() -> pluggy.PluginManager:
    manager = pluggy.PluginManager("theory")
    manager.add_hookspecs(hookspecs)
    return manager


@pytest.mark.parametrize("name", HOOKS)
def test_a_hook_has_its_arguments_and_its_kind(name: str) -> None:
    arguments, first = HOOKS[name]
    spec = getattr(specs().hook, name).spec
    assert list(spec.argnames) == arguments
    assert bool(spec.opts["firstresult"]) == first
    assert inspect.getdoc(getattr(hookspecs, name))


def test_there_is_no_other_hook_and_each_belongs_to_a_group() -> None:
    manager = specs()
    there = {
        name for name in vars(hookspecs) if isinstance(getattr(manager.hook, name, None), pluggy.HookCaller)
    }
    assert there == set(HOOKS)
    assert set().union(*hookspecs.HOOKS_OF_GROUP.values()) == set(HOOKS)


def test_no_argument_is_hidden_from_pluggy() -> None:
    for name in HOOKS:
        for parameter in inspect.signature(getattr(hookspecs, name)).parameters.values():
            assert parameter.kind is parameter.POSITIONAL_OR_KEYWORD
            assert parameter.default is parameter.empty
