"""Helpers of the tests: homes, archives, exchanges, servers, browsers, processes and the command line."""
