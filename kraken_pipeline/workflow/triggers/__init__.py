"""Triggers: decide whether there is anything to do, for the sensors and schedules that ask; they start nothing."""
