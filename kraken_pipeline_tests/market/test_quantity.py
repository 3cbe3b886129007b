"""Numbers with their nouns."""

from __future__ import annotations

from kraken_pipeline.market.quantity import quantity


def test_one_has_the_singular_and_every_other_number_the_plural() -> None:
    assert [quantity(count, "gap") for count in (0, 1, 2, 1_204)] == ["0 gaps", "1 gap", "2 gaps", "1,204 gaps"]
    assert [quantity(count, "reply is", "replies are") for count in (1, 2)] == ["1 reply is", "2 replies are"]
