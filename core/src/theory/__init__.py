"""Run versioned processors anywhere, and believe the records.

    from theory import Runner

    envelope = Runner().run("text/wordcount@1", {"text": "to be or not to be"}, adapter="process")

Names are imported on first use, so ``import theory`` costs next to nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing would be an import of 10 ms before the first Ctrl-C can be taken well

if TYPE_CHECKING:
    from theory import errors as errors
    from theory.cancel import Cancellation as Cancellation
    from theory.entries.dockerfile import bases_of as bases_of
    from theory.entries.imageid import ImageName as ImageName
    from theory.entries.imageid import image_name as image_name
    from theory.entries.imageid import pinned_id as pinned_id
    from theory.entries.tree import files_of as files_of
    from theory.entries.tree import tree_of as tree_of
    from theory.formats.canon import canonical
    from theory.formats.canon import cid_of as cid_of
    from theory.formats.mime import mime_of as mime_of
    from theory.hookspecs import hookimpl as hookimpl
    from theory.ledger.owner import Owner as Owner
    from theory.run import Runner as Runner
    from theory.types import AdapterInfo as AdapterInfo
    from theory.types import Artifact as Artifact
    from theory.types import Capability as Capability
    from theory.types import Channel as Channel
    from theory.types import Envelope as Envelope
    from theory.types import Failure as Failure
    from theory.types import Finding as Finding
    from theory.types import Image as Image
    from theory.types import Job as Job
    from theory.types import Json as Json
    from theory.types import JsonObject as JsonObject
    from theory.types import Outcome as Outcome
    from theory.types import Processor as Processor
    from theory.types import Ref as Ref
    from theory.types import Secrets as Secrets
    from theory.types import Staged as Staged
    from theory.types import Store as Store
    from theory.types import Success as Success
    from theory.types import Workspace as Workspace

    canonical_json = canonical

_HOME_OF = {
    "Cancellation": "theory.cancel:Cancellation",
    "ImageName": "theory.entries.imageid:ImageName",
    "Owner": "theory.ledger.owner:Owner",
    "Runner": "theory.run:Runner",
    "bases_of": "theory.entries.dockerfile:bases_of",
    "canonical_json": "theory.formats.canon:canonical",
    "cid_of": "theory.formats.canon:cid_of",
    "files_of": "theory.entries.tree:files_of",
    "hookimpl": "theory.hookspecs:hookimpl",
    "image_name": "theory.entries.imageid:image_name",
    "mime_of": "theory.formats.mime:mime_of",
    "pinned_id": "theory.entries.imageid:pinned_id",
    "tree_of": "theory.entries.tree:tree_of",
}
_TYPES = (  # noqa: SIM905 - easier to read than a list
    "AdapterInfo Artifact Capability Channel Envelope Failure Finding Image Job Json JsonObject Outcome "
    "Processor Ref Secrets Staged Store Success Workspace"
).split()

__all__ = [*_HOME_OF, *_TYPES, "errors"]  # noqa: PLE0604 - every member is text
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    from importlib import import_module  # noqa: PLC0415 - only where a name is asked for

    if name in _TYPES or name in _HOME_OF:
        module, _, attribute = _HOME_OF.get(name, f"theory.types:{name}").partition(":")
        value: object = getattr(import_module(module), attribute)
    elif name == "errors":
        value = import_module("theory.errors")
    else:
        raise AttributeError(f"module 'theory' has no attribute {name!r}")
    globals()[name] = value
    return value
