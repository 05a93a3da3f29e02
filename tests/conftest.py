"""The order of the tests, and what one must not leave to the next."""

import sys

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest test begins first, or the other workers would wait for it at the end."""
    items.sort(key=lambda item: "test_end_to_end" not in item.nodeid)


@pytest.fixture(autouse=True)
def _no_state_of_accelerate():
    """Accelerate keeps the precision of the first training of a process."""
    yield
    if state := sys.modules.get("accelerate.state"):
        state.AcceleratorState._reset_state(reset_partial_state=True)
