"""The assets: of each tier, in QuestDB, the health of the pipeline, and the sources."""
