"""A plain consumer: one script call for each alert, with automatic commits every five seconds."""

import asyncio
import json
import os

from aiokafka import AIOKafkaConsumer
from redis.asyncio import Redis

COUNT = """
local last = tonumber(redis.call('HGET', KEYS[1], 'last') or 0)
if tonumber(ARGV[1]) > last + 300000 then redis.call('DEL', KEYS[1]) end
redis.call('HINCRBY', KEYS[1], 'count', 1)
redis.call('HSET', KEYS[1], 'last', math.max(last, tonumber(ARGV[1])))
"""


async def main() -> None:
    redis = Redis.from_url(os.environ["REDIS"])
    count = redis.register_script(COUNT)
    consumer = AIOKafkaConsumer(
        os.environ["TOPIC"],
        bootstrap_servers=os.environ["KAFKA"],
        group_id=os.environ["TOPIC"] + "-loop",
        auto_offset_reset="earliest",
    )
    done = 0
    async with consumer:
        async for record in consumer:
            labels = json.loads(record.value)["labels"]
            await count(["loop:" + labels["alertname"] + "/" + labels["cluster"]], [record.timestamp])
            done += 1
            if done % 100 == 0:
                print("done", done, 0, flush=True)


asyncio.run(main())
