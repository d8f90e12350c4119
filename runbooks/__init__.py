"""DIAGNOSE, ACT, VERIFY: which runbook fits, what it would do, whether it may, doing it, and looking whether it helped.

What changes infrastructure is in `runbooks.actions` and nowhere else.
"""
