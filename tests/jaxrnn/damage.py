"""Damaged files, and what may become of them: arrays or an error, never a crash."""

import pickle

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from jaxrnn import checkpoint_files

FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def assert_readable_or_refused(path):
    try:
        message = f"{path}: {len(checkpoint_files.read(path))} arrays"
    except (ValueError, pickle.UnpicklingError) as error:
        message = str(error)
    assert message.startswith(f"{path}: ")


def damage(data, content):
    """Cut a file short, or overwrite a few bytes of it."""
    content = bytearray(content)
    if data.draw(st.booleans()):
        return bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    return bytes(content)
