"""Plain types and pure helpers that everything else stands on. Imports no app and does no I/O."""
