-- What is open: the values of groups, and how many groups begin with each bucket. Part of scripts that have the keys.

-- Meta of a group's value, as it was written, and where its examples begin.
local function read_meta(value)
  return struct.unpack(META_SIZE .. 'c0', value)
end

-- {bucket start, example, ...} of a group's value, starts as text.
local function read_examples(value, at)
  return cmsgpack.unpack(string.sub(value, at))
end

local function pack_group(meta, examples)
  return struct.pack(META_SIZE .. 'c0', #meta, meta) .. cmsgpack.pack(examples)
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
