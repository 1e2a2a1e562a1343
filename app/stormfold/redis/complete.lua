-- Deletes what was published, or puts a group off, and gives the leases back.
-- Begins with a DEL: a full Redis refuses no script that has written, and closing is what empties it.
--
-- KEYS  1 epoch (hash)   2 due (zset)   3 open (zset)   4 void (never exists)
-- ARGV  1 number of the epoch   2 prefix of group keys   3 prefix of bucket keys   4 prefix of leases   5 lease token
--       6 groups (msgpack): {{group, buckets that stay, due of what stays, {start, alerts, ...} to delete}, ...}
-- Returns {0, code per group...}: 1 settled, 0 left alone (lease lost, or a count differs)
--         {3}                     another epoch, or none: nothing was done
local epoch, due, open, void = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local number, group_prefix, bucket_prefix, lease_prefix, token = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]

redis.call('DEL', void)
if redis.call('HGET', epoch, 'number') ~= number then
  return {3}
end

local function unchanged(group, buckets)
  for i = 1, #buckets, 2 do
    local aggregate = redis.call('HGET', bucket_prefix .. group .. ':' .. buckets[i], 'a')
    if not aggregate or struct.unpack('>I4', aggregate) ~= buckets[i + 1] then
      return false
    end
  end
  return true
end

local result = {0}
for _, item in ipairs(cmsgpack.unpack(ARGV[6])) do
  local group, stay, next_due, buckets = item[1], item[2], item[3], item[4]
  local group_key, lease_key = group_prefix .. group, lease_prefix .. group
  local settled = 0
  if redis.call('GET', lease_key) == token then
    if unchanged(group, buckets) then
      settled = 1
      for i = 1, #buckets, 2 do
        redis.call('UNLINK', bucket_prefix .. group .. ':' .. buckets[i])
        redis.call('HDEL', group_key, buckets[i])
      end
      local left, first = 0, nil
      for _, field in ipairs(redis.call('HKEYS', group_key)) do
        local start = tonumber(field)
        if start then
          left = left + 1
          if not first or start < first then
            first = start
          end
        end
      end
      if left == 0 then
        redis.call('DEL', group_key)
        redis.call('ZREM', due, group)
        redis.call('ZREM', open, group)
      else
        -- Buckets that came meanwhile may be due earlier: then have the group looked at again.
        redis.call('ZADD', due, left == stay and next_due or 0, group)
        redis.call('ZADD', open, first, group)
      end
    end
    redis.call('DEL', lease_key)
  end
  result[#result + 1] = settled
end
return result
