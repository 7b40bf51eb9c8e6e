"""The IO of cloud providers: connections, streams of bytes, and how these are cut into events.

Knows nothing of dialects, answers and routes. httpcore2, the engine of httpx2, does HTTP/1.1 and
the pool. Ours are the sockets below it, which another thread can end, deadlines that may move
while a stream runs, connections opened ahead, and names resolved within a time limit.
"""
