"""The typed actions and the fence around them: the only place that changes anything outside of BytePort.

Each file defines `ACTIONS`, a tuple found by the registry (see `runbooks.action`).
"""
