"""Orbax checkpoints of the loop's state, in a folder; nothing is pickled."""

import pathlib
from typing import Any

import jax
import numpy as np
from absl import logging

from pdae_jax.randomness import is_key
from pdae_jax.runs.files import read_json

_RUN = "run"  # in the metadata of a checkpoint


class Checkpoints:
    """The checkpoints of one run: saved by step, the latest restored bit for bit, optimizer state included."""

    def __init__(self, folder: pathlib.Path, *, run: str = "", keep: int = 2, read_only: bool = False):
        """Open the checkpoints of a folder, which is made; or, `read_only`, must be there.

        Args:
            folder: of the checkpoints.
            run: checksum of their run, written with them and compared; those of earlier versions have none.
            keep: how many stay.
            read_only: nothing is saved.
        """
        # imported here: `import pdae_jax` must not pull in a checkpoint library
        import orbax.checkpoint as ocp

        self._ocp, self._run = ocp, run
        if not read_only:
            folder.mkdir(exist_ok=True)
        elif not folder.exists():
            raise FileNotFoundError(f"No checkpoint in {folder}. Run the fit with this folder first.")
        process = jax.process_index()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            create=False,
            enable_async_checkpointing=False,
            # of several processes each writes for itself: the others may have other runs, or none
            multiprocessing_options=ocp.options.MultiprocessingOptions(
                primary_host=process, active_processes={process}, barrier_sync_key_prefix=f"process{process}"
            )
            if jax.process_count() > 1
            else ocp.options.MultiprocessingOptions(),
        )
        self._manager = ocp.CheckpointManager(folder.resolve(), options=options)

    def latest_step(self) -> int | None:
        """Step of the newest complete checkpoint, None if there is none."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any) -> None:
        """Write a pytree; an existing checkpoint of this step is left as it is.

        Raises:
            OSError: it could not be written, the disk being full, say; those before are kept.
        """
        if step in self._manager.all_steps():
            return
        before = self.latest_step()
        try:
            saved = self._ocp.args.StandardSave(jax.tree.map(_numbers, state))
            self._manager.save(step, args=saved, custom_metadata={_RUN: self._run})
            self._manager.wait_until_finished()
        except Exception as error:  # of the file system, of TensorStore or of Orbax
            kept = "None was written before" if before is None else f"That of step {before} is kept"
            raise OSError(
                f"The checkpoint of step {step} could not be written to {self._manager.directory}: "
                f"{type(error).__name__}: {str(error)[:300]}. {kept}. Make room, and start the same run again: it goes "
                f"on from there."
            ) from error

    def restore(self, like: Any, *, repair: bool = False) -> Any:
        """Read the newest checkpoint that can be read, in the structure, shapes and types of `like`, arrays or their
        shapes.

        A damaged one is passed over with a warning. `repair` moves it to ``damaged`` beside the checkpoints, so that a
        run that goes on can write it again.

        Raises:
            FileNotFoundError: there is no complete checkpoint.
            ValueError: none of them can be read.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        if not steps:
            raise FileNotFoundError(f"No checkpoint in {self._manager.directory}. Run the fit with this folder first.")
        abstract, errors = jax.tree.map(_abstract, like), []
        for step in steps:
            self._check_run(step)
            try:
                state = self._manager.restore(step, args=self._ocp.args.StandardRestore(abstract))
            except Exception as error:  # of TensorStore, of JSON, of the file system: whatever was cut off
                errors.append((step, error))
                continue
            for bad, error in errors:
                logging.warning(
                    "The checkpoint of step %d in %s is damaged (%s). The one of step %d is used instead.",
                    *(bad, self._manager.directory, type(error).__name__, step),
                )
                if repair:
                    self._put_aside(bad)
            return jax.tree.map(_like, like, state)
        step, error = errors[0]
        raise ValueError(
            f"No checkpoint in {self._manager.directory} can be read; of step {step}: {type(error).__name__}: "
            f"{str(error)[:300]}. Put a copy in its place, or repeat the run with another workdir."
        ) from error

    def _check_run(self, step: int) -> None:
        """``ValueError`` for a checkpoint that another run has written; earlier versions did not say whose it is."""
        # not by the manager, which looks for all items, and warns of those that it does not know
        file = pathlib.Path(self._manager.directory) / str(step) / "_CHECKPOINT_METADATA"
        try:
            found = (read_json(file).get("custom_metadata") or {}).get(_RUN, "")
        except (OSError, ValueError):  # it is damaged, and so is the checkpoint
            return
        if found and self._run and found != self._run:
            raise ValueError(
                f"The checkpoint of step {step} in {self._manager.directory} is of another run: its checksum is "
                f"{found[:12]}, that of this run {self._run[:12]}. Put the run's own checkpoints back, or repeat the "
                f"run with another workdir."
            )

    def _put_aside(self, step: int) -> None:
        folder = pathlib.Path(self._manager.directory)
        number = 0
        while (target := folder.with_name("damaged") / f"{step}.{number}").exists():
            number += 1
        target.parent.mkdir(exist_ok=True)
        (folder / str(step)).rename(target)
        self._manager.reload()

    def close(self) -> None:
        self._manager.close()


def _numbers(leaf: jax.Array) -> np.ndarray:
    """An array as it is kept: without a device, as that of the next process may be another."""
    return np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf)


def _abstract(leaf: jax.Array | jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    kept = jax.eval_shape(jax.random.key_data, leaf) if is_key(leaf) else leaf
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(kept.shape, kept.dtype, sharding=here)


def _like(leaf: jax.Array | jax.ShapeDtypeStruct, kept: jax.Array) -> jax.Array:
    """Return what was kept, as a key where `leaf` is one."""
    if not is_key(leaf):
        return kept
    kinds = []
    jax.eval_shape(lambda key: kinds.append(jax.random.key_impl(key)), leaf)  # which shapes alone do not have
    return jax.random.wrap_key_data(kept, impl=kinds[0])
