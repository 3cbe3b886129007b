"""Alerts: each is sent once when its cause begins and once when it ends."""
