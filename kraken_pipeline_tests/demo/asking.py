"""How the tests of the demo exchange talk to it: over HTTP, as any client does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode
from urllib.request import ProxyHandler, build_opener

from kraken_pipeline.demo.exchange import DemoExchange

# A proxy in the environment is not for the loopback.
_OPENER = build_opener(ProxyHandler({}))
PATIENCE_S = 30


def ask(exchange: DemoExchange, endpoint: str, **params: object) -> Any:
    """The `result` of a reply that is no error."""
    reply = ask_for_reply(exchange, endpoint, **params)
    assert reply["error"] == []
    return reply["result"]


def ask_for_error(exchange: DemoExchange, endpoint: str, **params: object) -> str:
    """The code of a reply that is an error, in the form that Kraken gives it."""
    reply = ask_for_reply(exchange, endpoint, **params)
    assert list(reply) == ["error"], "an error comes without a result"
    (code,) = reply["error"]
    return str(code)


def ask_for_reply(exchange: DemoExchange, endpoint: str, **params: object) -> Mapping[str, Any]:
    """A whole reply."""
    with _OPENER.open(f"{exchange.url}/0/public/{endpoint}?{urlencode(params)}", timeout=PATIENCE_S) as response:
        assert response.status == 200
        reply: Mapping[str, Any] = json.load(response)
        return reply
