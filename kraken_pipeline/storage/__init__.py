"""The stores: lake, catalog, QuestDB, locks, reply cache. Each is small and passed in; none makes decisions."""
