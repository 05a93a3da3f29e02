"""What every script does before its own work."""

import pytest
from hydra import compose, initialize_config_dir

from synctalklip.cli import CONFIGS, RENAMED, refuse_renamed
from synctalklip.errors import SyncTalklipError


@pytest.mark.parametrize(("old", "name"), RENAMED.items())
def test_a_key_of_an_earlier_version_is_refused_by_name(old, name):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        composed = compose("train_generator", ["expert.path=x"])
        refuse_renamed(composed)
        # What a config file of the user's own can add.
        added = compose("train_generator", ["expert.path=x", f"+{old}=1"])
    with pytest.raises(SyncTalklipError, match=rf"^{old} is called {name}: rename it"):
        refuse_renamed(added)
