"""Ingesting archives: scanning folders, and turning files into candles and coverage."""
