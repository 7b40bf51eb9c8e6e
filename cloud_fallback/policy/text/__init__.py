"""What policies detect in an answer's text: loops, leaks, foreign scripts, refusals. Pure."""
