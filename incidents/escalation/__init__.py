"""The ways in which people are told. A channel is one file that defines `CHANNEL`, found by the registry.

`channel.py` has the contract. What is told is written in `letter.py` from the record alone, and turned into a channel's
own form by the writers beside it. When and how often is none of a channel's business: see `incidents.outbox`.
"""
