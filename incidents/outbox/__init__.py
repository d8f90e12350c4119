"""The outbox: what people have to be told is written in the transaction that makes it necessary, and then sent.

At least once, and recognised: every delivery carries an id. Before an attempt it is committed as `sending`, with where
it goes; one that was begun is *probed* (has it arrived?) before it is sent again. What is told of one trouble through
one channel keeps its order, so that the second finds what the first has opened.
"""
