"""The state of the exchange shared by all processes: request rate, circuit breaker, counts, pairs listed, incidents."""
