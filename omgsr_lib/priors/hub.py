"""What went wrong while a base was read, in one line with the page to open or the option to give."""

from contextlib import contextmanager
from pathlib import Path


WITHDRAWN = ("stabilityai/stable-diffusion-2-1-base",)  # by its owner, in November 2025; mirrors exist
OTHER_BASE = "give a folder or the hub id of a mirror: base=, on the command line --base"


def check_source(source):
    """Raises `FileNotFoundError` if `source` can be neither a folder nor a hub id."""
    if not Path(source).is_dir() and str(source).count("/") != 1:
        raise FileNotFoundError(f"A base must be a folder or a hub id 'owner/name': '{source}' is neither.")


@contextmanager
def explained(source, revision=None):
    """Turn the errors of huggingface_hub and diffusers about `source` into one line.

    Raises `PermissionError` if the repository is gated, `FileNotFoundError` if it, its revision or a file of it is
    missing, `ConnectionError` if it is not in the cache and the hub cannot be reached.
    """
    try:
        yield
    except Exception as err:
        explanation = _explanation(source, revision, list(_chain(err)))
        if explanation is None:
            raise
        raise explanation from err


def _explanation(source, revision, errors):
    from huggingface_hub import errors as hub

    def among(*kinds):
        return any(isinstance(err, kinds) for err in errors)

    if among(hub.GatedRepoError):
        return PermissionError(
            f"'{source}' is gated: accept its licence on https://huggingface.co/{source} and log in with "
            "`hf auth login` (or set HF_TOKEN)."
        )
    if among(hub.RepositoryNotFoundError, hub.DisabledRepoError):
        why = "its owner has withdrawn it" if source in WITHDRAWN else "it does not exist, or needs `hf auth login`"
        return FileNotFoundError(f"The hub has no repository '{source}' ({why}): {OTHER_BASE}.")
    if among(hub.RevisionNotFoundError):
        return FileNotFoundError(
            f"'{source}' has no revision '{revision}': choose one of https://huggingface.co/{source}/commits."
        )
    if among(hub.LocalEntryNotFoundError, hub.RevisionResolutionError, hub.HfHubHTTPError, ConnectionError) and not (
        among(hub.RemoteEntryNotFoundError)
    ):
        return ConnectionError(
            f"'{source}' is not in the hub's cache and the hub cannot be reached: connect once, unset HF_HUB_OFFLINE "
            f"if it is set, or {OTHER_BASE}."
        )
    if among(OSError) or (among(KeyError, TypeError) and Path(source).is_dir()):  # the latter: damaged configurations
        reason = f"{'' if among(OSError) else 'damaged, '}{errors[0]}".strip().split("\n")[0]
        return FileNotFoundError(
            f"A base must be in diffusers layout with safetensors weights, '{source}' is not: {reason}"
        )
    return None


def _chain(err):
    while err is not None:
        yield err
        err = err.__cause__ or err.__context__
