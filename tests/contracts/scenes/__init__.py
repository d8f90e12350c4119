"""What sources and runbooks can meet in a cluster, so that together they make every call that they may make.

One file of its name for each that reaches into one, with `SCENES`. A runbook's are called with the stand-in API server
and the clock, a source's with the server alone.

A runbook's has also `trouble(cluster)`, for tests/crash: it sets up what the runbook can cure, with somebody to play
the controllers, and returns the reading that tells of it. `LEAVES_NO_MARK` says that the cluster forgets which action
has changed it, so that after a crash nobody can tell any more.
"""
