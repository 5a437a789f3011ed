"""A deployed function with what one job alone has: secrets from here, or a timeout of more than an hour.

Modal keeps containers for each such set by itself, so the jobs of this process that have the same share one.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from theory import cid_of
from theory_adapter_modal.function.deployed import DAY_S, LONG_S
from theory_adapter_modal.secrets import names_in, secrets_for

if TYPE_CHECKING:
    import modal

    from theory import Processor, Secrets
    from theory_adapter_modal.options import Options

_LOOK_S = 0.02  # how often a job looks whether another one has made it
# The client itself is in the key: no other one gets its id while this is known. A child after a fork has a
# client of its own, so that it waits for no thread of its parent.
_made: dict[tuple[object, ...], Future[modal.Function[..., Any, Any]]] = {}


async def variant_of(
    function: modal.Function[..., Any, Any],
    processor: Processor,
    secrets: Secrets,
    options: Options,
    client: modal.Client,
) -> modal.Function[..., Any, Any]:
    """The function with these secrets and this entry's timeout; itself where it needs neither.

    Every thread may call this: one makes it, and the others wait in their own loops.
    """
    values = dict(secrets) if secrets and not names_in(options.secret) else {}
    timeout = DAY_S if processor.runtime.timeout > LONG_S else None
    if not values and timeout is None:
        return function
    # A digest, since a traceback or a dump that shows the key is to show no value.
    key = (client, function.object_id, cid_of(repr(sorted(values.items())).encode()), timeout)
    while True:
        mine: Future[modal.Function[..., Any, Any]] = Future()
        shared = _made.setdefault(key, mine)
        if shared is mine:
            try:
                own: dict[str, Any] = {} if timeout is None else {"timeout": timeout}
                if values:
                    own["secrets"] = await secrets_for(processor, secrets, options, client)
                bound = function.with_options(**own)
                await bound.hydrate.aio(client)
            except BaseException:
                _made.pop(key, None)
                mine.cancel()  # who waits for it tries it for himself
                raise
            mine.set_result(bound)
            return bound
        while not shared.done():  # noqa: ASYNC110 - it is made in another thread's loop
            await asyncio.sleep(_LOOK_S)
        if not shared.cancelled():
            return shared.result()


def forget_variants(function: modal.Function[..., Any, Any]) -> None:
    """Make the variants of a function anew the next time: Modal has no such function any more."""
    for key in [key for key in tuple(_made) if function.object_id in key]:
        _made.pop(key, None)
