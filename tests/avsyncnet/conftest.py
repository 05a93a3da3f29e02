"""Fixtures of this room; their makers stand in the factories."""

from stage1_factory import fine_tuned, prepared, pretrained  # noqa: F401
from toy_factory import toy_corpus  # noqa: F401
