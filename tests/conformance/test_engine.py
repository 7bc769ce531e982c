"""The Redis of dicts and the embedded Lua are as Redis is, as far as the scripts can tell."""

from __future__ import annotations

import re
from importlib import resources
from typing import Any

import pytest
from redis.exceptions import ResponseError

from celery_fanout.stores.memory.database import COMMANDS, Database
from celery_fanout.stores.memory.lua import engine
from celery_fanout.stores.redis.client import connect
from tests.conformance.ledgers import Clock

ONLY_OF_TESTS = {"KEYS", "SCAN", "FLUSHDB"}  # see ledgers.py
NAMES = {name.decode() for name in COMMANDS} - ONLY_OF_TESTS

COMMAND_LINES = """
SET a x
GET a
GET b
SET a y EX 100
TTL a
PERSIST a
PERSIST a
TTL a
TTL b
EXPIRE a 50
EXPIRE b 50
EXISTS a b a
INCR n
INCR n
GET n
DEL a b n
EXISTS a
HSET h f 1 g 2
HSET h f 3 i 4
HSETNX h f 5
HSETNX h j 5
HGET h f
HGET h x
HGET x f
HMGET h f x g
HEXISTS h f
HEXISTS h x
HINCRBY h f 4
HINCRBY h new -1
HKEYS h
HGETALL h
HDEL h f x
HDEL h g i j new
EXISTS h
HDEL h g
RPUSH l a b c
LPUSH l z y
LRANGE l 0 -1
LRANGE l 1 2
LRANGE l -2 -1
LRANGE l 3 1
LRANGE l -9 -7
LRANGE l 0 -9
LRANGE x 0 -1
LINDEX l 0
LINDEX l -1
LINDEX l 9
LLEN l
LLEN x
LTRIM l -3 -1
LRANGE l 0 -1
LTRIM l 5 9
EXISTS l
SADD s a b
SADD s b c
SCARD s
SMEMBERS s
SREM s a x
SREM s b c
EXISTS s
ZADD z 1 a 2 b 1.5 c
ZADD z NX 9 a 3 d
ZADD z XX 2.5 c 7 x
ZADD z 1 a
ZADD other XX 1 a
EXISTS other
ZSCORE z a
ZSCORE z c
ZSCORE z x
ZSCORE x a
ZADD z 1800000000.123456 e 1e300 f -inf g
ZSCORE z e
ZSCORE z f
ZSCORE z g
ZCARD z
ZRANGE z 0 -1
ZRANGE z 0 0 WITHSCORES
ZRANGE z -2 -1
ZREVRANGE z 0 1
ZRANGEBYSCORE z -inf +inf
ZRANGEBYSCORE z 1 2.5
ZRANGEBYSCORE z (1 (2.5
ZRANGEBYSCORE z 1 +inf LIMIT 1 2
ZRANGEBYSCORE z -inf 2 WITHSCORES LIMIT 0 -1
ZREVRANGEBYSCORE z +inf -inf
ZREVRANGEBYSCORE z (3 1 WITHSCORES
ZREVRANGEBYSCORE z +inf -inf LIMIT 0 2
ZREMRANGEBYSCORE z -inf (1.5
ZRANGE z 0 -1
ZADD t 1 b 1 a 1 B 1 aa
ZRANGE t 0 -1
ZREM z a b c d e f g
EXISTS z
"""

SCRIPTS = {
    "numbers": "return {1.9, -1.9, 3, '1.5', true, false, 7}",
    "holes": "return {1, nil, 3}",
    "nothing": "return nil",
    "text": "return 'näh'",
    "missing": "return redis.call('GET', 'x') == false",
    "missing in a list": "return redis.call('HMGET', 'x', 'a')[1] == false",
    "hash": "return {redis.sha1hex('abc'), redis.sha1hex(7)}",
    "floats": "redis.call('SET', 'f', 0.1 + 0.2); return redis.call('GET', 'f')",
    "integers": "redis.call('SET', 'f', 2 ^ 43 + 1); return redis.call('GET', 'f')",
    "huge": "redis.call('SET', 'f', 1e300); return redis.call('GET', 'f')",
    "cut": "return redis.call('HSET', 'h', string.sub('ä', 1, 1), 1)",
    "nested": "return {{'a', {'b'}}, {}}",
    "null": "return {cjson.decode('[null]')[1] == cjson.null, cjson.encode({cjson.null})}",
    "escapes": r"""return cjson.encode('"\\/\b\f\n\r\t' .. string.char(1, 31, 127) .. 'ä')""",
    "encoded": "return {cjson.encode({}), cjson.encode({1, 'a', {b = true}}), cjson.encode(0.1)}",
    "large": "return {cjson.encode(1e15), cjson.encode(123456789012345), cjson.encode(-0.5)}",
}

TEXTS = [
    '{"a":[1,2.5,{"b":null}],"ä":"\\u00e4\\ud83d\\ude00"}',
    "[]",
    "{}",
    '"x"',
    "[1e400,-1e400,12345678901234567890]",
    '"\\ud800"',
    "{",
    "",
]
DECODED = """
local function shown(value)
  if type(value) ~= 'table' then return type(value) .. ' ' .. tostring(value) end
  local parts = {}
  for name, item in pairs(value) do parts[#parts + 1] = tostring(name) .. '=' .. shown(item) end
  table.sort(parts)
  return '{' .. table.concat(parts, ',') .. '}'
end
local ok, value = pcall(cjson.decode, ARGV[2])
return ok and string.gsub(shown(value), 'userdata.*', 'null') or 'an error'
"""


CALL = "return redis.call(unpack(ARGV))"


class Both:
    """A Redis, and one of dicts."""

    def __init__(self, url: str) -> None:
        self.real = connect(url, {}, 5.0)
        self.database = Database(Clock())

    def __call__(self, *command: str) -> tuple[Any, Any]:
        # not the command itself: redis-py makes of its reply what its version and protocol say
        same = command if command[0] == "EVAL" else ("EVAL", CALL, "0", *command)
        return self.real.execute_command(*same), engine().execute(self.database, command)


@pytest.fixture
def both(redis_url: str) -> Any:
    found = Both(redis_url)
    yield found
    found.real.close()


def test_every_command(both: Both) -> None:
    lines = COMMAND_LINES.split("\n")[1:-1]
    for line in lines:
        real, ours = both(*line.split(" "))
        if line.startswith("SMEMBERS"):
            real, ours = sorted(real), sorted(ours)
        assert real == ours, line
    assert {line.split(" ")[0] for line in lines} == NAMES - {"TIME"}


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_what_a_script_returns(both: Both, script: str) -> None:
    real, ours = both("EVAL", script, "1", "k", "")
    assert real == ours


@pytest.mark.parametrize("text", TEXTS)
def test_what_json_is_in_lua(both: Both, text: str) -> None:
    real, ours = both("EVAL", DECODED, "1", "k", "", text)
    assert real == ours


def test_there_is_what_scripts_and_lists_use_and_no_more() -> None:
    folder = resources.files("celery_fanout.stores.redis")

    def text(where: Any, ending: str) -> str:
        return "".join(path.read_text() for path in where.iterdir() if path.name.endswith(ending))

    called = set(re.findall(r"\b(?:call|all)\('([A-Z]+)'", text(folder / "scripts", ".lua")))
    python = text(folder, ".py")
    assert called <= NAMES
    read = set(re.findall(r'[".]([a-z]+)\b', python))
    assert {name.lower() for name in NAMES - called} <= read


def test_time_is_that_of_the_clock() -> None:
    database = Database(lambda: 1_800_000_000.25)
    assert engine().execute(database, ["TIME"]) == ["1800000000", "250000"]


def test_what_lua_says_is_an_answer() -> None:
    database = Database(Clock())
    with pytest.raises(ResponseError, match="attempt to index"):
        engine().execute(database, ["EVAL", "return nothing.here", 1, "k", ""])
