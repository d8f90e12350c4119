"""BytePort's own application: settings, the loop, its queue and its entry points."""
