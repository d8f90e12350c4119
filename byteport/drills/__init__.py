"""Drills: a real trouble of BytePort's own making, for the real loop to treat. One file a signal.

A drill can touch only what it made itself, so it acts whatever the global dry-run says.
"""
