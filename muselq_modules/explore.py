"""A folder of music as one HTML page: look, listen, find what is alike.

    python -m muselq_modules.explore ~/Music --pretrained results/demo

embeds every track once and writes a page that needs no other file than the
audio: a map of the tracks (near means alike), the nearest neighbours of the
one that is clicked, and its self-similarity matrix, on which a click plays
from that time. The page refers to the audio where it lies. With
``--embed_audio`` it holds a short preview of each track instead, and can be
mailed. Interrupted, it goes on where it was; a second call embeds nothing.
"""

import logging
from pathlib import Path

import numpy as np
import torch

from muselq_modules.baselines import load_any_encoder
from muselq_modules.cell_averages import CellAverages
from muselq_modules.errors import CommandParser, UserError, exits_cleanly
from muselq_modules.explore_page import (
    audio_url,
    group_by_folder,
    page,
    page_data,
)
from muselq_modules.files import write_text
from muselq_modules.hidden_states import choose_layers
from muselq_modules.music_map import (
    compact,
    dimension_statistics,
    layout,
    nearest,
    unit,
)
from muselq_modules.parallel import available_cpus
from muselq_modules.pretrained import SMALL_ENCODER, choose_device
from muselq_modules.previews import make_previews, preview_span
from muselq_modules.probing import encoder_name
from muselq_modules.track_cells import embed_tracks, find_tracks

logger = logging.getLogger(__name__)
# A browser takes this much of a page before it gets slow.
LARGE_PAGE_BYTES = 100e6


def describe_tracks(files, readers, folder, page_folder, cell_s):
    """What the page says of each track, and the vector that places it.

    Returns
    -------
    tracks : list of dict
        For `explore_page.page_data`.
    groups : list of str
    vectors : np.ndarray
        [track, dim], of length 1.
    """
    mean, std = dimension_statistics(read() for read in readers)
    numbers, groups = group_by_folder([file.path for file in files])
    tracks, vectors = [], []
    for file, read, number in zip(files, readers, numbers, strict=True):
        cells = (read() - mean) / std
        small, cells_each = compact(cells)
        vectors.append(cells.mean(0))
        tracks.append(
            {
                "path": file.path,
                "url": audio_url(folder, file.path, page_folder),
                "group": number,
                "duration_s": round(file.duration, 2),
                "vectors": small,
                "cell_s": round(cells_each * cell_s, 6),
            }
        )
    return tracks, groups, unit(np.array(vectors))


def explore(
    folder,
    pretrained=SMALL_ENCODER,
    output=None,
    layer=-1,
    cell_s=1.0,
    embed_audio=False,
    preview_s=15.0,
    cache_folder=None,
    workers=None,
    device=None,
):
    """Embed a folder of music and write its page.

    Parameters
    ----------
    folder : str or Path
    pretrained : str or Path
        Any encoder: a run folder, ``mel``, ``mert:95M`` ...
    output : str or Path, optional
        The page. Default: ``results/explore/<folder name>.html``.
    layer : int
        Hidden state, 0 = after subsampling ... -1 = last.
    cell_s : float
        Time step of the matrices, in seconds.
    embed_audio : bool
        Put previews into the page instead of references to the audio.
    preview_s : float
        Their length in seconds.
    cache_folder : str or Path, optional
        Default: ``cache`` beside the page.
    workers : int, optional
        Processes that read audio, by default one for each available core.
    device : str, optional
        Default: ``cuda`` if there is one, else ``cpu``.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    UserError
        For fewer than two tracks, and options that do not fit.
    """
    if not cell_s > 0 or not preview_s > 0:
        raise UserError("cell_s and preview_s must be above 0 seconds.")
    folder = Path(folder)
    name = folder.resolve().name or "music"
    output = Path(output or Path("results", "explore", f"{name}.html"))
    output.parent.mkdir(parents=True, exist_ok=True)
    cache_folder = Path(cache_folder or output.parent / "cache")
    fastest = "cuda" if torch.cuda.is_available() else "cpu"
    device = choose_device(device or fastest)
    encoder = CellAverages(load_any_encoder(pretrained, device), cell_s)
    (layer,) = choose_layers([layer], encoder.n_layers)
    files, skipped = find_tracks(folder, cache_folder, workers)
    readers = embed_tracks(
        encoder,
        files,
        folder,
        cache_folder,
        layer,
        workers=workers or available_cpus(),
        device=device,
    )
    tracks, groups, vectors = describe_tracks(
        files, readers, folder, output.parent.resolve(), encoder.cell_s
    )
    if embed_audio:
        previews = make_previews(folder, files, preview_s, workers)
        for track, file in zip(tracks, files, strict=True):
            track["url"] = previews[file.path]
            track["preview"] = preview_span(file.duration, preview_s)
    print(f"Arranging {len(files):,} tracks", flush=True)
    data = page_data(tracks, groups, layout(vectors), *nearest(vectors))
    minutes = sum(file.duration for file in files) / 60
    facts = (
        f"{len(files):,} tracks, {minutes:,.0f} minutes, embedded by "
        f"{encoder_name(pretrained)}, layer {layer} of {encoder.n_layers}. "
        "Similarity is the cosine of embeddings standardised over the folder."
    )
    write_text(output, page(f"Music map: {name}", facts, skipped, data))
    report(output, len(files), skipped)
    return output


def report(output, n_tracks, skipped):
    """Print where the page is, and what is not on it."""
    size = output.stat().st_size
    for path, reason in skipped[:10]:
        logger.warning("Skipped %s: %s", path, reason)
    text = f"{output}: {n_tracks:,} tracks, {size / 1e6:.1f} MB"
    if skipped:
        count = f"{len(skipped):,} file{'s' * (len(skipped) != 1)}"
        text += f"; {count} skipped, listed in it"
    print(text)
    if size > LARGE_PAGE_BYTES:
        logger.warning(
            "A page of %.0f MB is slow to open: shorten --preview_s, leave "
            "out --embed_audio, or explore sub-folders.",
            size / 1e6,
        )


@exits_cleanly
def main(argv=None):
    """The command line."""
    parser = CommandParser(
        prog="python -m muselq_modules.explore",
        description="A folder of music as a map in one HTML page.",
    )
    parser.add_argument("folder", help="music, with any sub-folders")
    parser.add_argument(
        "--pretrained",
        default=SMALL_ENCODER,
        help="run folder, exported folder, mel, mert:95M ... (default: the "
        "small encoder of the repository)",
    )
    parser.add_argument(
        "--output", help="default: results/explore/<folder name>.html"
    )
    parser.add_argument(
        "--layer", type=int, default=-1, help="0 ... n_layers; default: last"
    )
    parser.add_argument(
        "--cell_s", type=float, default=1.0, help="time step of the matrices"
    )
    parser.add_argument(
        "--embed_audio",
        action="store_true",
        help="put previews into the page, so that it can be mailed",
    )
    parser.add_argument(
        "--preview_s", type=float, default=15.0, help="length of a preview"
    )
    parser.add_argument(
        "--cache_folder", help="embeddings; default: cache beside the page"
    )
    parser.add_argument("--workers", type=int, help="default: all cores")
    parser.add_argument("--device", help="default: cuda if there is one")
    explore(**vars(parser.parse_args(argv)))


if __name__ == "__main__":
    main()
