"""A small TCP proxy that holds every answer back. delay.py LISTEN_HOST LISTEN_PORT TO_HOST TO_PORT FILE

FILE holds the milliseconds; it is read for each piece that passes. Order is kept."""
import asyncio
import pathlib
import sys


def milliseconds(path):
    try:
        return float(pathlib.Path(path).read_text() or 0)
    except (OSError, ValueError):
        return 0.0


async def forward(reader, writer, path):
    queue = asyncio.Queue()
    loop = asyncio.get_running_loop()

    async def write():
        while (item := await queue.get()) is not None:
            due, data = item
            await asyncio.sleep(max(0.0, due - loop.time()))
            writer.write(data)
            await writer.drain()

    task = asyncio.create_task(write())
    try:
        while data := await reader.read(65536):
            wait = milliseconds(path) / 1000 if path else 0.0
            queue.put_nowait((loop.time() + wait, data))
    except OSError:
        pass
    queue.put_nowait(None)
    try:
        await task
    except OSError:
        pass
    writer.close()


async def main(host, port, to_host, to_port, path):
    async def serve(reader, writer):
        try:
            there_reader, there_writer = await asyncio.open_connection(to_host, int(to_port))
        except OSError:
            writer.close()
            return
        await asyncio.gather(forward(reader, there_writer, None), forward(there_reader, writer, path))

    server = await asyncio.start_server(serve, host, int(port))
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
