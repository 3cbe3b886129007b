"""The chaos campaign: a small world whose every candle is known is damaged on purpose, and every claim is checked.

`python -m chaos` kills, fills disks, flips bytes, deletes files and replaces sources, each try on a fresh copy of one
home, and prints what came of it. `playground` makes the homes and runs commands, `claims` compares what is said with
what happened, `tries` are the kinds of damage, `campaign` chooses among them within the time that there is.
"""
