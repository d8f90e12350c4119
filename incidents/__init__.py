"""CONCLUDE: resolve with a postmortem or escalate to people; and the console that shows it all."""
