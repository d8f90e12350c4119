"""What sources and runbooks can meet in a cluster, so that together they make every call that they may make.

One file of its name for each that reaches into one, with `SCENES`. A runbook's are called with the stand-in API server
and the clock, a source's with the server alone.
"""
