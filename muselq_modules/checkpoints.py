"""Checkpoints that survive a crash: written aside, checked, then renamed

SpeechBrain's Checkpointer writes in place and always picks the newest folder
by the clock, so that a crash during a save, or a full disk, leaves a folder
that the next start dies on. Here a checkpoint is a complete folder or it is
not there; each file's size and checksum are verified before it is loaded, and
a damaged newest checkpoint gives way to the one before.
"""

import contextlib
import logging
import math
import os
import pickle
import shutil

import yaml
from speechbrain.utils.checkpoints import (
    CKPT_PREFIX,
    METAFNAME,
    PARAMFILE_EXT,
    Checkpoint,
    Checkpointer,
    ckpt_recency,
)
from speechbrain.utils.distributed import (
    MainProcessContext,
    ddp_barrier,
    ddp_broadcast,
    if_main_process,
)

from muselq_modules.checksums import find_fault, sync, write_checksums
from muselq_modules.errors import UserError

logger = logging.getLogger(__name__)
UNFINISHED = "unfinished+"
DAMAGED = "damaged+"


def by_step(checkpoint):
    """Sorts checkpoints by training step; the clock may be wrong"""
    return checkpoint.meta["step"], checkpoint.path.name


class AtomicCheckpointer(Checkpointer):
    """SpeechBrain's Checkpointer with atomic saves and verified loads

    Parameters
    ----------
    checkpoints_dir : str or Path
        Folder of the checkpoints.
    recoverables : mapping, optional
        Name -> object to save.
    keep : int
        Checkpoints that `save_and_keep_only` keeps.
    **options
        As in `speechbrain.utils.checkpoints.Checkpointer`.

    Example
    -------
    >>> import torch
    >>> model = torch.nn.Linear(1, 1)
    >>> folder = getfixture("tmp_path")
    >>> checkpointer = AtomicCheckpointer(folder, {"model": model})
    >>> checkpointer.save_and_keep_only(meta={"step": 10})
    >>> checkpointer.recover_if_possible().path.name
    'CKPT+000000010'
    """

    def __init__(self, checkpoints_dir, recoverables=None, keep=2, **options):
        super().__init__(checkpoints_dir, recoverables, **options)
        self.keep = keep
        self._damaged = []

    def add_recoverables(self, recoverables):
        """Registers a mapping of objects; each must be in a checkpoint"""
        super().add_recoverables(recoverables)
        for name in recoverables:
            self.optional_recoverables.setdefault(name, False)

    # Saving

    def save_checkpoint(
        self, meta=None, end_of_epoch=True, name=None, verbosity=logging.INFO
    ):
        """Saves a checkpoint: the whole folder or nothing

        Parameters
        ----------
        meta : mapping, optional
            Plain values to keep beside the weights; `step` orders the
            checkpoints and defaults to one more than the newest.
        end_of_epoch : bool
            Kept in the meta, read by the load hooks.
        name : str, optional
            Name of the folder after `CKPT+`; by default the step.
        verbosity : int
            Logging level of the message.

        Returns
        -------
        Checkpoint

        Raises
        ------
        UserError
            The folder cannot be written, for example because the disk is full.
        """
        saved, problem = None, None
        if if_main_process():
            # the save hooks run on the main rank only; in this context their
            # own broadcasts are off, so that an error cannot leave the other
            # ranks waiting in one of them
            with MainProcessContext():
                try:
                    saved = self._save(dict(meta or {}), end_of_epoch, name)
                except (OSError, RuntimeError) as error:
                    reason = getattr(error, "strerror", None) or error
                    problem = (
                        "A checkpoint could not be saved in "
                        f"{self.checkpoints_dir} ({reason}): make room and "
                        "start again; the earlier checkpoints are intact"
                    )
        saved, problem = ddp_broadcast((saved, problem))
        if problem is not None:
            raise UserError(problem)
        logger.log(verbosity, "Saved a checkpoint in %s", saved.path)
        return saved

    def _save(self, meta, end_of_epoch, name):
        self.remove_unfinished()
        for damaged in self._damaged:
            # out of the way of `keep`, which counts the newest
            target = damaged.with_name(DAMAGED + damaged.name)
            shutil.rmtree(target, ignore_errors=True)
            os.replace(damaged, target)
        self._damaged = []
        meta = {key: _plain(key, value) for key, value in meta.items()}
        if "step" not in meta:
            steps = [c.meta["step"] for c in self.list_checkpoints()]
            meta["step"] = max(steps, default=0) + 1
        final = self._free_path(name or f"{meta['step']:09d}")
        temporary = final.with_name(UNFINISHED + final.name)
        self._temporary = temporary
        try:
            saved = super().save_checkpoint(
                meta, end_of_epoch, verbosity=logging.DEBUG
            )
            write_checksums(temporary)
            os.replace(temporary, final)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        sync(self.checkpoints_dir)
        files = {key: final / p.name for key, p in saved.paramfiles.items()}
        return Checkpoint(final, saved.meta, files)

    def _new_checkpoint_dirpath(self):
        return self._temporary  # where the base class writes

    def _free_path(self, name):
        path = self.checkpoints_dir / f"{CKPT_PREFIX}+{name}"
        count = 1
        while path.exists():
            path = path.with_name(f"{CKPT_PREFIX}+{name}+{count:02d}")
            count += 1
        return path

    def remove_unfinished(self):
        """Removes what a save or a deletion that was killed has left

        Only for the process that writes here: it would also remove what
        another process is writing.
        """
        for path in self.checkpoints_dir.glob(f"{UNFINISHED}*"):
            shutil.rmtree(path, ignore_errors=True)

    def save_and_keep_only(
        self,
        meta=None,
        end_of_epoch=True,
        name=None,
        num_to_keep=None,
        keep_recent=True,
        importance_keys=(),
        max_keys=(),
        min_keys=(),
        ckpt_predicate=None,
        verbosity=logging.INFO,
    ):
        """Saves a checkpoint, then deletes the least important ones

        Arguments are those of the base class; `num_to_keep` is `keep` by
        default.
        """
        self.save_checkpoint(meta, end_of_epoch, name, verbosity)
        # a new list each time: the base class appends to its own default
        keys = [*importance_keys, *([by_step] if keep_recent else [])]
        self.delete_checkpoints(
            num_to_keep=self.keep if num_to_keep is None else num_to_keep,
            max_keys=max_keys,
            min_keys=min_keys,
            importance_keys=keys,
            ckpt_predicate=ckpt_predicate,
            verbosity=verbosity,
        )

    def delete_checkpoints(
        self,
        *,
        num_to_keep=1,
        min_keys=(),
        max_keys=(),
        importance_keys=(by_step,),
        ckpt_predicate=None,
        verbosity=logging.INFO,
    ):
        """Deletes the least important checkpoints, as the base class does"""
        if num_to_keep < 0:
            raise ValueError("num_to_keep is the number of checkpoints to keep")
        if if_main_process():
            orders = [{"min_key": key} for key in min_keys or ()]
            orders += [{"max_key": key} for key in max_keys or ()]
            orders += [{"importance_key": key} for key in importance_keys]
            ranked = [
                self.find_checkpoints(**order, ckpt_predicate=ckpt_predicate)
                for order in orders
            ]
            kept = {c.path for ckpts in ranked for c in ckpts[:num_to_keep]}
            for path in {c.path for ckpts in ranked for c in ckpts} - kept:
                # renamed first: a killed deletion leaves no half checkpoint
                doomed = path.with_name(UNFINISHED + path.name)
                os.replace(path, doomed)
                shutil.rmtree(doomed, ignore_errors=True)
                logger.log(verbosity, "Deleted the checkpoint %s", path)
        ddp_barrier()

    # Finding and loading

    def list_checkpoints(self):
        """All checkpoints whose meta file can be read, unverified"""
        return [c for c in map(_read, self._folders()) if c is not None]

    def _folders(self):
        found = self.checkpoints_dir.glob(f"{CKPT_PREFIX}+*")
        return sorted(path for path in found if path.is_dir())

    def find_checkpoints(
        self,
        importance_key=None,
        max_key=None,
        min_key=None,
        ckpt_predicate=None,
        max_num_checkpoints=None,
    ):
        """Checkpoints by importance, then by step; the base class's arguments

        Returns
        -------
        list of Checkpoint
        """
        if sum(k is not None for k in (importance_key, max_key, min_key)) > 1:
            raise ValueError("Give one of importance_key, max_key, min_key")
        found = list(filter(ckpt_predicate, self.list_checkpoints()))
        found.sort(key=by_step, reverse=True)
        name = max_key or min_key
        if name is not None:
            found = [c for c in found if name in c.meta]
            sign = 1 if max_key else -1
            found.sort(key=lambda c: _score(c, name, sign), reverse=True)
        elif importance_key not in (None, ckpt_recency, by_step):
            found.sort(key=importance_key, reverse=True)
        return found[:max_num_checkpoints]

    def recover_if_possible(
        self,
        importance_key=None,
        max_key=None,
        min_key=None,
        ckpt_predicate=None,
    ):
        """Loads the best undamaged checkpoint, if there is any checkpoint

        Arguments are those of the base class. The main rank verifies the
        files and tells the other ranks which checkpoint to load.

        Returns
        -------
        Checkpoint or None
            None when the folder holds no checkpoint at all.

        Raises
        ------
        UserError
            There are checkpoints but none of them can be used.
        """
        chosen, problem = None, None
        if if_main_process():
            try:
                chosen = self._choose(
                    importance_key, max_key, min_key, ckpt_predicate
                )
            except UserError as error:
                problem = str(error)
        chosen, problem = ddp_broadcast((chosen, problem))
        if problem is not None:
            raise UserError(problem)
        if chosen is None:
            logger.info("No checkpoint in %s yet", self.checkpoints_dir)
        else:
            self.load_checkpoint(chosen)
        return chosen

    def _choose(self, importance_key, max_key, min_key, ckpt_predicate):
        folders = self._folders()
        if not folders:
            return None
        for folder in folders:
            if _read(folder) is None:
                self._warn(folder, f"{METAFNAME} is missing or damaged")
        ranked = self.find_checkpoints(
            importance_key, max_key, min_key, ckpt_predicate
        )
        for checkpoint in ranked:
            fault = find_fault(checkpoint.path)
            if fault is None:
                return checkpoint
            self._warn(checkpoint.path, fault)
        key = max_key or min_key
        reason = f" that holds {key}" if key and not ranked else ""
        raise UserError(
            f"{self.checkpoints_dir} has no usable checkpoint{reason}: restore "
            "one from a copy, or remove the folder to start from scratch"
        )

    def _warn(self, folder, fault):
        self._damaged.append(folder)
        logger.warning("Skipped the checkpoint %s: %s", folder, fault)

    def load_checkpoint(self, checkpoint):
        """Loads a checkpoint; weights only, never code

        Parameters
        ----------
        checkpoint : Checkpoint
            From `find_checkpoint` or `list_checkpoints`.

        Raises
        ------
        UserError
            It does not fit the objects, or a file would run code.
        """
        try:
            with weights_only():
                super().load_checkpoint(checkpoint)
        except pickle.UnpicklingError as error:
            raise UserError(
                f"{checkpoint.path} holds more than weights and is not "
                "loaded: use a checkpoint that this project has written"
            ) from error
        except (RuntimeError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(
                f"{checkpoint.path} does not fit this configuration "
                f"({reason}): use the configuration of that run or another "
                "--output_folder"
            ) from error


@contextlib.contextmanager
def weights_only():
    """Makes every `torch.load` inside refuse pickled code

    The load hooks of SpeechBrain leave `weights_only` to torch's default,
    which TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD in the environment switches off.
    """
    force, forbid = (f"TORCH_FORCE_{no}WEIGHTS_ONLY_LOAD" for no in ("", "NO_"))
    before = {name: os.environ.pop(name, None) for name in (force, forbid)}
    os.environ[force] = "1"
    try:
        yield
    finally:
        del os.environ[force]
        os.environ.update({k: v for k, v in before.items() if v is not None})


def _read(folder):
    try:
        meta = yaml.safe_load((folder / METAFNAME).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None
    if not isinstance(meta, dict) or not isinstance(meta.get("step"), int):
        return None
    files = {p.stem: p for p in folder.iterdir() if p.suffix == PARAMFILE_EXT}
    return Checkpoint(folder, meta, files)


def _score(checkpoint, name, sign):
    value = sign * checkpoint.meta[name]
    return -math.inf if math.isnan(value) else value  # NaN has no order


def _plain(key, value):
    value = value.item() if hasattr(value, "item") else value
    if not isinstance(value, (bool, int, float, str, type(None))):
        raise TypeError(f"meta[{key!r}] is a {type(value).__name__}, not plain")
    return value
