-- Moves the horizon forward and leases groups that may have something final.
-- Begins with a DEL: a full Redis does not stop a script that has written, and closing is what frees its memory.
--
-- KEYS
--   1 state_version     hash
--   2 marks             hash
--   3 due               zset
--   4 open_since        hash
--   5 void              never exists
-- ARGV
--   1 number            of the state version that the caller closes
--   2 group_prefix      prefix of group keys
--   3 bucket_prefix     prefix of bucket keys
--   4 lease_prefix      prefix of lease keys
--   5 horizon_seen      horizon that the caller derived from the marks (ms), or nil
--   6 min_marks         marks that were at `horizon_seen` or later. Where fewer are, Redis went back since, and its
--                       own horizon stays
--   7 grace             in ms
--   8 limit             most groups to lease
--   9 token             of the lease
--  10 lease             in ms
-- Returns
--   {DONE, horizon or '', open groups, first open bucket or '', {group, meta, {bucket start, summary, ...}}, ...}
--   {STALE}             another state version, or none: nothing was done
local PAGE = 256

redis.call('DEL', void)
if redis.call('HGET', state_version, NUMBER) ~= number then
  return {STALE}
end

-- Marks only grow, unless Redis went back.
local function marks_still_there()
  local fields, count = redis.call('HGETALL', marks), 0
  for i = 1, #fields, 2 do
    if string.find(fields[i], SEPARATOR, 1, true) and tonumber(fields[i + 1]) >= horizon_seen then
      count = count + 1
    end
  end
  return count >= min_marks
end

local horizon = tonumber(redis.call('HGET', marks, HORIZON))
if horizon_seen and (not horizon or horizon_seen > horizon) and marks_still_there() then
  horizon = horizon_seen
  redis.call('HSET', marks, HORIZON, string.format('%d', horizon))
end
local result = {DONE, redis.call('HGET', marks, HORIZON) or '', redis.call('ZCARD', due), first_open(open_since)}
if not horizon then
  return result
end

-- A closer that leased a group and did not complete it, because it could not deliver, may claim it again.
local function leased(key)
  return redis.call('SET', key, token, 'NX', 'PX', lease)
    or (redis.call('GET', key) == token and redis.call('PEXPIRE', key, lease))
end

local from, taken = 0, 0
repeat
  local groups = redis.call('ZRANGEBYSCORE', due, '-inf', horizon - grace, 'LIMIT', from, PAGE)
  for _, group in ipairs(groups) do
    if taken < limit and leased(lease_prefix .. group) then
      local value, meta, buckets = redis.call('GET', group_prefix .. group), false, {}
      if value then
        local begin
        meta, begin = read_meta(value)
        buckets = read_examples(value, begin)
        for at = 1, #buckets, 2 do
          buckets[at + 1] = redis.call('HGET', bucket_prefix .. group .. SEPARATOR .. buckets[at], SUMMARY_FIELD)
        end
      end
      taken = taken + 1
      result[#result + 1] = {group, meta, buckets}
    end
  end
  from = from + PAGE
until taken >= limit or #groups < PAGE
return result
