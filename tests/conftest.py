"""The order of the tests."""

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest test begins first, or the other workers would wait for it at the end."""
    items.sort(key=lambda item: "test_end_to_end" not in item.nodeid)
