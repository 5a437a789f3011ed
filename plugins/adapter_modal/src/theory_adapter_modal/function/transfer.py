"""Files that are too large for a document, through the volume of the entry's app; never as a whole."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import suppress
from typing import TYPE_CHECKING

from theory import errors
from theory_adapter_modal.patience import Patience, patiently

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import modal

REMOVE_S = 10.0  # what is left longer is removed with the volume


class Transfer:
    """Brings files to a volume and back."""

    def __init__(self, volume: modal.Volume) -> None:
        self._volume = volume

    async def upload(self, files: Iterable[tuple[Path, str]]) -> None:
        """Bring files there, each to its place; what is there already is not sent again."""

        async def upload() -> None:
            await self._volume.hydrate.aio()
            async with self._volume.batch_upload.aio(force=True) as batch:
                for here, place in files:
                    batch.put_file(here, f"/{place}")

        files = tuple(files)
        await patiently(upload)

    async def fetch(self, place: str, here: Path, size: int, digest: str) -> None:
        """Bring a file back, and compare it with what was said of it.

        Raises:
            Damaged: It is not that file.
            StoreFailed: It cannot be written here.
        """
        patience = Patience()
        while True:
            try:
                found = await self._read(place, here, size)
                break
            except FileNotFoundError as error:
                raise errors.Damaged(f"Modal's volume has lost {place}", hint="try again") from error
            except Exception as error:  # noqa: BLE001 - raised again unless it is the connection
                await patience.bear(error)
        if found != (size, digest):
            raise errors.Damaged(
                f"{here.name} did not come back whole from Modal's volume: {found[0]:,} of {size:,} bytes",
                hint="try again",
            )

    async def _read(self, place: str, here: Path, most: int) -> tuple[int, str]:
        made, size = hashlib.blake2b(digest_size=32), 0
        with here.open("wb") as file:
            async for portion in self._volume.read_file.aio(place):
                size += len(portion)
                made.update(portion)
                if size > most:
                    break
                try:
                    file.write(portion)
                except OSError as error:
                    raise errors.StoreFailed(
                        f"{here} cannot be written: {error.strerror}", hint="free some space on its disk"
                    ) from error
        return size, made.hexdigest()

    async def remove(self, folder: str, limit_s: float = REMOVE_S) -> None:
        """Remove what is there of one execution; what cannot be removed now costs a little room."""
        with suppress(Exception):
            await asyncio.wait_for(
                patiently(lambda: self._volume.remove_file.aio(folder, recursive=True), limit_s), limit_s
            )
