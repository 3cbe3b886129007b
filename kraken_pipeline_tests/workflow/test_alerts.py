"""Alerts: each is told once when its cause begins and once when it ends, to everybody who is to know."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from kraken_pipeline.errors import InvalidSettings, StoreUnavailable
from kraken_pipeline.logs import HIDDEN, secrets_of
from kraken_pipeline.storage.catalog import schema
from kraken_pipeline.storage.stores import Stores, create_stores
from kraken_pipeline.workflow.alerts.alert import LISTED, Alert, Finding, Message, message_to, settled, told
from kraken_pipeline.workflow.alerts.sending import addresses_of, send
from kraken_pipeline.workflow.alerts.telling import tell
from kraken_pipeline_tests.support.homes import settings_of
from kraken_pipeline_tests.support.receivers import HUNTER, WARNINGS, Received, mail_server, webhook

pytestmark = [pytest.mark.slow, *WARNINGS]

DISK = Finding("health:space", "1.0 GiB free: make space before the next large archive")
RUN = Finding("run:ingest", "run 12345678 failed")


@pytest.fixture
def hook() -> Iterator[Received]:
    with webhook() as found:
        yield found


@pytest.fixture
def mail() -> Iterator[Received]:
    with mail_server() as found:
        yield found


@pytest.fixture
def told_to(home: Path, hook: Received, mail: Received) -> Iterator[Stores]:
    with closing(create_stores(settings_of(home, kraken_alert_urls=f"{hook.url}  {mail.url}"))) as stores:
        yield stores


def kept(stores: Stores) -> list[str]:
    with stores.catalog.read() as connection:
        return list(connection.scalars(sa.select(schema.alerts.c.name).order_by(schema.alerts.c.name)))


def test_one_mail_and_one_webhook_at_the_beginning_and_at_the_end(
    told_to: Stores, hook: Received, mail: Received
) -> None:
    for now, found, sent in ((1, [DISK], 2), (2, [DISK], 0), (3, [], 2), (4, [], 0), (5, [DISK], 2)):
        done = tell(told_to, found, ("health",), now)
        assert (done.sent, done.failed) == (sent, ())
        assert [alert.name for alert in done.wrong] == [finding.name for finding in found]
    begun = ("kraken-pipeline: health:space", f"Begun:\n- health:space: {DISK.sentence}")
    over = ("kraken-pipeline: over: health:space", f"Over:\n- health:space: {DISK.sentence}")
    for received in (hook, mail):
        assert [(title, text.strip()) for title, text in received.messages] == [begun, over, begun]
    assert kept(told_to) == ["health:space"]


def test_whoever_does_not_accept_a_message_gets_it_later_and_nobody_gets_it_twice(
    told_to: Stores, hook: Received, mail: Received
) -> None:
    hook.is_refusing = True
    first = tell(told_to, [DISK], ("health",), 1)
    assert (first.sent, first.failed) == (1, ("the message was not accepted over json",))
    assert hook.refused >= 1
    hook.is_refusing = False
    assert tell(told_to, [DISK], ("health",), 2).sent == 1
    assert tell(told_to, [DISK], ("health",), 3).sent == 0
    assert (len(hook.messages), len(mail.messages)) == (1, 1)


def test_an_end_is_told_only_to_those_who_know_of_the_beginning(
    told_to: Stores, hook: Received, mail: Received
) -> None:
    hook.is_refusing = True
    tell(told_to, [DISK], ("health",), 1)
    hook.is_refusing = False
    assert tell(told_to, [], ("health",), 2).sent == 1
    assert hook.messages == []
    assert [title for title, _ in mail.messages] == [
        "kraken-pipeline: health:space",
        "kraken-pipeline: over: health:space",
    ]
    assert kept(told_to) == []


def test_a_look_at_one_kind_ends_no_alert_of_another(told_to: Stores, hook: Received) -> None:
    tell(told_to, [DISK, RUN], ("health", "run"), 1)
    tell(told_to, [], ("run",), 2)
    assert kept(told_to) == ["health:space"]
    assert [title for title, _ in hook.messages] == [
        "kraken-pipeline: health:space, and 1 more",
        "kraken-pipeline: over: run:ingest",
    ]


def test_what_comes_back_before_its_end_was_told_is_the_same_alert() -> None:
    alert = Alert(DISK.name, DISK.sentence, 1, told=frozenset({"a", "b"}))
    over = settled([alert], [], ("health",), 2)[DISK.name]
    assert over.ended_at == 2
    message = message_to("a", [over])
    assert message == Message((), (over,))
    (known,) = told([over], "a", message).values()
    back = settled([known], [DISK], ("health",), 3)[DISK.name]
    assert (back.began_at, back.ended_at, back.told) == (1, None, frozenset({"b"}))
    assert message_to("a", [back]) == Message((back,), ())
    assert message_to("b", [back]) is None


def test_a_long_message_names_the_first_alerts_and_counts_the_others() -> None:
    alerts = settled([], [Finding(f"run:{number:03}", "failed") for number in range(LISTED + 5)], ("run",), 1)
    message = message_to("a", alerts.values())
    assert message is not None
    assert message.text.count("\n") == LISTED + 1
    assert message.text.endswith("- and 5 more: kraken-pipeline alerts check")


def test_addresses_are_told_apart_and_never_said(
    told_to: Stores, hook: Received, mail: Received, caplog: pytest.LogCaptureFixture, home: Path
) -> None:
    addresses = addresses_of(told_to.settings)
    assert list(addresses.values()) == [hook.url, mail.url]
    hook.is_refusing = True
    done = tell(told_to, [DISK], ("health",), 1)
    with pytest.raises(InvalidSettings) as wrong:
        send(f"nonsense://{HUNTER}", "title", "text")
    with pytest.raises(StoreUnavailable) as away:
        send(f"json://me:{HUNTER}@127.0.0.1:9/x", "title", "text")
    said = [*done.failed, str(wrong.value), str(away.value), caplog.text, hook.all, mail.all, repr(told_to.settings)]
    assert HUNTER not in "\n".join(said)
    masked = secrets_of(told_to.settings).hide(f"sending to {mail.url} and {hook.url}, {HUNTER}")
    assert masked == f"sending to {HIDDEN} and {HIDDEN}, {HIDDEN}"
    for file in home.glob("catalog.sqlite*"):
        assert HUNTER.encode() not in file.read_bytes()
