"""How much a processor may leave: counted while it comes, so that no disk fills for what will be refused."""

from __future__ import annotations

from theory import errors

# Source: theory.rooms.collect, which refuses at the end what has more; a test compares.
MAX_FILES = 20_000
MAX_BYTES = 64 * 1024**3
MAX_DEPTH = 32
_PACK = "pack them into an archive, or write less"
_GIB = 1024**3
_LENGTH = 200  # characters of a name that an error has


class Sum:
    """Counts outputs up to the limits of core's own check."""

    def __init__(self) -> None:
        self._bytes = self._files = self._folders = 0

    def add(self, name: str, size_bytes: int, *, is_folder: bool = False) -> None:
        """Count one file or folder, by its path below ``out``.

        Raises:
            OutputLimit: That is one too many, too large or too deep.
        """
        self._bytes += size_bytes
        if is_folder:
            self._folders += 1
            if name.count("/") >= MAX_DEPTH:
                raise errors.OutputLimit(
                    f"the outputs are nested deeper than {MAX_DEPTH} folders: {shown(name)}", hint=_PACK
                )
            if self._folders > MAX_FILES:
                raise errors.OutputLimit(f"the outputs are in more than {MAX_FILES:,} folders", hint=_PACK)
        else:
            self._files += 1
            if self._files > MAX_FILES:
                raise errors.OutputLimit(f"the outputs are more than {MAX_FILES:,} files", hint=_PACK)
        if self._bytes > MAX_BYTES:
            raise errors.OutputLimit(
                f"the outputs are larger than {MAX_BYTES // _GIB} GiB with {shown(name)}", hint=_PACK
            )


def shown(name: str) -> str:
    """A name of a processor's making, safe to print."""
    return repr(name if len(name) <= _LENGTH else name[:_LENGTH] + "…")
