"""Which tokens may come next in an answer with a response format. Knows tokens and grammars, but
nothing of logits, sampling or backends."""
