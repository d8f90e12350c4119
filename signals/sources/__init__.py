"""One file a source. Each defines `SOURCE` (see `signals.source`) and is found by the registry."""
