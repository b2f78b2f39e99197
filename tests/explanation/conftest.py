"""What a person does not wait for, a test on a busy machine does."""

from collections.abc import Iterator

import pytest

from streams.explanation import log, sources

PATIENCE_S = 180


@pytest.fixture(scope="module")
def patience() -> Iterator[None]:
    """Sources are waited for as long as it takes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "ANSWER_S", PATIENCE_S)
        patch.setattr(log, "READ_S", PATIENCE_S)
        patch.setattr(log, "ASK_TIMEOUT_S", 30)
        yield
