"""What Modal says when it refuses or goes away, and what a user is told of it.

Facts: the table at the head of ``modal.exception`` (client 1.6) has which status becomes which exception.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl

from theory import errors

MESSAGE = "Modal not available. Install 'modal' package and set MODAL_ENABLED=True"
NOT_INSTALLED = "pip install modal, or theory-adapter-modal, which brings it"
NOT_ENABLED = "export MODAL_ENABLED=True, so that nothing is run and billed there by accident"
NO_TOKEN = (
    "set MODAL_TOKEN_ID and MODAL_TOKEN_SECRET, or modal token new; Modal does not know the present ones"  # noqa: S105 - a hint
)
_NO_CONNECTION = {
    errno.EADDRNOTAVAIL,
    errno.ECONNABORTED,
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
    errno.ENETRESET,
    errno.ENETUNREACH,
    errno.ENOTCONN,
    errno.EPIPE,
    errno.ESHUTDOWN,
    errno.ETIMEDOUT,
}
_AGAIN = "try again later; https://status.modal.com says how Modal is"
_ELSEWHERE = "unset MODAL_SERVER_URL, unless that is a server of your own; else try again later"
_NAMES = (
    "look at MODAL_ENVIRONMENT and at the names in -o;"
    " modal environment list and modal secret list show those that there are"
)
_LENGTH = 500  # characters of Modal's own words that an error has


class ModalUnavailable(errors.Unavailable):
    """Modal cannot be used: the package, the permission or the token is missing."""

    code = "ERR_MODAL_UNAVAILABLE"

    def __init__(self, hint: str) -> None:
        """Say which of the three it is, in the hint; the message is that of the requirements."""
        super().__init__(MESSAGE, hint=hint)


def is_broken(error: BaseException) -> bool:
    """Whether the connection or the service failed, so that the same question may be answered soon."""
    from modal import exception  # noqa: PLC0415 - only where the adapter runs

    if isinstance(error, (exception.ConnectionError, exception.ServiceError, exception.InternalError)):
        return True
    if isinstance(
        error, (TimeoutError, asyncio.TimeoutError, ConnectionError, socket.gaierror, ssl.SSLError)
    ):
        return True
    if isinstance(error, OSError) and _maker(error) == "builtins":  # a socket's, not a file's
        is_plain = type(error) is OSError and error.errno is None  # asyncio's, of several addresses at once
        return is_plain or (error.filename is None and error.errno in _NO_CONNECTION)
    # The client lets through some of what its transports raise (grpclib's StreamTerminatedError).
    return _maker(error) in {"grpclib", "aiohttp"}


def is_of_modal(error: BaseException) -> bool:
    """Whether it is Modal, its client or the connection to it that failed, not we."""
    return _maker(error) in {"modal", "synchronicity"} or is_broken(error)


def _maker(error: BaseException) -> str:
    return type(error).__module__.partition(".")[0]


def is_throttled(error: BaseException) -> bool:
    """Whether Modal says that it was asked too often, or that a quota is used up for now."""
    from modal import exception  # noqa: PLC0415 - only where the adapter runs

    return isinstance(error, exception.ResourceExhaustedError)


def told(error: BaseException) -> errors.TheoryError:  # noqa: PLR0911 - a table
    """The error of ours for what the client raised in a place where nothing more is known about it.

    >>> told(ConnectionResetError("gone")).code
    'ERR_RETRY'
    """
    from modal import exception  # noqa: PLC0415 - only where the adapter runs

    if isinstance(error, errors.TheoryError):
        return error
    words = words_of(error)
    if isinstance(error, exception.AuthError):
        return ModalUnavailable(NO_TOKEN)
    if isinstance(error, exception.PermissionDeniedError):
        return errors.PluginFailed(
            f"Modal does not permit it: {words}", hint="use a token of somebody who may, or ask for the right"
        )
    if isinstance(error, exception.ResourceExhaustedError):
        return errors.Retry(
            f"Modal has no room for it now: {words}", hint="try again later, or raise the limit"
        )
    if isinstance(error, exception.VersionError):
        return errors.PluginFailed(
            f"Modal no longer takes this version of its client: {words}",
            hint="pip install -U theory-adapter-modal",
        )
    if isinstance(error, exception.ImageBuildError):
        return errors.ImageBuildFailed(f"Modal could not build the image: {words}")
    if isinstance(error, exception.NotFoundError):
        return errors.PluginFailed(f"Modal does not find it: {words}", hint=_NAMES)
    if isinstance(error, (exception.InvalidError, exception.UnimplementedError)):
        return errors.PluginFailed(
            f"Modal refuses: {words}", hint="check the entry's runtime and the options"
        )
    if is_broken(error) or isinstance(error, (exception.InternalFailure, exception.ClientClosed)):
        return errors.Retry(
            f"the connection to Modal broke: {words}",
            hint=_ELSEWHERE if os.environ.get("MODAL_SERVER_URL") else _AGAIN,
        )
    return errors.PluginFailed(f"Modal failed: {words}", hint=_AGAIN)


def words_of(error: BaseException) -> str:
    """What an exception says, in one line."""
    return " ".join(str(error).split())[:_LENGTH] or type(error).__name__
