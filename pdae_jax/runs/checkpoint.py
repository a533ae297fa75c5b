"""Orbax checkpoints of the loop's state, in a folder; nothing is pickled."""

import pathlib
from typing import Any

import jax


class Checkpoints:
    """The checkpoints of one run: saved by step, the latest restored bit for bit, optimizer state included."""

    def __init__(self, folder: pathlib.Path, *, keep: int = 2):
        # imported here: `import pdae_jax` must not pull in a checkpoint library
        import orbax.checkpoint as ocp

        self._ocp = ocp
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=False)
        self._manager = ocp.CheckpointManager(folder.resolve(), options=options)

    def latest_step(self) -> int | None:
        """Step of the newest complete checkpoint, None if there is none."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any) -> None:
        """Write a pytree; an existing checkpoint of this step is left as it is."""
        if step not in self._manager.all_steps():
            self._manager.save(step, args=self._ocp.args.StandardSave(state))
            self._manager.wait_until_finished()

    def restore(self, like: Any) -> Any:
        """The newest checkpoint, in the structure, shapes and types of `like`.

        Raises:
            FileNotFoundError: there is no complete checkpoint.
        """
        step = self.latest_step()
        if step is None:
            raise FileNotFoundError(f"No checkpoint in {self._manager.directory}. Run the fit with this folder first.")
        abstract = jax.tree.map(_abstract, like)
        return self._manager.restore(step, args=self._ocp.args.StandardRestore(abstract))

    def close(self) -> None:
        self._manager.close()


def _abstract(leaf: jax.Array) -> jax.ShapeDtypeStruct:
    # with its sharding: a checkpoint written on one machine is read on another
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
