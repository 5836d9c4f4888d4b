"""Publish an encoder: a run folder becomes a folder that anybody can load.

    python -m muselq_modules.export results/brn_summary/1234 brn_summary \\
        --license apache-2.0 --data "What it is" --data_license "CC BY 4.0"

The folder holds ``config.json`` and ``model.safetensors`` (loading them runs
nothing), ``hyperparams.yaml`` (for SpeechBrain's own ``from_hparams``, which
runs it) and ``README.md``, the model card. Add ``--push org/name`` to upload
it to the Hugging Face Hub, privately unless ``--public``.
"""

import filecmp
import os
import re
import shutil
from pathlib import Path

import ruamel.yaml

from muselq_modules.checksums import file_digest
from muselq_modules.description import to_yaml
from muselq_modules.errors import CommandParser, UserError, exits_cleanly
from muselq_modules.hub import UPLOADED, parse_hub_id, require_token, upload
from muselq_modules.model_card import Stated, model_card
from muselq_modules.pretrained import find_encoder, load_encoder, write_config
from muselq_modules.run_facts import run_facts
from muselq_modules.weights import halve, write_weights

HYPERPARAMS = """\
# For SpeechBrain: MusicEncoderInterface.from_hparams of
# muselq_modules.interfaces. That runs what is written here, so only use it on
# a copy that you trust; MusicEncoder.from_pretrained does not read this file.
encoder:{encoder}
modules:
    encoder: !ref <encoder>
audio_normalizer: !new:speechbrain.dataio.preprocess.AudioNormalizer
    sample_rate: {sample_rate}
pretrainer: !new:muselq_modules.interfaces.StrictPretrainer
    loadables:
        encoder: !ref <encoder>
"""


def export_encoder(
    run_folder, out, stated=None, results=None, overwrite=False, half=False
):
    """Write the exported folder, whole or not at all.

    Parameters
    ----------
    run_folder : str or Path
        Output folder of a pre-training run.
    out : str or Path
        The folder to make. One that holds the same export is left as it is.
    stated : Stated, optional
        What the model card says beside the run's own records.
    results : str or Path, optional
        Folder with the recipes' runs, for a table in the card.
    overwrite : bool
        Replace another export in ``out``.
    half : bool
        Store the weights as float16, see `halve`. It is another encoder, of
        another digest, if hardly.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    UserError
        When there is no encoder to export, or something else in ``out``.
    """
    run_folder, out = Path(run_folder), Path(out)
    _require_run(run_folder)
    _require_place(out)
    stored = find_encoder(str(run_folder))
    encoder = load_encoder(run_folder)
    building = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        building.mkdir(parents=True)
        state = encoder.state_dict()
        if half:
            state = halve(state)
            encoder.load_state_dict(state)  # what the card tells of
        write_weights(state, building / "model.safetensors")
        write_config(stored.config, building / "config.json")
        hyperparams = HYPERPARAMS.format(
            encoder=to_yaml(stored.config), sample_rate=encoder.sample_rate
        )
        (building / "hyperparams.yaml").write_text(hyperparams, "utf-8")
        card = model_card(
            encoder,
            stored.config,
            run_facts(run_folder, _checkpoint_step(stored.weights)),
            stated or Stated(out.resolve().name, location=out.resolve().name),
            file_digest(building / "model.safetensors"),
            results,
        )
        (building / "README.md").write_text(card, "utf-8")
        _put_in_place(building, out, overwrite)
    except OSError as error:
        raise UserError(
            f"{out} cannot be written ({error.strerror}): choose another place."
        ) from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return out


def _require_run(run_folder):
    if not run_folder.is_dir():
        raise UserError(
            f"{run_folder} is no folder: give the output_folder of a "
            "pre-training run."
        )
    if (run_folder / "config.json").is_file():
        raise UserError(
            f"{run_folder} is exported already: give the run folder it came "
            "from."
        )


def _require_place(out):
    """Only an export, or nothing, may be where the export goes."""
    if out.is_dir():
        others = sorted({p.name for p in out.iterdir()} - set(UPLOADED))
        if others:
            raise UserError(
                f"{out} holds {others[0]}, so it is no exported folder: choose "
                "another name."
            )
    elif out.exists():
        raise UserError(f"{out} is a file: choose another name.")


def _put_in_place(building, out, overwrite):
    if out.is_dir() and any(out.iterdir()):
        _, differ, missing = filecmp.cmpfiles(building, out, UPLOADED, False)
        if not differ and not missing:
            return
        if not overwrite:
            raise UserError(
                f"{out} holds another export ({', '.join(differ + missing)} "
                "differ): pass --overwrite to replace it."
            )
        old = out.with_name(f"{building.name}.old")
        out.rename(old)
        building.rename(out)
        shutil.rmtree(old)
        return
    if out.is_dir():
        out.rmdir()
    building.rename(out)


def _checkpoint_step(weights):
    """Step of the checkpoint of a run that has not finished."""
    if weights.suffix != ".ckpt":
        return None
    meta = ruamel.yaml.YAML(typ="safe", pure=True)
    try:
        return int(meta.load(weights.with_name("CKPT.yaml"))["step"])
    except (OSError, TypeError, KeyError, ValueError) as error:
        raise UserError(
            f"{weights.parent} does not say its step: remove it to export the "
            "checkpoint before it."
        ) from error


@exits_cleanly
def main(argv=None):
    """The command line."""
    parser = CommandParser(
        prog="python -m muselq_modules.export",
        description="Publish an encoder as a folder, or on the Hub.",
    )
    parser.add_argument("run_folder", help="output_folder of a training run")
    parser.add_argument("out", help="folder to make")
    parser.add_argument("--name", help="title of the card; default: of OUT")
    parser.add_argument("--license", help="of the weights, e.g. apache-2.0")
    parser.add_argument("--data", help="what the music is: text or a file")
    parser.add_argument("--data_license", help="licence of the music")
    parser.add_argument("--results", help="output_folder of the recipes")
    parser.add_argument(
        "--half", action="store_true", help="weights as float16, half the size"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace another export"
    )
    parser.add_argument(
        "--push", metavar="ORG/NAME", help="upload to this Hub repository"
    )
    parser.add_argument(
        "--public", action="store_true", help="readable by everybody"
    )
    given = parser.parse_args(argv)
    _check(given)
    data = given.data
    if data and len(data) < 255 and Path(data).is_file():
        data = Path(data).read_text("utf-8").strip()
    # The card is for others: where the folder lies here is not their matter.
    name = Path(given.push or given.out).resolve().name
    stated = Stated(
        given.name or name,
        given.license,
        data,
        given.data_license,
        given.push or name,
    )
    out = export_encoder(
        given.run_folder,
        given.out,
        stated,
        given.results,
        given.overwrite,
        given.half,
    )
    print(f'{out}: MusicEncoder.from_pretrained("{out}") loads it.')
    if given.push:
        pinned = upload(out, given.push, given.public)
        print(
            f"https://huggingface.co/{given.push}: "
            f'MusicEncoder.from_pretrained("{pinned}") loads this version.'
        )


def _check(given):
    """Refuse before any work what would be refused at its end."""
    if given.license and not re.fullmatch(
        r"[a-z0-9][a-z0-9.+-]*", given.license
    ):
        raise UserError(
            f"--license {given.license} is no identifier of a licence: write "
            "it as the Hub does, such as apache-2.0, cc-by-4.0 or other."
        )
    for name in ("name", "data", "data_license"):
        try:
            (getattr(given, name) or "").encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"--{name} holds bytes that are no text (UTF-8): write it anew."
            ) from error
    if not given.push:
        if given.public:
            raise UserError("--public needs --push org/name.")
        return
    if (parse_hub_id(given.push) or (None, "none"))[1] is not None:
        raise UserError(
            f"--push {given.push} is no name for a repository: give org/name."
        )
    missing = [
        f"--{name}" for name in ("license", "data") if not getattr(given, name)
    ]
    if missing:
        raise UserError(
            f"--push needs {' and '.join(missing)}: who downloads weights must "
            "know their licence and what they were trained on."
        )
    require_token()


if __name__ == "__main__":
    main()
