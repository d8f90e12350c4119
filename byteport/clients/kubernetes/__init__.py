"""Clusters: which there are and how each is reached, and the reading client, which sends nothing but GET.

`Wire` is the one place from which a request leaves; what changes a cluster stands in `runbooks.actions`.
"""
