"""Whether Modal may be used, with which account, and the handles that all runs of a process share."""

from __future__ import annotations

import asyncio
import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from theory_adapter_modal.faults import NO_TOKEN, NOT_ENABLED, NOT_INSTALLED, ModalUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

    import modal

    from theory import Channel

APP = "theory"  # where the sandboxes of all runs are
_NEWS_S = 2.0  # without an answer, after which people want to know what they wait for
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
    from modal.config import config  # noqa: PLC0415 - as above
    from modal.exception import AuthError  # noqa: PLC0415 - as above

    # Before the client is asked, since that of the configuration is made once and outlives a change.
    if not any(config.get(name) for name in ("token_id", "oauth_refresh_token")):
        raise ModalUnavailable(NO_TOKEN)
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


async def connected(channel: Channel) -> modal.Client:
    """``client``, for a run: cancelled with it, and told on stderr where Modal takes long to answer.

    Raises:
        ModalUnavailable: As ``client``.
        Stopped: The run was cancelled.
        modal.exception.Error: Modal cannot be reached.
    """
    from theory_adapter_modal.patience import unless_stopped  # noqa: PLC0415 - it needs this module's neighbours

    asked: asyncio.Future[modal.Client] = asyncio.get_running_loop().create_future()
    loop = asyncio.get_running_loop()

    def ask() -> None:
        try:
            made, failed = client(), None
        except BaseException as error:  # noqa: BLE001 - raised below
            made, failed = None, error
        with suppress(RuntimeError):  # the run is over, and its loop with it
            loop.call_soon_threadsafe(tell, made, failed)

    def tell(made: modal.Client | None, failed: BaseException | None) -> None:
        if asked.cancelled():
            return
        if failed is not None:
            asked.set_exception(failed)
        elif made is not None:
            asked.set_result(made)

    async def wait() -> modal.Client:
        done, _ = await asyncio.wait((asked,), timeout=_NEWS_S)
        if not done:
            where = os.environ.get("MODAL_SERVER_URL", "Modal")
            channel.write("stderr", f"theory: waiting for {where} to answer\n".encode())
        return await asked

    # A thread, since the client has nothing else that a Ctrl-C could end; it needs a minute to give up.
    threading.Thread(target=ask, name="theory-modal-hello", daemon=True).start()
    return await unless_stopped(channel, wait())


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
