"""Plans the request to the next writer, and joins its text to the answer so far. Pure."""
