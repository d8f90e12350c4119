"""Outgoing webhooks: what happens to incidents, told to programs. `signals.outgoing` writes it down; this sends it.

At least once, each delivery under one id and with one body however often it is sent. Of all workers one at a time
sends, to all webhooks at once: a slow or dead one holds up neither the others nor the loop.
"""
