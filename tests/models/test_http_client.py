"""How long a deployed classifier is left alone before it is asked once more."""

import pytest

from robustkit.errors import BadInput
from robustkit.models.http_client import Client, Manners, Reply


def test_retries_without_a_pause_have_no_end_in_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client("http://localhost:9", Manners(retries=2000, pause=0.0))
    monkeypatch.setattr(client, "_once", lambda *_: Reply(503, {}, b"down"))
    with pytest.raises(BadInput, match="2001 tries"):
        client.get()


@pytest.mark.parametrize(
    ("asked_for", "slept"),
    [
        ("3600", 60),
        ("Fri, 01 Jan 2100 00:00:00 GMT", 60),
        ("Fri Jan  1 00:00:00 2100", 60),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        ("soon", 0),
        ("-5", 0),
        ("9" * 500, 60),
        ("Fri, 01 Jan 2100 00:00:00 +99999999999999999999", 0),
    ],
)
def test_patience_has_an_end(asked_for: str, slept: float, monkeypatch: pytest.MonkeyPatch) -> None:
    naps: list[float] = []
    monkeypatch.setattr("robustkit.models.http_client.time.sleep", naps.append)
    client = Client("http://localhost:9", Manners(retries=1, pause=0))
    monkeypatch.setattr(client, "_once", lambda *_: Reply(503, {"retry-after": asked_for}, b""))
    with pytest.raises(BadInput, match="2 tries"):
        client.get()
    assert naps == [0, slept]
