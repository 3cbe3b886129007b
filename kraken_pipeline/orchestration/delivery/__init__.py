"""The delivery of steps to processes of their own, above all those of Celery's workers.

It says who submits them, who takes them, and what the history says of them.
"""
