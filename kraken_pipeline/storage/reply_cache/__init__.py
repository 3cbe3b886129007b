"""The reply cache: replies of the exchange in memory, in a file on the machine, and in Redis."""
