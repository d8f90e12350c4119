"""PostgreSQL: which servers there are, how each is reached, and the reader, which sends nothing but its own reads."""
