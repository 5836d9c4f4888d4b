"""Encoders on the Hugging Face Hub: two files down, an exported folder up.

From the Hub come config.json and model.safetensors only: neither code nor
pickles are ever downloaded. huggingface_hub keeps them in its cache, from
which they load without a network.
"""

import re
from pathlib import Path

from muselq_modules.errors import UserError

FILES = ("config.json", "model.safetensors")
# What `export` writes; nothing else of a folder is uploaded.
UPLOADED = (*FILES, "hyperparams.yaml", "README.md")
HUB_ID = re.compile(r"(\w[\w.-]*/\w[\w.-]*)(?:@([\w./-]+))?")
LOG_IN = "log in with `hf auth login` or set HF_TOKEN"


def parse_hub_id(spec):
    """Repository and revision of ``org/name`` or ``org/name@revision``.

    Returns
    -------
    tuple of (str, str or None) or None
        None when it does not look like a Hub id.

    Example
    -------
    >>> parse_hub_id("org/name@v1"), parse_hub_id("org/name")
    (('org/name', 'v1'), ('org/name', None))
    >>> parse_hub_id("results/brn_summary/1234"), parse_hub_id("../name")
    (None, None)
    """
    match = HUB_ID.fullmatch(str(spec))
    if not match or ".." in str(spec):
        return None
    return match.groups()


def download(spec, revision=None):
    """Fetch an encoder from the Hub, or find it in the cache.

    Parameters
    ----------
    spec : str
        ``org/name`` or ``org/name@revision``.
    revision : str, optional
        Branch, tag or commit; by default that of ``spec``, else the newest.

    Returns
    -------
    folder : Path
        Holds the files.
    source : str
        ``org/name@commit``: the very same encoder for ever.

    Raises
    ------
    UserError
        When the Hub has no such encoder, or cannot be reached and the cache
        does not hold it.
    """
    repository, given = parse_hub_id(spec)
    if revision and given and revision != given:
        raise UserError(
            f"{spec} names the revision {given} but revision is {revision}: "
            "give one of them."
        )
    revision = revision or given
    if (
        revision
        and not re.fullmatch(r"[\w./-]+", revision)
        or (".." in (revision or ""))
    ):
        raise UserError(
            f"revision {revision} is no branch, tag or commit of the Hub."
        )
    # Imported here: who loads from a folder needs no HTTP library.
    from huggingface_hub import errors, snapshot_download

    try:
        folder = snapshot_download(
            repository, revision=revision, allow_patterns=list(FILES)
        )
    except errors.RevisionNotFoundError as error:
        raise UserError(
            f"{repository} on the Hub has no revision {revision}: choose one "
            f"of https://huggingface.co/{repository}/commits."
        ) from error
    except errors.RepositoryNotFoundError as error:  # gated ones too
        raise UserError(
            f"{repository} is neither a folder here nor a model on the Hub "
            f"that you may read: check the name, or {LOG_IN} if it is private."
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise UserError(
            f"{spec} is no folder here, and as a Hub id it is neither in the "
            "cache nor can the Hub be reached: check the path, or connect "
            "once to download it."
        ) from error
    except Exception as error:
        # The HTTP library below has changed twice, and its errors with it.
        raise _failed(f"{spec} could not be downloaded", error) from error
    folder = Path(folder)
    return folder, f"{repository}@{folder.name}"


def require_token():
    """Raise a UserError when nobody is logged in to the Hub."""
    from huggingface_hub import get_token

    if get_token() is None:
        raise UserError(f"Uploading needs a token of the Hub: {LOG_IN}.")


def upload(folder, repository, public=False):
    """Upload an exported folder, to a private repository unless told so.

    Parameters
    ----------
    folder : str or Path
        Made by `muselq_modules.export`.
    repository : str
        ``org/name``; made when it does not exist.
    public : bool
        Whether everybody may read it. An existing repository keeps its
        visibility.

    Returns
    -------
    str
        ``org/name@commit``.

    Raises
    ------
    UserError
        Without a token or a network, or when a public repository of that name
        exists and ``public`` is not set.
    """
    from huggingface_hub import HfApi, errors

    require_token()
    api = HfApi()
    try:
        api.create_repo(repository, private=not public, exist_ok=True)
        if not public and not api.repo_info(repository).private:
            raise UserError(
                f"{repository} exists and is public: pass --public to upload "
                "to it, or choose another name."
            )
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            allow_patterns=list(UPLOADED),
            commit_message="Encoder exported by MuseLQ",
        )
    except UserError:
        raise
    except errors.HFValidationError as error:
        raise UserError(
            f"{repository} is no name for a repository: give org/name."
        ) from error
    except Exception as error:  # see download
        raise _failed(f"{folder} could not be uploaded", error) from error
    return f"{repository}@{commit.oid}"


def _failed(what, error):
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    return UserError(f"{what} ({reason}): check the network and {LOG_IN}.")
