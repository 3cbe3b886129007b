"""What the catalog has on record: files and their answers, gaps, proof, damage, what was taken back, the outbox."""
