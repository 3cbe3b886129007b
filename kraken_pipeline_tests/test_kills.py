"""A few kills of the campaign: a killed worker, broker or server of the database costs time, and no claim is false.

They run as production does: steps on Celery's workers, RabbitMQ as the broker, catalog and history in PostgreSQL.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from chaos.kills import VICTIMS, Ground, Kill, ground, kill_of
from kraken_pipeline_tests.support.fixtures import need
from kraken_pipeline_tests.support.servers import PostgreSQL, RabbitMQ

pytestmark = [pytest.mark.slow, pytest.mark.process, pytest.mark.servers]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """Archives and servers; what Celery's workers leave undisturbed is what one process leaves."""
    need(PostgreSQL)
    need(RabbitMQ)
    with ground(tmp_path_factory.mktemp("kills"), series=6, workers=1) as made:
        made.prepare(("celery",))
        yield made


@pytest.mark.parametrize(
    "kill", [Kill(1, 0, "celery", "worker", 0.5, 0), Kill(1, 1, "celery", "broker", 0.4, 0.5)], ids=str
)
def test_what_is_killed_is_made_up_for(prepared: Ground, kill: Kill) -> None:
    result = prepared.tried(kill)
    assert not result.wrong, f"{result.wrong}\n{result.said}"
    assert result.end == "complete", result.said


def test_a_server_of_the_database_that_is_killed_leaves_what_the_same_command_completes(prepared: Ground) -> None:
    result = prepared.tried(Kill(1, 2, "celery", "database", 0.6, 0.2))
    assert not result.wrong, f"{result.wrong}\n{result.said}"


def test_a_seed_decides_what_is_killed_and_each_kind_comes_once_in_a_round() -> None:
    kinds = [(executor, victim) for executor, victims in VICTIMS.items() for victim in victims]
    kills = [kill_of(7, number) for number in range(len(kinds))]
    assert [(kill.executor, kill.victim) for kill in kills] == kinds
    assert kills == [kill_of(7, number) for number in range(len(kinds))]
    assert {kill.share for kill in kills}.isdisjoint({kill_of(8, number).share for number in range(len(kinds))})
