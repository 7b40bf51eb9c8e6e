"""The IO of cloud providers: connections, streams of bytes, and how these are cut into events.

Knows nothing of dialects, answers and routes. httpcore2, the engine of httpx2, does HTTP/1.1 and
the pool; what is ours is below and above it: sockets that another thread can end, deadlines that
may move while a stream runs, connections opened ahead, names looked up within a time limit.
"""
