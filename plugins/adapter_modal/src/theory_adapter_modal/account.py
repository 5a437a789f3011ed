"""Whether Modal may be used, with which account, and the handles that all runs of a process share."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, NamedTuple

from theory_adapter_modal.faults import NO_TOKEN, NOT_ENABLED, NOT_INSTALLED, ModalUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

    import modal

APP = "theory"  # where the sandboxes of all runs are
_YES = frozenset({"true", "1", "yes", "on"})
_lock = threading.Lock()
_clients: dict[tuple[object, ...], modal.Client] = {}  # the latest alone
_apps: dict[tuple[int, str, str | None], modal.App] = {}


class Session(NamedTuple):
    """What a run has of Modal: an account, and an environment in it (None: the account's own choice)."""

    client: modal.Client
    environment: str | None


def is_enabled(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether the user allows Modal: ``MODAL_ENABLED`` is True, 1, yes or on.

    >>> is_enabled({"MODAL_ENABLED": "TRUE"}), is_enabled({"MODAL_ENABLED": "no"}), is_enabled({})
    (True, False, False)
    """
    return environ.get("MODAL_ENABLED", "").strip().lower() in _YES


def check_enabled(environ: Mapping[str, str] = os.environ) -> None:
    """See that Modal can be asked at all; no network, and ``modal`` is not imported.

    Raises:
        ModalUnavailable: The package is missing, or the user does not allow it.
    """
    from importlib.util import find_spec  # noqa: PLC0415 - only where the adapter runs

    if find_spec("modal") is None:
        raise ModalUnavailable(NOT_INSTALLED)
    if not is_enabled(environ):
        raise ModalUnavailable(NOT_ENABLED)


def client() -> modal.Client:
    """The client of this process, for the token of the environment, or of Modal's own configuration file.

    Modal is not asked yet whether it knows the token. Every thread may call this; a child after a fork, and a
    process whose token was changed, get a client of their own.

    Raises:
        ModalUnavailable: The package or a token is missing, or the user does not allow it.
    """
    check_enabled()
    import modal  # noqa: PLC0415 - only where the adapter runs
    from modal.exception import AuthError  # noqa: PLC0415 - as above

    token = tuple(os.environ.get(name, "") for name in ("MODAL_TOKEN_ID", "MODAL_TOKEN_SECRET"))
    key = (os.getpid(), os.environ.get("MODAL_SERVER_URL"), os.environ.get("MODAL_PROFILE"), *token)
    with _lock:
        if (known := _clients.get(key)) is not None and not known.is_closed():
            return known
        try:
            made = modal.Client.from_credentials(*token) if all(token) else modal.Client.from_env()
        except AuthError as error:
            raise ModalUnavailable(NO_TOKEN) from error
        _clients.clear()
        _apps.clear()
        _clients[key] = made
        return made


async def app(name: str, session: Session) -> modal.App:
    """The app of this name, made if it is not there; asked for once in each process.

    Raises:
        modal.exception.Error: What Modal says (``faults.told``).
    """
    import modal  # noqa: PLC0415 - only where the adapter runs

    key = (id(session.client), name, session.environment)
    if (known := _apps.get(key)) is None:
        known = await modal.App.lookup.aio(
            name, client=session.client, environment_name=session.environment, create_if_missing=True
        )
        _apps[key] = known
    return known


def forget_apps() -> None:
    """Look all apps up again: somebody has stopped one."""
    _apps.clear()


def _after_fork() -> None:
    global _lock  # noqa: PLW0603 - the parent's may be held by a thread that is not in the child
    _lock = threading.Lock()
    _clients.clear()
    _apps.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
