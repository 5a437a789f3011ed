"""What a plugin may answer: all hooks, a sentence each. A hook that is not here is not a hook.

A plugin marks its functions with ``theory.hookimpl`` and takes the arguments that it wants, by name.
``None`` means "not mine". A failing processor is an ``Outcome``; what a plugin raises is ``PluginFailed``
unless it is a ``TheoryError``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from pathlib import Path

    from theory.types import (
        AdapterInfo,
        Channel,
        Envelope,
        Finding,
        Image,
        Job,
        Outcome,
        Processor,
        Ref,
        Secrets,
        Store,
        Workspace,
    )

hookspec = pluggy.HookspecMarker("theory")
hookimpl = pluggy.HookimplMarker("theory")

# Which hooks a plugin of each entry-point group may implement; others are refused by name.
HOOKS_OF_GROUP = {
    "theory.registries": frozenset({"resolve_ref"}),
    "theory.adapters": frozenset({"describe_adapter", "identify", "execute", "diagnose"}),
    "theory.stores": frozenset({"open_store", "diagnose"}),
    "theory.plugins": frozenset({"materialize", "finalize"}),
}


@hookspec(firstresult=True)
def resolve_ref(ref: Ref) -> Processor | None:
    """Registries: the entry of this ref."""


@hookspec(firstresult=True)
def materialize(uri: str, dest: Path) -> Path | None:
    """Fetchers: write the bytes of an attachment's source into dest; one a URI scheme."""


@hookspec(firstresult=True)
def describe_adapter() -> AdapterInfo | None:
    """Adapters: what this one can do, and its options."""


@hookspec(firstresult=True)
def identify(processor: Processor, options: object) -> Image | None:
    """Adapters: which image this entry means here, before anything runs; never builds or pulls."""


@hookspec(firstresult=True)
def execute(
    job: Job, workspace: Workspace, options: object, secrets: Secrets, channel: Channel
) -> Outcome | None:
    """Adapters: run the job; a non-zero exit is an Outcome, not an exception."""


@hookspec
def diagnose() -> tuple[Finding, ...]:  # type: ignore[empty-body]  # pluggy calls no body of a spec
    """Adapters and stores: what theory doctor should say."""


@hookspec(firstresult=True)
def open_store(url: str) -> Store | None:
    """Stores: the store for a URL."""


@hookspec
def finalize(envelope: Envelope) -> None:
    """Listeners: an execution has ended; one that fails is a warning."""
