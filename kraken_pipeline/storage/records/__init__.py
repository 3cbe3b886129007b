"""The catalog's records: files and their grants, gaps, proof, damage, withdrawals and the outbox."""
