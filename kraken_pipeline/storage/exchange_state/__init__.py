"""What all processes know of the exchange together: request rate, circuit breaker, counts, listings, incidents."""
