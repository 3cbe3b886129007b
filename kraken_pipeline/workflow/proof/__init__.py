"""Proof from outside the lake: trades counted by their ids, and fresh replies compared with what is stored."""
