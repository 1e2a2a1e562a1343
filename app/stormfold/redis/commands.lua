-- What any script may need: commands with any number of values, and the order of byte strings.
local CHUNK = 400

-- HMGET, HSET and HDEL of any number of values.
local function get_all(key, fields)
  if #fields > 0 and #fields <= CHUNK then
    return redis.call('HMGET', key, unpack(fields))
  end
  local values = {}
  for from = 1, #fields, CHUNK do
    for i, value in ipairs(redis.call('HMGET', key, unpack(fields, from, math.min(from + CHUNK - 1, #fields)))) do
      values[from + i - 1] = value
    end
  end
  return values
end

local function set_all(key, flat)
  for from = 1, #flat, CHUNK * 2 do
    redis.call('HSET', key, unpack(flat, from, math.min(from + CHUNK * 2 - 1, #flat)))
  end
end

local function delete_all(key, fields)
  for from = 1, #fields, CHUNK do
    redis.call('HDEL', key, unpack(fields, from, math.min(from + CHUNK - 1, #fields)))
  end
end

-- The first of two byte strings, independent of the server's locale.
local function lower(a, b)
  if a == b then
    return a
  end
  for i = 1, math.min(#a, #b) do
    local x, y = string.byte(a, i), string.byte(b, i)
    if x ~= y then
      return x < y and a or b
    end
  end
  return #a < #b and a or b
end
