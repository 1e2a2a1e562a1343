-- Moves the horizon forward and leases groups that may have something final.
-- Begins with a DEL: a full Redis refuses no script that has written, and closing is what empties it.
--
-- KEYS  1 epoch (hash)   2 marks (hash)   3 due (zset)   4 open (zset)   5 void (never exists)
-- ARGV  1 number of the epoch   2 prefix of group keys   3 prefix of bucket keys   4 prefix of leases
--       5 horizon seen, or ''   6 grace (ms)   7 most groups to lease   8 lease token   9 lease time (ms)
--       10 marks that were at that horizon or past it: where fewer are, Redis went back, and its own horizon stands
-- Returns {0, horizon or '', open groups, first open bucket or '', {group, meta, {start, aggregate, ...}}, ...}
--         {3}   another epoch, or none: reload
local epoch, marks, due, open, void = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local number, group_prefix, bucket_prefix, lease_prefix = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local seen, grace, most, token, lease = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[8], ARGV[9]
local witnesses = tonumber(ARGV[10])
local PAGE = 256

redis.call('DEL', void)
if redis.call('HGET', epoch, 'number') ~= number then
  return {3}
end

-- Whether the marks are still as far as when the horizon was seen: they only grow, unless Redis went back.
local function still_seen()
  local fields, count = redis.call('HGETALL', marks), 0
  for i = 1, #fields, 2 do
    if string.find(fields[i], ':', 1, true) and tonumber(fields[i + 1]) >= seen then
      count = count + 1
    end
  end
  return count >= witnesses
end

local horizon = tonumber(redis.call('HGET', marks, 'h'))
if seen and (not horizon or seen > horizon) and still_seen() then
  horizon = seen
  redis.call('HSET', marks, 'h', ARGV[5])
end
local first = redis.call('ZRANGE', open, 0, 0, 'WITHSCORES')
local result = {0, redis.call('HGET', marks, 'h') or '', redis.call('ZCARD', open), first[2] or ''}
if not horizon then
  return result
end

-- What this closer leased before and did not settle, because it could not deliver, is its own to try again.
local function leased(key)
  return redis.call('SET', key, token, 'NX', 'PX', lease)
    or (redis.call('GET', key) == token and redis.call('PEXPIRE', key, lease))
end

local from, taken = 0, 0
repeat
  local groups = redis.call('ZRANGEBYSCORE', due, '-inf', horizon - grace, 'LIMIT', from, PAGE)
  for _, group in ipairs(groups) do
    if taken < most and leased(lease_prefix .. group) then
      local starts = {}
      for _, field in ipairs(redis.call('HKEYS', group_prefix .. group)) do
        if field ~= 'm' then
          starts[#starts + 1] = field
          starts[#starts + 1] = redis.call('HGET', bucket_prefix .. group .. ':' .. field, 'a')
        end
      end
      taken = taken + 1
      result[#result + 1] = {group, redis.call('HGET', group_prefix .. group, 'm'), starts}
    end
  end
  from = from + PAGE
until taken >= most or #groups < PAGE
return result
