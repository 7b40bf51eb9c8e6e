"""Plans what the next writer is asked, and joins its text to the answer so far. Pure."""
