"""The IO of cloud providers: connections, streams of bytes, and how these are cut into events.

Knows nothing of dialects, answers and routes. httpcore2, the engine of httpx2, does HTTP/1.1 and
the pool. Ours are the sockets below it, which another thread can end, deadlines that may move
while a stream runs, connections opened ahead, and names resolved within a time limit.

Blocking sockets, and a thread for each stream (Pump): the same on asyncio, under httpcore2's
async pool, has as many lines and needs 20 threads fewer for 20 streams, which then cost a third
less; but a chunk of a single stream costs a quarter more, and with anyio's streams twice as much.
"""
