"""torch and torchaudio must be a pair; say so in one sentence when not."""

import importlib.metadata

REMEDY = (
    "install the tested pair in one step: "
    "pip install torch==2.11.0 torchaudio==2.11.0"
)


def check_torch_pair(version=importlib.metadata.version):
    """Raise when torch and torchaudio cannot work together.

    A torchaudio built for CUDA does not load beside a CPU-only torch, and its
    own message is about a missing libc10_cuda.so.

    Parameters
    ----------
    version : callable
        Gives the version of an installed package.

    Raises
    ------
    ImportError
        One sentence that names both versions and what to install.

    Example
    -------
    >>> check_torch_pair()
    """
    try:
        torch_version = version("torch")
        audio_version = version("torchaudio")
    except importlib.metadata.PackageNotFoundError as error:
        raise ImportError(f"{error.name} is not installed: {REMEDY}") from None
    if _minor(torch_version) != _minor(audio_version):
        raise ImportError(
            f"torch {torch_version} and torchaudio {audio_version} do not "
            f"belong together: {REMEDY}"
        )
    try:
        import torchaudio  # noqa: F401, loads its library
    except OSError as error:
        raise ImportError(
            f"torch {torch_version} cannot load torchaudio {audio_version} "
            f"({error}): {REMEDY}"
        ) from None


def _minor(version):
    return version.split("+")[0].split(".")[:2]
