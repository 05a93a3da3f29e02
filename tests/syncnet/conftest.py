"""Fixtures of this room; their makers stand in the factories."""

from toy_factory import toy_corpus  # noqa: F401
