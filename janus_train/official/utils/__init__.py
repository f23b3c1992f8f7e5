"""Helpers of the official package."""

from __future__ import annotations

from janus_train.official.utils import io

__all__ = ["io"]
