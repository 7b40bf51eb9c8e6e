"""Which tokens may come next in an answer of a given form. Knows tokens and grammars, but nothing
of logits, sampling or backends."""
