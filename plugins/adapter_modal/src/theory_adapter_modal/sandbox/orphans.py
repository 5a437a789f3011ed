"""Ends the sandboxes that dead callers of this machine left."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from typing import TYPE_CHECKING

from theory_adapter_modal.account import APP
from theory_adapter_modal.sandbox.marks import left

if TYPE_CHECKING:
    from pathlib import Path

    import modal

_ENDING_S = 30.0  # for each of them
_swept: set[tuple[int, str, str]] = set()


def account_of(environment: str | None) -> str:
    """A digest of whose the sandboxes of an environment are: the server, the token's id and the environment.

    Args:
        environment: Of Modal; None for the account's own choice.
    """
    from modal.config import config  # noqa: PLC0415 - only where the adapter runs

    # A token that renews itself is known by what it was given to.
    known = [config.get(name) for name in ("server_url", "token_id", "oauth_client_id", "environment")]
    known[3] = environment or known[3]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()


async def sweep(cache: Path, client: modal.Client) -> int:
    """End what was left in this account, once in each process; how many sandboxes there were.

    What cannot be ended now is left for the next time.
    """
    if (key := (os.getpid(), str(cache), account_of(None))) in _swept:
        return 0
    _swept.add(key)
    ended = 0
    for name, mark in left(cache):
        try:
            environment = mark.environment()
            if mark.account() not in {None, account_of(environment)}:
                continue  # with this token, it would only seem to be gone
            ended += await asyncio.wait_for(end_by_name(name, environment, client), _ENDING_S)
            mark.clear()
        except asyncio.CancelledError:
            _swept.discard(key)
            raise
        except Exception:  # noqa: BLE001, S112 - another run's business must not end this one
            continue
        finally:
            mark.close()
    return ended


async def end_by_name(name: str, environment: str | None, client: modal.Client) -> bool:
    """End the sandbox of this name; whether there was one.

    Raises:
        modal.exception.Error: What Modal says.
    """
    import modal  # noqa: PLC0415 - only where the adapter runs
    from modal.exception import NotFoundError  # noqa: PLC0415 - as above

    try:
        sandbox = await modal.Sandbox.from_name.aio(APP, name, environment_name=environment, client=client)
        await sandbox.terminate.aio(wait=True)
    except NotFoundError:
        return False
    return True
