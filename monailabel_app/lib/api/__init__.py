"""The job API under /perturbox: what MONAI Label's own routes can't do - queue, progress, cancel, every result file."""

from lib.api.routes import install

__all__ = ["install"]
