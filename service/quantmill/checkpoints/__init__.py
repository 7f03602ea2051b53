"""Checkpoints: model folders, read without trusting them."""

from quantmill.checkpoints.folder import Checkpoint, open_checkpoint

__all__ = ["Checkpoint", "open_checkpoint"]
