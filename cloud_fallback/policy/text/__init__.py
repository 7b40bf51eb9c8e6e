"""What the policies see in the text of an answer: loops, leaks, scripts, refusals. Pure."""
