"""Hosts: how each is reached (one file a way), and the reader, which sends nothing but reading verbs."""
