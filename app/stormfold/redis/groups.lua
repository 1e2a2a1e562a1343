-- What is open: the values of groups, and how many groups begin with each bucket. Part of scripts that have the keys.

-- Meta of a group's value. It is not decoded if it is the expected one: a value in msgpack is no beginning of another.
local function meta_of(value, expected)
  if expected and string.sub(value, 1, #expected) == expected then
    return expected
  end
  return string.sub(value, 1, (cmsgpack.unpack_one(value)))
end

-- {bucket start, example, ...} of a group's value, starts as text.
local function examples_of(value, meta)
  return cmsgpack.unpack(string.sub(value, #meta + 1))
end

local function pack_group(meta, examples)
  return meta .. cmsgpack.pack(examples)
end

-- Start of the first bucket, or nil.
local function first_bucket(examples)
  local first = nil
  for at = 1, #examples, 2 do
    if not first or tonumber(examples[at]) < tonumber(first) then
      first = examples[at]
    end
  end
  return first
end

-- Adds to the number of groups that begin with a bucket.
local function add_open(open_since, start, groups)
  if redis.call('HINCRBY', open_since, start, groups) <= 0 then
    redis.call('HDEL', open_since, start)
  end
end

-- Start of the first open bucket, or ''.
local function first_open(open_since)
  local first = ''
  for _, start in ipairs(redis.call('HKEYS', open_since)) do
    if first == '' or tonumber(start) < tonumber(first) then
      first = start
    end
  end
  return first
end
