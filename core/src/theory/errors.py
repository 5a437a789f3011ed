"""Every error that a run can have, as one tree.

    TheoryError
    ├── BadRequest            2  the request is wrong; nothing ran, nothing was spent
    │   ├── Usage, UnknownRef, RegistryFault, BadInputs, UnknownAdapter, BadAdapterOptions
    │   ├── MissingSecret, Unsupported, ArtifactNotFound, AttachmentNotFound, BadWritePrefix
    ├── ProcessorFault        1  the processor ran and did not deliver
    │   ├── ProcessorFailed, BadOutputs, BadOutputPath, DuplicateOutput, OutputLimit, OutOfMemory
    │   ├── ImageBuildFailed
    │   └── TimedOut        124
    ├── BudgetFault           4  money: BudgetRefused, LedgerFailed
    ├── IntegrityFault        3  bytes: Damaged, StoreFailed, SaveFailed
    ├── Unavailable          69  a service or a plugin is missing: ImageNotFound, PluginFailed
    ├── Busy                  5  somebody else holds it
    ├── Retry                75  try again later
    ├── Interrupted     130/143  a signal ended it
    └── Internal             70  our own bug

A family has one exit status; a class has one code, which is listed in docs/reference/errors.md.
A plugin may subclass a family with a code of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Mapping

    from theory.types import Scalar


class TheoryError(Exception):
    """An error that a user can be told about: what it is, where it is and what to do next.

    Args:
        message: Lower case, no full stop, names the thing and the place; never a secret.
        hint: The next step, as a sentence or a command.
        meta: Scalars that join the ``meta`` of the failing envelope.
    """

    code: ClassVar[str] = "ERR_INTERNAL"
    exit_code: int = 70

    def __init__(self, message: str, *, hint: str = "", meta: Mapping[str, Scalar] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.meta: Mapping[str, Scalar] = meta or {}


class BadRequest(TheoryError):
    """The request is wrong; nothing ran and nothing was spent."""

    exit_code = 2


class Usage(BadRequest):
    """The command line itself is wrong."""

    code = "ERR_USAGE"


class UnknownRef(BadRequest):
    """No registry has this ref."""

    code = "ERR_UNKNOWN_REF"


class RegistryFault(BadRequest):
    """A registry or one of its entries is faulty."""

    code = "ERR_REGISTRY"


class BadInputs(BadRequest):
    """The inputs are not JSON, break the entry's schema or misuse an attachment."""

    code = "ERR_INPUTS"


class UnknownAdapter(BadRequest):
    """No installed adapter or store has this name."""

    code = "ERR_UNKNOWN_ADAPTER"


class BadAdapterOptions(BadRequest):
    """An adapter option is unknown or has a wrong value."""

    code = "ERR_ADAPTER_OPTIONS"


class MissingSecret(BadRequest):
    """A secret that the entry requires has no value."""

    code = "ERR_MISSING_SECRET"


class Unsupported(BadRequest):
    """The adapter cannot give what the processor needs."""

    code = "ERR_UNSUPPORTED"


class ArtifactNotFound(BadRequest):
    """A named artifact, execution or plan does not exist here."""

    code = "ERR_ARTIFACT_NOT_FOUND"


class AttachmentNotFound(BadRequest):
    """An attachment cannot be read."""

    code = "ERR_ATTACHMENT_NOT_FOUND"


class BadWritePrefix(BadRequest):
    """The write prefix breaks its rules."""

    code = "ERR_WRITE_PREFIX"


class ProcessorFault(TheoryError):
    """The processor ran and did not deliver."""

    exit_code = 1


class ProcessorFailed(ProcessorFault):
    """The command ended with a non-zero exit status."""

    code = "ERR_PROCESSOR"


class BadOutputs(ProcessorFault):
    """The outputs break the entry's schema."""

    code = "ERR_OUTPUTS"


class BadOutputPath(ProcessorFault):
    """An output is no regular file or has a name that no artifact may have."""

    code = "ERR_OUTPUT_PATH"


class DuplicateOutput(ProcessorFault):
    """Two outputs have names that some file systems take for one."""

    code = "ERR_OUTPUT_DUPLICATE"


class OutputLimit(ProcessorFault):
    """There are too many outputs, or they are too large or too deep."""

    code = "ERR_OUTPUT_LIMIT"


class OutOfMemory(ProcessorFault):
    """The command used more memory than its entry allows."""

    code = "ERR_OUT_OF_MEMORY"


class ImageBuildFailed(ProcessorFault):
    """The image or the environment of the processor could not be built."""

    code = "ERR_IMAGE_BUILD"


class TimedOut(ProcessorFault):
    """The command did not end in its time."""

    code = "ERR_TIMEOUT"
    exit_code = 124


class BudgetFault(TheoryError):
    """Money: refused, or not to be counted."""

    exit_code = 4


class BudgetRefused(BudgetFault):
    """The reservation would go beyond the plan's limit."""

    code = "ERR_BUDGET"


class LedgerFailed(BudgetFault):
    """The ledger cannot be read or written, so nothing runs."""

    code = "ERR_LEDGER"


class IntegrityFault(TheoryError):
    """Bytes are not what they should be, or could not be written."""

    exit_code = 3


class Damaged(IntegrityFault):
    """A blob or a record does not have the content that its name promises."""

    code = "ERR_INTEGRITY"


class StoreFailed(IntegrityFault):
    """The store refused a read or a write."""

    code = "ERR_STORE"


class SaveFailed(IntegrityFault):
    """The execution is closed and kept, but its outputs could not be saved where the user asked."""

    code = "ERR_SAVE"


class Unavailable(TheoryError):
    """A service or a plugin that the run needs is not there."""

    exit_code = 69


class ImageNotFound(Unavailable):
    """The image is neither here nor to be had."""

    code = "ERR_IMAGE_NOT_FOUND"


class PluginFailed(Unavailable):
    """A plugin raised, answered with a wrong type or cannot be loaded."""

    code = "ERR_PLUGIN"


class Busy(TheoryError):
    """Somebody else holds what this needs."""

    code = "ERR_BUSY"
    exit_code = 5


class Retry(TheoryError):
    """It may work later."""

    code = "ERR_RETRY"
    exit_code = 75


class Interrupted(TheoryError):
    """A signal or a caller ended the run.

    Args:
        signal: The number of the signal; the exit status is 128 more. SIGINT unless told.
    """

    code = "ERR_INTERRUPTED"

    def __init__(self, message: str, *, signal: int = 2, meta: Mapping[str, Scalar] | None = None) -> None:
        super().__init__(message, meta=meta)
        self.exit_code = 128 + signal


class Internal(TheoryError):
    """Our own bug; its traceback is on stderr."""

    code = "ERR_INTERNAL"
    exit_code = 70
