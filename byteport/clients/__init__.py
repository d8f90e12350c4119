"""Reading infrastructure, and only reading. What changes it is in `runbooks.actions`."""
