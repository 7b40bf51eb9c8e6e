"""The IO of cloud providers: connections, streams, keys."""
