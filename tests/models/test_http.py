"""A classifier behind an address, against real servers: a decent one and all kinds of others."""

import itertools
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from email.utils import formatdate
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from robustkit import evaluate
from robustkit.errors import BadInput, DeviceLost, DoesNotFit, ShapeMismatch
from robustkit.models import fingerprint, load, needs_weights, parameter_count
from robustkit.models.http import RemoteLabels
from robustkit.models.http_client import TOKEN
from robustkit.randomness import Streams
from robustkit.threat_models import Access, Budget, Meter, Objective, Targeted, ThreatModel, grant
from robustkit.threat_models import load as threat
from tests.models.serving import (
    Act,
    Book,
    brightness,
    cuts_short,
    documented,
    hangs_up,
    says,
    serving,
    sleeps,
    trickles,
)

# A busy machine may leave any answer waiting: only what is about time-outs is impatient.
QUICK = "#pause=0.01,retries=2"
IMPATIENT = QUICK + ",timeout=0.4"


@pytest.fixture
def book() -> Iterator[Book]:
    """A running server of brightness."""
    with serving(Book()) as running:
        yield running


def images(n: int = 5, *, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    level = torch.linspace(0.05, 0.95, n)[:, None, None, None]
    return (level + 0.01 * torch.randn(n, 2, 3, 4, generator=generator)).clamp(0, 1)


def remote(book: Book, options: str = QUICK) -> RemoteLabels:
    model = load(book.url + options)
    assert isinstance(model, RemoteLabels)
    return model


def asked(book: Book) -> np.ndarray[Any, Any]:
    return np.concatenate(book.images)


def test_every_bit_arrives_and_labels_come_back_as_one_hot_rows(book: Book) -> None:
    model, inputs = remote(book), images()
    answers = model(inputs)
    assert answers.tolist() == np.eye(10)[brightness(inputs.numpy())].tolist()
    assert answers.dtype == torch.float32
    assert not answers.requires_grad
    assert np.array_equal(asked(book), inputs.numpy())
    assert book.images[0].dtype == np.dtype("<f4")


def test_nothing_is_sent_before_the_first_question(book: Book) -> None:
    model = remote(book)
    assert repr(model) == f"RemoteLabels('{book.url}')"
    assert (book.gets, book.times) == (0, [])
    model(images())
    model(images())
    assert (book.gets, len(book.times)) == (1, 2)


def test_the_server_of_the_documentation_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    names: dict[str, object] = {"classify": brightness}
    exec(documented(), names)
    import http.server
    import threading

    victim: type[http.server.BaseHTTPRequestHandler] = names["Victim"]  # type: ignore[assignment]
    monkeypatch.setattr(victim, "log_message", lambda *_: None)
    inputs = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with http.server.HTTPServer(("localhost", 0), victim) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        model = load(f"http://localhost:{server.server_port}")
        answers = model(inputs)
        server.shutdown()
        thread.join()
    assert answers.argmax(1).tolist() == brightness(inputs.numpy())


def test_padding_is_not_sent_and_repeated_questions_are(book: Book) -> None:
    model, inputs = remote(book), images(3)
    streams = Streams.of(seed=0, ids=torch.arange(3))
    meter = Meter(model, streams, width=4)
    repeated = inputs[[0, 1, 1, 2, 2, 2]]
    labels = grant(meter, Access.DECISION).labels(repeated, torch.tensor([0, 1, 1, 2, 2, 2]))
    assert labels.tolist() == brightness(repeated.numpy())
    assert [len(part) for part in book.images] == [4, 2]
    assert np.array_equal(asked(book), repeated.numpy())
    assert (meter.ledger.forward.tolist(), meter.ledger.rows_run) == ([1, 2, 3], 6)


@pytest.mark.parametrize("n", [1, 3])
def test_padding_is_not_judged(n: int, book: Book) -> None:
    model, inputs = remote(book), images(n)
    padded = torch.cat([inputs, inputs[-1:].expand(5, -1, -1, -1)])
    labels = torch.zeros(len(padded), dtype=torch.int64)
    verdict = decisions().judge(model, padded, padded, Objective(labels), labels)
    assert verdict.labels.tolist() == brightness(padded.numpy())
    assert np.array_equal(asked(book), inputs.numpy())


def test_what_is_no_number_is_not_sent(book: Book) -> None:
    model, inputs = remote(book), images(3)
    inputs[1, 0, 0, 0] = torch.nan
    inputs[2] = torch.inf
    answers = model(inputs)
    assert asked(book).shape[0] == 1
    assert answers.isnan().all(1).tolist() == [False, True, True]
    assert bool(model(inputs[1:]).isnan().all())
    assert len(book.images) == 1


@pytest.mark.parametrize(
    ("options", "offered", "sizes"),
    [
        ("#batch=2", None, [2, 2, 1]),
        ("#batch=4", 3, [3, 2]),
        ("", 4, [4, 1]),
        ("#rate=1000,batch=3", None, [3, 2]),
        ("#rate=4,batch=3", None, [3, 2]),
    ],
)
def test_batches_are_as_large_as_both_sides_allow(
    options: str, offered: int | None, sizes: list[int], book: Book
) -> None:
    book.description = {"classes": 10, "batch": offered}
    model, inputs = remote(book, options), images()
    assert model(inputs).argmax(1).tolist() == brightness(inputs.numpy())
    assert [count for _, count in book.times] == sizes


def test_large_images_travel_few_at_a_time(book: Book) -> None:
    inputs = torch.rand(3, 3, 400, 600, generator=torch.Generator().manual_seed(0))
    assert remote(book, "")(inputs).argmax(1).tolist() == brightness(inputs.numpy())
    assert [count for _, count in book.times] == [1, 1, 1]


def test_a_rate_is_kept_whatever_the_batch(book: Book) -> None:
    model = remote(book, "#rate=50,batch=5")
    model(images(25))
    starts = [start for start, _ in book.times]
    assert len(starts) == 5
    assert all(later - before >= 0.095 for before, later in itertools.pairwise(starts))
    assert remote(book, "#rate=3").batch == 3


def test_processes_share_a_rate(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    model = remote(book, "#rate=50,batch=5")
    model(images(15))
    starts = [start for start, _ in book.times]
    assert len(starts) == 3
    assert all(later - before >= 0.195 for before, later in itertools.pairwise(starts))
    assert remote(book, "#rate=6").batch == 3
    for odd in ("", "0", "two"):
        monkeypatch.setenv("WORLD_SIZE", odd)
        assert remote(book, "#rate=6").batch == 6


PASSING: list[Act] = [
    hangs_up,
    cuts_short,
    says(b"busy", status=503),
    says(b"slow down", status=429, Retry_After="0"),
    says(b"", status=500),
    sleeps(0.6),
    trickles,
]


@pytest.mark.parametrize("act", PASSING, ids=range(len(PASSING)))
def test_a_failure_that_passes_is_tried_again_as_one_query(act: Act, book: Book) -> None:
    model, inputs = remote(book, IMPATIENT), images()
    streams = Streams.of(seed=0, ids=torch.arange(5))
    meter = Meter(model, streams, queries=1)
    view = grant(meter, Access.DECISION)
    book.acts = [act]
    start = time.monotonic()
    assert view.labels(inputs).tolist() == brightness(inputs.numpy())
    # The slowest would take five seconds.
    assert time.monotonic() - start < 4
    assert view.spent.tolist() == [1] * 5
    assert len(book.times) == 2
    assert np.array_equal(book.images[0], book.images[1])


def test_a_server_that_goes_away_is_lost_after_so_many_tries(book: Book) -> None:
    model = remote(book, "#pause=0.1,timeout=0.4,retries=2")
    model(images())
    book.times.clear()
    book.acts = [says(b"<b>down</b>", status=503)] * 9
    with pytest.raises(DeviceLost, match=r"3 tries.*status 503, '<b>down</b>'") as raised:
        model(images())
    assert raised.value.exit_code == 4
    assert len(book.times) == 3
    pauses = np.diff([start for start, _ in book.times])
    assert pauses[0] >= 0.1
    assert pauses[1] >= 0.2


@pytest.mark.parametrize("later", [lambda: "1", lambda: formatdate(time.time() + 2, usegmt=True)])
def test_a_server_may_ask_for_patience(later: Callable[[], str], book: Book) -> None:
    book.acts = [says(b"", status=429, Retry_After=later())]
    start = time.monotonic()
    remote(book)(images())
    # Dates are told in whole seconds.
    assert time.monotonic() - start >= 0.95


def test_there_is_no_such_server() -> None:
    with serving(Book()) as gone:
        pass
    start = time.monotonic()
    with pytest.raises(BadInput, match=r"cannot be reached: ConnectionRefused.*running\?"):
        load(gone.url)(images())
    assert time.monotonic() - start < 0.4


WRONG: list[tuple[Act, str]] = [
    (lambda _: [1, 2], "asked about 5 images and answered 2 labels"),
    (lambda _: [1] * 6, "answered 6 labels"),
    (lambda _: [1, 2, 3, 4, 10], "answered the label '10'; labels are integers from 0 to 9"),
    (lambda _: [1, 2, 3, 4, -1], "answered the label '-1'"),
    (lambda _: [1, 2, 3, 4, 2.0], "answered the label '2.0'"),
    (lambda _: [1, 2, 3, 4, True], "answered the label 'True'"),
    (lambda _: [1, 2, 3, 4, None], "answered the label 'None'"),
    (lambda _: [1, 2, 3, 4, "3"], "answered the label '3'"),
    (lambda _: [1, 2, 3, 4, math.nan], "answered the label 'nan'"),
    (lambda _: [1, 2, 3, 4, [3]], "answered the label"),
    (says(b'{"labels": 3}'), "no list of labels"),
    (says(b"[1, 2, 3, 4, 5]"), "not JSON such as"),
    (says(b"{}"), "not JSON such as"),
    (says(b""), "answered no body"),
    (says(b"<html>\x1b[31mSorry</html>"), r"answered '<html>\\x1b\[31mSorry"),
    (says(b"\xff\xfe\x00"), "not JSON"),
    (says(b"[" * 100_000), "not JSON"),
    (says(b'{"labels": [' + b"1" * 10_000 + b"]}"), "not JSON"),
    (says(b" " * 3_000_000), "more than 1,048,576 bytes"),
    (says(b"", status=302, Location="http://elsewhere/"), "redirects to 'http://elsewhere/'"),
    (says(b"gone", status=404), "refuses with status 404: 'gone'"),
    (says(b"who?", status=401), "status 401.*ROBUSTKIT_HTTP_TOKEN"),
    (says(b"", status=413), "#batch=16"),
    (says(b'{"labels": [1, 2, 3, 4, 5]}', status=201), "status 201"),
]


@pytest.mark.parametrize(("act", "said"), WRONG, ids=range(len(WRONG)))
def test_wrong_answers_are_told_and_not_asked_for_again(act: Act, said: str, book: Book) -> None:
    book.acts = [act]
    model = remote(book)
    with pytest.raises(BadInput, match=said) as raised:
        model(images())
    assert "\x1b" not in str(raised.value)
    assert len(book.times) == 1
    # The same of a server that has answered well: the run can go on later.
    assert remote(book)(images()).shape == (5, 10)
    trusted = remote(book)
    trusted(images())
    book.acts = [act]
    with pytest.raises(DeviceLost, match=said):
        trusted(images())
    assert trusted(images()).shape == (5, 10)


@pytest.mark.parametrize(
    ("description", "said"),
    [
        ({"classes": "ten"}, "says that classes is 'ten'; it must be an integer"),
        ({"classes": 0}, "classes is '0'"),
        ({"classes": True}, "classes is 'True'"),
        ({"classes": 10**9}, "classes is '1000000000'"),
        ({"classes": 10, "shape": [8, 8]}, "shape is"),
        ({"classes": 10, "shape": [1, 8, 0]}, "shape is"),
        ({"classes": 10, "batch": 0.5}, "batch is"),
        ({"classes": 10, "name": 3}, "name is '3'; it must be a string"),
        ({"classes": 10, "shape": [3, 3, 4]}, "takes images of 3 x 3 x 4, not of 2 x 3 x 4"),
        ({}, "does not say how many classes.*#classes=10"),
        (None, "does not say how many classes"),
        (says(b"<html>"), "does not say how many classes"),
        (says(b"", status=301, Location="/v2"), "redirects to '/v2'"),
        (says(b"", status=403), "status 403"),
    ],
)
def test_descriptions_that_do_not_serve(description: object, said: str, book: Book) -> None:
    book.description = description
    with pytest.raises(BadInput, match=said):
        remote(book)(images())
    assert book.times == []


@pytest.mark.parametrize("description", [None, {}, says(b"<html>"), says(b"", status=501)])
def test_a_server_need_not_describe_itself(description: object, book: Book) -> None:
    book.description = description
    assert remote(book, "#classes=12")(images()).shape == (5, 12)


def test_the_server_and_the_caller_must_agree(book: Book) -> None:
    with pytest.raises(BadInput, match="10 classes, and classes=12 was given"):
        remote(book, "#classes=12")(images())


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("http:", "robustkit show http"),
        ("http://", "no address"),
        ("http://:80", "no address"),
        ("http://host:port", "no address"),
        ("http://host:99999", "no address"),
        ("http://[::1", "no address"),
        ("http://ho st", "no address"),
        ("http://host/\u00e9", "no address"),
        ("http://host/\x7f", "no address"),
        ("http://a..b", "no address: .*part of its name is empty"),
        (f"https://{'a' * 70}.org", "no address: .*part of its name is empty"),
        ("http://me:secret@host", "ROBUSTKIT_HTTP_TOKEN"),
        ("http://me:secret@a..b", "ROBUSTKIT_HTTP_TOKEN"),
        ("http://host#colour=3", "'colour=3' is no option.*classes, batch, rate"),
        ("http://host#3", "'3' is no option"),
        ("http://host#rate", "'rate' is not allowed: rate is a number"),
        ("http://host#rate=0", "'rate=0' is not allowed"),
        ("http://host#rate=nan", "'rate=nan' is not allowed"),
        ("http://host#timeout=inf", "'timeout=inf' is not allowed"),
        ("http://host#batch=1.5", "batch is a whole number from 1 to 100,000"),
        ("http://host#retries=-1", "retries is a whole number from 0 to 1,000"),
        ("http://host#retries=1025", "retries is a whole number from 0 to 1,000"),
        ("http://host#timeout=1e12", "timeout is a number from 0.001 to 86,400"),
        ("http://host#pause=61", "pause is a number from 0 to 60"),
        ("http://host#classes=100001", "classes is a whole number from 1 to 100,000"),
        ("https://host#retries=x", "'retries=x' is not allowed"),
    ],
)
def test_addresses_and_options_that_are_none(spec: str, said: str) -> None:
    with pytest.raises(BadInput, match=said) as raised:
        load(spec)
    assert "secret" not in str(raised.value)


def test_no_weights_can_be_given() -> None:
    assert not needs_weights("http://localhost:8000")
    with pytest.raises(BadInput, match="no weights can be loaded"):
        load("http://localhost:8000", weights="weights.pt")  # type: ignore[arg-type]


def test_the_options_are_not_sent_and_the_query_is(book: Book) -> None:
    model = load(f"{book.url}/v1/classify?key=7#retries=1")
    model(images())
    assert book.path == "/v1/classify?key=7"
    assert "Authorization" not in book.headers
    assert model.url == f"{book.url}/v1/classify?key=7"


def test_a_token_comes_from_the_environment(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN, "s3cret")
    model = remote(book)
    model(images())
    assert book.headers["Authorization"] == "Bearer s3cret"
    assert "s3cret" not in repr(vars(model))
    monkeypatch.setenv(TOKEN, "two\r\nlines")
    with pytest.raises(BadInput, match="holds no token"):
        model(images())


def test_what_identifies_a_deployed_model(book: Book) -> None:
    first = fingerprint(remote(book))
    assert len(first) == 64
    assert first == fingerprint(remote(book, "#rate=9,retries=3,batch=2"))
    assert parameter_count(remote(book)) is None
    others = {fingerprint(load(book.url + "/v2"))}
    for change in ({"name": "b"}, {"version": "2"}, {"classes": 9}, {"shape": [2, 3, 4]}):
        book.description = {"classes": 10, **change}
        others.add(fingerprint(remote(book)))
    assert len(others - {first}) == 5
    book.description = {"classes": 10, "batch": 7, "uptime": 3}
    assert fingerprint(remote(book)) == first


def test_images_of_another_kind_are_refused(book: Book) -> None:
    with pytest.raises(ShapeMismatch, match=r"not \(5, 24\)"):
        remote(book)(images().flatten(1))
    with pytest.raises(ShapeMismatch, match="N > 0"):
        remote(book)(images()[:0])
    assert book.times == []


def decisions(queries: int = 60, *, norm: str = "l2") -> ThreatModel:
    return replace(threat(f"{norm}-decision"), budget=Budget(queries=queries))


LABELS = torch.tensor([0, 2, 5, 7, 9])


@pytest.mark.parametrize("name", ["linf", "l2", "score", "targeted:second"])
def test_what_needs_more_than_labels_is_refused_before_anything_is_sent(
    name: str, book: Book
) -> None:
    adversary = {
        "linf": threat("linf"),
        "l2": threat("l2"),
        "score": replace(threat("l2"), access=Access.SCORE),
        "targeted:second": replace(decisions(), goal=Targeted("second")),
    }[name]
    with pytest.raises(DoesNotFit, match="labels and nothing else"):
        evaluate(remote(book), (images(), LABELS), adversary)
    with pytest.raises(DoesNotFit):
        evaluate(remote(book), (images(), LABELS), decisions(), attacks=["pgd"])
    assert (book.gets, book.times) == (0, [])


@pytest.mark.parametrize("access", [Access.SCORE, Access.GRADIENT])
def test_no_view_of_it_grants_more_than_labels(access: Access, book: Book) -> None:
    meter = Meter(remote(book), Streams.of(seed=0, ids=torch.arange(2)))
    with pytest.raises(DoesNotFit, match="grants decision access"):
        grant(meter, access)
    assert grant(meter, Access.DECISION).labels(images(2)).tolist() == [0, 9]
    assert book.gets == 1


@pytest.mark.parametrize(("norm", "attack"), [("l2", "cgba"), ("linf", "rays")])
def test_an_evaluation_asks_what_it_says_it_asks(norm: str, attack: str, book: Book) -> None:
    inputs, adversary = images(), decisions(norm=norm)
    report = evaluate(remote(book), (inputs, LABELS), adversary, attacks=[attack])
    assert report.clean_accuracy.value == np.mean(brightness(inputs.numpy()) == LABELS.numpy())
    guards = report.diagnostics["guards"]
    assert isinstance(guards, dict)
    assert sum(count for _, count in book.times) == report.cost.forward + guards["forward"]
    assert guards == {"forward": 22, "backward": 0}
    assert [flag.id for flag in report.flags] == ["F11", "deployed-model"]
    assert report.model.parameters is None
    assert report.model.sha256 == remote(book).identity
    assert report.environment.width == 64
    assert json.loads(report.to_json())["model"]["parameters"] is None


def test_a_server_that_changes_its_mind_is_flagged(book: Book) -> None:
    book.acts = [lambda _: [0] * 5, lambda _: [1] * 5]
    report = evaluate(remote(book), (images(), LABELS), decisions(3), attacks=["cgba"])
    assert "F1" in [flag.id for flag in report.flags]
