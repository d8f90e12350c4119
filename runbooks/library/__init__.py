"""One file a runbook. Each defines `RUNBOOK` (see `runbooks.runbook`) and is found by the registry."""
