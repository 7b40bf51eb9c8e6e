"""What policies see in an answer's text: loops, leaks, foreign scripts, refusals. Pure."""
