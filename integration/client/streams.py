"""Opens streaming URLs over WebSocket with a client that is none of ours.

Reads lines of "KIND SUBPROTOCOL URL" and says how each went.
"""

import asyncio
import json
import sys

import websockets

STDIN, STDOUT, STDERR, ERROR, RESIZE = range(5)
LIMIT = 20


async def connect(url, protocol):
    url = url.replace("http", "ws", 1)
    socket = await websockets.connect(url, subprotocols=[protocol], max_size=None)
    assert socket.subprotocol == protocol, socket.subprotocol
    return socket


async def everything(socket):
    """What came on each channel until the server closed."""
    channels = {}
    try:
        while True:
            message = await socket.recv()
            channels[message[0]] = channels.get(message[0], b"") + message[1:]
    except websockets.ConnectionClosed as closed:
        assert closed.rcvd is not None and closed.rcvd.code == 1000, closed
    return channels


async def execute(socket, protocol):
    """The command echoes two lines of its input, complains and exits with 7."""
    await socket.send(bytes([STDIN]) + b"one\n")
    await socket.ping()
    if protocol.startswith("v5"):
        await socket.send(bytes([STDIN]) + b"two")
        # Its input has ended; the socket has not.
        await socket.send(bytes([255, STDIN]))
    else:
        await socket.send(bytes([STDIN]) + b"two\n")
    channels = await everything(socket)
    assert channels[STDOUT] == b"got one\ngot two\n", channels
    assert channels[STDERR] == b"problem\n", channels
    status = json.loads(channels[ERROR])
    assert status["status"] == "Failure", status
    assert status["reason"] == "NonZeroExitCode", status
    assert status["details"]["causes"] == [{"reason": "ExitCode", "message": "7"}], status


async def terminal(socket, _):
    await socket.send(bytes([RESIZE]) + b'{"Width": 91, "Height": 31}')
    await asyncio.sleep(0.5)
    await socket.send(bytes([STDIN]) + b"stty size; exit 0\n")
    channels = await everything(socket)
    assert b"31 91\r\n" in channels[STDOUT], channels
    assert json.loads(channels[ERROR]) == {"status": "Success"}, channels


async def forward(socket, _):
    """One port: channel 0 has its data, 1 its errors; each begins with the number."""
    port = (7000).to_bytes(2, "little")
    first = {await socket.recv(), await socket.recv()}
    assert first == {b"\x00" + port, b"\x01" + port}, first
    await socket.send(b"\x00GET /answer HTTP/1.0\r\n\r\n")
    answer = b""
    while b"it answers" not in answer:
        message = await socket.recv()
        assert message[0] == 0, message
        answer += message[1:]
    await socket.close()


async def main():
    kinds = {"exec": execute, "terminal": terminal, "forward": forward}
    for line in sys.stdin:
        kind, protocol, url = line.split()
        socket = await connect(url, protocol)
        await asyncio.wait_for(kinds[kind](socket, protocol), LIMIT)
        # Good once.
        try:
            await connect(url, protocol)
            raise SystemExit("the URL is good twice")
        except websockets.InvalidStatusCode as refused:
            assert refused.status_code == 404, refused
        print(kind, protocol, "ok", flush=True)


asyncio.run(main())
