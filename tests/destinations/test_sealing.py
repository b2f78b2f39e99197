"""Secrets at rest: what one key seals, all open; what is missing or malformed is named, and never shown."""

import pytest

from streams import settings
from streams.destinations import sealing
from streams.errors import ConfigurationError

OLD, NEW = sealing.new_key(), sealing.new_key()


def test_what_was_sealed_is_opened_again_and_is_not_the_text() -> None:
    sealed = sealing.seal(NEW, "whsec_ö")
    assert "whsec" not in sealed and sealing.unseal(NEW, sealed) == "whsec_ö"


def test_the_first_key_seals_and_all_open() -> None:
    before, both = sealing.seal(OLD, "a"), f"{NEW}, {OLD}"
    assert sealing.unseal(both, before) == "a"
    assert sealing.unseal(NEW, sealing.seal(both, "b")) == "b"


@pytest.mark.parametrize(
    ("keys", "sealed", "said"),
    [
        ("", "x", "LOYALTY_DESTINATION_KEYS is not set"),
        (NEW, sealing.seal(OLD, "a"), "LOYALTY_DESTINATION_KEYS lacks the key"),
        (NEW, "not sealed", "LOYALTY_DESTINATION_KEYS lacks the key"),
        (f"{NEW},secret-text", "x", "LOYALTY_DESTINATION_KEYS: key 2 is not 32 bytes"),
    ],
    ids=["missing", "sealed-with-another", "not-sealed", "malformed"],
)
def test_an_error_names_the_setting_and_no_key(keys: str, sealed: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as caught:
        sealing.unseal(keys, sealed)
    assert "secret-text" not in str(caught.value) and NEW not in str(caught.value)


def test_settings_are_checked_at_the_start() -> None:
    assert settings.load({"LOYALTY_HOME": "/nonexistent", "LOYALTY_DESTINATION_KEYS": f"{NEW},{OLD}"}).destination_keys == f"{NEW},{OLD}"
    with pytest.raises(ConfigurationError, match="LOYALTY_DESTINATION_KEYS: key 1 is not"):
        settings.load({"LOYALTY_HOME": "/nonexistent", "LOYALTY_DESTINATION_KEYS": "short"})
    assert NEW not in repr(settings.Settings(destination_keys=NEW))
