"""What a command in a sandbox writes, as it comes: no byte lost or doubled when a connection breaks."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Literal

from theory_adapter_modal.patience import Patience

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Sequence

    from theory import Channel


async def pieces(reader: AsyncIterable[bytes], patience: Patience | None = None) -> AsyncIterator[bytes]:
    """All that a stream of the client has, in the portions that come.

    The client's readers know how far they have read: one whose connection broke goes on from there when it is
    iterated again (client 1.6, ``io_streams``; measured with cuts of 15 s and more).

    Raises:
        Retry: Modal was away for too long.
    """
    patience = patience or Patience()
    while True:
        try:
            async for data in reader:
                patience.calm()
                yield data
        except Exception as error:  # noqa: BLE001 - raised again unless it is the connection
            await patience.bear(error)
        else:
            return


class Ear:
    """Passes a stream on, as long as it comes.

    A channel that waits for a slow listener holds up this job's own loop, so that no more is asked for.
    """

    def __init__(
        self, reader: AsyncIterable[bytes], stream: Literal["stdout", "stderr"], channel: Channel
    ) -> None:
        self.size_bytes = 0  # heard until now
        self._patience = Patience(math.inf)  # the command's own deadline is the limit
        self.task = asyncio.ensure_future(self._listen(reader, stream, channel))

    async def _listen(
        self, reader: AsyncIterable[bytes], stream: Literal["stdout", "stderr"], channel: Channel
    ) -> None:
        async for data in pieces(reader, self._patience):
            self.size_bytes += len(data)
            channel.write(stream, data)

    @property
    def was_cut(self) -> bool:
        """Whether its connection broke, as far as the client tells."""
        return self._patience.has_borne


async def heard(ears: Sequence[Ear], silence_s: float) -> bool:
    """Listen until all streams have ended, or nothing has come for so long; whether they have ended.

    Raises:
        Retry: Modal was away for too long.
    """
    silent = 0
    while pending := [ear.task for ear in ears if not ear.task.done()]:
        before = sum(ear.size_bytes for ear in ears)
        await asyncio.wait(pending, timeout=silence_s / 2)
        silent = silent + 1 if before == sum(ear.size_bytes for ear in ears) else 0
        # Twice, since the loop itself may have been held up by a listener for longer than that.
        if silent == 2:  # noqa: PLR2004 - halves
            return False
    for ear in ears:
        ear.task.result()
    return True
